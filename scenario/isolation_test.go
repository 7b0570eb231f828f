package scenario_test

import (
	"crypto/tls"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// warmUp returns how long it takes until all certs of the healthy responder
// are stapled, beside those of the hanging one.
func warmUp(t *testing.T, healthy, hanging int) (took time.Duration, peak int) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := ocsptest.NewCA(), ocsptest.NewCA()
		good.Responder.SetDelay(20 * time.Millisecond)
		bad.Responder.SetFault(ocsptest.FaultHang)
		s := testkit.Network(t, []*ocsptest.Responder{good.Responder, bad.Responder})
		want, rest := testkit.Leaves(good, healthy), testkit.Leaves(bad, hanging)
		begun := time.Now()
		testkit.List(t, s, append(rest, want...)...) // the bad ones are first in every queue
		for testkit.Carrying(s, want) < healthy {
			time.Sleep(time.Millisecond)
			if time.Since(begun) > time.Minute {
				t.Fatalf("%d of %d stapled after a minute", testkit.Carrying(s, want), healthy)
			}
		}
		took = time.Since(begun)
		time.Sleep(time.Minute)
		peak = max(good.Responder.Peak(), bad.Responder.Peak())
		if n := bad.Responder.Requests(); n > 40 {
			t.Errorf("%d requests to the hanging responder in the first minute", n)
		}
	})
	return took, peak
}

// REQ E4: one responder never delays another's certificates, and none gets
// more than 32 requests at once.
func TestIsolation(t *testing.T) {
	t.Parallel()
	alone, _ := warmUp(t, 1000, 0)
	beside, peak := warmUp(t, 1000, 1000)
	t.Logf("1,000 certificates at 20 ms: %v alone, %v beside 1,000 at a responder that hangs; at most %d at once", alone, beside, peak)
	if beside > alone+alone/5 {
		t.Errorf("%v beside a responder that hangs, %v alone", beside, alone)
	}
	if peak > 32 || peak < 30 {
		t.Errorf("%d requests at once, want 32", peak)
	}
}

// The documented cost of an outage: what a dead responder gets, whatever the
// number of certificates. Each attempt is one request, or two where the second
// tries POST, another hash or past the caches.
const (
	outageFirst  = 90 // in the first minute: what was in flight, and what was due at once
	outageMinute = 24 // in each minute after that: a probe, and those that hung
)

// REQ E4: an outage costs the dead responder a bounded number of requests a
// minute; a success reopens it in full.
func TestOutageIsBounded(t *testing.T) {
	t.Parallel()
	for _, fault := range []ocsptest.Fault{ocsptest.FaultHang, ocsptest.FaultRefused, ocsptest.FaultHTTP403, ocsptest.FaultExpired} {
		for _, n := range []int{100, 1_000, 10_000} {
			most := 1_000
			switch {
			case testkit.RaceEnabled && fault == ocsptest.FaultExpired: // signs as much as all others together
				most = 100
			case fault == ocsptest.FaultRefused && testkit.Long():
				most = 10_000
			}
			if n > most {
				continue
			}
			for _, cold := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v %d cold %v", fault, n, cold), func(t *testing.T) {
					testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) { outage(t, ca, fault, n, cold) })
				})
			}
		}
	}
}

func outage(t *testing.T, ca *ocsptest.CA, fault ocsptest.Fault, n int, cold bool) {
	ca.Responder.SetValidity(testkit.Day)
	certs := testkit.Leaves(ca, n)
	s := testkit.Stapler(t, ca)
	if !cold {
		testkit.MustFetch(t, s, certs...)
		time.Sleep(45 * time.Minute) // all are due in the next quarter of an hour
	} else {
		testkit.List(t, s)
	}
	ca.Responder.SetFault(fault)
	if cold {
		testkit.List(t, s, certs...)
	}
	ca.Responder.ResetCounts()
	worst, first := 0, 0
	for minute := range 180 {
		before := ca.Responder.Requests()
		time.Sleep(time.Minute)
		switch got := ca.Responder.Requests() - before; {
		case minute == 0:
			first = got
		case got > worst:
			worst = got
		}
	}
	t.Logf("%d requests in the first minute, then %d a minute at most", first, worst)
	if first > outageFirst || worst > outageMinute {
		t.Errorf("%d requests in the first minute, then %d; want %d and %d at most", first, worst, outageFirst, outageMinute)
	}
	if got, want := testkit.Count(t, s, ca, certs), n; !cold && got != want {
		t.Errorf("%d stapled in the outage, want %d", got, want)
	}
	ca.Responder.ClearFaults()
	ca.Responder.SetDelay(20 * time.Millisecond)
	ca.Responder.ResetCounts()
	if cold {
		time.Sleep(15*time.Minute + 20*time.Second) // until the next probe
	} else {
		time.Sleep(15*time.Minute + time.Duration(n/32+20)*20*time.Millisecond)
	}
	if got := testkit.Count(t, s, ca, certs); got != n {
		t.Errorf("%d of %d stapled after the outage", got, n)
	}
	if got := ca.Responder.Requests(); got < n || got > 2*n+n/10 && !cold {
		t.Errorf("%d requests after the outage for %d certificates", got, n)
	}
}

// REQ E4: certificates that nobody can get a response for do not starve the
// others of their responder, though they stand first in every queue: when all
// are new, and when all were stapled before.
func TestJunkForSome(t *testing.T) {
	t.Parallel()
	for _, junk := range []int{4, 20, 60} {
		for _, cold := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d cold %v", junk, cold), func(t *testing.T) {
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) { junkFor(t, ca, junk, cold) })
			})
		}
	}
}

func junkFor(t *testing.T, ca *ocsptest.CA, junk int, cold bool) {
	ca.Responder.SetValidity(8 * time.Hour)
	certs := testkit.Leaves(ca, 200)
	bad, good := certs[:junk], certs[junk:]
	s := testkit.Stapler(t, ca)
	if !cold {
		testkit.MustFetch(t, s, bad...)
		time.Sleep(10 * time.Minute) // they expire before the others
		testkit.MustFetch(t, s, good...)
	}
	for _, cert := range bad {
		ca.Responder.SetFaultFor(cert, ocsptest.FaultJunkBody)
	}
	ca.Responder.ResetCounts()
	testkit.List(t, s, certs...)
	time.Sleep(5 * time.Minute)
	if got := testkit.Carrying(s, good); got != len(good) {
		t.Fatalf("%d stapled after five minutes, want %d", got, len(good))
	}
	late := testkit.Leaves(ca, 10) // new ones are not kept waiting either
	testkit.List(t, s, late...)
	time.Sleep(2 * time.Minute)
	if got := testkit.Count(t, s, ca, late); got != len(late) {
		t.Errorf("%d new ones stapled after two minutes, want %d", got, len(late))
	}
	hours := 16
	if testkit.Long() {
		hours = 40
	}
	for hour := range hours {
		if got := testkit.Carrying(s, good); got != len(good) {
			t.Fatalf("%d stapled after %d hours, want %d", got, hour, len(good))
		}
		time.Sleep(time.Hour)
	}
	if got := testkit.Carrying(s, bad); got != 0 {
		t.Errorf("%d stapled for which junk came for longer than their responses lasted", got)
	}
	requests := 0
	for _, cert := range bad {
		requests = max(requests, ca.Responder.Count("", cert))
	}
	if days := float64(hours) / 24; float64(requests) > 2*96*days+60 { // more while there was something to lose; 161 to 169 in 150 runs
		t.Errorf("%d requests for a certificate that always fails in %.1f days", requests, days)
	}
}

// REQ A3: with two responders for a certificate one may be dead, or both in
// turn.
func TestTwoResponders(t *testing.T) {
	t.Parallel()
	for _, fault := range []ocsptest.Fault{ocsptest.FaultHang, ocsptest.FaultRefused} {
		t.Run(fault.String(), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				a, b := ca.NewResponder(""), ca.NewResponder("")
				for _, r := range []*ocsptest.Responder{a, b} {
					r.SetValidity(8 * time.Hour)
				}
				certs := make([]*tls.Certificate, 500)
				for i := range certs {
					certs[i] = ca.Issue(ocsptest.Leaf{Key: ca.Key(), URLs: []string{a.URL(), b.URL()}})
				}
				s := testkit.Network(t, []*ocsptest.Responder{a, b})
				a.SetFault(fault)
				testkit.List(t, s, certs...)
				time.Sleep(15 * time.Second)
				if got := testkit.Count(t, s, ca, certs); got != len(certs) {
					t.Fatalf("%d of %d stapled after 15 s with the first responder dead", got, len(certs))
				}
				// Both are dead for a while; then the first alone comes back, then the
				// second alone, so that nobody may wait for the one that it knows.
				for _, alive := range []*ocsptest.Responder{a, b, a} {
					a.SetFault(fault)
					b.SetFault(fault)
					time.Sleep(3 * time.Hour)
					alive.SetFault(ocsptest.FaultNone)
					time.Sleep(3 * time.Hour)
					old := 0
					for _, st := range s.Status() {
						if time.Since(st.LastSuccess) > 2*time.Hour {
							old++
						}
					}

					if got := testkit.Count(t, s, ca, certs); got != len(certs) || old > 0 {
						t.Fatalf("%d of %d stapled with one responder alive, %d not refreshed", got, len(certs), old)
					}
				}
			})
		})
	}
}

// REQ E7: one certificate's expiry in an outage leaves the probes to those
// that still have something to lose.
func TestProbesForTheLiving(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(8 * time.Hour)
		short := testkit.Leaves(ca, 20)
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, short...)
		ca.Responder.SetValidity(10 * testkit.Day)
		long := testkit.Leaves(ca, 20)
		testkit.MustFetch(t, s, long...)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		time.Sleep(3 * testkit.Day)
		if got := testkit.Count(t, s, ca, short) + testkit.Count(t, s, ca, long); got != len(long) {
			t.Fatalf("%d stapled, want %d", got, len(long))
		}
		ca.Responder.ClearFaults()
		time.Sleep(15*time.Minute + 10*time.Second)
		if got := testkit.Count(t, s, ca, short) + testkit.Count(t, s, ca, long); got != len(short)+len(long) {
			t.Errorf("%d stapled 15 minutes after the outage, want all of %d", got, len(short)+len(long))
		}
	})
}

// REQ E4, REQ E7: while the breaker is open nobody is asked, and nobody's backoff
// grows for that: at a responder that fails half of all requests, new
// certificates have their staples within minutes, not hours.
func TestHalfFails(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var mu sync.Mutex // guards the rest
		rng := rand.New(rand.NewPCG(1, 2))
		unlucky := make(map[string]int) // in a row, for a certificate
		ca.Responder.SetDelay(20 * time.Millisecond)
		ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, serial *big.Int) bool {
			mu.Lock()
			defer mu.Unlock()
			who := serial.String()
			if rng.IntN(2) == 0 || unlucky[who] == 10 {
				unlucky[who] = 0
				return false
			}
			unlucky[who]++
			http.Error(w, "no", http.StatusInternalServerError)
			return true
		})
		certs := testkit.Leaves(ca, 400)
		s := testkit.Stapler(t, ca)
		testkit.List(t, s, certs...)
		time.Sleep(30 * time.Minute)
		if got := testkit.Carrying(s, certs); got < len(certs)*99/100 {
			t.Errorf("%d of %d stapled after half an hour", got, len(certs))
		}
		time.Sleep(4 * time.Hour)
		if got := testkit.Carrying(s, certs); got != len(certs) {
			t.Errorf("%d of %d stapled after hours", got, len(certs))
		}
	})
}

// REQ E4: that each was a probe in a long outage says nothing of a certificate:
// one success, and the breaker opens again at the next failures, whatever the
// number of certificates. A probe a minute is what one valid response is worth.
func TestOutageAfterOutage(t *testing.T) {
	for _, n := range []int{50, 400} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			certs := testkit.Leaves(ca, n)
			s := testkit.Stapler(t, ca)
			testkit.List(t, s, certs...)
			time.Sleep(60 * testkit.Day)
			ca.Responder.Script(ocsptest.FaultNone)
			for testkit.Carrying(s, certs) == 0 {
				time.Sleep(time.Minute)
			}
			ca.Responder.ResetCounts()
			time.Sleep(testkit.Day)
			if got := ca.Responder.Requests(); got > 24*60+24*4+60 { // a POST each 15 minutes; jitter makes some more
				t.Errorf("%d certificates: %d requests in a day of outage", n, got)
			}
		})
	}
}
