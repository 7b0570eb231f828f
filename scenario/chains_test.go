package scenario_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ I8: a leaf that is served with two chains in turn, neither of which has its issuer,
// brings no attempt and no event with each handshake. A chain that has it is found.
func TestAlternatingChains(t *testing.T) {
	for name, urls := range map[string][]string{"no URL": nil, "URL that fails": {"http://127.0.0.1:1/ca.der"}} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				stranger := ocsptest.NewCA().Cert.Raw
				cert := ca.Issue(ocsptest.Leaf{IssuerURLs: urls})
				one, two := *cert, *cert
				one.Certificate = [][]byte{cert.Certificate[0], stranger}
				two.Certificate = [][]byte{cert.Certificate[0], stranger, stranger}
				var events atomic.Int64
				s := testkit.Stapler(t, ca, staple.WithEventFunc(func(staple.Event) { events.Add(1) }))
				for range 500 {
					s.Staple(&one)
					synctest.Wait()
					s.Staple(&two)
					synctest.Wait()
				}
				if n := events.Load(); n > 20 {
					t.Errorf("%d attempts ended in the time of none", n)
				}
				if urls == nil { // who mends the chain and says so need not wait
					if err := s.Prefetch(background, cert); err != nil {
						t.Error(err)
					}
				} else {
					time.Sleep(time.Minute)
					s.Staple(cert)
					time.Sleep(time.Second)
				}
				if !testkit.Stapled(t, s, ca, cert) {
					t.Errorf("not stapled with the right chain: %v", s.Ready())
				}
			})
		})
	}
}
