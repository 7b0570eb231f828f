package scenario_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
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
		if gap += 50 * time.Millisecond; testkit.Stapled(t, s, ca, cert) {
			gap = 0
		}
		longest = max(longest, gap)
	}
	return longest
}

// REQ E11: behind a cache that hands out a response until it has expired, the
// next one is asked for at that moment, and not when a retry is due.
func TestNewsAtExpiryAlone(t *testing.T) {
	for _, validity := range []time.Duration{time.Minute, 10 * time.Minute, 4 * time.Hour, 4 * testkit.Day} {
		t.Run(validity.String(), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
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
				s := testkit.Stapler(t, ca)
				testkit.MustFetch(t, s, cert)
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
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
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
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		if got := lapses(t, s, ca, cert, testkit.Day); got > 0 {
			t.Errorf("no staple for %v", got)
		}
	})
}

// A first response that is about to expire is followed by the next in time.
func TestFewSecondsLeft(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true, NotBefore: time.Now().Add(-10 * testkit.Day)})
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) {
			if ca.Responder.Requests() == 1 {
				spec.ProducedAt = spec.ProducedAt.Add(-4 * testkit.Day)
				spec.Singles[0].ThisUpdate, spec.Singles[0].NextUpdate = spec.ProducedAt, spec.ProducedAt.Add(4*testkit.Day+2*time.Second)
			}
		})
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		time.Sleep(2*time.Second + 200*time.Millisecond)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("not stapled when the first response had expired")
		}
	})
}

// Prefetch returns when a certificate expires for which it waits, and with
// Close.
func TestPrefetchOfExpiring(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
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

// REQ E3, REQ A10: where responses are signed in advance, and max-age is of minutes,
// the TTL sets the pace until half-life is within max-age. The next request is the
// one for the successor, which is spread over a tenth of the validity.
func TestShortMaxAge(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		const validity = 96 * time.Hour
		ca.Responder.SetValidity(validity)
		ca.Responder.SetPresign(true)
		ca.Responder.SetHeader("Cache-Control", "max-age=600")
		s := testkit.Stapler(t, ca)
		cert := testkit.LeafFor(ca, "a.example.com")
		testkit.MustFetch(t, s, cert)
		first := s.Status()[0].ThisUpdate
		inSight := first.Add(validity/2 - 15*time.Minute) // max-age, and what clocks may differ
		time.Sleep(time.Until(inSight))
		got := append(gaps(ca.Responder), time.Since(s.Status()[0].LastSuccess))
		if most := slices.Max(got); most > time.Hour || len(got) < 47 {
			t.Errorf("%d gaps of at most %v before half-life, want one an hour or more", len(got), most)
		}
		time.Sleep(15*time.Minute + 10*time.Minute + validity/10)
		if !s.Status()[0].ThisUpdate.After(first) {
			t.Error("no new response in the tenth of the validity after half-life")
		}
	})
}

// A TTL of ages is one that never comes, and overflows nothing: what is switched
// off, and looked at again a TTL later, does not keep others from being refreshed.
//
// REQ E3
func TestTTLOfAges(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		on := testkit.LeafFor(ca, "on.example.com")
		s := testkit.Stapler(t, ca, staple.WithTTL(math.MaxInt64), staple.WithResponders(func(leaf *x509.Certificate) ([]string, bool) {
			return nil, leaf.Equal(on.Leaf)
		}))
		testkit.MustFetch(t, s, on)
		testkit.List(t, s, testkit.Leaves(ca, 50)...)
		time.Sleep(5 * testkit.Day) // without handshakes, which would wake the scheduler
		if !testkit.Stapled(t, s, ca, on) {
			t.Errorf("not refreshed in 5 days, %d requests: %v", ca.Responder.Requests(), s.Ready())
		}
	})
}

// REQ B10: nor is a response without nextUpdate over at once.
func TestTTLOfAgesWithoutNextUpdate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetNoNextUpdate(true)
		s := testkit.Stapler(t, ca, staple.WithTTL(math.MaxInt64))
		cert := testkit.LeafFor(ca, "a.example.com")
		testkit.List(t, s, cert)
		time.Sleep(testkit.Day)
		if got := ca.Responder.Requests(); !testkit.Stapled(t, s, ca, cert) || got != 1 {
			t.Errorf("not served, or not for a day: %d requests: %v", got, s.Ready())
		}
	})
}

// REQ A10: a TTL that the user set is what requests say to caches; the default is not.
func TestTTLInRequests(t *testing.T) {
	for ttl, want := range map[time.Duration]string{0: "", 10 * time.Minute: "max-age=600"} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var got []string
			next := ca.Responder.Client().Transport
			s := staple.New(staple.WithTTL(ttl), staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				got = append(got, r.Header.Get("Cache-Control"))
				return next.RoundTrip(r)
			})}))
			defer s.Close()
			cert := testkit.LeafFor(ca, "a.example.com")
			testkit.MustFetch(t, s, cert)
			if err := s.Refresh(background, cert); err != nil {
				t.Error(err)
			}
			if !slices.Equal(got, []string{want, "no-cache"}) {
				t.Errorf("TTL %v: %q, want %q and that Refresh goes past caches", ttl, got, want)
			}
		})
	}
}
