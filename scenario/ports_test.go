package scenario_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ I3: a host is one whatever the port, the case and the dot at the end, of which a
// tenant's certificates may name as many as they like: 64 requests at a time, and two a
// minute once all that is asked there fails.
func TestPortsOfAHost(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var flying, most, all atomic.Int64
		hangs := testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			all.Add(1)
			most.Store(max(most.Load(), flying.Add(1)))
			defer flying.Add(-1)
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: hangs}))
		defer s.Close()
		for i := range 100 {
			testkit.List(t, s, ca.Issue(ocsptest.Leaf{Key: ca.Key(), URLs: []string{
				fmt.Sprintf("http://third.test:%d/", 2*i+1), fmt.Sprintf("http://Third.test.:%d/", 2*i+2)}}))
		}
		time.Sleep(time.Hour)
		before := all.Load()
		time.Sleep(time.Hour)
		if n := all.Load() - before; most.Load() > 64 || n > 130 {
			t.Errorf("%d requests at a time, %d in the second hour, want 64 and 120 at most", most.Load(), n)
		}
	})
}
