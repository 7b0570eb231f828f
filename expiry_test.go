package staple_test

import (
	"context"
	"crypto/tls"
	"errors"
	"math/big"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// lapses returns how long cert was without a staple in some lives of its
// responses, looked at ten times a second where they are about to expire.
func lapses(t *testing.T, s *staple.Stapler, ca *ocsptest.CA, cert *tls.Certificate, d time.Duration) (longest time.Duration) {
	t.Helper()
	var gap time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		st := s.Status()
		if left := time.Until(st[0].NextUpdate); left > 2*time.Minute {
			time.Sleep(left - time.Minute)
		} else {
			time.Sleep(50 * time.Millisecond)
		}
		if gap += 50 * time.Millisecond; stapled(t, s, ca, cert) {
			gap = 0
		}
		longest = max(longest, gap)
	}
	return longest
}

// REQ E11: behind a cache that hands out a response until it has expired, the
// next one is asked for at that moment, and not when a retry is due.
func TestNewsAtExpiryAlone(t *testing.T) {
	for _, validity := range []time.Duration{time.Minute, 10 * time.Minute, 4 * time.Hour, 4 * day} {
		t.Run(validity.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
				ca.Responder.SetValidity(validity)
				var raw []byte
				var until time.Time
				ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, _ *big.Int) bool {
					if now := time.Now(); !now.Before(until) {
						raw, until = ca.Responder.Response(cert), now.Truncate(time.Second).Add(validity)
					}
					w.Header().Set("Content-Type", "application/ocsp-response")
					_, _ = w.Write(raw)
					return true
				})
				s := stapler(t, ca)
				mustFetch(t, s, cert)
				if got := lapses(t, s, ca, cert, 6*validity); got > 200*time.Millisecond {
					t.Errorf("no staple for %v", got)
				}
				if got, most := ca.Responder.Requests(), 6*(24+int(validity/time.Hour))*2; got > most {
					t.Errorf("%d requests in 6 lives, want %d at most", got, most)
				}
			})
		})
	}
}

// REQ E11, A10: a responder whose ETag never changes is asked without it before
// the response expires.
func TestETagForEver(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		ca.Responder.SetValidity(4 * time.Hour)
		ca.Responder.SetHook(func(w http.ResponseWriter, req *http.Request, _ *big.Int) bool {
			w.Header().Set("ETag", `"0"`)
			if req.Header.Get("If-None-Match") != "" {
				w.WriteHeader(http.StatusNotModified)
				return true
			}
			w.Header().Set("Content-Type", "application/ocsp-response")
			_, _ = w.Write(ca.Responder.Response(cert))
			return true
		})
		s := stapler(t, ca)
		mustFetch(t, s, cert)
		if got := lapses(t, s, ca, cert, day); got > 0 {
			t.Errorf("no staple for %v", got)
		}
	})
}

// A first response that is about to expire is followed by the next in time.
func TestFewSecondsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true, NotBefore: time.Now().Add(-10 * day)})
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) {
			if ca.Responder.Requests() == 1 {
				spec.ProducedAt = spec.ProducedAt.Add(-4 * day)
				spec.Singles[0].ThisUpdate, spec.Singles[0].NextUpdate = spec.ProducedAt, spec.ProducedAt.Add(4*day+2*time.Second)
			}
		})
		s := stapler(t, ca)
		mustFetch(t, s, cert)
		time.Sleep(2*time.Second + 200*time.Millisecond)
		if !stapled(t, s, ca, cert) {
			t.Error("not stapled when the first response had expired")
		}
	})
}

// Prefetch returns when a certificate expires for which it waits, and with
// Close.
func TestPrefetchOfExpiring(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultHang)
		s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
		short, long := ca.Issue(ocsptest.Leaf{NotAfter: time.Now().Add(3 * time.Second)}), ca.Issue(ocsptest.Leaf{})
		begun := time.Now()
		if err := s.Prefetch(context.Background(), short); err == nil || time.Since(begun) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		done := make(chan error)
		go func() { done <- s.Prefetch(context.Background(), long) }()
		time.Sleep(time.Second)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, staple.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// REQ E9: a clock that was past the certificates' end for a while switches
// nothing off: in a running process, and in one that began so.
func TestClockPastNotAfter(t *testing.T) {
	for _, begins := range []bool{false, true} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c := new(clock)
			if begins {
				c.step(100 * day)
			}
			s := stapler(t, ca, staple.WithNow(c.now))
			cert := ca.Issue(ocsptest.Leaf{MustStaple: true}) // for 90 days
			cfg := list(t, s, cert)
			time.Sleep(time.Minute)
			if !begins {
				c.step(100 * day)
				time.Sleep(2 * time.Minute)
				s.Staple(cert) // a handshake meanwhile
				time.Sleep(time.Minute)
			}
			c.step(-100 * day)
			s.Staple(cert)
			time.Sleep(90 * time.Second)
			if err := s.Ready(); !stapled(t, s, ca, cert) || err != nil {
				t.Errorf("begins ahead %v: not stapled when the clock was right again: %v, %+v", begins, err, s.Status())
			}
			runtime.KeepAlive(cfg)
		})
	}
}

// REQ E9: what was tried by a clock that was ahead is tried again.
func TestOtherHashAfterClockStep(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		c.step(60 * day)
		s := stapler(t, ca, staple.WithNow(c.now))
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetUnauthorized(cert)
		cfg := list(t, s, cert)
		time.Sleep(10 * time.Second)
		c.step(-60 * day)
		ca.Responder.SetGood(cert)
		ca.Responder.SetCertIDs(ocsptest.SHA256Only)
		time.Sleep(3 * time.Hour)
		if !stapled(t, s, ca, cert) {
			t.Errorf("not stapled three hours after the clock was right again: %v", s.Ready())
		}
		runtime.KeepAlive(cfg)
	})
}
