package staple_test

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"math/big"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// statusOf returns the status of cert, nil if there is none.
func statusOf(s *staple.Stapler, cert *tls.Certificate) *staple.Status {
	for _, st := range s.Status() {
		if st.Leaf != nil && bytes.Equal(st.Leaf.Raw, cert.Certificate[0]) {
			return &st
		}
	}
	return nil
}

// copyOf returns cert with bytes of its own, as who read the file again has it.
func copyOf(cert *tls.Certificate) *tls.Certificate {
	own := *cert
	own.Certificate = nil
	for _, der := range cert.Certificate {
		own.Certificate = append(own.Certificate, bytes.Clone(der))
	}
	return &own
}

// REQ G5: what is forgotten is not asked about, nor told of, not even if an exchange is
// under way; what is served again is learned again.
func TestForget(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led testkit.Ledger
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) { led.Add(ev.Kind) }))
		good, failing, asked, kept := testkit.LeafFor(ca, "good.test"), testkit.LeafFor(ca, "failing.test"), testkit.LeafFor(ca, "asked.test"), testkit.LeafFor(ca, "kept.test")
		ca.Responder.SetFaultFor(failing, ocsptest.FaultHTTP500)
		for _, cert := range []*tls.Certificate{good, failing, kept} {
			s.Staple(cert)
		}
		time.Sleep(time.Minute)
		ca.Responder.SetDelay(4 * time.Second)
		s.Staple(asked)
		time.Sleep(time.Second)
		s.Forget(copyOf(good), failing, asked, nil, new(tls.Certificate), testkit.LeafFor(ca, "unknown.test"))
		told := len(led.All())
		ca.Responder.ResetCounts()
		if got := s.Status(); len(got) != 1 || statusOf(s, kept) == nil || s.Sizes().Entries != 1 {
			t.Errorf("status of %d, sizes %+v; want one", len(got), s.Sizes())
		}
		if err := s.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
		time.Sleep(30 * time.Minute)
		if n := ca.Responder.Requests(); n > 0 || len(led.All()) > told {
			t.Errorf("%d requests, events %q", n, led.All()[told:])
		}
		if testkit.Stapled(t, s, ca, good) {
			t.Error("a staple that was forgotten")
		}
		time.Sleep(time.Minute)
		if !testkit.Stapled(t, s, ca, good) || statusOf(s, good) == nil {
			t.Error("not learned when it was served again")
		}
	})
}

// REQ G5: what a config lists is silent until its next handshake, and listed then as it
// was: it outlives a week without one.
func TestForgetListed(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		ca.Responder.SetDelay(time.Millisecond)
		cert, other := testkit.LeafFor(ca, "a.test"), testkit.LeafFor(ca, "b.test")
		cfg := testkit.List(t, s, cert, other)
		twice := testkit.List(t, s, cert)
		for range 3 {
			time.Sleep(time.Second)
			if statusOf(s, cert) == nil || !testkit.Stapled(t, s, ca, cert) {
				t.Fatal("not known")
			}
			s.Forget(cert)
			s.Forget(cert)
			ca.Responder.ResetCounts()
			time.Sleep(20 * testkit.Day)
			if n := ca.Responder.Count("", cert); n > 0 || statusOf(s, cert) != nil || statusOf(s, other) == nil {
				t.Errorf("%d requests in silence, status %+v", n, statusOf(s, cert))
			}
			testkit.Unstapled(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.test"))) // the first one tells of it
			time.Sleep(time.Second)
			testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.test")), ca)
			time.Sleep(20 * testkit.Day)
			if statusOf(s, cert) == nil || s.Sizes().Entries != 2 {
				t.Error("not listed any more")
			}
		}
		runtime.KeepAlive(twice)
	})
}

// REQ G5: what was forgotten is listed when it is learned again, unless its config has
// gone meanwhile.
func TestForgetOutlivesItsConfig(t *testing.T) {
	if fips140.Enabled() {
		return // the tests do without garbage collection then: see fips_test.go
	}
	ca := ocsptest.NewCA()
	ca.Responder.SetFault(ocsptest.FaultRefused)
	s := testkit.Stapler(t, ca)
	cert := testkit.LeafFor(ca, "a.test")
	unlisted := func() bool {
		s.Forget(cert)
		s.Staple(cert)
		return s.Sizes().Never == 1
	}
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	if unlisted() {
		t.Error("not listed, though its config is there")
	}
	runtime.KeepAlive(cfg)
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for range 1000 {
		runtime.GC()
		if unlisted() {
			return
		}
		<-retry.C
	}
	t.Error("listed, though its config has gone")
}

// REQ G5: who waits for what is forgotten is told so.
func TestForgetEndsCalls(t *testing.T) {
	for _, listed := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := testkit.Stapler(t, ca)
			cert := testkit.LeafFor(ca, "a.test")
			ca.Responder.SetFault(ocsptest.FaultHang) // before anything is asked in the background
			if listed {
				testkit.List(t, s, cert)
			}
			calls := map[string]func(context.Context, ...*tls.Certificate) error{"Prefetch": s.Prefetch, "Refresh": s.Refresh}
			var wg sync.WaitGroup
			for name, call := range calls {
				wg.Go(func() {
					begun := time.Now()
					err := call(testkit.Within(t, time.Minute), cert)
					if took := time.Since(begun); !errors.Is(err, staple.ErrNoStaple) || took != time.Second {
						t.Errorf("listed %v: %s: %v after %v, want %v at once", listed, name, err, took, staple.ErrNoStaple)
					}
				})
			}
			time.Sleep(time.Second)
			s.Forget(cert)
			wg.Wait()
		})
	}
}

// REQ G5: what waits for its turn at a responder, past its breaker, is not asked about
// once it is forgotten.
func TestForgetQueued(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := testkit.Leaves(ca, 200)
		testkit.FailFor(t, s, ca, time.Hour, certs...)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		ca.Responder.SetDelay(time.Second)
		done := make(chan []error)
		go func() { done <- testkit.Joined(s.Refresh(t.Context(), certs...)) }()
		time.Sleep(500 * time.Millisecond)
		s.Forget(certs...)
		if errs := <-done; len(errs) != len(certs) || !errors.Is(errs[0], staple.ErrNoStaple) {
			t.Errorf("%d errors for %d certificates: %q", len(errs), len(certs), errs)
		}
		time.Sleep(time.Hour)
		if got := ca.Responder.Requests(); got > 32 {
			t.Errorf("%d requests", got)
		}
		if got := s.Sizes(); got.UnderWay+got.StandBy != 0 {
			t.Errorf("sizes %+v", got)
		}
	})
}

// REQ G5, REQ B15: the record stays in the store, so that a known revocation is found
// again, though the responder replays what it said before.
func TestForgetKeepsTheRecord(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		st := new(testkit.Shelf)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		cert := testkit.LeafFor(ca, "a.test")
		before := ca.Responder.Response(cert)
		time.Sleep(time.Hour)
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		if err := s.Prefetch(t.Context(), cert); !errors.Is(err, staple.ErrRevoked) {
			t.Fatal(err)
		}
		synctest.Wait()
		ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, _ *big.Int) bool {
			testkit.AnswerWith(w, before)
			return true
		})
		s.Forget(cert)
		st.Only(t)
		s.Staple(cert)
		time.Sleep(time.Minute)
		if st := statusOf(s, cert); st == nil || st.State != staple.StateRevoked {
			t.Errorf("%+v, want revoked", st)
		}
		s.Forget(cert)
		if err := s.Refresh(t.Context(), cert); err == nil { // the replay fails
			t.Error("an older response was taken")
		}
		if st := statusOf(s, cert); st == nil || st.State != staple.StateRevoked {
			t.Errorf("after Refresh: %+v, want revoked", st)
		}
	})
}

// Forget may be called from an event function, as it waits for nothing.
func TestForgetInEvent(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var s *staple.Stapler
		cert := testkit.LeafFor(ca, "a.test")
		s = testkit.Stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) {
			if ev.Kind == staple.EventRevoked {
				s.Forget(cert)
			}
		}))
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		s.Staple(cert)
		synctest.Wait()
		if n := s.Sizes().Entries; n > 0 {
			t.Errorf("%d entries, want none", n)
		}
	})
}

// Everything at once, for the race detector: nothing is lost, nothing hangs, and what
// is served in the end is stapled.
func TestForgetAndOthers(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithStore(new(testkit.Shelf)))
		certs := testkit.Leaves(ca, 8)
		cfg := testkit.List(t, s, certs[:4]...)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 40 {
					cert := certs[(i+n)%len(certs)]
					switch (i + n) % 5 {
					case 0:
						s.Forget(cert)
					case 1:
						_ = s.Refresh(t.Context(), cert)
					case 2:
						_ = s.Prefetch(t.Context(), cert, copyOf(cert))
					case 3:
						_ = s.Ready()
						_, _ = cfg.GetCertificate(testkit.Asking("host1.example.com"))
					default:
						s.Staple(cert)
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		if err := s.Prefetch(t.Context(), certs...); err != nil || testkit.Count(t, s, ca, certs) != len(certs) {
			t.Errorf("%d of %d stapled: %v", testkit.Count(t, s, ca, certs), len(certs), err)
		}
		if got := s.Sizes(); got.Entries != len(certs) || got.UnderWay+got.StandBy != 0 {
			t.Errorf("sizes %+v", got)
		}
	})
}

// REQ G7: what is in use is told of: what a live config lists, and what had a handshake,
// or was learned or prefetched, within a day. What was replaced is not, whatever is
// wrong with it.
func TestInUse(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		must := ocsptest.Leaf{MustStaple: true, NotAfter: time.Now().Add(90 * testkit.Day)}
		issue := func(name string) *tls.Certificate { must.Names = []string{name}; return ca.Issue(must) }
		replaced, served, listed, standby := issue("replaced.test"), issue("served.test"), issue("listed.test"), issue("standby.test")
		testkit.List(t, s, listed)
		s.Staple(replaced)
		synctest.Wait()
		ca.Responder.SetFault(ocsptest.FaultUnauthorized)
		begun := time.Now()
		until := make(map[*tls.Certificate]time.Duration) // in Status
		for range 6 * 24 * 2 {
			s.Staple(served)
			if d := time.Since(begun); d%testkit.Day == 0 {
				_ = s.Prefetch(t.Context(), standby)
			}
			time.Sleep(30 * time.Minute)
			for _, cert := range []*tls.Certificate{replaced, served, listed, standby} {
				if statusOf(s, cert) != nil {
					until[cert] = time.Since(begun)
				}
			}
		}
		if got := until[replaced]; got != testkit.Day {
			t.Errorf("what was replaced is told of for %v, want a day", got)
		}
		for _, cert := range []*tls.Certificate{served, listed, standby} {
			if got := until[cert]; got != 6*testkit.Day {
				t.Errorf("%v is told of for %v", cert.Leaf.DNSNames, got)
			}
		}
		if n := len(testkit.Joined(s.Ready())); n != 3 {
			t.Errorf("%d are not ready, want 3: %v", n, s.Ready())
		}
		s.Staple(replaced) // which is rolled back
		if statusOf(s, replaced) == nil {
			t.Error("what had a handshake now is not in use")
		}
	})
}

// A standby that prefetches once a day keeps what it knows, though nobody asks for it.
func TestStandby(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		daily, once := testkit.LeafFor(ca, "daily.test"), testkit.LeafFor(ca, "once.test")
		if err := s.Prefetch(t.Context(), once); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := s.Prefetch(t.Context(), daily); err != nil {
				t.Fatal(err)
			}
			time.Sleep(testkit.Day)
		}
		if got := s.Sizes().Entries; got != 1 || !testkit.Stapled(t, s, ca, daily) {
			t.Errorf("%d entries, want the one", got)
		}
	})
}

// REQ G7: the last handshake is known to the minute, and none is not some.
func TestLastHandshake(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := testkit.LeafFor(ca, "a.test")
		cfg := testkit.List(t, s, cert)
		if err := errors.Join(s.Prefetch(t.Context(), cert), s.Refresh(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Second)
		if got := statusOf(s, cert).LastHandshake; !got.IsZero() {
			t.Errorf("%v before any handshake", got)
		}
		testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.test"))
		want := time.Now().Truncate(time.Minute)
		time.Sleep(100 * testkit.Day)
		_ = s.Prefetch(t.Context(), cert)
		if got := statusOf(s, cert).LastHandshake; !got.Equal(want) {
			t.Errorf("%v, want %v", got, want)
		}
		s.Staple(cert)
		if got := time.Since(statusOf(s, cert).LastHandshake); got < 0 || got >= time.Minute {
			t.Errorf("%v ago, want less than a minute", got)
		}
	})
}

// REQ G5: a revocation is told of once, and not at each refresh; one that comes after
// another was lifted is another.
func TestRevokedOnce(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led testkit.Ledger
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()), staple.WithEventFunc(func(ev staple.Event) {
			if led.Add(ev.Kind); ev.Kind == staple.EventUnchanged && ev.Err != nil {
				t.Errorf("%v: %v", ev.Kind, ev.Err)
			}
		}))
		cert := testkit.LeafFor(ca, "a.test")
		testkit.List(t, s, cert)
		week := func(revoked bool) {
			t.Helper()
			before := len(led.All())
			if ca.Responder.SetGood(cert); revoked {
				ca.Responder.Revoke(cert, ocsp.CertificateHold, time.Now())
			}
			for range 7 * 24 {
				time.Sleep(time.Hour)
				if st := s.Status()[0]; revoked && (st.State != staple.StateRevoked || time.Since(st.LastSuccess) > 2*time.Hour) {
					t.Fatalf("%+v", st)
				}
			}
			n := 0
			for _, kind := range led.All()[before:] {
				if kind == staple.EventRevoked.String() {
					n++
				}
			}
			if want := map[bool]int{true: 1}[revoked]; n != want {
				t.Errorf("told %d times in a week, want %d: %q", n, want, led.All()[before:])
			}
		}
		week(true)
		week(false)
		week(true)
		if got := log.Loud(); !slices.Equal(got, []string{"certificate is revoked; replace it", "certificate is revoked; replace it"}) {
			t.Errorf("logged %q", got)
		}
	})
}
