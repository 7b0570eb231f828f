package staple_test

import (
	"crypto/tls"
	"runtime"
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

// A clock is the bubble's, set apart. Its steps move no timer: so do those of
// a real one, and suspend too.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Round(0).Add(time.Duration(c.offset.Load())) }

func (c *clock) step(d time.Duration) { c.offset.Add(int64(d)) }

// follow has a responder keep the same time.
func (c *clock) follow(r *ocsptest.Responder) {
	r.SetEdit(func(spec *ocsptest.Spec) {
		d := time.Duration(c.offset.Load())
		spec.ProducedAt = spec.ProducedAt.Add(d)
		for i := range spec.Singles {
			spec.Singles[i].ThisUpdate = spec.Singles[i].ThisUpdate.Add(d)
			spec.Singles[i].NextUpdate = spec.Singles[i].NextUpdate.Add(d)
		}
	})
}

// carry returns how many of certs carry a staple; none may have expired by c.
func (c *clock) carry(t *testing.T, s *staple.Stapler, ca *ocsptest.CA, certs []*tls.Certificate) (n int) {
	t.Helper()
	for _, cert := range certs {
		raw := s.Staple(cert).OCSPStaple
		if raw == nil {
			continue
		}
		r, err := ocsp.ParseResponseForCert(raw, cert.Leaf, ca.Cert)
		if err != nil || !c.now().Before(r.NextUpdate) {
			t.Fatalf("a bad staple: %v, nextUpdate %v at %v", err, r.NextUpdate, c.now())
		}
		n++
	}
	return n
}

// stepped is 300 certificates that live with a clock for 6 hours, and then with
// its step. It returns the requests in each minute after that.
func stepped(t *testing.T, validity, before, step time.Duration, follow bool, check func(minute, carrying, of int)) (perMinute []int) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		c.step(before)
		ca.Responder.SetValidity(validity)
		if follow {
			c.follow(ca.Responder)
		}
		certs := testkit.Leaves(ca, 300)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, certs...)
		time.Sleep(6 * time.Hour)
		c.step(step)
		for minute := range 180 {
			check(minute, c.carry(t, s, ca, certs[:50]), 50)
			n := ca.Responder.Requests()
			time.Sleep(time.Minute)
			perMinute = append(perMinute, ca.Responder.Requests()-n)
		}
		check(180, c.carry(t, s, ca, certs[:50]), 50)
	})
	return perMinute
}

func sum(n []int) (total int) {
	for _, n := range n {
		total += n
	}
	return total
}

// REQ E9: a clock that is set, or that was frozen in suspend: what is due is
// recomputed, nothing expired is served, and there is no burst of requests for
// what can wait.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	all := func(minute, carrying, of int) {
		if carrying != of {
			t.Errorf("minute %d: %d of %d carry a staple", minute, carrying, of)
		}
	}
	for _, tc := range []struct {
		name                   string
		validity, before, step time.Duration
		follow                 bool
		check                  func(minute, carrying, of int)
		burst                  int // requests in one minute, at most
	}{
		{"a day forward, valid", 4 * testkit.Day, 0, testkit.Day, true, all, 60},
		{"a day forward, the responder does not follow", 4 * testkit.Day, 0, testkit.Day, false, all, 60},
		{"a day back", 4 * testkit.Day, testkit.Day, -testkit.Day, false, all, 30},
		{"a minute back", 4 * testkit.Day, 0, -time.Minute, false, all, 30},
		{"suspended beyond the validity", 8 * time.Hour, 0, 8 * testkit.Day, true, func(minute, carrying, of int) {
			if minute == 0 && carrying > 0 || minute > 1 && carrying != of {
				t.Errorf("minute %d: %d of %d carry a staple", minute, carrying, of)
			}
		}, 310}, // once each: there is nothing to wait for
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := stepped(t, tc.validity, tc.before, tc.step, tc.follow, tc.check)
			t.Logf("requests in each of the first minutes: %v", got[:20])
			for minute, n := range got {
				if n > tc.burst {
					t.Errorf("minute %d: %d requests, want %d at most", minute, n, tc.burst)
				}
			}
			// The pace stays that of an hour.
			if n := sum(got[60:120]); n < 250 || n > 450 {
				t.Errorf("%d requests in the second hour, want about 340", n)
			}
			if n := sum(got[:61]); n < 250 || n > 800 {
				t.Errorf("%d requests in the first hour, want each asked about once or twice", n)
			}
		})
	}
}

// REQ E9: after a suspend a handshake need not wait for the timer to notice.
func TestHandshakeAfterSuspend(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		ca.Responder.SetValidity(8 * time.Hour)
		c.follow(ca.Responder)
		cert := testkit.LeafFor(ca, "a.example.com")
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Second)
		c.step(testkit.Day)
		if s.Staple(cert).OCSPStaple != nil {
			t.Error("an expired staple after a suspend")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if s.Staple(cert).OCSPStaple == nil {
			t.Errorf("nothing was fetched: %v", s.Ready())
		}
	})
}

// REQ E9: with no handshake, the timer notices within a minute.
func TestTimerAfterSuspend(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		var led testkit.Ledger
		ca.Responder.SetValidity(8 * time.Hour)
		c.follow(ca.Responder)
		cert := testkit.LeafFor(ca, "a.example.com")
		s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithEventFunc(func(ev staple.Event) { led.Add(ev.Kind) }))
		testkit.MustFetch(t, s, cert)
		c.step(testkit.Day)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Join(led.All(), " "); got != "fetched expired fetched" {
			t.Errorf("events %q", got)
		}
	})
}

// REQ E9: a breaker that was open when the clock was set back does not stay
// open for the length of the step.
func TestBreakerAfterStepBack(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		c.step(testkit.Day)
		certs := testkit.Leaves(ca, 50)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, certs...)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		time.Sleep(4 * time.Hour)
		c.step(-testkit.Day)
		time.Sleep(time.Minute)
		ca.Responder.ClearFaults()
		time.Sleep(15*time.Minute + 10*time.Second)
		for _, st := range s.Status() {
			if st.Failures > 0 {
				t.Errorf("not refreshed after the outage: %v, next %v", st.Err, st.NextRefresh.Sub(c.now()))
			}
		}
	})
}

// REQ E9: a clock that is a week ahead for two minutes does not cost a
// certificate that no config lists what it holds, with the responder down.
func TestClockAhead(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		cert := testkit.LeafFor(ca, "a.example.com")
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		c.step(8 * testkit.Day)
		time.Sleep(2 * time.Minute)
		c.step(-8 * testkit.Day)
		for hour := range 95 {
			if !testkit.Stapled(t, s, ca, cert) {
				t.Fatalf("no staple %d hours after it", hour)
			}
			time.Sleep(time.Hour)
		}
	})
}

// REQ E9: nor does a suspend, while the response is valid: whether the first
// handshake after it comes before the timer or after it.
func TestSuspendOfAWeek(t *testing.T) {
	for _, wait := range []time.Duration{0, 61 * time.Second} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c := new(clock)
			ca.Responder.SetValidity(10 * testkit.Day)
			certs := testkit.Leaves(ca, 1)
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			if err := s.Prefetch(t.Context(), certs...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			c.step(8 * testkit.Day)
			time.Sleep(wait)
			for hour := range 47 {
				if c.carry(t, s, ca, certs) == 0 {
					t.Fatalf("first handshake after %v: no staple %d hours after the suspend", wait, hour)
				}
				time.Sleep(time.Hour)
			}
		})
	}
}

// REQ E9: a clock that was past the certificates' end for a while switches
// nothing off: in a running process, and in one that began so.
func TestClockPastNotAfter(t *testing.T) {
	for _, begins := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c := new(clock)
			if begins {
				c.step(100 * testkit.Day)
			}
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			cert := ca.Issue(ocsptest.Leaf{MustStaple: true}) // for 90 days
			cfg := testkit.List(t, s, cert)
			time.Sleep(time.Minute)
			if !begins {
				c.step(100 * testkit.Day)
				time.Sleep(2 * time.Minute)
				s.Staple(cert) // a handshake meanwhile
				time.Sleep(time.Minute)
			}
			c.step(-100 * testkit.Day)
			s.Staple(cert)
			time.Sleep(90 * time.Second)
			if err := s.Ready(); !testkit.Stapled(t, s, ca, cert) || err != nil {
				t.Errorf("begins ahead %v: not stapled when the clock was right again: %v, %+v", begins, err, s.Status())
			}
			runtime.KeepAlive(cfg)
		})
	}
}

// REQ E9: what was tried by a clock that was ahead is tried again.
func TestOtherHashAfterClockStep(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		c.step(60 * testkit.Day)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetUnauthorized(cert)
		cfg := testkit.List(t, s, cert)
		time.Sleep(10 * time.Second)
		c.step(-60 * testkit.Day)
		ca.Responder.SetGood(cert)
		ca.Responder.SetCertIDs(ocsptest.SHA256Only)
		time.Sleep(3 * time.Hour)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not stapled three hours after the clock was right again: %v", s.Ready())
		}
		runtime.KeepAlive(cfg)
	})
}

// signedAt has a responder sign with fixed times, and without nextUpdate if open.
func signedAt(r *ocsptest.Responder, thisUpdate, produced time.Time, open bool) {
	r.SetEdit(func(spec *ocsptest.Spec) {
		spec.ProducedAt = produced
		for i := range spec.Singles {
			spec.Singles[i].ThisUpdate = thisUpdate
			if open {
				spec.Singles[i].NextUpdate = time.Time{}
			}
		}
	})
}

// REQ B15: of two responses of one thisUpdate the later producedAt counts, and of
// two signed at one time the worse: a good one from a cache does not undo a
// revocation of the same second.
func TestEqualTimes(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		this := time.Now()
		for _, step := range []struct {
			name     string
			revoked  bool
			produced time.Duration // after thisUpdate
			want     staple.State
			replay   bool
		}{
			{"good", false, 0, staple.StateGood, false},
			{"revoked, at the same time", true, 0, staple.StateRevoked, false},
			{"good, at the same time", false, 0, staple.StateRevoked, true},
			{"good, produced later", false, 3 * time.Second, staple.StateGood, false},
			{"good, produced before that", false, 2 * time.Second, staple.StateGood, true},
			{"revoked, produced before that", true, 2 * time.Second, staple.StateGood, true},
		} {
			signedAt(ca.Responder, this, this.Add(step.produced), false)
			if ca.Responder.SetGood(cert); step.revoked {
				ca.Responder.Revoke(cert, ocsp.KeyCompromise, this)
			}
			err := s.Refresh(t.Context(), cert)
			if got := s.Status()[0].State; got != step.want || (testkit.Reason(err) == staple.ReasonReplay) != step.replay {
				t.Errorf("%s: %v, %v", step.name, got, err)
			}
			time.Sleep(time.Second)
		}
	})
}

// REQ E9: what was checked by a clock that was set back since counts as checked when
// it is confirmed by the new time.
func TestRenewedAfterStepBack(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		signedAt(ca.Responder, time.Now().Add(-6*time.Hour), time.Now().Add(-6*time.Hour), false) // the same bytes each time
		ca.Responder.SetPresign(true)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, cert)
		c.step(-2 * time.Hour)
		if err := s.Refresh(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		if got := s.Status()[0].LastSuccess; !got.Equal(c.now()) {
			t.Errorf("last success %v, want now, %v", got, c.now())
		}
	})
}

// REQ C3, REQ E9: a response without nextUpdate is served for a TTL from its receipt.
// By a clock that was set back that is ahead, so it is not served until the responder
// was asked again.
func TestOpenAfterStepBack(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		signedAt(ca.Responder, time.Now().Add(-6*time.Hour), time.Now().Add(-6*time.Hour), true)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, cert)
		for _, step := range []struct {
			back    time.Duration
			stapled bool
		}{
			{4 * time.Minute, true}, // clocks differ by as much
			{2 * time.Minute, false},
		} {
			c.step(-step.back)
			if got := s.Staple(cert).OCSPStaple != nil; got != step.stapled {
				t.Errorf("%v back: stapled %v", step.back, got)
			}
		}
		time.Sleep(2 * time.Minute)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not asked again: %+v", s.Status()[0])
		}
	})
}

// REQ E9: where the clock is ahead for two minutes, past the end of a certificate that a
// config lists, this stays known, and its record stays in the store.
func TestClockAheadOfTheCertificate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, st, cert := new(clock), new(testkit.Shelf), testkit.LeafFor(ca, "listed.example")
		s := testkit.Stapler(t, ca, staple.WithNow(c.now), staple.WithStore(st))
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Minute)
		c.step(10 * 365 * testkit.Day)
		time.Sleep(2 * time.Minute)
		if all := s.Status(); len(all) != 1 || all[0].State != staple.StateNone {
			t.Errorf("by the wrong clock: %+v", all)
		}
		c.step(-10 * 365 * testkit.Day)
		time.Sleep(2 * time.Minute)
		st.Only(t) // fails the test where there is no record
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("by the right one: %+v", s.Status())
		}
	})
}

// REQ D2, REQ E9: a clock that is behind for an hour takes nothing out of use, and makes no
// handshake.
func TestClockBehindForAnHour(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, served, named := new(clock), testkit.LeafFor(ca, "served.example"), testkit.LeafFor(ca, "named.example")
		c.step(30 * testkit.Day)
		c.follow(ca.Responder)
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		if err := s.Prefetch(t.Context(), served, named); err != nil {
			t.Fatal(err)
		}
		s.Staple(served)
		c.step(-10 * testkit.Day)
		time.Sleep(62 * time.Minute)
		c.step(10 * testkit.Day)
		time.Sleep(3 * time.Minute)
		all := s.Status()
		if len(all) != 2 || !all[0].LastHandshake.IsZero() || all[1].LastHandshake.IsZero() {
			t.Errorf("%d in use, want 2: %+v", len(all), all)
		}
	})
}

// The clock is read at each use, by all parts: it is set here after New.
func TestClockIsReadAtEachUse(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, st, cert := new(clock), new(testkit.Shelf), testkit.LeafFor(ca, "a.example")
		c.step(2 * time.Hour)
		c.follow(ca.Responder)
		for range 2 {
			s := testkit.Stapler(t, ca, staple.WithStore(st))
			s.SetNow(c.now)
			testkit.MustFetch(t, s, cert)
			if d := c.now().Sub(s.Status()[0].LastSuccess); d > time.Minute {
				t.Errorf("the last success was %v ago", d)
			}
			time.Sleep(time.Second)
		}
		if n := ca.Responder.Requests(); n != 1 {
			t.Errorf("%d requests: the record is not believed", n)
		}
	})
}

// REQ B15, REQ E9: what a certificate holds outlasts a clock that is past its end for two
// minutes: a revocation, which an older response would undo, and a staple, with the
// responder down.
func TestHeldWithClockAhead(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c, cert := new(clock), ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			if revoked {
				ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
			}
			testkit.List(t, s, cert)
			time.Sleep(time.Minute)
			if revoked {
				ca.Responder.SetGood(cert)
				signedAt(ca.Responder, time.Now().Add(-24*time.Hour), time.Now(), false)
			} else {
				ca.Responder.SetFault(ocsptest.FaultRefused)
			}
			c.step(10 * 365 * testkit.Day)
			time.Sleep(2 * time.Minute)
			c.step(-10 * 365 * testkit.Day)
			time.Sleep(5 * time.Minute)
			if stapled := s.Staple(cert).OCSPStaple != nil; stapled == revoked {
				t.Errorf("revoked %v, stapled %v: %+v", revoked, stapled, s.Status())
			}
		})
	}
}
