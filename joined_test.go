package staple_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ G5: a Prefetch beside a Refresh says of a certificate that needs no response what it
// says alone.
func TestPrefetchBesideRefresh(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			time.Sleep(time.Second)
			return nil, true
		}))
		expired := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
		alone := s.Prefetch(t.Context(), expired)
		s.Forget(expired)
		var beside error
		var w sync.WaitGroup
		w.Go(func() { beside = s.Prefetch(t.Context(), expired) })
		w.Go(func() {
			time.Sleep(100 * time.Millisecond)
			_ = s.Refresh(t.Context(), expired)
		})
		w.Wait()
		if (alone == nil) != (beside == nil) {
			t.Errorf("alone %v, beside a Refresh %v", alone, beside)
		}
	})
}

// REQ G5: a Prefetch without a deadline waits half a minute for a lease, though it joined an
// attempt with more patience.
func TestPrefetchJoinsAndTheLease(t *testing.T) {
	for range 10 { // it may come as the attempt's patience ends
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var called atomic.Int64
			certs := testkit.Leaves(ca, 1)
			s := testkit.Stapler(t, ca, staple.WithStore(testkit.Denying{Shelf: new(testkit.Shelf)}), staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
				called.Add(1)
				time.Sleep(time.Second) // a database
				return nil, true
			}))
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			testkit.List(t, s, certs...)
			time.Sleep(3 * time.Hour)
			for n := called.Load(); called.Load() == n; {
				time.Sleep(100 * time.Millisecond)
			}
			for n := called.Load(); called.Load() == n; {
				time.Sleep(100 * time.Millisecond)
			}
			ca.Responder.ClearFaults()
			begun := time.Now()
			if err := s.Prefetch(t.Context(), certs...); err != nil || time.Since(begun) > 40*time.Second {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		})
	}
}

// REQ A12: the first staple that the source sets is judged, whoever tells of it, where the
// certificate names no responder and was known before.
func TestStapleComesWithReload(t *testing.T) {
	for name, tell := range map[string]func(t *testing.T, s *staple.Stapler, cert *tls.Certificate){
		"TLSConfig": func(t *testing.T, s *staple.Stapler, cert *tls.Certificate) { testkit.List(t, s, cert) },
		"Prefetch": func(t *testing.T, s *staple.Stapler, cert *tls.Certificate) {
			_ = s.Prefetch(context.Background(), cert)
		},
		"Staple": func(t *testing.T, s *staple.Stapler, cert *tls.Certificate) { s.Staple(cert) },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(aged(ocsptest.Leaf{NoURL: true}))
				s := testkit.Stapler(t, ca)
				testkit.List(t, s, cert)
				time.Sleep(time.Hour)
				own := *cert
				own.OCSPStaple = ca.Responder.Response(cert)
				tell(t, s, &own)
				for range 60 {
					time.Sleep(time.Minute)
					s.Staple(&own)
				}
				if s.Staple(&own).OCSPStaple == nil {
					t.Errorf("%s: not stapled after an hour: %+v", name, s.Status()[0].State)
				}
			})
		})
	}
}

// REQ A12: so it is once a chain has the issuer that the first lacked.
func TestChainMendedWithoutResponder(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(aged(ocsptest.Leaf{NoURL: true}))
		cert.OCSPStaple = ca.Responder.Response(cert)
		alone, mended := *cert, *cert
		alone.Certificate = cert.Certificate[:1:1]
		s := testkit.Stapler(t, ca)
		s.Staple(&alone)
		time.Sleep(2 * time.Minute)
		for range 60 {
			s.Staple(&mended)
			time.Sleep(time.Minute)
		}
		if s.Staple(&mended).OCSPStaple == nil {
			t.Errorf("not stapled: %+v", s.Status())
		}
	})
}

// REQ G1: a certificate that had nobody to ask, and then has one but no issuer, is told of.
func TestNoIssuerIsTold(t *testing.T) {
	for _, before := range []bool{true, false} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var named atomic.Bool
			var led testkit.Ledger
			var log testkit.Logbook
			named.Store(before)
			s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()), staple.WithEventFunc(func(ev staple.Event) { led.Add(ev.Kind) }),
				staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
					if named.Load() {
						return []string{ca.Responder.URL()}, true
					}
					return nil, true
				}))
			testkit.List(t, s, ca.Issue(aged(ocsptest.Leaf{NoURL: true, WithoutIssuer: true})))
			time.Sleep(time.Minute)
			named.Store(true)
			err := s.Refresh(t.Context())
			time.Sleep(10 * testkit.Day)
			if !slices.Contains(led.All(), "failed") || len(log.Loud()) == 0 {
				t.Errorf("named from the start %v: events %v, lines %v; Refresh: %v; Ready: %v", before, led.All(), log.Loud(), err, s.Ready())
			}
		})
	}
}

// REQ E7: a staple of the source's that ends soon brings the next probe forward.
func TestSoonerWhileStandingBy(t *testing.T) {
	for _, more := range []int{0, 10} {
		failed := 0
		for range 10 {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(aged(ocsptest.Leaf{}))
				s := testkit.Stapler(t, ca)
				testkit.MustFetch(t, s, append(testkit.Leaves(ca, more), cert)...)
				ca.Responder.SetFault(ocsptest.FaultHTTP500)
				time.Sleep(12 * time.Hour)
				for n := ca.Responder.Requests(); ca.Responder.Requests() == n; { // just after a probe
					time.Sleep(time.Second)
				}
				own := *cert
				own.OCSPStaple = ca.Responder.Build(cert, func(spec *ocsptest.Spec) { spec.Singles[0].NextUpdate = time.Now().Add(5 * time.Minute) })
				s.Staple(&own)
				ca.Responder.ClearFaults()
				time.Sleep(6 * time.Minute)
				if s.Staple(cert).OCSPStaple == nil {
					failed++
				}
			})
		}
		if failed > 0 {
			t.Errorf("%d more certificates: in %d of 10 no staple, with the responder up since the source's came", more, failed)
		}
	}
}

// REQ E12: a Prefetch that waits for an outage to end, beside a store that grants no lease,
// costs the requests of one certificate: only an attempt that it joined is hastened.
func TestPrefetchInOutageAndTheLease(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithStore(testkit.Denying{Shelf: new(testkit.Shelf)}))
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		if err := s.Prefetch(testkit.Within(t, time.Hour), testkit.Leaves(ca, 30)...); err == nil || ca.Responder.Requests() > 100 {
			t.Errorf("%d requests in an hour", ca.Responder.Requests())
		}
	})
}

// REQ A5: a leaf that is served with other chains and other staples each time, none of which
// has its issuer, makes no attempt for each.
func TestAlternatingChainsAndStaples(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var failed atomic.Int64
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(staple.Event) { failed.Add(1) }))
		cert, stranger := ca.Issue(ocsptest.Leaf{WithoutIssuer: true}), ocsptest.NewCA().Cert.Raw
		for i := range 500 {
			one := *cert
			one.Certificate = slices.Concat(cert.Certificate, slices.Repeat([][]byte{stranger}, 1+i%2))
			one.OCSPStaple = []byte{byte(i), byte(i >> 8)}
			s.Staple(&one)
			time.Sleep(100 * time.Millisecond)
		}
		if n := failed.Load(); n > 20 {
			t.Errorf("%d attempts failed in 50 s", n)
		}
	})
}
