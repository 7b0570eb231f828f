package schedule

import (
	"fmt"
	"testing"
	"time"
)

// REQ E9: after a suspend those that can wait are spread, and after a clock was
// set back they are due as they were.
func TestClockSteps(t *testing.T) {
	w := newWorld(t, 1)
	w.answer = always(20 * ms)
	certs := w.start(1000, Routine)
	w.run(5 * hour)
	w.now += 6 * hour
	before := len(w.requests)
	w.run(minute)
	if got := len(w.requests) - before; got > 150 {
		t.Errorf("%d requests in the minute after a suspend, want them spread over 15", got)
	}
	w.run(20 * minute)
	if got := len(w.requests) - before; got < 1000 {
		t.Errorf("%d requests in 20 minutes, want one for each of 1,000", got)
	}
	w.now -= 30 * day
	w.events = nil
	before = len(w.requests)
	w.run(61 * minute)
	if got := len(w.requests) - before; got < 1000 || got > 1400 {
		t.Errorf("%d requests in the hour after the clock was set back, want 1,000", got)
	}
	if w.stapled(certs) < 1000 {
		t.Error("lost a response by a step of the clock")
	}
}

// REQ E9: a certificate that had expired by a wrong clock is read again.
func TestExpiredByWrongClock(t *testing.T) {
	w := newWorld(t, 1)
	w.answer = always(20 * ms)
	end := w.now + 90*day
	w.facts = func(*cert) Facts {
		if w.now > end {
			return Facts{Need: LeafExpired}
		}
		return Facts{Need: Wanted, InUse: true, Route: []Key{at(0)}}
	}
	w.now += 100 * day
	certs := w.start(1, Routine)
	w.run(hour)
	if c := certs[0]; c.Phase() != Resting || c.Need() != LeafExpired {
		t.Fatalf("%v, %v", c.Phase(), c.Need())
	}
	w.now -= 100 * day
	w.untilStapled(certs, 2*minute)
}

// REQ E13: a certificate that is not valid yet is due 5 minutes before it is. What
// fails before says nothing about the responder.
func TestNotYetValid(t *testing.T) {
	w := newWorld(t, 1)
	valid := w.now + 3*hour
	early := make(map[*cert]bool)
	w.facts = func(c *cert) Facts {
		f := Facts{Need: Wanted, InUse: true, Route: []Key{at(0)}}
		if early[c] {
			f.NotBefore = valid
		}
		return f
	}
	w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
		if early[c] && w.now < valid {
			return 20 * ms, Outcome{Verdict: Nothing}
		}
		return 20 * ms, Outcome{}
	}
	for range 8 {
		c := &cert{id: len(early)}
		early[c] = true
		w.do(w.s.Start(c, Routine, w.now))
	}
	w.run(valid - 5*minute - 1 - w.now)
	if len(w.requests) > 0 {
		t.Fatalf("%d requests more than five minutes before notBefore", len(w.requests))
	}
	w.run(5 * minute)
	if len(w.requests) < 8*5 || w.kinds[Fails] > 0 {
		t.Errorf("%d requests, the responder fails %d times; want some, none", len(w.requests), w.kinds[Fails])
	}
	w.run(2 * minute)
	for c := range early {
		if w.held[c].Until == 0 {
			t.Errorf("not stapled two minutes after notBefore: %v, %d failures, due in %v", c.Phase(), c.Failures(), time.Duration(c.Due()-w.now))
		}
	}
}

// Refresh of 100 certificates where the responder fails still asks for five and
// tells the others; where it works again it asks for all.
func TestForced(t *testing.T) {
	w := newWorld(t, 1)
	out := true
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		if out {
			return 20 * ms, Outcome{Verdict: Fault}
		}
		return 20 * ms, Outcome{}
	}
	certs := w.start(100, Routine)
	w.run(10 * hour)
	force := func() int {
		before := len(w.requests)
		for _, c := range certs {
			w.do(w.s.Start(c, Forced, w.now))
		}
		w.run(2 * second)
		return len(w.requests) - before
	}
	if got := force(); got < 5 || got > 10 {
		t.Errorf("%d requests at a responder that fails, want five and what was out with them", got)
	}
	out = false
	if got := force(); got != 100 || w.stapled(certs) != 100 {
		t.Errorf("%d requests at one that works again, %d stapled", got, w.stapled(certs))
	}
}

// REQ E7: Expiring at half of what was left when refreshes began to fail, Expired
// at the end.
func TestAlarms(t *testing.T) {
	w := newWorld(t, 1)
	out := false
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		if out {
			return 0, Outcome{Verdict: Fault}
		}
		return 0, Outcome{Held: w.response(8 * hour)}
	}
	certs := w.start(1, Routine)
	w.run(second)
	until := w.held[certs[0]].Until
	out = true
	w.runUntil(until, func() bool { return certs[0].failures > 0 })
	half := w.now + (until-w.now)/2
	w.run(half - 1 - w.now)
	if w.kinds[Expiring] > 0 {
		t.Error("Expiring too soon")
	}
	w.run(1)
	if w.kinds[Expiring] != 1 {
		t.Errorf("%d times Expiring, want once at half", w.kinds[Expiring])
	}
	w.run(until - 1 - w.now)
	if w.kinds[Expired] > 0 {
		t.Error("Expired too soon")
	}
	w.run(1)
	if w.kinds[Expired] != 1 || w.kinds[Expiring] != 1 {
		t.Errorf("%d times Expired, %d Expiring, want once each", w.kinds[Expired], w.kinds[Expiring])
	}
}

// A move that the table does not have is reported, and the item is not lost.
func TestMisuse(t *testing.T) {
	s := New[*cert](Config{TTL: hour, Rand: func(int64) int64 { return 0 }})
	c := new(cert)
	s.Start(c, Routine, second)
	s.Prepared(c, Facts{Need: None}, 2*second)
	got := s.Prepared(c, Facts{Need: Wanted, Route: []Key{at(0)}}, 3*second)
	if len(got) != 1 || got[0].Kind != Misuse || got[0].From != Resting {
		t.Errorf("%+v, want a misuse", got)
	}
	if c.Phase() != Planned || c.Due() != 3*second+minute {
		t.Errorf("%v, due at %d, want planned a minute ahead", c.Phase(), c.Due())
	}
	s.Remove(c, 4*second)
	if got := s.Start(c, Forced, 5*second); len(got) > 0 || c.Phase() != Gone {
		t.Errorf("%+v of what is gone", got)
	}
}

// Every phase, need and kind has a name.
func TestNames(t *testing.T) {
	for p := range Gone + 1 {
		if p.String() == "invalid" || p.String() == "" {
			t.Errorf("phase %d has no name", p)
		}
	}
	for n := range LeafExpired + 1 {
		if n.String() == "invalid" || n.String() == "" {
			t.Errorf("need %d has no name", n)
		}
	}
	for k := range Misuse + 1 {
		if k.String() == "invalid" || k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
	if Phase(200).String() != "invalid" || Need(200).String() != "invalid" || Kind(200).String() != "invalid" {
		t.Error("names of what there is not")
	}
}

// ahead has the clock leap ahead by a year, and back after f.
func (w *world) ahead(f func()) {
	const leap = 365 * day
	for _, d := range []int64{leap, -leap} {
		w.now += d
		for i := range w.events {
			w.events[i].at += d
		}
		w.do(w.s.Run(w.now))
		if d > 0 {
			f()
		}
	}
}

// REQ E9, REQ E12: an outage in which the clock is ahead for a moment is as short as it is.
func TestOutageWithClockAhead(t *testing.T) {
	w := newWorld(t, 1)
	down := true
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		if down {
			return 20 * ms, Outcome{Verdict: Fault}
		}
		return 20 * ms, Outcome{}
	}
	certs := w.start(1, Routine)
	w.run(10 * second)
	w.ahead(func() {})
	w.run(30 * second)
	down = false
	if took := w.untilStapled(certs, day); int64(took) > minute {
		t.Errorf("back after %v, want a minute", took)
	}
}

// REQ E9, REQ E14: a request that is out while the clock is ahead says nothing of a
// responder that is slow later.
func TestLimitAfterClockAhead(t *testing.T) {
	w := newWorld(t, 1)
	slow := false
	w.answer = func(*cert, Key, int64) (int64, Outcome) {
		if slow {
			return hangs, Outcome{}
		}
		return 500 * ms, Outcome{}
	}
	w.start(1, Routine)
	w.run(second)
	w.ahead(func() {
		w.start(1, Routine)
		w.run(100 * ms)
	})
	w.run(hour)
	slow = true
	w.start(200, Routine)
	w.run(10 * minute)
	for _, r := range w.s.responders {
		if r.limit > 1 {
			t.Errorf("%d requests at once to a responder that never answers", r.limit)
		}
	}
}

// What a step costs, under the driver's lock, when one of many responders at a host
// recovers. A tenant's certificates may name four each.
func BenchmarkOneOfManyRecovers(b *testing.B) {
	for _, n := range []int{1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				w, up := newWorld(b, 1), false
				w.facts = func(c *cert) Facts {
					f := Facts{Need: Wanted, InUse: true}
					for i := range MaxRoute {
						f.Route = append(f.Route, Key{URL: fmt.Sprintf("http://tenant.example/%d/%d", c.id, i), Host: "tenant.example"})
					}
					return f
				}
				w.answer = func(c *cert, _ Key, _ int64) (int64, Outcome) {
					if up && c.id == 0 {
						return 20 * ms, Outcome{}
					}
					return 20 * ms, Outcome{Verdict: Fault}
				}
				w.start(n, Routine)
				w.run(2 * minute)
				up = true
				b.StartTimer()
				w.run(2 * hour)
			}
		})
	}
}
