package staple_test

import (
	"context"
	"crypto/x509"
	"errors"
	"regexp"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// The other tests of what is kept while no response is needed: TestHeldWithClockAhead, and
// TestRevokedAndSwitchedOff in scenario.

// away is a way in which a certificate that is known to be revoked needs no response for a while.
type away struct {
	off   atomic.Bool // switched off
	clock             // past its end
}

func (a *away) options() []staple.Option {
	return []staple.Option{staple.WithNow(a.now), staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, !a.off.Load() })}
}

// REQ B15: an older good response does not undo a revocation that was known before no response
// was needed for a while, wherever it comes from.
func TestRevokedWhileUnneeded(t *testing.T) {
	ways := map[string]func(s *staple.Stapler, a *away){
		"switched off": func(s *staple.Stapler, a *away) {
			a.off.Store(true)
			_ = s.Refresh(context.Background())
			a.off.Store(false)
		},
		"expired by a wrong clock": func(_ *staple.Stapler, a *away) {
			a.step(10 * 365 * testkit.Day)
			time.Sleep(2 * time.Minute)
			a.step(-10 * 365 * testkit.Day)
		},
	}
	for name, goAway := range ways {
		for _, from := range []string{"the store", "the source"} {
			t.Run(name+", "+from, func(t *testing.T) {
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
					a, shelf := new(away), new(testkit.Shelf)
					s := testkit.Stapler(t, ca, append(a.options(), staple.WithStore(shelf))...)
					cert := ca.Issue(aged(ocsptest.Leaf{}))
					testkit.MustFetch(t, s, cert)
					synctest.Wait()
					key, good := shelf.Only(t)
					old := *cert
					old.OCSPStaple = s.Staple(cert).OCSPStaple
					time.Sleep(time.Minute)
					ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
					_ = s.Refresh(t.Context(), cert)
					synctest.Wait()
					if from == "the store" {
						shelf.Set(key, good) // another process, late
					}
					ca.Responder.SetFault(ocsptest.FaultRefused)
					goAway(s, a)
					for range 100 {
						time.Sleep(time.Minute)
						if raw := s.Staple(&old).OCSPStaple; raw != nil || s.Status()[0].State == staple.StateGood {
							t.Fatalf("stapled %d bytes: %+v", len(raw), s.Status())
						}
					}
				})
			})
		}
	}
}

// REQ E1: a revocation that waits to be written is, though the certificate is switched off, or
// forgotten and learned again, meanwhile.
func TestRevocationIsWritten(t *testing.T) {
	for _, forget := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			a, shelf := new(away), new(testkit.Shelf)
			shelf.Delay("Put", 3*time.Second)
			cert := ca.Issue(aged(ocsptest.Leaf{}))
			s := testkit.Stapler(t, ca, append(a.options(), staple.WithStore(shelf))...)
			if err := s.Prefetch(t.Context(), cert); err != nil { // written until 3 s
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if forget {
				_ = s.Refresh(t.Context(), cert) // to be written after that
				s.Forget(cert)
			}
			ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
			time.Sleep(time.Second)
			_ = s.Refresh(t.Context(), cert)
			a.off.Store(!forget)
			_ = s.Refresh(t.Context(), cert)
			time.Sleep(30 * time.Second)
			a.off.Store(false)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			next := testkit.Stapler(t, ca, staple.WithStore(shelf))
			testkit.List(t, next, cert)
			time.Sleep(time.Minute)
			if st := next.Status()[0]; st.State != staple.StateRevoked {
				t.Errorf("forgotten %v: the next process says %v: %v", forget, st.State, st.Err)
			}
		})
	}
}

// REQ B10, REQ B15: a newer response without nextUpdate that is not served any more takes no
// staple away.
func TestOpenThatLapsed(t *testing.T) {
	open := func(ca *ocsptest.CA, at time.Time) { signedAt(ca.Responder, at, at, true) }
	for _, from := range []string{"the source", "the store"} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert, shelf, began := ca.Issue(aged(ocsptest.Leaf{})), new(testkit.Shelf), time.Now()
			open(ca, began.Add(-2*time.Hour))
			testkit.MustFetch(t, testkit.Stapler(t, ca, staple.WithStore(shelf)), cert)
			synctest.Wait()
			_, record := shelf.Only(t)
			own := *cert
			open(ca, began.Add(-3*time.Hour)) // an older node
			shelf = new(testkit.Shelf)
			s := testkit.Stapler(t, ca, staple.WithStore(shelf))
			testkit.MustFetch(t, s, cert)
			synctest.Wait()
			if from == "the store" {
				key, _ := shelf.Only(t)
				shelf.Set(key, regexp.MustCompile(`(?m)^(Checked|Received): .*\n`).ReplaceAll(record, nil))
			} else {
				own.OCSPStaple = ca.Responder.Build(cert, func(spec *ocsptest.Spec) {
					spec.ProducedAt, spec.Singles[0].ThisUpdate, spec.Singles[0].NextUpdate = began.Add(-2*time.Hour), began.Add(-2*time.Hour), time.Time{}
				})
			}
			for range 180 {
				time.Sleep(time.Minute)
				if s.Staple(&own).OCSPStaple == nil {
					t.Fatalf("%s: no staple after %v, with the responder up: %v", from, time.Since(began), s.Ready())
				}
			}
		})
	}
}

// REQ B10: a response that lapsed and is confirmed after the responder said unknown is good again.
func TestConfirmedAfterUnknown(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(aged(ocsptest.Leaf{}))
		signedAt(ca.Responder, time.Now().Add(-6*time.Hour), time.Now().Add(-6*time.Hour), true)
		ca.Responder.SetPresign(true)
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		ca.Responder.SetUnknown(cert)
		time.Sleep(2 * time.Hour)
		if got := s.Status()[0].State; got != staple.StateUnknown {
			t.Fatalf("state %v, want unknown", got)
		}
		ca.Responder.SetGood(cert)
		time.Sleep(time.Hour)
		if st := s.Status()[0]; st.State != staple.StateGood || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("state %v: %v", st.State, st.Err)
		}
	})
}

// REQ E9: a source's staple that was judged by a wrong clock is judged again.
func TestSourceJudgedByWrongClock(t *testing.T) {
	for _, step := range []time.Duration{-testkit.Day, 10 * testkit.Day} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
			cert.OCSPStaple = ca.Responder.Response(cert)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			c.step(step)
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			testkit.List(t, s, cert)
			time.Sleep(10 * time.Second)
			if s.Staple(cert).OCSPStaple != nil {
				t.Fatal("stapled by the wrong clock")
			}
			c.step(-step)
			time.Sleep(30 * time.Minute)
			if s.Staple(cert).OCSPStaple == nil {
				t.Errorf("%v: not stapled half an hour after the clock was right: %v", step, s.Ready())
			}
		})
	}
}

// REQ G5: a Refresh that waits for an attempt is done soon after it, also where a record
// was read late in that, and where that was the one which showed that the responder fails.
func TestRefreshAfterFailure(t *testing.T) {
	for _, late := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs, shelf := testkit.Leaves(ca, 1), new(testkit.Shelf)
			if late {
				certs = testkit.Leaves(ca, 3)
				testkit.MustFetch(t, testkit.Stapler(t, ca, staple.WithStore(shelf)), certs[0])
				synctest.Wait()
				time.Sleep(time.Minute)
				var reads atomic.Int64
				shelf.Fail(func(ctx context.Context, op string) error {
					if op == "Get" && reads.Add(1) == 1 {
						<-ctx.Done() // slow once
					}
					return ctx.Err()
				})
			}
			ca.Responder.SetFaultFor(certs[0], ocsptest.FaultHang)
			s := testkit.Stapler(t, ca, staple.WithStore(shelf))
			testkit.List(t, s, certs[0])
			time.Sleep(time.Millisecond)
			testkit.List(t, s, certs[1:]...)
			time.Sleep(8 * time.Second) // what was not read is read again after 5 s
			ca.Responder.ClearFaults()
			ca.Responder.ResetCounts()
			begun := time.Now()
			err := s.Refresh(t.Context(), certs[0])
			if took := time.Since(begun); err != nil || took > 20*time.Second || ca.Responder.Requests() == 0 {
				t.Errorf("late %v: %v after %v and %d requests", late, err, took, ca.Responder.Requests())
			}
		})
	}
}

// REQ E12: a store that never grants the lease ends no probe of a responder that fails.
func TestLeaseDeniedInOutage(t *testing.T) {
	for _, n := range []int{1, 6, 30} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs := testkit.Leaves(ca, n)
			s := testkit.Stapler(t, ca, staple.WithStore(testkit.Denying{Shelf: new(testkit.Shelf)}))
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			testkit.List(t, s, certs...)
			time.Sleep(time.Hour)
			if failed := ca.Responder.Requests(); failed > 100+5*n {
				t.Errorf("%d certificates: %d requests in an outage of an hour", n, failed)
			}
			ca.Responder.ClearFaults()
			time.Sleep(90 * time.Minute) // patience with a holder of the lease grows with failures, to 32 min
			if got := testkit.Count(t, s, ca, certs); got < n {
				t.Errorf("%d of %d certificates are stapled 90 minutes after the outage: %v", got, n, errors.Unwrap(s.Ready()))
			}
		})
	}
}

// REQ E12: the probe of a responder that fails is not repeated without a pause, whatever it is
// about: a certificate that is not valid yet, or one that is dropped.
func TestProbesOfWhatGoesAway(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(20 * time.Millisecond)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		s := testkit.Stapler(t, ca)
		old := testkit.LeafFor(ca, "a.example.com")
		testkit.List(t, s, old)
		time.Sleep(5 * time.Minute)
		testkit.List(t, s, ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(4 * time.Minute)})) // renewed, by a CA whose clock is ahead
		time.Sleep(time.Second)
		s.Forget(old)
		ca.Responder.ResetCounts()
		time.Sleep(3 * time.Minute)
		if n := ca.Responder.Requests(); n > 20 {
			t.Errorf("%d requests in 3 minutes for one certificate", n)
		}
	})
}

// So it is where the revocation is being written while its certificate is forgotten and
// learned again: the heir reads it.
func TestHeirReadsTheRevocation(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		shelf := new(testkit.Shelf)
		shelf.Delay("Put", 3*time.Second)
		cert := ca.Issue(aged(ocsptest.Leaf{}))
		s := testkit.Stapler(t, ca, staple.WithStore(shelf))
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Minute)
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		_ = s.Refresh(t.Context(), cert)
		if st := s.Status()[0].State; st != staple.StateRevoked {
			t.Fatal(st)
		}
		s.Forget(cert)
		s.Staple(cert)
		begun := time.Now()
		time.Sleep(30 * time.Second) // it is written
		synctest.Wait()
		next := testkit.Stapler(t, ca, staple.WithStore(shelf))
		_ = next.Prefetch(t.Context(), cert)
		if st := next.Status()[0].State; st != staple.StateRevoked {
			t.Fatal("the store:", st)
		}
		for s.Staple(cert).OCSPStaple != nil {
			time.Sleep(time.Second)
		}
		if d := time.Since(begun); d > 5*time.Minute {
			t.Errorf("stapled as good for %v after it was known to be revoked, and written", d)
		}
	})
}
