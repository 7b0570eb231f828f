package scenario_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// A certificate that is switched on needs a staple from then on, like one that
// was not known: with the responder down Ready says so, and a handshake with
// Must-Staple waits for the first response.
//
// REQ C5, REQ D2
func TestSwitchedOn(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var on atomic.Bool
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, on.Load() }))
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		if err := errors.Join(s.Prefetch(t.Context(), cert), s.Ready()); err != nil {
			t.Errorf("off: %v", err)
		}
		on.Store(true)
		time.Sleep(2 * time.Hour)
		if st := s.Status()[0]; st.State != staple.StatePending || st.Failures == 0 || st.Err == nil {
			t.Errorf("on: %+v, want a pending one that fails", st)
		}
		if err := s.Ready(); testkit.Reason(err) != staple.ReasonNetwork {
			t.Errorf("on: Ready: %v, want %v", err, staple.ReasonNetwork)
		}
	})
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var on atomic.Bool
		ca.Responder.SetDelay(2 * time.Second)
		s := testkit.Stapler(t, ca, staple.WithTTL(time.Second), staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, on.Load() }))
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		cfg := testkit.List(t, s, cert)
		testkit.Unstapled(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")))
		on.Store(true)
		time.Sleep(1100 * time.Millisecond)
		testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")), ca)
	})
}

// A function that gives no answer is no switch that is off: the certificate is
// pending, whatever it is, everybody is told, nothing is fetched, and the
// function is asked again soon.
func TestSwitchGivesNoAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		do     func()
		reason staple.Reason
	}{
		"panics":  {func() { panic("not my day") }, staple.ReasonPanic},
		"exits":   {runtime.Goexit, staple.ReasonPanic},
		"is slow": {func() { time.Sleep(6 * time.Second) }, staple.ReasonTimeout},
	} {
		for _, leaf := range []ocsptest.Leaf{{MustStaple: true}, {}, {NoURL: true}} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				var log testkit.Logbook
				var works atomic.Bool
				var events []staple.Event // read after synctest.Wait
				s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()), staple.WithEventFunc(func(e staple.Event) { events = append(events, e) }),
					staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
						if !works.Load() {
							tc.do()
						}
						return []string{ca.Responder.URL()}, true
					}))
				leaf.Names = []string{"shop.example"}
				cert := ca.Issue(leaf)
				err, ready := s.Prefetch(t.Context(), cert), s.Ready()
				for _, err := range []error{err, ready} {
					if testkit.Reason(err) != tc.reason || !strings.Contains(err.Error(), "WithResponders function") {
						t.Errorf("%s: %v, want %v", name, err, tc.reason)
					}
				}
				synctest.Wait()
				if len(events) != 1 || events[0].Kind != staple.EventFailed || testkit.Reason(events[0].Err) != tc.reason {
					t.Errorf("%s: events %+v, want a failure", name, events)
				}
				if st := s.Status()[0]; st.State != staple.StatePending || ca.Responder.Requests() > 0 {
					t.Errorf("%s: state %v, %d requests; want pending, none", name, st.State, ca.Responder.Requests())
				}
				named := 0
				for _, r := range log.All() {
					if r.Level == slog.LevelError && strings.HasPrefix(r.Message, "WithResponders") && strings.Contains(attrs(r)["certificate"].String(), "shop.example") {
						named++
					}
				}
				if named != 1 {
					t.Errorf("%s: %d records name the certificate, want 1", name, named)
				}
				works.Store(true)
				time.Sleep(10 * time.Second)
				if !testkit.Stapled(t, s, ca, cert) || s.Ready() != nil {
					t.Errorf("%s: not stapled after the function gave an answer: %v", name, s.Ready())
				}
				works.Store(false)
				ca.Responder.ResetCounts()
				time.Sleep(12 * time.Hour)
				if !testkit.Stapled(t, s, ca, cert) || s.Ready() != nil || ca.Responder.Requests() < 10 {
					t.Errorf("%s: what it said last does not stay: %d requests, %v", name, ca.Responder.Requests(), s.Ready())
				}
			})
		}
	}
}

// Calls of a function that never returns do not pile up: from then on each
// certificate says so, and all have a staple soon after the calls return.
func TestSwitchHangs(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var calls atomic.Int64
		free := make(chan struct{})
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			calls.Add(1)
			<-free
			return nil, true
		}))
		certs := testkit.Leaves(ca, 100)
		testkit.List(t, s, certs...)
		time.Sleep(time.Hour)
		if n := calls.Load(); n != 64 {
			t.Errorf("%d calls, want 64", n)
		}
		for _, st := range s.Status() {
			if testkit.Reason(st.Err) != staple.ReasonTimeout || !strings.Contains(st.Err.Error(), "WithResponders function: 64 calls have not returned") {
				t.Fatalf("got %v, want %v", st.Err, staple.ReasonTimeout)
			}
		}
		close(free)
		time.Sleep(3 * time.Hour)
		if n := testkit.Count(t, s, ca, certs); n != len(certs) {
			t.Errorf("%d of %d stapled", n, len(certs))
		}
	})
}

// What is never stapled waits for no answer.
func TestSwitchIsNotNeeded(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { panic("not my day") }))
		cert := ca.Issue(ocsptest.Leaf{NoRevAvail: true})
		if err := errors.Join(s.Prefetch(t.Context(), cert), s.Ready()); err != nil {
			t.Error(err)
		}
		must := ca.Issue(ocsptest.Leaf{NoRevAvail: true, MustStaple: true})
		if err := s.Prefetch(t.Context(), must); !errors.Is(err, staple.ErrNoResponder) {
			t.Errorf("with Must-Staple: %v, want %v", err, staple.ErrNoResponder)
		}
	})
}

// URLs that can't be asked are a mistake, and not a certificate without a
// responder: the first is quoted. What is held stays.
func TestSwitchNamesNoURL(t *testing.T) {
	for _, must := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			var url atomic.Value
			url.Store("ocsp.example:80")
			s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()), staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return []string{url.Load().(string)}, true }))
			cert := ca.Issue(ocsptest.Leaf{MustStaple: must})
			for _, err := range []error{s.Prefetch(context.Background(), cert), s.Ready()} {
				if !errors.Is(err, staple.ErrNoResponder) || !strings.Contains(err.Error(), `"ocsp.example:80"`) {
					t.Errorf("%v, want one that quotes the URL", err)
				}
			}
			time.Sleep(12 * time.Hour)
			if st := s.Status()[0]; st.State != staple.StatePending || len(log.Loud()) != 1 || !strings.Contains(log.Loud()[0], "WithResponders") {
				t.Errorf("state %v, logged %q; want pending, one warning", st.State, log.Loud())
			}
			url.Store(ca.Responder.URL())
			time.Sleep(3 * time.Hour)
			if !testkit.Stapled(t, s, ca, cert) || s.Ready() != nil {
				t.Errorf("not stapled with the right URL: %v", s.Ready())
			}
			url.Store("ldap://ldap.example")
			time.Sleep(12 * time.Hour)
			if st := s.Status()[0]; !testkit.Stapled(t, s, ca, cert) || !errors.Is(st.Err, staple.ErrNoResponder) {
				t.Errorf("with a wrong URL later on: %+v, want what is held and an error", st)
			}
			if loud := log.Loud(); len(loud) != 2 || strings.Contains(loud[1], "refuse") {
				t.Errorf("logged %q, want a warning more", loud)
			}
		})
	}
}

// A chain that is mended while the switch is off is looked at once it is on.
func TestSwitchAndChain(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var on atomic.Bool
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, on.Load() }))
		full := ca.Issue(ocsptest.Leaf{})
		bare := *full
		bare.Certificate = full.Certificate[:1]
		if err := s.Prefetch(t.Context(), &bare); err != nil {
			t.Errorf("off: %v", err)
		}
		testkit.List(t, s, full)
		on.Store(true)
		time.Sleep(2 * time.Hour)
		if !testkit.Stapled(t, s, ca, full) {
			t.Errorf("not stapled: %v", s.Ready())
		}
	})
}

// REQ A10: what one responder said of its response's version is not told to another.
func TestValidatorOfAnother(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		a, b := ca.NewResponder(""), ca.NewResponder("")
		var mu sync.Mutex // guards the rest
		urls := []string{a.URL()}
		conditional := make(map[string]int) // requests by host
		next := ocsptest.Network(a, b).Transport
		s := staple.New(staple.WithResponders(func(*x509.Certificate) ([]string, bool) { mu.Lock(); defer mu.Unlock(); return urls, true }),
			staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("If-None-Match")+r.Header.Get("If-Modified-Since") != "" {
					mu.Lock()
					conditional["http://"+r.URL.Host]++
					mu.Unlock()
				}
				return next.RoundTrip(r)
			})}))
		defer s.Close()
		for _, r := range []*ocsptest.Responder{a, b} {
			r.SetPresign(true)
			r.SetHeader("Cache-Control") // the TTL decides
			r.SetHeader("Expires")
		}
		cert := ca.Issue(ocsptest.Leaf{})
		testkit.MustFetch(t, s, cert)
		time.Sleep(3 * time.Hour)
		mu.Lock()
		urls = []string{b.URL()}
		fromA := conditional[a.URL()]
		mu.Unlock()
		for b.Requests() == 0 {
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if fromA == 0 || conditional[b.URL()] > 0 {
			t.Errorf("%d conditional requests to the first responder, %d to the second before it answered", fromA, conditional[b.URL()])
		}
	})
}

// REQ D7: what comes once a certificate is switched off is not stapled.
func TestSwitchedOffMeanwhile(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		slow := ca.NewResponder("http://slow.example/")
		slow.SetDelay(8 * time.Second)
		cert := testkit.LeafFor(ca, "a.example.com")
		var off atomic.Bool
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder, slow}, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			return []string{slow.URL(), ca.Responder.URL()}, !off.Load()
		}))
		testkit.MustFetch(t, s, cert)
		off.Store(true)
		if err := s.Refresh(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if st := s.Status()[0]; st.State != staple.StateNone || s.Staple(cert).OCSPStaple != nil || slow.Requests() != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// What is switched off and has expired costs no attempt at each handshake, nor does a
// chain without its issuer.
func TestOffAndExpired(t *testing.T) {
	for name, list := range map[string]bool{"listed": true, "of a source": false} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(ocsptest.Leaf{NotAfter: time.Now().Add(time.Hour)})
				cert.Certificate[1] = ocsptest.NewCA().Cert.Raw
				var calls atomic.Int32
				s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { calls.Add(1); return nil, false }))
				if list {
					testkit.List(t, s, cert)
				}
				s.Staple(cert)
				time.Sleep(2 * time.Hour)
				before := calls.Load()
				for range 1000 {
					s.Staple(cert)
					time.Sleep(time.Second)
				}
				if n := calls.Load() - before; n > 5 {
					t.Errorf("%d calls for 1,000 handshakes", n)
				}
			})
		})
	}
}

// What a source says is the leaf, parsed, is for names alone: it may lack what is decided by.
func TestLeafOfTheSource(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := *testkit.LeafFor(ca, "a.example.com")
		cert.Leaf = &x509.Certificate{Raw: cert.Leaf.Raw, DNSNames: cert.Leaf.DNSNames}
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, true }))
		testkit.MustFetch(t, s, &cert)
		for range 25 {
			if s.Staple(&cert).OCSPStaple == nil {
				t.Fatalf("no staple: %+v", s.Status()[0])
			}
			time.Sleep(testkit.Day / 4)
		}
	})
}

// REQ B15: a switch that is off for a moment does not have a revocation forgotten.
func TestRevokedAndSwitchedOff(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var off atomic.Bool
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, !off.Load() }))
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		testkit.List(t, s, cert)
		time.Sleep(time.Minute)
		ca.Responder.SetGood(cert)
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) { // out of a cache
			spec.Singles[0].ThisUpdate = spec.Singles[0].ThisUpdate.Add(-24 * time.Hour)
			spec.Singles[0].NextUpdate = spec.Singles[0].NextUpdate.Add(24 * time.Hour)
		})
		for _, is := range []bool{true, false} {
			off.Store(is)
			_ = s.Refresh(t.Context(), cert)
			if st := s.Status()[0]; (st.State == staple.StateNone) != is || (st.State == staple.StateRevoked) == is {
				t.Errorf("off %v: %+v", is, st)
			}
		}
	})
}
