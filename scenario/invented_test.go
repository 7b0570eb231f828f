package scenario_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// A certificate that a config lists among thousands waits behind these for a worker. Once
// a handshake wants it, or a call, it no longer does.
func TestListedThenWanted(t *testing.T) {
	for _, how := range []string{"handshake", "Prefetch"} {
		t.Run(how, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				last := ca.Issue(ocsptest.Leaf{Names: []string{"last.example"}, MustStaple: true})
				s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
					time.Sleep(time.Second)
					return nil, true
				}))
				testkit.List(t, s, append(testkit.Leaves(ca, 500), last)...) // 15 s with 32 workers
				time.Sleep(time.Second)
				if how == "Prefetch" {
					if err := s.Prefetch(testkit.Within(t, 5*time.Second), last); err != nil {
						t.Error(err)
					}
				}
				cs, took := testkit.TimedTalk(t, s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*last}}), testkit.ClientFor(ca, "last.example"))
				if len(cs.OCSPResponse) == 0 || took > 4*time.Second {
					t.Errorf("a staple of %d bytes after %v", len(cs.OCSPResponse), took)
				}
			})
		})
	}
}
