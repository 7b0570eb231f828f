package schedule

import (
	"fmt"
	"testing"
	"time"
)

// REQ E12: after an outage everybody in use has a response within a sixteenth of
// its length, a minute at least and what its class may wait at most, and the
// attempt.
func TestOutage(t *testing.T) {
	for _, tc := range []struct {
		name  string
		n     int
		must  bool
		inUse bool
		most  int64
		hang  bool
	}{
		{"Must-Staple", 1, true, true, 5 * minute, false},
		{"in use", 1, false, true, 15 * minute, false},
		{"unused", 1, false, false, 2 * hour, false},
		{"300 Must-Staple", 300, true, true, 5 * minute, false},
		{"300 hanging", 300, true, true, 5 * minute, true},
		{"4 in use", 4, false, true, 15 * minute, false},
	} {
		for _, length := range []int64{10 * second, 10 * minute, hour, 5 * hour, 3 * day, 30 * day} {
			t.Run(tc.name+" "+time.Duration(length).String(), func(t *testing.T) {
				w := newWorld(t, uint64(length))
				w.facts = func(*cert) Facts {
					return Facts{Need: Wanted, InUse: tc.inUse, MustStaple: tc.must, Route: []Key{at(0)}}
				}
				out := false
				w.answer = func(*cert, Key, int64) (int64, Outcome) {
					switch {
					case out && tc.hang:
						return hangs, Outcome{}
					case out:
						return 20 * ms, Outcome{Verdict: Fault}
					}
					return 50 * ms, Outcome{Held: w.response(2 * hour)}
				}
				certs := w.start(tc.n, Routine)
				w.untilStapled(certs, minute)
				w.run(w.rng.Int64N(4 * hour))
				out = true
				begun := w.now
				certs = append(certs, w.start(tc.n, Routine)...) // they never had a response
				w.run(length)
				out = false
				// Who holds a response has until it expires. Who has none is back soon.
				var lost []*cert
				for _, c := range certs {
					if c.until <= w.now {
						lost = append(lost, c)
					}
				}
				if all := length > 2*hour; all && len(lost) < 2*tc.n || len(lost) < tc.n {
					t.Errorf("%d of %d have no response: too few to prove anything", len(lost), 2*tc.n)
				}
				took := w.untilStapled(lost, day)
				most := time.Duration(max(minute, min((w.now-begun)/16, tc.most)) + 10*second)
				if took > most {
					t.Errorf("%d of %d lost, back after %v, want %v", len(lost), 2*tc.n, took, most)
				}
				w.run(2 * hour)
				if got := w.stapled(certs); got < 2*tc.n {
					t.Errorf("%d of %d stapled two hours later", got, 2*tc.n)
				}
			})
		}
	}
}

// REQ E12, E8: a responder that fails gets the probes that one certificate would
// cost, and one warning.
func TestProbesOfMany(t *testing.T) {
	count := func(n int) int {
		w := newWorld(t, 1)
		out := false
		w.answer = func(*cert, Key, int64) (int64, Outcome) {
			if out {
				return 20 * ms, Outcome{Verdict: Fault}
			}
			return 20 * ms, Outcome{}
		}
		w.start(n, Routine)
		w.run(8 * hour)
		before := len(w.requests)
		out = true
		w.run(10 * day)
		if w.kinds[Fails] != 1 {
			t.Errorf("%d certificates: told %d times that the responder fails, want once", n, w.kinds[Fails])
		}
		return len(w.requests) - before
	}
	one, many := count(1), count(300)
	t.Logf("%d and %d probes in ten days", one, many)
	if one < 10*24*12 || float64(many) > 1.2*float64(one)+failsAfter {
		t.Errorf("%d requests in 10 days for a certificate, %d for 300; want one each 5 minutes or more, and as many", one, many)
	}
}

// REQ I2: a responder that proved something before is probed as often as it would be
// alone, however many fail at its host that never did.
func TestProbesAlternate(t *testing.T) {
	probes := func(others int, first bool) (n int) {
		w := newWorld(t, 1)
		out := false
		w.facts = func(c *cert) Facts {
			k := at(0)
			if c.id > 0 {
				k.Issuer = fmt.Sprint("private CA ", c.id)
			}
			return Facts{Need: Wanted, InUse: true, Route: []Key{k}}
		}
		w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
			if c.id > 0 || out {
				return 20 * ms, Outcome{Verdict: Fault}
			}
			return 20 * ms, Outcome{}
		}
		w.start(1, Routine)
		w.run(hour)
		if out = first; out {
			w.run(5 * day)
		}
		w.start(others, Routine)
		out = true
		w.run(6 * day)
		before := len(w.requests)
		w.run(day)
		for _, r := range w.requests[before:] {
			if r.cert == 0 {
				n++
			}
		}
		return n
	}
	alone := probes(0, true)
	for _, first := range []bool{true, false} {
		if got := probes(200, first); alone < 90 || 10*got < 9*alone {
			t.Errorf("it fails first %v: %d probes a day, %d alone", first, got, alone)
		}
	}
}

// REQ E4: certificates that nobody gets a response for are prepared first, and make the
// responder seem to fail. Its probes are not all of them before the others' turn comes.
func TestBrokenFirst(t *testing.T) {
	const n, broken = 200, 60
	for seed := range uint64(20) {
		w := newWorld(t, seed)
		w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
			if c.id < broken {
				return ms / 2, Outcome{Verdict: Fault}
			}
			return ms / 2, Outcome{}
		}
		var certs []*cert
		for range n {
			certs = append(certs, w.start(1, Routine)...)
			w.run(ms)
		}
		w.untilStapled(certs[broken:], 5*minute)
	}
}

// REQ E4, E8: certificates that nobody gets a response for, in the midst of others,
// say nothing about the responder, are asked about rarely, and cost the others
// nothing.
func TestBrokenAmongGood(t *testing.T) {
	w := newWorld(t, 1)
	const n, broken, days = 100, 30, 5
	w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
		if c.id < broken {
			return 20 * ms, Outcome{Verdict: Fault}
		}
		return 20 * ms, Outcome{Held: w.response(8 * hour)}
	}
	certs := w.start(n, Routine)
	w.untilStapled(certs[broken:], minute)
	w.run(day)
	w.kinds = [Misuse + 1]int{}
	w.requests = nil
	for range days * 24 * 60 {
		w.run(minute)
		if got := w.stapled(certs); got < n-broken {
			t.Fatalf("%d stapled, want %d", got, n-broken)
		}
	}
	good, bad := 0, 0
	for _, r := range w.requests {
		if r.cert < broken {
			bad++
		} else {
			good++
		}
	}
	t.Logf("a day: %.1f requests for one that works, %.1f for one that does not, failing %d times", float64(good)/days/(n-broken), float64(bad)/days/broken, w.kinds[Fails])
	if w.kinds[Fails] > 0 {
		t.Errorf("the responder fails %d times, want none", w.kinds[Fails])
	}
	if most := days * broken * 24 * 15; bad > most {
		t.Errorf("%d requests for certificates that fail, want %d, one each 5 minutes less jitter", bad, most)
	}
}

// REQ E14: a responder that serves one caller at a time is not driven into a
// collapse: 150 certificates take 1.3 times the sum of its answers at most, a
// tenth of the requests are answered too late at most. When it has had little to do for a
// week, too.
func TestOneCallerAtATime(t *testing.T) {
	w := newWorld(t, 1)
	const serves = 700 * ms
	free := int64(0)
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		free = max(free, w.now) + serves // also for those who have gone
		return free - w.now, Outcome{}
	}
	for _, certs := range [][]*cert{w.start(150, Routine), nil} {
		if certs == nil {
			w.run(7 * day)
			w.requests = nil
			certs = w.start(150, Routine)
		}
		took := w.untilStapled(certs, hour)
		t.Logf("%v, %d of %d requests not answered in time", took, w.late(), len(w.requests))
		if most := time.Duration(150 * serves * 13 / 10); took > most {
			t.Errorf("took %v, want %v", took, most)
		}
		if w.late()*10 > len(w.requests) {
			t.Errorf("%d of %d requests not answered in time, want a tenth", w.late(), len(w.requests))
		}
	}
}

// REQ E4: a healthy responder is not slowed down.
func TestThousandAtHealthy(t *testing.T) {
	w := newWorld(t, 1)
	w.answer = always(20 * ms)
	if took := w.untilStapled(w.start(1000, Routine), minute); took > time.Second {
		t.Errorf("1,000 certificates in %v, want a second", took)
	}
	if w.peak != 32 {
		t.Errorf("%d requests at once, want 32", w.peak)
	}
}

// REQ E4: requests that hang together halve the limit once.
func TestTimeOutsTogether(t *testing.T) {
	w := newWorld(t, 1)
	hang := false
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		if hang {
			return hangs, Outcome{}
		}
		return 20 * ms, Outcome{}
	}
	certs := w.start(200, Routine)
	w.untilStapled(certs, minute)
	hang = true
	for _, c := range certs {
		w.do(w.s.Start(c, Urgent, w.now))
	}
	w.run(attemptTime + second)
	if r := w.s.responders[at(0)]; r.limit != 16 {
		t.Errorf("limit %d after 32 requests that hung together, want 16", r.limit)
	}
}

// REQ I2: certificates of one issuer, however many and whatever comes of them,
// delay a new one of another issuer at the same URL by less than a second.
func TestOtherIssuer(t *testing.T) {
	for name, bad := range map[string]func() (int64, Outcome){
		"404":             func() (int64, Outcome) { return 50 * ms, Outcome{Verdict: Fault} },
		"hangs":           func() (int64, Outcome) { return hangs, Outcome{} },
		"unknown, slowly": func() (int64, Outcome) { return 900 * ms, Outcome{Verdict: Certificate} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			honest := at(0)
			private := honest
			private.Issuer = "private CA"
			mine := make(map[*cert]bool)
			w.facts = func(c *cert) Facts {
				if mine[c] {
					return Facts{Need: Wanted, InUse: true, Route: []Key{honest}}
				}
				return Facts{Need: Wanted, InUse: true, Route: []Key{private}}
			}
			w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
				if mine[c] {
					return 50 * ms, Outcome{}
				}
				return bad()
			}
			w.start(1000, Routine)
			for _, d := range []int64{0, second, 15 * second, hour, day} {
				w.run(d)
				c := &cert{id: -1}
				mine[c] = true
				w.do(w.s.Start(c, Urgent, w.now))
				if took := w.untilStapled([]*cert{c}, hour); took > time.Second {
					t.Errorf("%v after the others: stapled in %v, want a second", time.Duration(d), took)
				}
			}
		})
	}
}

// REQ I6, E11: where one request in ten hangs, and responses are valid for 4 s,
// there is none for 2 % of the time at most.
func TestOneInTenHangs(t *testing.T) {
	for _, n := range []int{1, 2, 20} {
		lost, samples := 0, 0
		for seed := range uint64(8) {
			w := newWorld(t, seed)
			w.answer = func(*cert, Key, int64) (int64, Outcome) {
				if w.rng.IntN(10) == 0 {
					return hangs, Outcome{}
				}
				return 30 * ms, Outcome{Held: w.response(4 * second)}
			}
			certs := w.start(n, Routine)
			w.untilStapled(certs, minute)
			for range 5_000 {
				w.run(100 * ms)
				lost += n - w.stapled(certs)
				samples += n
			}
		}
		share := 100 * float64(lost) / float64(samples)
		t.Logf("%d certificates: %.2f %% of the time without", n, share)
		if share > 2 {
			t.Errorf("%d certificates: no response for %.2f %% of the time, want 2 %%", n, share)
		}
	}
}

// REQ A3, A11: several responders are asked as RFC 8305 has it for addresses: the
// next one beside a slow one, at once after a failed one, and the first proof
// wins.
func TestSeveralResponders(t *testing.T) {
	dead := func(int64) (int64, Outcome) { return hangs, Outcome{} }
	slow := func(d int64) func(int64) (int64, Outcome) {
		return func(int64) (int64, Outcome) { return d, Outcome{} }
	}
	refuses := func(int64) (int64, Outcome) { return 10 * ms, Outcome{Verdict: Fault} }
	for _, tc := range []struct {
		name     string
		urgent   bool
		all      []func(int64) (int64, Outcome)
		most     int64
		requests int
	}{
		{"first 2 s, second dead", false, []func(int64) (int64, Outcome){slow(2001 * ms), dead}, 2001 * ms, 2},
		{"first 1.5 s of three", false, []func(int64) (int64, Outcome){slow(1500 * ms), dead, dead}, 1500 * ms, 1},
		{"first 1.5 s of three, somebody waits", true, []func(int64) (int64, Outcome){slow(1500 * ms), dead, dead}, 1500 * ms, 2},
		{"both 6 s", false, []func(int64) (int64, Outcome){slow(6 * second), slow(6 * second)}, 6 * second, 2},
		{"first dead", false, []func(int64) (int64, Outcome){dead, slow(20 * ms)}, 2020 * ms, 2},
		{"first dead, somebody waits", true, []func(int64) (int64, Outcome){dead, slow(20 * ms)}, 1020 * ms, 2},
		{"first refuses", false, []func(int64) (int64, Outcome){refuses, slow(20 * ms)}, 30 * ms, 2},
		{"three refuse", false, []func(int64) (int64, Outcome){refuses, refuses, refuses, slow(20 * ms)}, 50 * ms, 4},
		{"three dead", false, []func(int64) (int64, Outcome){dead, dead, dead, slow(20 * ms)}, 6020 * ms, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			var route []Key
			for i := range tc.all {
				route = append(route, at(i))
			}
			w.facts = func(*cert) Facts { return Facts{Need: Wanted, InUse: true, MustStaple: true, Route: route} }
			w.answer = func(_ *cert, k Key, budget int64) (int64, Outcome) {
				for i := range route {
					if k == route[i] {
						return tc.all[i](budget)
					}
				}
				panic(k)
			}
			u := Routine
			if tc.urgent {
				u = Urgent
			}
			certs := w.start(1, u)
			if took := w.untilStapled(certs, minute); took > time.Duration(tc.most) {
				t.Errorf("stapled after %v, want %v", took, time.Duration(tc.most))
			}
			if got := len(w.requests); got != tc.requests {
				t.Errorf("%d requests, want %d", got, tc.requests)
			}
			// What is held does not lapse either, and the one that works goes first.
			lost := 0
			for range 5 * 24 * 60 {
				w.run(minute)
				lost += 1 - w.stapled(certs)
			}
			if lost > 0 {
				t.Errorf("no response in %d minutes of five days", lost)
			}
			if got := len(w.requests); got > tc.requests+2*5*33 {
				t.Errorf("%d requests in five days", got)
			}
		})
	}
}

// REQ I3: failing responders of one host get two probes a minute together, and a
// success at one has the others tried at once.
func TestFailingResponders(t *testing.T) {
	w := newWorld(t, 1)
	w.facts = func(c *cert) Facts {
		k := at(0)
		k.Issuer = string(rune('A' + c.id%40))
		return Facts{Need: Wanted, InUse: true, MustStaple: true, Route: []Key{k}}
	}
	out := false
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		if out {
			return 20 * ms, Outcome{Verdict: Fault}
		}
		return 20 * ms, Outcome{Held: w.response(4 * hour)}
	}
	certs := w.start(400, Routine)
	w.untilStapled(certs, minute)
	w.run(hour)
	out = true
	w.run(5 * hour)
	for range 60 {
		before := len(w.requests)
		w.run(minute)
		if got := len(w.requests) - before; got < 1 || got > 2 {
			t.Fatalf("%d probes in a minute of 40 responders that fail at one host, want 2", got)
		}
	}
	out = false
	if took := w.untilStapled(certs, hour); took > 31*time.Second {
		t.Errorf("all back after %v, want the next probe and no more", took)
	}
}

// REQ I3, A11: at most 256 requests are in flight, of which responders that never
// proved anything share half, 64 to a host. What hangs there delays nobody who
// has proven something.
func TestLimits(t *testing.T) {
	w := newWorld(t, 1)
	good := at(0)
	w.facts = func(c *cert) Facts {
		if c.id < 0 {
			return Facts{Need: Wanted, InUse: true, Route: []Key{good}}
		}
		return Facts{Need: Wanted, InUse: true, Route: []Key{at(1 + c.id)}}
	}
	w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
		if c.id < 0 {
			return 20 * ms, Outcome{}
		}
		return hangs, Outcome{}
	}
	first := &cert{id: -1}
	w.do(w.s.Start(first, Routine, w.now))
	w.untilStapled([]*cert{first}, second)
	w.start(5000, Routine)
	w.run(5 * second)
	if w.peak != 128 {
		t.Errorf("%d requests at 5,000 hosts that hang, want 128", w.peak)
	}
	second := &cert{id: -2}
	w.do(w.s.Start(second, Routine, w.now))
	if took := w.untilStapled([]*cert{second}, minute); took > time.Second {
		t.Errorf("at a responder that works it took %v, want no wait", took)
	}
}
