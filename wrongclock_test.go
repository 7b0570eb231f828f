package staple_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// What two things do at once that other tests do apart: a clock that is wrong for a moment, a switch,
// Forget, a lease, writes and requests that are out.

const decade = 10 * 365 * testkit.Day

// aged is a certificate that is two days old.
func aged(l ocsptest.Leaf) ocsptest.Leaf {
	l.NotBefore = time.Now().Add(-48 * time.Hour)
	return l
}

// REQ E9, REQ D2: the staple that a source has for a certificate without a responder is served again
// after a clock that was past its end.
func TestOwnStapleAndTheClock(t *testing.T) {
	on := staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, true })
	for _, opts := range [][]staple.Option{nil, {on, staple.WithTTL(testkit.Day)}} {
		for _, must := range []bool{false, true} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{NoURL: true, MustStaple: must}))
				cert.OCSPStaple = ca.Responder.Response(cert)
				s := testkit.Stapler(t, ca, append(opts, staple.WithNow(c.now))...)
				testkit.List(t, s, cert)
				for _, step := range []time.Duration{10 * testkit.Day, -10 * testkit.Day} {
					time.Sleep(2 * time.Minute)
					c.step(step)
				}
				time.Sleep(2 * time.Minute)
				if s.Staple(cert).OCSPStaple == nil {
					t.Errorf("Must-Staple %v, %d options: not served: %+v", must, len(opts), s.Status())
				}
			})
		}
	}
}

// REQ G5: a Prefetch looks at the clock first: it may have been set.
func TestPrefetchByTheRightClock(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
		c.step(decade)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.List(t, s, cert)
		time.Sleep(30 * time.Second)
		c.step(-decade)
		if err := s.Prefetch(testkit.Within(t, 20*time.Second), cert); err != nil {
			t.Error(err)
		}
	})
}

// REQ B12: a response that the responder did not know any more by a clock that was ahead is good by the
// right one, in what is said as in what is served.
func TestUnknownByAClockAhead(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, cert) // for four days
		ca.Responder.SetFault(ocsptest.FaultRefused)
		time.Sleep(2 * testkit.Day)
		ca.Responder.ClearFaults()
		ca.Responder.SetUnknown(cert)
		c.step(3 * testkit.Day)
		time.Sleep(10 * time.Minute)
		if st := s.Status()[0].State; st != staple.StateUnknown {
			t.Fatal(st)
		}
		c.step(-3 * testkit.Day)
		for range 24*60 - 30 {
			time.Sleep(time.Minute)
			st := s.Status()[0]
			if stapled := s.Staple(cert).OCSPStaple != nil; stapled != (st.State == staple.StateGood) {
				t.Fatalf("stapled %v, state %v", stapled, st.State)
			}
		}
	})
}

// REQ A5: a certificate that is not valid yet, and whose issuer is not looked for yet, is not asked
// about, though the clock goes back a little while it is prepared.
func TestEarlyWithoutIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		var stepBack atomic.Bool
		c := new(clock)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(time.Hour), WithoutIssuer: true, IssuerURLs: []string{ca.Responder.IssuerURL("der")}})
		s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithLogger(log.Logger()), staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			if stepBack.Swap(false) {
				c.step(-500 * time.Millisecond)
			}
			return nil, true
		}))
		testkit.List(t, s, cert)
		time.Sleep(10 * time.Second)
		stepBack.Store(true)
		time.Sleep(2 * time.Hour)
		for _, r := range log.All() {
			r.Attrs(func(a slog.Attr) bool {
				if strings.Contains(a.Value.String(), "panic") {
					t.Errorf("%s: %v", r.Message, a)
				}
				return true
			})
		}
		if s.Staple(cert).OCSPStaple == nil {
			t.Errorf("not stapled: %+v", s.Status())
		}
	})
}

// REQ D4: what the function of WithResponders said last stays while it fails, also that nobody is asked,
// as the certificate names nobody. Switched on again, the source's staple is judged at once.
func TestLastResultWithoutURL(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var off, fails atomic.Bool
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			if fails.Load() {
				panic("the database is down")
			}
			return nil, !off.Load()
		}))
		bare, own := ca.Issue(ocsptest.Leaf{NoURL: true}), ca.Issue(aged(ocsptest.Leaf{NoURL: true}))
		own.OCSPStaple = ca.Responder.Response(own)
		off.Store(true)
		testkit.List(t, s, bare, own)
		time.Sleep(time.Minute)
		off.Store(false)
		if err := s.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if s.Staple(own).OCSPStaple == nil {
			t.Errorf("switched on again: %+v", s.Status())
		}
		fails.Store(true)
		time.Sleep(3 * time.Hour)
		if err := s.Ready(); err != nil {
			t.Errorf("while the function fails: %v", err)
		}
	})
}

// REQ B15, REQ E1: a revocation that is being written, or waits for that, while its certificate is
// forgotten and learned again is in the store then, and in memory: not the older response that was
// read from there meanwhile.
func TestHeirKeepsTheRevocation(t *testing.T) {
	for _, name := range []string{"is being written", "waits"} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			shelf := new(testkit.Shelf)
			shelf.Delay("Put", 3*time.Second)
			cert := ca.Issue(aged(ocsptest.Leaf{}))
			s := testkit.Stapler(t, ca, staple.WithStore(shelf))
			_ = s.Prefetch(t.Context(), cert) // written until 3 s
			time.Sleep(time.Second)
			if name != "waits" {
				time.Sleep(time.Minute)
			}
			ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
			_ = s.Refresh(t.Context(), cert)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			s.Forget(cert)
			s.Staple(cert)
			time.Sleep(2 * time.Hour)
			next := testkit.Stapler(t, ca, staple.WithStore(shelf))
			testkit.List(t, next, cert)
			time.Sleep(time.Minute)
			if here, there := s.Status()[0].State, next.Status()[0].State; here != staple.StateRevoked || there != staple.StateRevoked {
				t.Errorf("the revocation %s: this process says %v, the next one %v", name, here, there)
			}
		})
	}
}

// REQ E1: a Delete that outlives its time removes no record that is written after it.
func TestLateDelete(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, shelf := new(clock), new(testkit.Shelf)
		shelf.Delay("Delete", 8*time.Second)
		cert := ca.Issue(aged(ocsptest.Leaf{}))
		s := testkit.Stapler(t, ca, staple.WithStore(shelf), staple.WithNow(c.now))
		_ = s.Prefetch(t.Context(), cert)
		synctest.Wait()
		c.step(decade)
		time.Sleep(61 * time.Second) // it is dropped, and its record being deleted
		c.step(-decade)
		s.Staple(cert)
		time.Sleep(30 * time.Second)
		shelf.Only(t)
	})
}

// REQ G5: a Refresh takes no answer of a request that was sent before it was called.
func TestRefreshSharesNoEarlierRequest(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var slow atomic.Bool
		second := ca.NewResponder("http://second.example")
		network := ocsptest.Network(ca.Responder, second)
		web := &http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := network.Transport.RoundTrip(r)
			if slow.Load() && r.URL.Host != "second.example" {
				time.Sleep(9 * time.Second) // on its way back
			}
			return res, err
		})}
		signed := time.Now().Add(-time.Minute)
		for _, r := range []*ocsptest.Responder{ca.Responder, second} { // both have one that was signed in advance
			signedAt(r, signed, signed, false)
		}
		cert := ca.Issue(aged(ocsptest.Leaf{URLs: []string{ca.Responder.URL(), second.URL()}}))
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(web))
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Minute)
		slow.Store(true)
		if err := s.Refresh(t.Context(), cert); err != nil { // the second answers
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		ca.Responder.SetEdit(nil)
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		second.SetFault(ocsptest.FaultHang)
		time.Sleep(time.Second)
		if err := s.Refresh(t.Context(), cert); err == nil && s.Status()[0].State != staple.StateRevoked {
			t.Errorf("state %v after a Refresh that succeeded", s.Status()[0].State)
		}
	})
}

// REQ A10: an ETag that comes late, when another responder is asked, goes to nobody.
func TestValidatorThatComesLate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		const tag = `"of the first"`
		var other, slow atomic.Bool
		cert := ca.Issue(aged(ocsptest.Leaf{}))
		second, third := ca.NewResponder("http://second.example"), ca.NewResponder("http://third.example")
		ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, _ *big.Int) bool {
			if slow.Load() {
				time.Sleep(8 * time.Second)
			}
			w.Header().Set("ETag", tag)
			testkit.AnswerWith(w, ca.Responder.Response(cert))
			return true
		})
		third.SetHook(func(_ http.ResponseWriter, req *http.Request, _ *big.Int) bool {
			if req.Header.Get("If-None-Match") == tag {
				t.Error("the third is asked for what is not as the first said")
			}
			return false
		})
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder, second, third}, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			if other.Load() {
				return []string{third.URL()}, true
			}
			return []string{ca.Responder.URL(), second.URL()}, true
		}))
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Minute)
		slow.Store(true)
		_ = s.Refresh(t.Context(), cert) // the second answers
		other.Store(true)
		third.SetFault(ocsptest.FaultRefused)
		_ = s.Refresh(t.Context(), cert)
		time.Sleep(10 * time.Second) // the first has answered
		third.ClearFaults()
		time.Sleep(3 * time.Hour)
	})
}

// REQ G5: another process that has the lease delays a Prefetch without a deadline by half a minute,
// however long there was an outage.
func TestPrefetchAndTheLease(t *testing.T) {
	for _, outage := range []time.Duration{0, 3 * time.Hour} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs := testkit.Leaves(ca, 1)
			s := testkit.Stapler(t, ca, staple.WithStore(testkit.Denying{Shelf: new(testkit.Shelf)}))
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			if outage > 0 {
				testkit.List(t, s, certs...)
				time.Sleep(outage)
			}
			ca.Responder.ClearFaults()
			begun := time.Now()
			if err := s.Prefetch(t.Context(), certs...); err != nil || time.Since(begun) > 40*time.Second {
				t.Errorf("after an outage of %v: %v after %v", outage, err, time.Since(begun))
			}
		})
	}
}

// REQ C6: handshakes with a certificate that no attempt is made for take no lock, after its source's
// staple has expired and another came.
func TestHopelessIsNotCold(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(time.Hour)
		s, cert := testkit.Stapler(t, ca), ca.Issue(aged(ocsptest.Leaf{NoURL: true, MustStaple: true}))
		for range 2 {
			own := *cert
			own.OCSPStaple = ca.Responder.Response(cert)
			s.Staple(&own)
			time.Sleep(10 * time.Minute)
			if s.Staple(&own).OCSPStaple == nil || s.Cold(cert) {
				t.Errorf("stapled %v, cold %v", s.Staple(&own).OCSPStaple != nil, s.Cold(cert))
			}
			time.Sleep(2 * time.Hour)
		}
	})
}

// REQ E4: staples of the source, however many it has, bring no attempt forward that waits for a
// responder that fails.
func TestSourceVoidsNoPause(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(aged(ocsptest.Leaf{}))
		var olds [][]byte
		for range 6 {
			olds = append(olds, ca.Responder.Response(cert))
			time.Sleep(time.Minute)
		}
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, append(testkit.Leaves(ca, 10), cert)...)
		ca.Responder.SetFaultFor(cert, ocsptest.FaultHTTP500)
		time.Sleep(3 * time.Hour)
		before := ca.Responder.Count("", cert)
		for i := range 3600 {
			own := *cert
			own.OCSPStaple = olds[i%len(olds)]
			s.Staple(&own)
			time.Sleep(time.Second)
		}
		if n := ca.Responder.Count("", cert) - before; n > 60 {
			t.Errorf("%d requests in an hour", n)
		}
	})
}

// REQ E9: a certificate that was not valid yet by a clock that was behind, and whose chain was mended
// then, is asked about by the right clock.
func TestClockBehindChainMended(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, cert := new(clock), ca.Issue(ocsptest.Leaf{})
		alone, mended := *cert, *cert
		alone.Certificate = cert.Certificate[:1:1]
		mended.OCSPStaple = []byte("none")
		c.step(-testkit.Day)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.List(t, s, &alone)
		time.Sleep(2 * time.Minute)
		s.Staple(&mended)
		time.Sleep(time.Minute)
		c.step(testkit.Day)
		time.Sleep(time.Hour)
		if err := s.Refresh(t.Context(), &mended); err != nil || s.Staple(&mended).OCSPStaple == nil {
			t.Errorf("not stapled: %v", err)
		}
	})
}

// REQ G5: a call about a certificate that is not valid yet waits for nothing, also where the function of
// WithResponders fails.
func TestEarlyAndTheFunctionFails(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { panic("the database is down") }))
		begun, cert := time.Now(), ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(10 * time.Hour)})
		if err := s.Prefetch(context.WithoutCancel(t.Context()), cert); err == nil || time.Since(begun) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// REQ E9: what came by a clock that was ahead, without nextUpdate, is replaced by the right clock also
// where something ends it before its TTL is over.
func TestOpenEndsSoonAfterClockAhead(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		ca.Responder.SetNoNextUpdate(true)
		cert := ca.Issue(aged(ocsptest.Leaf{NotAfter: time.Now().Add(20 * time.Hour)}))
		c.step(12 * time.Hour)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithTTL(24*time.Hour))
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Minute)
		c.step(-12 * time.Hour)
		time.Sleep(5 * time.Minute)
		if s.Staple(cert).OCSPStaple == nil {
			t.Errorf("not stapled: %+v", s.Status())
		}
	})
}

// REQ E3: a staple of the source that ends soon brings a retry forward to its end.
func TestSoonerWhileFailing(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(aged(ocsptest.Leaf{}))
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, append(testkit.Leaves(ca, 10), cert)...)
		ca.Responder.SetFaultFor(cert, ocsptest.FaultHTTP500)
		time.Sleep(12 * time.Hour)
		for n := ca.Responder.Count("", cert); ca.Responder.Count("", cert) == n; { // just after a retry
			time.Sleep(time.Second)
		}
		own := *cert
		own.OCSPStaple = ca.Responder.Build(cert, func(spec *ocsptest.Spec) { spec.Singles[0].NextUpdate = time.Now().Add(5 * time.Minute) })
		s.Staple(&own)
		ca.Responder.ClearFaults()
		time.Sleep(6 * time.Minute)
		if s.Staple(cert).OCSPStaple == nil {
			t.Errorf("no staple with the responder up: %v", s.Ready())
		}
	})
}

// REQ E9: a source's staple that comes while a certificate has expired by a wrong clock, or with the
// chain that it lacked, is judged again by the right clock.
func TestSourceWhileTheClockIsWrong(t *testing.T) {
	for _, step := range []time.Duration{decade, -time.Hour} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
			first, own := *cert, *cert
			own.OCSPStaple = ca.Responder.Response(cert)
			if step < 0 {
				first.Certificate = cert.Certificate[:1:1]
			}
			ca.Responder.SetFault(ocsptest.FaultRefused)
			c.step(step)
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			testkit.List(t, s, &first)
			time.Sleep(2 * time.Minute)
			s.Staple(&own)
			time.Sleep(2 * time.Minute)
			c.step(-step)
			time.Sleep(time.Hour)
			if s.Staple(&own).OCSPStaple == nil {
				t.Errorf("off by %v: not stapled an hour after the clock was right: %v", step, s.Ready())
			}
		})
	}
}
