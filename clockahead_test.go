package staple_test

import (
	"crypto/tls"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// REQ G5: a Refresh makes its own attempt, for all certificates as for one, though the
// clock was set back and what it left is prepared at once.
func TestRefreshAfterClockSetBack(t *testing.T) {
	for _, all := range []bool{true, false} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
			shelf := new(testkit.Shelf)
			other := testkit.Stapler(t, ca, staple.WithStore(shelf)) // another process
			testkit.MustFetch(t, other, cert)
			c.step(decade)
			s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithStore(shelf))
			testkit.List(t, s, cert)
			time.Sleep(30 * time.Second)
			ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
			ca.Responder.SetDelay(time.Second)
			c.step(-decade)
			var err error
			if all {
				err = s.Refresh(t.Context())
			} else {
				err = s.Refresh(t.Context(), cert)
			}
			if err != nil || s.Status()[0].State != staple.StateRevoked {
				t.Errorf("all %v: %v, state %v after a Refresh", all, err, s.Status()[0].State)
			}
		})
	}
}

// REQ E9: who was the probe of a responder by a clock that was ahead has its turn again as
// the others do, and not when that time comes.
func TestProbedByClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, 30 * testkit.Day} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c := new(clock)
			var certs []*tls.Certificate
			for range 12 {
				certs = append(certs, ca.Issue(aged(ocsptest.Leaf{Key: ca.Key()})))
			}
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			testkit.List(t, s, certs...)
			time.Sleep(time.Hour)
			ca.Responder.ResetCounts()
			c.step(ahead)
			time.Sleep(20 * time.Minute)
			var good *tls.Certificate
			for _, cert := range certs {
				if good == nil && ca.Responder.Count("", cert) > 0 {
					good = cert
				} else {
					ca.Responder.SetFaultFor(cert, ocsptest.FaultHTTP500)
				}
			}
			if good == nil {
				t.Fatal("no probe")
			}
			c.step(-ahead)
			ca.Responder.SetFault(ocsptest.FaultNone)
			begun := time.Now()
			for s.Staple(good).OCSPStaple == nil {
				time.Sleep(time.Minute)
				if time.Since(begun) > 20*testkit.Day {
					t.Fatalf("ahead by %v: no staple after %v, %d requests about others", ahead, time.Since(begun), ca.Responder.Requests())
				}
			}
			t.Logf("ahead by %v: a staple after %v", ahead, time.Since(begun))
		})
	}
}

// REQ E9: a certificate that was learned by a clock that was ahead is warned of.
func TestWarningAfterClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, decade} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
			ca.Responder.SetUnauthorized(cert)
			c.step(ahead)
			s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithLogger(log.Logger()))
			testkit.List(t, s, cert)
			time.Sleep(time.Minute)
			c.step(-ahead)
			time.Sleep(10 * testkit.Day)
			if got := log.Loud(); len(got) == 0 {
				t.Errorf("ahead by %v: no warning in ten days: %+v", ahead, s.Status()[0])
			}
		})
	}
}

// REQ E9: no outage lasted for a negative time.
func TestOutageBeganByClockAhead(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		c := new(clock)
		certs := testkit.Leaves(ca, 3)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithLogger(log.Logger()))
		testkit.MustFetch(t, s, certs...)
		c.step(5 * testkit.Day)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		time.Sleep(time.Hour)
		c.step(-5 * testkit.Day)
		time.Sleep(time.Hour)
		ca.Responder.ClearFaults()
		time.Sleep(time.Hour)
		for _, r := range log.All() {
			r.Attrs(func(a slog.Attr) bool {
				if a.Key == "failed_for" && a.Value.Duration() < 40*time.Minute {
					t.Errorf("%s: failed for %v", r.Message, a.Value.Duration())
				}
				return true
			})
		}
	})
}

// REQ E7, REQ E9: EventExpiring does not come as late as a clock that was ahead planned it.
func TestExpiringAfterClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, 94 * time.Hour} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var mu sync.Mutex
			var at []time.Duration
			begun := time.Now()
			c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
			s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithEventFunc(func(ev staple.Event) {
				if ev.Kind == staple.EventExpiring {
					mu.Lock()
					at = append(at, time.Since(begun))
					mu.Unlock()
				}
			}))
			testkit.MustFetch(t, s, cert) // for 96 h
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			c.step(ahead)
			time.Sleep(20 * time.Minute)
			c.step(-ahead)
			time.Sleep(95 * time.Hour)
			mu.Lock()
			defer mu.Unlock()
			if len(at) == 0 || at[0] > 60*time.Hour {
				t.Errorf("ahead by %v: expiring after %v of 96h", ahead, at)
			}
		})
	}
}

// REQ E9: the end of an outage is logged at info where its begin was warned of.
func TestWorksAgainAfterClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, 5 * testkit.Day} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			c := new(clock)
			certs := testkit.Leaves(ca, 3)
			s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithLogger(log.Logger()))
			testkit.MustFetch(t, s, certs...)
			c.step(ahead)
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			time.Sleep(3 * time.Hour)
			c.step(-ahead)
			time.Sleep(3 * time.Hour)
			ca.Responder.ClearFaults()
			time.Sleep(time.Hour)
			warned, again := 0, 0
			for _, r := range log.All() {
				if strings.HasPrefix(r.Message, "OCSP responder fails") && r.Level == slog.LevelWarn {
					warned++
				}
				if r.Message == "OCSP responder works again" && r.Level == slog.LevelInfo {
					again++
				}
			}
			if warned == 0 || again == 0 {
				t.Errorf("ahead by %v: warned %d times, works again at info %d times", ahead, warned, again)
			}
		})
	}
}

// REQ E9: an older certificate of a delegate shortens nothing, though a responder said
// "unknown" by a clock that was ahead.
func TestOlderDelegateAfterUnknown(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c, cert := new(clock), ca.Issue(aged(ocsptest.Leaf{}))
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			testkit.MustFetch(t, s, cert)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			time.Sleep(2 * testkit.Day)
			begun := time.Now()
			ca.Responder.ClearFaults()
			if ahead {
				ca.Responder.SetUnknown(cert)
				c.step(3 * testkit.Day)
				time.Sleep(10 * time.Minute)
				if st := s.Status()[0].State; st != staple.StateUnknown {
					t.Fatal(st)
				}
				c.step(-3 * testkit.Day)
				ca.Responder.SetGood(cert)
			}
			ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, NotAfter: time.Now().Add(150 * time.Minute)})
			time.Sleep(2 * time.Hour)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			for time.Since(begun) < 40*time.Hour {
				time.Sleep(10 * time.Minute)
				if s.Staple(cert).OCSPStaple == nil {
					t.Fatalf("ahead %v: no staple after %v: %+v", ahead, time.Since(begun), s.Status()[0])
				}
			}
		})
	}
}
