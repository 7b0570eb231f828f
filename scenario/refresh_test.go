package scenario_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// REQ G5: once the network is mended one call has everything stapled, whatever
// failed before.
func TestRefreshAfterOutage(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := testkit.Leaves(ca, 100)
		testkit.FailFor(t, s, ca, 12*time.Hour, certs...)
		begun := time.Now()
		if err := s.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 0 || testkit.Count(t, s, ca, certs) != len(certs) {
			t.Errorf("%d of %d stapled after %v, want all at once", testkit.Count(t, s, ca, certs), len(certs), took)
		}
		for _, cert := range certs {
			if n := ca.Responder.Count("", cert); n == 0 || n > 2 { // the first success has the breaker close: some are asked about by the schedule, too
				t.Fatalf("%d requests for one certificate, want one, or two", n)
			}
		}
	})
}

// REQ G5, REQ E4: while the breaker is open the requests of a call are as parallel as
// others, and no more.
func TestRefreshIsLimited(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := testkit.Leaves(ca, 200)
		testkit.FailFor(t, s, ca, time.Hour, certs...)
		ca.Responder.SetDelay(time.Second)
		if err := s.Refresh(t.Context(), certs...); err != nil {
			t.Error(err)
		}
		if got := ca.Responder.Peak(); got > 32 {
			t.Errorf("%d requests at once", got)
		}
	})
}

// REQ G5: the error names each certificate whose attempt failed, though it holds a
// response; a responder that fails for 5 is not asked about the rest, and what was
// planned stays planned.
func TestRefreshFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  ocsptest.Fault
		reason staple.Reason
	}{"refused": {ocsptest.FaultRefused, staple.ReasonNetwork}, "hangs": {ocsptest.FaultHang, staple.ReasonTimeout}} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := testkit.Stapler(t, ca)
			certs := testkit.Leaves(ca, 300)
			testkit.MustFetch(t, s, certs...)
			ca.Responder.ResetCounts()
			ca.Responder.SetFault(tc.fault)
			for range 3 {
				begun := time.Now()
				errs := testkit.Joined(s.Refresh(t.Context(), certs...))
				if took := time.Since(begun); took > 20*time.Second {
					t.Errorf("%s: took %v", name, took)
				}
				if len(errs) != len(certs) {
					t.Fatalf("%s: %d errors for %d certificates", name, len(errs), len(certs))
				}
				spared := 0
				for i, err := range errs {
					if text := err.Error(); !strings.Contains(text, fmt.Sprintf("%x)", certs[i].Leaf.SerialNumber)) || !strings.Contains(text, ca.Responder.URL()) {
						t.Fatalf("%s: %v: does not name certificate %d and its responder", name, err, i)
					}
					if testkit.Reason(err) == staple.ReasonUnavailable {
						spared++
					} else if testkit.Reason(err) != tc.reason {
						t.Fatalf("%s: %v", name, err)
					}
				}
				if got := ca.Responder.Requests(); got < 5 || got > 5+32 || spared != len(certs)-got {
					t.Errorf("%s: %d requests, %d spared", name, got, spared)
				}
				ca.Responder.ResetCounts()
			}
			if got := testkit.Count(t, s, ca, certs); got != len(certs) {
				t.Errorf("%s: %d of %d stapled", name, got, len(certs))
			}
			ca.Responder.ClearFaults()
			if err := s.Refresh(t.Context(), certs...); err != nil {
				t.Errorf("%s: when it is mended: %v", name, err)
			}
		})
	}
}

// REQ G5: calls that fail put no retry off, however many there are.
func TestRefreshPutsNothingOff(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{})
		testkit.FailFor(t, s, ca, 10*time.Minute, cert)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		due := s.Status()[0].NextRefresh
		for range 20 {
			if err := errors.Join(s.Refresh(t.Context(), cert), s.Prefetch(t.Context(), cert)); err == nil {
				t.Fatal("the responder fails, and nothing is said")
			}
		}
		if got := ca.Responder.Requests(); got != 40 {
			t.Errorf("%d requests, want 40", got)
		}
		if got := s.Status()[0].NextRefresh; got.After(due) && time.Until(got) > time.Second {
			t.Errorf("the next retry is due at %v, was at %v", got, due)
		}
		time.Sleep(time.Until(due) + time.Second)
		if pause := time.Until(s.Status()[0].NextRefresh); pause > 40*time.Minute {
			t.Errorf("a pause of %v after 20 minutes of failures", pause)
		}
	})
}

// REQ G5, REQ E4: an attempt that is under way is waited for, and then another made:
// what it brings may be older than what the caller knows of.
func TestRefreshWaitsItsTurn(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetDelay(4 * time.Second)
		s.Staple(cert)
		time.Sleep(time.Second)
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{}) // after the first answer was made
		if err := s.Refresh(t.Context(), cert, cert); err != nil {
			t.Errorf("finding that a certificate is revoked is no failure: %v", err)
		}
		log := ca.Responder.Log()
		if len(log) != 2 || log[1].Time.Sub(log[0].Time) < 4*time.Second {
			t.Errorf("%d requests, want 2, one after the other", len(log))
		}
		if st := s.Status()[0]; st.State != staple.StateRevoked {
			t.Errorf("state %v, want revoked", st.State)
		}
	})
}

// REQ G5, REQ E5: neither what another process stored nor its lease spares the
// request.
func TestRefreshPastStoreAndLease(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st, ls := new(testkit.Shelf), new(leases)
		one := testkit.Stapler(t, ca, staple.WithStore(&member{Shelf: st, leases: ls}))
		other := testkit.Stapler(t, ca, staple.WithStore(&member{Shelf: st, leases: ls}))
		testkit.MustFetch(t, one, cert)
		synctest.Wait() // for the record
		if err := other.Prefetch(t.Context(), cert); err != nil || ca.Responder.Requests() != 1 {
			t.Fatalf("%d requests, want 1: %v", ca.Responder.Requests(), err)
		}
		begun := time.Now()
		if err := other.Refresh(t.Context(), cert); err != nil {
			t.Error(err)
		}
		if n, took := ca.Responder.Requests(), time.Since(begun); n != 2 || took > 0 {
			t.Errorf("%d requests after %v, want 2 at once", n, took)
		}
		late := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFaultFor(late, ocsptest.FaultHang)
		one.Staple(late) // and has the lease
		synctest.Wait()
		other.Staple(late) // and waits for it
		time.Sleep(time.Second)
		ca.Responder.ClearFaults()
		if err := other.Refresh(t.Context(), late); err != nil || !testkit.Stapled(t, other, ca, late) {
			t.Errorf("not stapled: %v", err)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("waited %v for the lease of another", took-time.Second)
		}
	})
}

// REQ G5: the switch of WithResponders is asked at once, and turns.
func TestRefreshTurnsTheSwitch(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var on atomic.Bool
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, on.Load() }))
		cert := ca.Issue(ocsptest.Leaf{})
		testkit.List(t, s, cert)
		time.Sleep(time.Minute)
		for _, turned := range []bool{true, false, true} {
			on.Store(turned)
			if err := s.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			if got := testkit.Stapled(t, s, ca, cert); got != turned {
				t.Errorf("stapled %v, want %v: %+v", got, turned, s.Status()[0])
			}
		}
	})
}

// REQ G5: an issuer that could not be downloaded a moment ago is asked for again.
func TestRefreshDownloadsTheIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{ca.Responder.IssuerURL("der")}})
		var down atomic.Bool
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if down.Load() {
				return nil, errors.New("no network")
			}
			return ca.Responder.RoundTrip(r)
		})}))
		down.Store(true)
		testkit.List(t, s, cert)
		time.Sleep(time.Hour)
		if err := s.Refresh(t.Context()); !errors.Is(err, staple.ErrNoIssuer) {
			t.Errorf("%v, want %v", err, staple.ErrNoIssuer)
		}
		down.Store(false)
		time.Sleep(time.Millisecond)
		if err := s.Refresh(t.Context()); err != nil || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not stapled: %v", err)
		}
	})
}

// REQ G5: Refresh makes certificates known; what is nothing is an error, what needs
// no staple is none; it ends with its context, and with the Stapler.
func TestRefreshEnds(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		var noContext context.Context
		if err := s.Refresh(noContext); err != nil {
			t.Errorf("of nothing: %v", err)
		}
		cert, none := ca.Issue(ocsptest.Leaf{Names: []string{"one.test"}}), ca.Issue(ocsptest.Leaf{NoURL: true})
		must := ca.Issue(ocsptest.Leaf{NoURL: true, MustStaple: true, Names: []string{"must.test"}})
		errs := testkit.Joined(s.Refresh(noContext, cert, nil, new(tls.Certificate), none, must))
		if len(errs) != 3 || !strings.Contains(errs[0].Error(), "certificate 1 is nil or empty") || !errors.Is(errs[2], staple.ErrNoResponder) || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("%q", errs)
		}
		ca.Responder.SetDelay(4 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Refresh(ctx, cert); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "one.test") {
			t.Errorf("%v, want %v", err, context.DeadlineExceeded)
		}
		time.Sleep(time.Minute)
		done := make(chan error, 1)
		go func() { done <- s.Refresh(t.Context(), cert) }()
		time.Sleep(time.Second)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		empty := staple.New()
		empty.Close()
		for _, err := range []error{<-done, s.Refresh(t.Context()), empty.Refresh(t.Context()), s.Refresh(t.Context(), cert), s.Refresh(t.Context(), ca.Issue(ocsptest.Leaf{}))} {
			if !errors.Is(err, staple.ErrClosed) {
				t.Errorf("%v, want %v", err, staple.ErrClosed)
			}
		}
	})
}

// REQ G5: one certificate's trouble is told of in spite of others' success, and 5 in a
// row are not 5 among many.
func TestRefreshOfSomeThatFail(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := testkit.Leaves(ca, 200)
		bad := make(map[string]bool)
		for i := 0; i < len(certs); i += 20 {
			bad[certs[i].Leaf.SerialNumber.String()] = true
		}
		ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, serial *big.Int) bool {
			if bad[serial.String()] {
				http.Error(w, "no", http.StatusInternalServerError)
			}
			return bad[serial.String()]
		})
		ca.Responder.SetDelay(time.Millisecond)
		errs := testkit.Joined(s.Refresh(t.Context(), certs...))
		if got := testkit.Count(t, s, ca, certs); len(errs) != len(bad) || got != len(certs)-len(bad) {
			t.Errorf("%d errors, %d stapled; want %d, %d", len(errs), got, len(bad), len(certs)-len(bad))
		}
	})
}

// A record that is read while Refresh waits is no answer to its request.
func TestRefreshFailsThoughARecordIsRead(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := testkit.LeafFor(ca, "a.example.com")
		st := learned(t, ca, cert)
		time.Sleep(time.Minute)
		ca.Responder.SetFault(ocsptest.FaultHang)
		var reads atomic.Int64
		st.Fail(func(ctx context.Context, op string) error {
			if op == "Get" && reads.Add(1) == 1 {
				time.Sleep(6 * time.Second)
			}
			return ctx.Err()
		})
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		if err := s.Refresh(t.Context(), cert); testkit.Reason(err) != staple.ReasonTimeout {
			t.Errorf("%v, want a timeout", err)
		}
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("the record is not used")
		}
	})
}
