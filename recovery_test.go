package staple_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// infos returns the records at info, and how long each says that the outage was; -1 if
// it does not say.
func infos(log *testkit.Logbook) (msgs []string, lasted []time.Duration) {
	for _, r := range log.All() {
		if r.Level != slog.LevelInfo {
			continue
		}
		d := time.Duration(-1)
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "failed_for" {
				d = a.Value.Duration()
			}
			return true
		})
		msgs, lasted = append(msgs, r.Message), append(lasted, d)
	}
	return msgs, lasted
}

// REQ G5: the end of an outage is logged, too, if the responder has nothing new then. A
// revocation that is confirmed is the end of nothing.
func TestRecoveryWithNothingNew(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		signed := time.Now()
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) { // always the same, for 4 days
			spec.ProducedAt, spec.Singles[0].ThisUpdate, spec.Singles[0].NextUpdate = signed, signed, signed.Add(4*testkit.Day)
		})
		cfg := testkit.List(t, s, cert)
		time.Sleep(time.Minute)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		time.Sleep(60 * time.Hour)
		if loud := log.Loud(); len(loud) != 1 {
			t.Fatalf("warned %q, want one line", loud)
		}
		ca.Responder.ClearFaults()
		time.Sleep(6 * time.Hour)
		if msgs, lasted := infos(&log); len(msgs) != 1 || lasted[0] < 58*time.Hour || lasted[0] > 61*time.Hour {
			t.Errorf("at info: %q after %v, want one line, after 60 h", msgs, lasted)
		}
		ca.Responder.SetEdit(nil)
		ca.Responder.Revoke(cert, 1, time.Now())
		time.Sleep(6 * time.Hour)
		if msgs, _ := infos(&log); len(msgs) != 1 {
			t.Errorf("at info, after a revocation: %q", msgs)
		}
		runtime.KeepAlive(cfg)
	})
}

// A response that expired in a suspend was no outage: the line at its end does not say
// how long one was.
func TestRecoveryAfterSuspend(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithLogger(log.Logger()))
		cert := ca.Issue(ocsptest.Leaf{})
		cfg := testkit.List(t, s, cert)
		time.Sleep(time.Minute)
		c.step(5 * testkit.Day)
		ca.Responder.SetValidity(20 * testkit.Day) // it has the time of the bubble
		time.Sleep(2 * time.Minute)
		msgs, lasted := infos(&log)
		if len(log.Loud()) != 1 || len(msgs) != 1 || lasted[0] != -1 {
			t.Errorf("warned %q; at info: %q after %v, want one line without a time", log.Loud(), msgs, lasted)
		}
		runtime.KeepAlive(cfg)
	})
}

// REQ G5: an outage after a recovery is logged again, though it is the same day.
func TestSecondOutageIsLogged(t *testing.T) {
	for _, n := range []int{1, 10} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
			ca.Responder.SetValidity(8 * time.Hour)
			cfg := testkit.List(t, s, testkit.Leaves(ca, n)...)
			time.Sleep(time.Minute)
			var loud []int // lines, after each outage
			for range 2 {
				ca.Responder.SetFault(ocsptest.FaultHTTP500)
				time.Sleep(6 * time.Hour)
				loud = append(loud, len(log.Loud()))
				ca.Responder.ClearFaults()
				time.Sleep(2 * time.Hour)
			}
			if want := []int{1, 2}; !slices.Equal(loud, want) {
				t.Errorf("%d certificates: %d lines after each outage, want %d: %q", n, loud, want, log.Loud())
			}
			runtime.KeepAlive(cfg)
		})
	}
}

// REQ E9, REQ E12: a clock that was behind at the start and is set right, or a suspend, is hardly
// time of an outage: what fails a little longer is tried as soon as it would be by a right clock.
func TestLeapIsNoOutage(t *testing.T) {
	for _, n := range []int{1, 20} {
		for _, leap := range []time.Duration{0, time.Hour, 5 * testkit.Day} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				c := new(clock)
				c.step(-leap) // each response is from the future
				s := testkit.Stapler(t, ca, staple.WithNow(c.now))
				var certs []*tls.Certificate
				for i := range n {
					certs = append(certs, ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key(), NotBefore: time.Now().Add(-30 * testkit.Day)}))
				}
				if leap == 0 {
					ca.Responder.SetFault(ocsptest.FaultRefused)
				}
				cfg := testkit.List(t, s, certs...)
				time.Sleep(30 * time.Second)
				c.step(leap)
				ca.Responder.SetFault(ocsptest.FaultRefused)
				time.Sleep(40 * time.Second)
				ca.Responder.ClearFaults()
				time.Sleep(2 * time.Minute)
				if got := testkit.Carrying(s, certs); got != n {
					t.Errorf("%d certificates, clock behind by %v: %d are stapled, 2 minutes after all works", n, leap, got)
				}
				runtime.KeepAlive(cfg)
			})
		}
	}
}

// REQ E12: an outage is one, though the function of WithResponders names another URL after each
// failure: pauses grow to a minute.
func TestOtherRouteAfterEachFailure(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		urls := []string{"http://ocsp0.example", "http://ocsp1.example"}
		var turn atomic.Int64
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca,
			staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
				i := turn.Load() % 2
				return urls[i : i+1], true
			}),
			staple.WithEventFunc(func(e staple.Event) {
				if e.Kind == staple.EventFailed {
					turn.Add(1)
				}
			}))
		cfg := testkit.List(t, s, ca.Issue(ocsptest.Leaf{}))
		time.Sleep(5 * time.Hour)
		before := ca.Responder.Requests()
		time.Sleep(time.Hour)
		if got := ca.Responder.Requests() - before; got > 80 || turn.Load() < 20 {
			t.Errorf("%d requests in the sixth hour, %d turns", got, turn.Load())
		}
		runtime.KeepAlive(cfg)
	})
}
