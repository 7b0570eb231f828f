package scenario_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// gaps returns the times between the requests in a responder's log.
func gaps(r *ocsptest.Responder) (gaps []time.Duration) {
	log := r.Log()
	for i := 1; i < len(log); i++ {
		gaps = append(gaps, log[i].Time.Sub(log[i-1].Time))
	}
	return gaps
}

// REQ E3, REQ A10: the earlier of TTL and half of the validity, max-age in between,
// up to a quarter earlier.
func TestRefreshTimes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name          string
		ttl, validity time.Duration
		maxAge        string
		min, max      time.Duration
	}{
		{"default TTL", 0, 4 * testkit.Day, "", 45 * time.Minute, time.Hour},
		{"negative TTL", -1, 4 * testkit.Day, "", 45 * time.Minute, time.Hour},
		{"TTL of a second", time.Second, 4 * testkit.Day, "", 750 * time.Millisecond, time.Second},
		{"TTL", 10 * time.Minute, 4 * testkit.Day, "", 450 * time.Second, 10 * time.Minute},
		{"half-life", 0, time.Hour, "", 22 * time.Minute, 30 * time.Minute},
		{"max-age below TTL", 0, 4 * testkit.Day, "max-age=600", 45 * time.Minute, time.Hour},
		{"max-age", 0, 4 * testkit.Day, "public, max-age=21600", 6 * time.Hour, 8 * time.Hour},
		{"max-age past half-life", 0, 4 * testkit.Day, "max-age=8640000", 24 * time.Hour, 48 * time.Hour},
		{"TTL beside max-age", 10 * time.Minute, 4 * testkit.Day, "max-age=864000", 450 * time.Second, 10 * time.Minute},
		{"max-age and short validity", 0, time.Hour, "max-age=3600", 15 * time.Minute, 30 * time.Minute},
		{"no-cache", 0, 4 * testkit.Day, "no-cache, max-age=86400", 45 * time.Minute, time.Hour},
		{"absurd max-age", 0, 4 * testkit.Day, "max-age=99999999999999999999", 45 * time.Minute, time.Hour},
		{"TTL of a century", 100 * 365 * testkit.Day, 4 * testkit.Day, "", 36 * time.Hour, 48 * time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetValidity(tc.validity)
				if tc.maxAge != "" {
					ca.Responder.SetHeader("Cache-Control", tc.maxAge)
				}
				s := testkit.Stapler(t, ca, staple.WithTTL(tc.ttl))
				testkit.MustFetch(t, s, testkit.LeafFor(ca, "a.example.com"))
				time.Sleep(100 * tc.max)
				got := gaps(ca.Responder)
				if lo, hi := slices.Min(got), slices.Max(got); len(got) < 99 || lo < tc.min-time.Second || hi > tc.max || hi-lo < tc.max/10 {
					t.Errorf("%d gaps of %v to %v, want 100 or more of %v to %v, spread", len(got), lo, hi, tc.min, tc.max)
				}
			})
		})
	}
}

// REQ E11, REQ E3, REQ E6: with a healthy responder nothing ever lapses, whatever the
// validity, also where responses are signed in advance; and nobody is hammered.
func TestAnyValidity(t *testing.T) {
	t.Parallel()
	for _, validity := range []time.Duration{4 * time.Second, 5 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 8 * time.Hour, testkit.Day, 4 * testkit.Day, 10 * testkit.Day} {
		for _, presign := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v presigned %v", validity, presign), func(t *testing.T) {
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
					ca.Responder.SetValidity(validity)
					ca.Responder.SetPresign(presign)
					ca.Responder.SetDelay(50 * time.Millisecond)
					cert := testkit.LeafFor(ca, "a.example.com")
					s := testkit.Stapler(t, ca)
					testkit.MustFetch(t, s, cert)
					ca.Responder.ResetCounts()
					const lives, samples = 20, 1000
					for i := range samples {
						time.Sleep(lives * validity / samples)
						if !testkit.Stapled(t, s, ca, cert) {
							t.Fatalf("no staple after %d of %d samples", i, samples)
						}
					}
					// One in 45 minutes, or 8 in a validity; 10 where signed in advance, and max-age
					// in whole seconds says little about 4 of them.
					most := lives * max(8, 2+int(validity/(45*time.Minute)))
					if presign {
						most = lives * 10
					}
					if got := ca.Responder.Requests(); got > most {
						t.Errorf("%d requests in %d validities, want %d at most", got, lives, most)
					}
				})
			})
		}
	}
}

// REQ E10: certificates that were loaded together drift apart, whatever sets
// the pace.
func TestSpread(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		presign bool
		maxAge  string
		from    time.Duration // when they have drifted apart
	}{
		{"TTL", false, "", 2 * testkit.Day},
		{"max-age", false, "max-age=21600", 10 * testkit.Day},
		{"signed in advance", true, "", 10 * testkit.Day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetValidity(testkit.Day)
				ca.Responder.SetPresign(tc.presign)
				if tc.maxAge != "" {
					ca.Responder.SetHeader("Cache-Control", tc.maxAge)
				}
				s := testkit.Stapler(t, ca)
				testkit.MustFetch(t, s, testkit.Leaves(ca, 200)...)
				time.Sleep(tc.from)
				const slots = 24 * 6
				counts := make([]int, slots)
				ca.Responder.ResetCounts()
				for i := range counts {
					before := ca.Responder.Requests()
					time.Sleep(10 * time.Minute)
					counts[i] = ca.Responder.Requests() - before
				}
				mean := float64(ca.Responder.Requests()) / slots
				if most := slices.Max(counts); float64(most) > 3*mean+10 {
					t.Errorf("%d requests in one slot of 10 minutes, %.1f in the mean", most, mean)
				}
			})
		})
	}
}

// REQ E1: certificates whose responses were signed together drift apart, and do
// not meet again: after the first time an hour sees no more than three times the
// mean, of 7.6, and 10.
func TestDriftApart(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(2 * testkit.Day)
		ca.Responder.SetPresign(true)
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, testkit.Leaves(ca, 100)...)
		time.Sleep(36 * time.Hour)
		for hour := range 14 * 24 {
			ca.Responder.ResetCounts()
			time.Sleep(time.Hour)
			if got := ca.Responder.Requests(); got > 3*8+10 {
				t.Errorf("%d requests in hour %d", got, hour)
			}
		}
	})
}

// REQ E4, REQ E7: retries grow, then tighten as expiry nears, and are never a busy
// loop; after that they grow to 15 minutes. The staple goes at nextUpdate, to the
// moment, and comes back without a restart.
func TestBackoff(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led testkit.Ledger
		ca.Responder.SetValidity(8 * time.Hour)
		cert := testkit.LeafFor(ca, "a.example.com")
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(ev staple.Event) {
			if ev.Kind != staple.EventFailed {
				led.Add(ev.Kind)
			}
		}))
		testkit.MustFetch(t, s, cert)
		end := s.Status()[0].NextUpdate
		ca.Responder.SetFault(ocsptest.FaultRefused)
		ca.Responder.ResetCounts()

		time.Sleep(time.Until(end) - time.Nanosecond)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("no staple a nanosecond before nextUpdate")
		}
		time.Sleep(time.Nanosecond)
		if s.Staple(cert).OCSPStaple != nil {
			t.Error("a staple at nextUpdate")
		}
		synctest.Wait()
		first := gaps(ca.Responder)
		n := len(first)
		if n < 80 || n > 150 {
			t.Errorf("%d retries in the last 7 hours, want 80 to 150", n)
		}
		for i, g := range first {
			if g < 750*time.Millisecond || g > 15*time.Minute {
				t.Errorf("retry %d after %v, want a second to 15 minutes", i, g)
			}
		}
		if slices.Max(first) < 10*time.Minute || first[0] > 2*time.Minute || first[n-1] > 2*time.Minute {
			t.Errorf("retries do not grow and tighten: %v", first)
		}

		ca.Responder.ResetCounts()
		time.Sleep(30 * testkit.Day)
		lost := gaps(ca.Responder)
		if first, last := lost[0], lost[len(lost)-1]; first > 15*time.Minute || last < 11*time.Minute || last > 15*time.Minute || len(lost) > 30*24*6 {
			t.Errorf("%d retries in 30 days, the first after %v, the last after %v", len(lost), first, last)
		}
		if err := s.Ready(); err == nil || s.Status()[0].State != staple.StateExpired {
			t.Errorf("Ready %v, status %+v; want expired", err, s.Status()[0])
		}

		ca.Responder.ClearFaults()
		time.Sleep(15*time.Minute + time.Second)
		if !testkit.Stapled(t, s, ca, cert) || s.Ready() != nil {
			t.Errorf("not recovered: %v", s.Ready())
		}
		if want, got := "fetched expiring expired fetched", strings.Join(led.All()[:4], " "); got != want {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

// REQ E12: what nobody used for a day is asked about every two hours at most in an
// outage, and every 15 minutes from its next handshake on, or its first.
func TestUsedAgain(t *testing.T) {
	for _, prefetched := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := testkit.Stapler(t, ca)
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
			if !prefetched {
				s.Staple(cert)
			} else if err := s.Prefetch(t.Context(), cert); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			time.Sleep(4 * testkit.Day) // with the next two less than a week
			for day := range 5 {
				time.Sleep(testkit.Day + time.Hour)
				ca.Responder.ResetCounts()
				time.Sleep(testkit.Day)
				if n := ca.Responder.Requests(); n > 30 {
					t.Errorf("%d requests in a day in which nobody used it", n)
				}
				ca.Responder.ResetCounts()
				s.Staple(cert)
				time.Sleep(16 * time.Minute)
				if ca.Responder.Requests() == 0 {
					t.Errorf("day %d: no request for 16 minutes after a handshake", day)
				}
			}
		})
	}
}

// REQ E4: Retry-After, but not beyond what can be afforded.
func TestRetryAfterBounds(t *testing.T) {
	for _, tc := range []struct {
		fault    ocsptest.Fault
		value    string
		validity time.Duration
		min, max time.Duration
	}{
		{ocsptest.FaultHTTP503, "1800", 4 * testkit.Day, 15 * time.Minute, 15 * time.Minute},
		{ocsptest.FaultHTTP429, "1800", 4 * testkit.Day, 15 * time.Minute, 15 * time.Minute},
		{ocsptest.FaultHTTP503, "", 4 * testkit.Day, time.Second, 2 * time.Second},
		{ocsptest.FaultHTTP503, "-5", 4 * testkit.Day, time.Second, 2 * time.Second},
		{ocsptest.FaultHTTP503, "99999999999", 4 * testkit.Day, 15 * time.Minute, 15 * time.Minute},
		{ocsptest.FaultHTTP503, "86400", time.Hour, 2 * time.Minute, 15 * time.Minute},
	} {
		t.Run(fmt.Sprintf("%v %q", tc.fault, tc.value), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetValidity(tc.validity)
				ca.Responder.SetRetryAfter(tc.value)
				s := testkit.Stapler(t, ca)
				testkit.MustFetch(t, s, testkit.LeafFor(ca, "a.example.com"))
				ca.Responder.SetFault(tc.fault)
				ca.Responder.ResetCounts()
				var got []time.Duration
				for end := time.Now().Add(tc.validity); time.Now().Before(end) && (len(got) == 0 || got[len(got)-1] < time.Second); {
					time.Sleep(time.Second)
					got = gaps(ca.Responder)
				}
				if len(got) == 0 {
					t.Fatal("no retry")
				}
				if g := got[len(got)-1]; g < tc.min || g > tc.max {
					t.Errorf("retried after %v, want %v to %v", g, tc.min, tc.max)
				}
			})
		})
	}
}

// REQ E3, REQ A10: a responder that has nothing new is asked conditionally, and
// that is a success: no failure, no warning, and the state stays good.
func TestUnchanged(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led testkit.Ledger
		var book testkit.Logbook
		ca.Responder.SetPresign(true)
		ca.Responder.SetHeader("Cache-Control") // or else nobody asks before there is news
		ca.Responder.SetHeader("Expires")
		cert := testkit.LeafFor(ca, "a.example.com")
		s := testkit.Stapler(t, ca, staple.WithLogger(book.Logger()), staple.WithEventFunc(func(ev staple.Event) { led.Add(ev.Kind) }))
		testkit.MustFetch(t, s, cert)
		time.Sleep(10 * time.Hour)
		st := s.Status()[0]
		if st.State != staple.StateGood || st.Failures != 0 || st.Err != nil || time.Since(st.LastSuccess) > time.Hour || time.Until(st.NextRefresh) > time.Hour {
			t.Errorf("status %+v", st)
		}
		for i, kind := range led.All() {
			if want := "unchanged"; i > 0 && kind != want {
				t.Errorf("event %d is %q, want %q", i, kind, want)
			}
		}
		if n := len(led.All()); n < 11 || n > 15 || len(book.Loud()) > 0 {
			t.Errorf("%d events, warnings %q", n, book.Loud())
		}
		for i, req := range ca.Responder.Log() {
			if plain := i%9 == 0; (req.Header.Get("If-None-Match") == "") != plain || req.Method != http.MethodGet { // the ninth asks for what is signed
				t.Errorf("request %d: conditional %v: %v", i, plain, req)
			}
		}
	})
}

// REQ E8, REQ G3: a certificate that its responder does not know yet is not worth
// a warning for 15 minutes, then it is worth one.
func TestGrace(t *testing.T) {
	for _, tc := range []struct {
		unknown time.Duration
		want    int
	}{{10 * time.Minute, 0}, {20 * testkit.Day, 20}} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var book testkit.Logbook
			cert := testkit.LeafFor(ca, "new.example.com")
			ca.Responder.SetUnauthorized(cert)
			s := testkit.Stapler(t, ca, staple.WithLogger(book.Logger()))
			testkit.List(t, s, cert)
			if err := s.Prefetch(context.Background(), cert); testkit.Reason(err) != staple.ReasonUnauthorized {
				t.Errorf("Prefetch: %v", err)
			}
			time.Sleep(tc.unknown)
			ca.Responder.SetGood(cert)
			if got := book.Loud(); len(got) > tc.want || len(got) < tc.want-1 {
				t.Errorf("%d warnings %q, want %d", len(got), got, tc.want)
			}
			time.Sleep(min(tc.unknown, 135*time.Minute))
			if !testkit.Stapled(t, s, ca, cert) {
				t.Errorf("not stapled after it became known: %v", s.Ready())
			}
		})
	}
}

// REQ E8: a responder that is gone for good is asked every quarter of an hour, and its
// owner told once a day at most.
func TestGone(t *testing.T) {
	t.Parallel()
	for _, fault := range []ocsptest.Fault{ocsptest.FaultNoHost, ocsptest.FaultHTTP403, ocsptest.FaultHTML} {
		for _, n := range []int{1, 100} {
			t.Run(fmt.Sprintf("%v %d", fault, n), func(t *testing.T) {
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
					var book testkit.Logbook
					certs := testkit.Leaves(ca, n)
					s := testkit.Stapler(t, ca, staple.WithLogger(book.Logger()))
					testkit.MustFetch(t, s, certs...)
					ca.Responder.SetFault(fault)
					time.Sleep(10 * testkit.Day)
					const days = 10
					ca.Responder.ResetCounts()
					before := len(book.Loud())
					time.Sleep(days * testkit.Day)
					perDay := float64(ca.Responder.Requests()) / days
					if perDay < 90 || perDay > 200 { // an attempt each 15 minutes, of 1 request or 2
						t.Errorf("%.1f requests a day, want 90 to 200", perDay)
					}
					if got := len(book.Loud()) - before; got > days+1 || got < days/2 {
						t.Errorf("%d warnings in %d days, want one a day", got, days)
					}
				})
			})
		}
	}
}

// REQ D2, REQ E7: a Must-Staple certificate without a response: not ready, one
// warning, and events all the way.
func TestMustStapleGate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var led testkit.Ledger
		var book testkit.Logbook
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true, Key: ca.Key()})
		ca.Responder.SetFault(ocsptest.FaultTryLater)
		s := testkit.Stapler(t, ca, staple.WithLogger(book.Logger()), staple.WithEventFunc(func(ev staple.Event) { led.Add(ev.Kind) }))
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
		if err := s.Ready(); err == nil {
			t.Error("Ready before the first response")
		}
		time.Sleep(20 * time.Hour)
		if err := s.Ready(); testkit.Reason(err) != staple.ReasonTryLater || !strings.Contains(err.Error(), "example.com") {
			t.Errorf("Ready: %v", err)
		}
		if got := book.Loud(); len(got) != 1 || !strings.Contains(got[0], "Must-Staple") {
			t.Errorf("warnings %q, want one", got)
		}
		if all := led.All(); len(all) < 5 || all[0] != "failed" {
			t.Errorf("events %q", all)
		}
		ca.Responder.ClearFaults()
		time.Sleep(135 * time.Minute)
		if err := s.Ready(); err != nil {
			t.Errorf("Ready after recovery: %v", err)
		}
		testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")), ca)

		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		time.Sleep(4 * testkit.Day)
		if err := s.Ready(); !errors.Is(err, staple.ErrExpired) && testkit.Reason(err) != staple.ReasonHTTPStatus {
			t.Errorf("Ready after expiry: %v", err)
		}
		all := strings.Join(led.All(), " ")
		if strings.Count(all, "expiring") != 1 || strings.Count(all, "expired") != 1 || strings.Index(all, "expiring") > strings.Index(all, "expired") {
			t.Errorf("events %q", all)
		}
		runtime.KeepAlive(cfg) // or it is not in use
	})
}
