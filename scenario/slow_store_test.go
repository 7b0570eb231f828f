package scenario_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// slowReads returns a fault of which each read of some takes d, and all others
// 2 ms; and how many reads there were.
func slowReads(every int64, d time.Duration) (fault func(context.Context, string) error, n *atomic.Int64) {
	n = new(atomic.Int64)
	return func(ctx context.Context, op string) error {
		if op != "Get" {
			return nil
		}
		if n.Add(1)%every == 0 {
			time.Sleep(d)
		} else {
			time.Sleep(2 * time.Millisecond)
		}
		return ctx.Err()
	}, n
}

// REQ E1: in a restart with the responder down a store that is slow now and
// then, or always, brings back all that it holds; no handshake waits for it for
// longer than it may.
func TestSlowReadsAreMadeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		every int64
		takes time.Duration
		age   time.Duration
		fault ocsptest.Fault
	}{
		"one of four":                    {4, 150 * time.Millisecond, time.Minute, ocsptest.FaultRefused},
		"one of four, a refresh is due":  {4, 150 * time.Millisecond, 40 * time.Hour, ocsptest.FaultRefused},
		"one of four, the network hangs": {4, 150 * time.Millisecond, time.Minute, ocsptest.FaultHang},
		"each":                           {1, 3 * time.Second, time.Minute, ocsptest.FaultRefused},
		"each, a refresh is due":         {1, 3 * time.Second, 40 * time.Hour, ocsptest.FaultRefused},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs := testkit.Leaves(ca, 96)
			st := learned(t, ca, certs...)
			time.Sleep(c.age)
			ca.Responder.SetFault(c.fault)
			fault, reads := slowReads(c.every, c.takes)
			st.Fail(fault)
			s := testkit.Stapler(t, ca, staple.WithStore(st))
			testkit.List(t, s, certs...)
			shakeAll(t, s, certs)
			time.Sleep(8 * time.Second)
			if c.takes > time.Second {
				time.Sleep(20 * time.Second) // 32 at once
			}
			if got := testkit.Count(t, s, ca, certs); got != len(certs) {
				t.Errorf("%s: %d of %d stapled", name, got, len(certs))
			}
			asked := ca.Responder.Requests()
			time.Sleep(10 * time.Minute)
			if got := ca.Responder.Requests() - asked; got > 0 && c.age < time.Hour && c.fault != ocsptest.FaultHang {
				t.Errorf("%s: %d requests though no refresh is due", name, got)
			}
			if got := int(reads.Load()); got > 10*len(certs) {
				t.Errorf("%s: %d reads for %d certificates", name, got, len(certs))
			}
			ca.Responder.ClearFaults()
			time.Sleep(2 * time.Hour)
			if got := s.Ready(); got != nil || ca.Responder.Requests() < len(certs) {
				t.Errorf("%s: no refresh after the outage: %d requests, %v", name, ca.Responder.Requests(), got)
			}
		})
	}
}

// shakeAll fails the test if a handshake waits for longer than the store may
// take.
func shakeAll(t *testing.T, s *staple.Stapler, certs []*tls.Certificate) {
	t.Helper()
	for _, cert := range certs {
		hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
		begun := time.Now()
		if _, err := hook(testkit.Asking("a.example")); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 100*time.Millisecond {
			t.Fatalf("a handshake waited %v", took)
		}
	}
}

// A store that answers nothing for an hour is asked rarely, and what it holds is
// served soon after it is back.
func TestStoreIsBack(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs := testkit.Leaves(ca, 100)
			st := learned(t, ca, certs...)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			var reads atomic.Int64
			back := make(chan struct{})
			st.Fail(func(ctx context.Context, op string) error {
				reads.Add(1)
				if hangs {
					<-back
					return nil
				}
				select {
				case <-back:
				case <-ctx.Done():
				}
				return ctx.Err()
			})
			s := testkit.Stapler(t, ca, staple.WithStore(st))
			testkit.List(t, s, certs...)
			time.Sleep(time.Hour)
			if got := reads.Load(); got > 4000 {
				t.Errorf("%d reads in an hour of a store that does not answer", got)
			}
			close(back)
			time.Sleep(3 * time.Minute) // pauses between looks have grown to more than one
			synctest.Wait()
			if got := testkit.Count(t, s, ca, certs); got != len(certs) {
				t.Errorf("hangs %v: %d of %d stapled after the store came back", hangs, got, len(certs))
			}
		})
	}
}

// What comes late from the store and is due for a refresh is refreshed then, and
// not when the retries for want of it would be.
func TestLateReadIsRefreshed(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		time.Sleep(40 * time.Hour)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		st.Fail(func(ctx context.Context, op string) error { <-ctx.Done(); return ctx.Err() })
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, s, cert)
		time.Sleep(8 * time.Hour)
		for time.Until(s.Status()[0].NextRefresh) < 5*time.Minute {
			time.Sleep(time.Minute)
		}
		ca.Responder.ClearFaults()
		ca.Responder.ResetCounts()
		st.Fail(nil)
		time.Sleep(16 * time.Minute)
		if got := ca.Responder.Requests(); got != 1 || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("%d requests once the store is back, want 1; %v", got, s.Ready())
		}
	})
}

// leasedElsewhere is a store whose lease another process has for ever; it takes a
// while to say so.
type leasedElsewhere struct{ *testkit.Shelf }

func (leasedElsewhere) Lease(context.Context, string, time.Duration) (bool, error) {
	time.Sleep(50 * time.Millisecond)
	return false, nil
}

// REQ G5: a Refresh does not wait for another process's lease, either where it
// comes while an attempt asks for that.
func TestRefreshBesideALeaseCall(t *testing.T) {
	for _, since := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := testkit.Stapler(t, ca, staple.WithStore(leasedElsewhere{new(testkit.Shelf)}))
			cert := ca.Issue(ocsptest.Leaf{})
			s.Staple(cert)
			time.Sleep(since)
			begun := time.Now()
			if err := s.Refresh(t.Context(), cert); err != nil || time.Since(begun) > time.Second {
				t.Errorf("%v after the attempt began: %v after %v", since, err, time.Since(begun))
			}
		})
	}
}

// REQ E1: the issuer in the record is found, too, where the store is slow at the
// start.
func TestSlowStoreHasTheIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		alone := *cert
		alone.Certificate = cert.Certificate[:1]
		st.Fail(func(ctx context.Context, op string) error {
			time.Sleep(200 * time.Millisecond)
			return ctx.Err()
		})
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, s, &alone)
		time.Sleep(time.Minute)
		if !testkit.Stapled(t, s, ca, &alone) {
			t.Errorf("Ready: %v", s.Ready())
		}
	})
}

// REQ C5: where the RoundTripper never returns a Prefetch and a Refresh do.
func TestCallsBesideAHungTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		stop := make(chan struct{})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(*http.Request) (*http.Response, error) {
			<-stop
			return nil, errors.New("stopped")
		})}))
		certs := testkit.Leaves(ca, 80)
		testkit.List(t, s, certs[:40]...)
		time.Sleep(24 * time.Hour)
		refreshed := make(chan error, 1)
		go func() { refreshed <- s.Refresh(context.Background()) }()
		time.Sleep(time.Hour)
		begun := time.Now()
		if err := s.Prefetch(context.Background(), certs[50]); err == nil || time.Since(begun) > time.Minute {
			t.Errorf("Prefetch: %v after %v", err, time.Since(begun))
		}
		select {
		case err := <-refreshed:
			if err == nil {
				t.Error("Refresh brought something")
			}
		default:
			t.Error("Refresh did not return in an hour")
		}
		close(stop)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// REQ E12: a record that was read late spares an attempt, once. Where its refresh is due
// before that attempt has failed, the certificate is retried like any other.
func TestRecordReadLateInAnOutage(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(time.Hour)
		cert := testkit.LeafFor(ca, "a.example.com")
		st := learned(t, ca, cert)
		time.Sleep(30*time.Minute - 8*time.Second) // a refresh is due in 8 s
		ca.Responder.SetFault(ocsptest.FaultHang)
		fault, reads := slowReads(1<<62, 0)
		st.Fail(func(ctx context.Context, op string) error {
			if reads.Load() == 0 {
				time.Sleep(150 * time.Millisecond)
			}
			return fault(ctx, op)
		})
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, s, cert)
		time.Sleep(time.Minute)
		if n := reads.Load(); n > 20 || s.Stats().Failures == 0 {
			t.Errorf("%d reads of the store in a minute, %d failures", n, s.Stats().Failures)
		}
	})
}
