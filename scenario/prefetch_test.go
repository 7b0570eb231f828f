package scenario_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// Prefetch asks now, whatever failed before and however rare the retries are: for
// each certificate once.
func TestPrefetchAfterOutage(t *testing.T) {
	for _, n := range []int{1, 100} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := testkit.Stapler(t, ca)
			certs := testkit.Leaves(ca, n)
			testkit.FailFor(t, s, ca, 12*time.Hour, certs...)
			begun := time.Now()
			if err := s.Prefetch(t.Context(), certs...); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > 0 || testkit.Count(t, s, ca, certs) != n {
				t.Errorf("%d of %d stapled after %v, want all at once", testkit.Count(t, s, ca, certs), n, took)
			}
			if got := ca.Responder.Requests(); got != n {
				t.Errorf("%d requests for %d certificates", got, n)
			}
			if err := s.Prefetch(t.Context(), certs...); err != nil || ca.Responder.Requests() != n {
				t.Errorf("%d requests though all is there: %v", ca.Responder.Requests(), err)
			}
		})
	}
}

// Without a deadline Prefetch makes one attempt and says what came of it, each time.
func TestPrefetchWithoutDeadline(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{URLs: []string{ca.Responder.URL(), ca.Responder.URL() + "/b"}})
		for i, tc := range []struct {
			fault  ocsptest.Fault
			reason staple.Reason
		}{{ocsptest.FaultRefused, staple.ReasonNetwork}, {ocsptest.FaultTryLater, staple.ReasonTryLater}, {ocsptest.FaultHTTP503, staple.ReasonHTTPStatus}} {
			ca.Responder.SetFault(tc.fault)
			begun := time.Now()
			if err := s.Prefetch(t.Context(), cert); testkit.Reason(err) != tc.reason {
				t.Errorf("%v, want %v", err, tc.reason)
			}
			if got, took := ca.Responder.Requests(), time.Since(begun); got != 2*(i+1) || took > 0 {
				t.Errorf("%d requests after %v, want %d at once", got, took, 2*(i+1))
			}
		}
	})
}

// Until its deadline Prefetch goes on as the schedule does, and no faster than once
// in a second, whatever the validity of what was lost.
func TestPrefetchUntilDeadline(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		lost, never := ca.Issue(ocsptest.Leaf{Names: []string{"lost.test"}}), ca.Issue(ocsptest.Leaf{Names: []string{"never.test"}})
		ca.Responder.SetValidity(4 * time.Second)
		testkit.MustFetch(t, s, lost)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		time.Sleep(10 * time.Second)
		ca.Responder.ResetCounts()
		begun := time.Now()
		time.AfterFunc(20*time.Second, ca.Responder.ClearFaults)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := s.Prefetch(ctx, never, lost); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < 20*time.Second || took > 45*time.Second {
			t.Errorf("took %v, though the network came after 20 s", took)
		}
		last := make(map[string]time.Time)
		for _, r := range ca.Responder.Log() {
			serial := r.Serial.String()
			if before, ok := last[serial]; ok && r.Time.Before(begun.Add(20*time.Second)) && r.Time.Sub(before) < time.Second {
				t.Errorf("asked again after %v", r.Time.Sub(before))
			}
			last[serial] = r.Time
		}
		if log := ca.Responder.Log(); len(log) < 8 || !log[0].Time.Equal(begun) || !log[1].Time.Equal(begun) {
			t.Errorf("%d requests: too few, or not at once", len(log))
		}
	})
}

// At its deadline Prefetch tells that it came, and what failed, for each certificate.
func TestPrefetchAtDeadline(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := testkit.Leaves(ca, 20)
		ca.Responder.SetFault(ocsptest.FaultHTTP503)
		must := ca.Issue(ocsptest.Leaf{NoURL: true, MustStaple: true})
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		errs := testkit.Joined(s.Prefetch(ctx, append(certs, must)...))
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("took %v, want the minute that there is", took)
		}
		if len(errs) != 21 || !errors.Is(errs[20], staple.ErrNoResponder) {
			t.Fatalf("%d errors, want 21: %q", len(errs), errs)
		}
		for _, err := range errs[:20] {
			if !errors.Is(err, context.DeadlineExceeded) || testkit.Reason(err) == 0 || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), ca.Responder.URL()) {
				t.Fatalf("%v: does not say what, or who, failed", err)
			}
		}
		begun = time.Now()
		if err := s.Prefetch(testkit.Within(t, time.Minute), must); !errors.Is(err, staple.ErrNoResponder) || time.Since(begun) > 0 {
			t.Errorf("%v after %v: nothing can come of it", err, time.Since(begun))
		}
	})
}

// REQ E1: in a restart with the responder down Prefetch waits for a store that is slow,
// even if a config had it read with less patience before; also for the issuer of a
// lone leaf, which is in the record.
func TestPrefetchOfSlowStore(t *testing.T) {
	for name, tc := range map[string]struct {
		takes  time.Duration
		listed bool
		alone  bool
	}{
		"a bit":              {150 * time.Millisecond, false, false},
		"a bit, listed":      {150 * time.Millisecond, true, false},
		"seconds":            {3 * time.Second, false, false},
		"seconds, listed":    {3 * time.Second, true, false},
		"lone leaf":          {150 * time.Millisecond, false, true},
		"lone leaf, listed ": {150 * time.Millisecond, true, true},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs := testkit.Leaves(ca, 3)
			st := learned(t, ca, certs...)
			if tc.alone {
				for _, cert := range certs {
					cert.Certificate = cert.Certificate[:1]
				}
			}
			ca.Responder.SetFault(ocsptest.FaultRefused)
			st.Fail(func(ctx context.Context, op string) error {
				select {
				case <-time.After(tc.takes):
				case <-ctx.Done():
				}
				return ctx.Err()
			})
			s := testkit.Stapler(t, ca, staple.WithStore(st))
			if tc.listed {
				testkit.List(t, s, certs...)
				synctest.Wait() // until the store is read, with the patience of a handshake
			}
			if err := s.Prefetch(t.Context(), certs...); err != nil || testkit.Count(t, s, ca, certs) != len(certs) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// A store that hangs has Prefetch wait 5 s, however many certificates there are; then
// responders are asked.
func TestPrefetchOfHungStore(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			stop := make(chan struct{})
			st := new(testkit.Shelf)
			st.Fail(func(ctx context.Context, op string) error {
				if op != "Get" {
					return nil
				}
				if deaf {
					<-stop
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			})
			s := testkit.Stapler(t, ca, staple.WithStore(st))
			certs := testkit.Leaves(ca, 500)
			begun := time.Now()
			if err := s.Prefetch(t.Context(), certs...); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took < 5*time.Second || took > 6*time.Second {
				t.Errorf("took %v, want 5 s", took)
			}
			close(stop)
		})
	}
}

// A config that lists a certificate and a Prefetch of it right after cost one request;
// an attempt that has been under way for longer is followed by one of the call's own.
func TestPrefetchJoins(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultHang)
		testkit.List(t, s, cert)
		synctest.Wait()
		if err := s.Prefetch(t.Context(), cert); testkit.Reason(err) != staple.ReasonTimeout || ca.Responder.Requests() != 1 {
			t.Errorf("%d requests, want 1: %v", ca.Responder.Requests(), err)
		}
		for ca.Responder.Requests() == 1 {
			time.Sleep(100 * time.Millisecond) // until a retry hangs
		}
		time.Sleep(5 * time.Second)
		ca.Responder.ClearFaults() // which mends what comes
		if err := s.Prefetch(t.Context(), cert, cert); err != nil || !testkit.Stapled(t, s, ca, cert) {
			t.Error(err)
		}
		if got := ca.Responder.Requests(); got != 3 {
			t.Errorf("%d requests, want 3", got)
		}
	})
}

// REQ E13: a certificate that is not valid yet is asked about 5 minutes before it is,
// and not before; Prefetch says from when it is valid, and does not wait.
func TestNotValidYet(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		from := time.Now().Add(3 * time.Hour)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: from})
		testkit.List(t, s, cert)
		begun := time.Now()
		for _, err := range []error{s.Prefetch(testkit.Within(t, time.Minute), cert), s.Refresh(t.Context(), cert), s.Ready()} {
			if err == nil || !strings.Contains(err.Error(), "example.com") || !strings.Contains(err.Error(), "not valid before "+from.UTC().Format(time.RFC3339)) || time.Since(begun) > 0 {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		}
		time.Sleep(time.Until(from.Add(-5*time.Minute - time.Second)))
		if got := ca.Responder.Requests(); got > 0 {
			t.Errorf("%d requests before anyone may know of it", got)
		}
		time.Sleep(time.Until(from))
		if err := s.Ready(); err != nil || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not stapled when it is valid: %v", err)
		}
	})
}

// What needs no response, or has one, is not asked about.
func TestPrefetchAsksForWhatIsMissing(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		revoked := ca.Issue(ocsptest.Leaf{})
		ca.Responder.Revoke(revoked, 1, time.Time{})
		certs := []*tls.Certificate{ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{NoURL: true}), ca.Issue(ocsptest.Leaf{SelfSigned: true}), revoked}
		for range 3 {
			if errs := testkit.Joined(s.Prefetch(testkit.Within(t, time.Minute), certs...)); len(errs) != 1 || !errors.Is(errs[0], staple.ErrRevoked) {
				t.Errorf("%q, want that one is revoked", errs)
			}
		}
		if got := ca.Responder.Requests(); got != 2 {
			t.Errorf("%d requests, want 2", got)
		}
	})
}
