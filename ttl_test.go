package staple_test

import (
	"crypto/x509"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// REQ E3, REQ A10: where responses are signed in advance, and max-age is of minutes,
// the TTL sets the pace until half-life is within max-age. The next request is the
// one for the successor, which is spread over a tenth of the validity.
func TestShortMaxAge(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		const validity = 96 * time.Hour
		ca.Responder.SetValidity(validity)
		ca.Responder.SetPresign(true)
		ca.Responder.SetHeader("Cache-Control", "max-age=600")
		s := stapler(t, ca)
		cert := leafFor(ca, "a.example.com")
		mustFetch(t, s, cert)
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
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		on := leafFor(ca, "on.example.com")
		s := stapler(t, ca, staple.WithTTL(math.MaxInt64), staple.WithResponders(func(leaf *x509.Certificate) ([]string, bool) {
			return nil, leaf.Equal(on.Leaf)
		}))
		mustFetch(t, s, on)
		list(t, s, leaves(ca, 50)...)
		time.Sleep(5 * day) // without handshakes, which would wake the scheduler
		if !stapled(t, s, ca, on) {
			t.Errorf("not refreshed in 5 days, %d requests: %v", ca.Responder.Requests(), s.Ready())
		}
	})
}

// REQ B10: nor is a response without nextUpdate over at once.
func TestTTLOfAgesWithoutNextUpdate(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetNoNextUpdate(true)
		s := stapler(t, ca, staple.WithTTL(math.MaxInt64))
		cert := leafFor(ca, "a.example.com")
		list(t, s, cert)
		time.Sleep(day)
		if got := ca.Responder.Requests(); !stapled(t, s, ca, cert) || got != 1 {
			t.Errorf("not served, or not for a day: %d requests: %v", got, s.Ready())
		}
	})
}

// REQ A10: a TTL that the user set is what requests say to caches; the default is not.
func TestTTLInRequests(t *testing.T) {
	for ttl, want := range map[time.Duration]string{0: "", 10 * time.Minute: "max-age=600"} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var got []string
			next := ca.Responder.Client().Transport
			s := staple.New(staple.WithTTL(ttl), staple.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				got = append(got, r.Header.Get("Cache-Control"))
				return next.RoundTrip(r)
			})}))
			defer s.Close()
			cert := leafFor(ca, "a.example.com")
			mustFetch(t, s, cert)
			if err := s.Refresh(background, cert); err != nil {
				t.Error(err)
			}
			if !slices.Equal(got, []string{want, "no-cache"}) {
				t.Errorf("TTL %v: %q, want %q and that Refresh goes past caches", ttl, got, want)
			}
		})
	}
}
