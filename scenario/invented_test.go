package scenario_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// Certificates that a source invents for each name are urgent, and the store is as slow as it
// may be: together they take all workers. A certificate that holds a response is refreshed
// all the same.
func TestInventedDelayNoRefresh(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(time.Minute)
		st, good := new(testkit.Shelf), ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.MustFetch(t, s, good)
		st.Fail(func(ctx context.Context, op string) error {
			if op == "Get" {
				time.Sleep(95 * time.Millisecond)
			}
			return ctx.Err()
		})
		tenant, lost := ocsptest.NewCA(), 0
		invented := make([]*tls.Certificate, 11_000) // more than are kept
		for i := range invented {
			invented[i] = tenant.Issue(ocsptest.Leaf{Names: []string{fmt.Sprintf("host%d.test", i)}, Key: tenant.Key()})
		}
		for at := range 150 {
			for i := range 450 {
				s.Staple(invented[(at*450+i)%len(invented)])
			}
			time.Sleep(time.Second)
			if !testkit.Stapled(t, s, ca, good) {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("no staple for %d s of 150", lost)
		}
	})
}
