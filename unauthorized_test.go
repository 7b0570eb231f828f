package staple_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// REQ E16: where "unauthorized" comes again and nothing valid is held, the caches are
// passed once, and not again for 15 minutes.
func TestUnauthorizedFromACache(t *testing.T) {
	for name, known := range map[string]bool{"the CA knows it": true, "nobody knows it": false} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := leafFor(ca, "a.example.com")
			var past []time.Time
			next := ca.Responder.Client().Transport
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("Cache-Control") == "no-cache" {
					past = append(past, time.Now())
				}
				if known && r.Header.Get("Cache-Control") == "no-cache" {
					ca.Responder.SetGood(cert)
				} else {
					ca.Responder.SetUnauthorized(cert)
				}
				return next.RoundTrip(r)
			})}))
			defer s.Close()
			list(t, s, cert)
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			if len(past) > 0 || stapled(t, s, ca, cert) {
				t.Errorf("%s: past caches after the first answer", name)
			}
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if len(past) != 1 || stapled(t, s, ca, cert) != known {
				t.Fatalf("%s: %d requests past caches in 30 s, %v", name, len(past), s.Ready())
			}
			time.Sleep(6 * time.Hour)
			synctest.Wait()
			for i := range past[1:] {
				if gap := past[i+1].Sub(past[i]); gap < 15*time.Minute {
					t.Errorf("%s: past caches again after %v", name, gap)
				}
			}
			if n := len(past); known && n != 1 || !known && n < 5 {
				t.Errorf("%s: %d requests past caches in 6 h", name, n)
			}
		})
	}
}
