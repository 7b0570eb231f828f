package staple_test

import (
	"crypto/tls"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ G5, REQ A9: Refresh asks now, unconditionally and past caches, though nothing is
// due; the schedule asks conditionally, and leaves caches alone.
func TestRefreshIsUnconditional(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetPresign(true) // one ETag for long
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{})
		testkit.MustFetch(t, s, cert)
		s.RefreshDue(cert)
		time.Sleep(time.Minute)
		if err := s.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		log := ca.Responder.Log()
		if len(log) != 3 {
			t.Fatalf("%d requests, want 3", len(log))
		}
		if h := log[1].Header; h.Get("If-None-Match") == "" || h.Get("Cache-Control") != "" {
			t.Errorf("when one is due: %v", h)
		}
		if h := log[2].Header; h.Get("If-None-Match") != "" || h.Get("If-Modified-Since") != "" || h.Get("Cache-Control") != "no-cache" {
			t.Errorf("by Refresh: %v", h)
		}
		if st := s.Status()[0]; !st.LastSuccess.Equal(time.Now()) {
			t.Errorf("last success at %v, want %v", st.LastSuccess, time.Now())
		}
	})
}

// relearn has the entry of cert, of which s learned just now, dropped a week later in
// the middle of an exchange, and cert learned anew a second after that: an exchange
// takes 4 s. before is called when it is about to begin.
func relearn(s *staple.Stapler, ca *ocsptest.CA, cert *tls.Certificate, before func()) {
	dropped := time.Now().Truncate(time.Minute).Add(time.Minute + 7*testkit.Day)
	time.Sleep(time.Until(dropped) - 2*time.Second)
	before()
	ca.Responder.ResetCounts()
	go s.RefreshDue(cert)
	time.Sleep(3 * time.Second)
	s.Staple(cert)
	time.Sleep(10 * time.Second)
	synctest.Wait() // for events
}

// REQ E4: a certificate that is learned anew shares the exchange that is in flight
// for it. How long that took is written once (for -race), and is what both are told.
func TestSharedExchange(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var took []time.Duration
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) {
			if ev.Kind == staple.EventFetched {
				took = append(took, ev.Duration)
			}
		}))
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultHTTP500) // who holds nothing shares
		s.Staple(cert)
		relearn(s, ca, cert, func() { ca.Responder.ClearFaults(); ca.Responder.SetDelay(4 * time.Second) })
		if !testkit.Stapled(t, s, ca, cert) || ca.Responder.Requests() != 1 {
			t.Errorf("%d requests, want one that is shared: %v", ca.Responder.Requests(), s.Ready())
		}
		if want := []time.Duration{4 * time.Second}; !slices.Equal(took, want) {
			t.Errorf("fetched in %v, want %v", took, want)
		}
	})
}

// REQ A10: a 304 is for who holds the response that it confirms: what was learned
// anew meanwhile makes an exchange of its own.
func TestNotModifiedIsNotShared(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led testkit.Ledger
		ca.Responder.SetValidity(30 * testkit.Day)
		ca.Responder.SetPresign(true)
		ca.Responder.SetDelay(4 * time.Second) // before it is signed, which a setting undoes
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) { led.Add(ev.Kind) }))
		cert := ca.Issue(ocsptest.Leaf{})
		s.Staple(cert)
		n := 0
		relearn(s, ca, cert, func() { n = len(led.All()) })
		if got, want := led.All()[n:], []string{"fetched"}; !slices.Equal(got, want) || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("events %v, want %v: %v", got, want, s.Ready())
		}
		log := ca.Responder.Log()
		if len(log) != 2 || log[0].Header.Get("If-None-Match") == "" || log[1].Header.Get("If-None-Match") != "" {
			t.Errorf("%d requests, want one that is conditional and one that is not", len(log))
		}
	})
}

// REQ C5: what a handshake or a Prefetch waits for is asked about before what nobody waits for,
// if that is a thousand certificates at a responder that takes 2 s for each, and before a
// Refresh of all that hold a response.
func TestWaitedForGoesFirst(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(2 * time.Second)
		s := testkit.Stapler(t, ca)
		within := func(what string, call func() error) {
			begun := time.Now()
			if err := call(); err != nil || time.Since(begun) > 10*time.Second {
				t.Errorf("%s took %v: %v", what, time.Since(begun), err)
			}
		}
		handshake := func() error {
			cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
			c, err := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })(testkit.Asking("new.example"))
			if c.OCSPStaple == nil {
				return staple.ErrNoStaple
			}
			return err
		}
		listed := testkit.Leaves(ca, 1000)
		testkit.List(t, s, listed...)
		time.Sleep(5 * time.Minute)
		within("a handshake", handshake)
		within("Prefetch", func() error { return s.Prefetch(t.Context(), testkit.LeafFor(ca, "new.example")) })
		time.Sleep(10 * time.Minute)
		if n := testkit.Carrying(s, listed); n != len(listed) {
			t.Fatalf("%d are stapled", n)
		}
		go func() { _ = s.Refresh(t.Context()) }()
		time.Sleep(time.Minute)
		within("a handshake after a Refresh of all", handshake)
	})
}
