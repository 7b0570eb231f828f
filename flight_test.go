package staple_test

import (
	"crypto/tls"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// relearn has the entry of cert, of which s learned just now, die a week later in
// the middle of an exchange, and cert learned anew a second after that: an exchange
// takes 4 s. before is called when it is about to begin.
func relearn(s *staple.Stapler, ca *ocsptest.CA, cert *tls.Certificate, before func()) {
	dies := time.Now().Truncate(time.Minute).Add(time.Minute + 7*day)
	time.Sleep(time.Until(dies) - 2*time.Second)
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
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var took []time.Duration
		s := stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) {
			if ev.Kind == staple.EventFetched {
				took = append(took, ev.Duration)
			}
		}))
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultHTTP500) // who holds nothing shares
		s.Staple(cert)
		relearn(s, ca, cert, func() { ca.Responder.ClearFaults(); ca.Responder.SetDelay(4 * time.Second) })
		if !stapled(t, s, ca, cert) || ca.Responder.Requests() != 1 {
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
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led ledger
		ca.Responder.SetValidity(30 * day)
		ca.Responder.SetPresign(true)
		ca.Responder.SetDelay(4 * time.Second) // before it is signed, which a setting undoes
		s := stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) { led.add(ev.Kind) }))
		cert := ca.Issue(ocsptest.Leaf{})
		s.Staple(cert)
		n := 0
		relearn(s, ca, cert, func() { n = len(led.all()) })
		if got, want := led.all()[n:], []string{"fetched"}; !slices.Equal(got, want) || !stapled(t, s, ca, cert) {
			t.Errorf("events %v, want %v: %v", got, want, s.Ready())
		}
		log := ca.Responder.Log()
		if len(log) != 2 || log[0].Header.Get("If-None-Match") == "" || log[1].Header.Get("If-None-Match") != "" {
			t.Errorf("%d requests, want one that is conditional and one that is not", len(log))
		}
	})
}
