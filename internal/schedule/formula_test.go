package schedule

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"
)

func most(n int64) int64  { return n - 1 }
func least(int64) int64   { return 0 }
func span(d int64) string { return time.Duration(d).String() }

// REQ E4, E12: pauses double from a second to a minute, then are a sixteenth of how
// long it has failed; no longer than can be afforded, no shorter than 100 ms; a
// Retry-After is honoured within the same bounds; jitter shortens, by a quarter at
// most.
func TestPause(t *testing.T) {
	for _, tc := range []struct{ lasted, bound, hint, want int64 }{
		{0, 2 * hour, 0, second},
		{-day, 2 * hour, 0, second},
		{second, 2 * hour, 0, second},
		{2 * second, 2 * hour, 0, 2 * second},
		{32 * second, 2 * hour, 0, 32 * second},
		{2 * minute, 2 * hour, 0, minute},
		{16 * minute, 2 * hour, 0, minute},
		{32 * minute, 2 * hour, 0, 2 * minute},
		{16 * hour, 2 * hour, 0, hour},
		{365 * day, 2 * hour, 0, 2 * hour},
		{math.MaxInt64, 2 * hour, 0, 2 * hour},
		{0, 300 * ms, 0, 300 * ms},
		{0, 1, 0, MinGap},
		{0, 5 * minute, 2 * minute, 2 * minute},
		{0, 5 * minute, day, 5 * minute},
		{0, 5 * minute, math.MaxInt64, 5 * minute},
		{hour, 5 * minute, second, 225 * second},
	} {
		if got := random(least).pause(tc.lasted, tc.bound, tc.hint); got != tc.want {
			t.Errorf("%v lasted, bound %v, hint %v: %v, want %v", span(tc.lasted), span(tc.bound), span(tc.hint), span(got), span(tc.want))
		}
		got := random(most).pause(tc.lasted, tc.bound, tc.hint)
		if lo := max(tc.want-tc.want/4, min(tc.hint, tc.bound), MinGap); got < lo || got > lo+1 {
			t.Errorf("%v lasted, bound %v, hint %v: %v with most jitter, want %v", span(tc.lasted), span(tc.bound), span(tc.hint), span(got), span(lo))
		}
	}
}

// REQ E4, E7, E11: what can be afforded.
func TestBound(t *testing.T) {
	const now = 1_700_000_000 * second
	for _, tc := range []struct {
		name        string
		s           stakes
		certificate bool
		want        int64
	}{
		{"Must-Staple", stakes{inUse: true, must: true}, false, 5 * minute},
		{"in use", stakes{inUse: true}, false, 15 * minute},
		{"not in use", stakes{}, false, 2 * hour},
		{"Must-Staple, not in use", stakes{must: true}, false, 2 * hour},
		{"Must-Staple, by the certificate", stakes{inUse: true, must: true}, true, 15 * minute},
		{"in use, by the certificate", stakes{inUse: true}, true, hour},
		{"not in use, by the certificate", stakes{}, true, 2 * hour},
		{"4 s, expired", stakes{inUse: true, validity: 4, until: now - second}, false, 4 * second},
		{"4 s, 2 s left", stakes{inUse: true, validity: 4, until: now + 2*second}, false, 250 * ms},
		{"4 s, 1 ns left", stakes{inUse: true, validity: 4, until: now + 1}, false, MinGap},
		{"1 h, 30 min left", stakes{inUse: true, validity: 3600, until: now + 30*minute}, false, 225 * second},
		{"1 h, 1 min left", stakes{inUse: true, validity: 3600, until: now + minute}, false, 56250 * ms},
		{"4 days, 4 h left", stakes{validity: 4 * 86400, until: now + 4*hour}, false, 30 * minute},
		{"4 days, 4 min left", stakes{validity: 4 * 86400, until: now + 4*minute}, false, minute},
		{"4 days, expired", stakes{validity: 4 * 86400, until: now - 4*minute}, false, 2 * hour},
		{"a century", stakes{validity: math.MaxUint32, until: math.MaxInt64}, false, 2 * hour},
	} {
		if got := tc.s.bound(now, tc.certificate); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, span(got), span(tc.want))
		}
	}
}

// REQ A11, E11: how long a request may take.
func TestAffords(t *testing.T) {
	const now = 1_700_000_000 * second
	for _, tc := range []struct {
		s    stakes
		want int64
	}{
		{stakes{}, Never},
		{stakes{until: now + 8*second, validity: 3600}, 4 * second},
		{stakes{until: now + second, validity: 3600}, second},
		{stakes{until: now, validity: 10}, 5 * second},
		{stakes{until: now - hour, validity: 1}, second},
	} {
		if got := tc.s.affords(now); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.s, span(got), span(tc.want))
		}
	}
}

// REQ E11: an attempt is made when the response expires at the latest, and none
// within 100 ms.
func TestByExpiry(t *testing.T) {
	const now = 1_700_000_000 * second
	for _, tc := range []struct{ until, at, want int64 }{
		{0, now + hour, now + hour},
		{now + day, now + hour, now + hour},
		{now + minute, now + hour, now + minute},
		{now - minute, now + hour, now + hour},
		{now + 1, now + hour, now + MinGap},
		{0, now, now + MinGap},
	} {
		s := stakes{until: tc.until}
		if got := s.byExpiry(tc.at, now, least); got != tc.want {
			t.Errorf("until %v, at %v: %v, want %v", span(tc.until-now), span(tc.at-now), span(got-now), span(tc.want-now))
		}
	}
}

// REQ E3, A10: the earlier of TTL and half of the validity, max-age in between, a
// quarter earlier or more.
func TestWindow(t *testing.T) {
	const now = 1_700_000_000 * second
	for _, tc := range []struct {
		name            string
		ttl             int64
		fixed           bool
		length, age     int64 // of the response: age is how old it was when it was checked
		maxAge          int64
		wantFrom, until int64 // from Checked on
	}{
		{"default TTL", hour, false, 4 * day, 0, 0, 45 * minute, hour},
		{"TTL of a second", second, false, 4 * day, 0, 0, 750 * ms, second},
		{"TTL of ages", math.MaxInt64, false, 4 * day, 0, 0, 36 * hour, 48 * hour},
		{"half-life", hour, false, hour, 0, 0, 1350 * second, 30 * minute},
		{"half-life of an old one", hour, false, 4 * hour, 80 * minute, 0, 30 * minute, 40 * minute},
		{"4 s", hour, false, 4 * second, 0, 0, 1500 * ms, 2 * second},
		{"max-age below TTL", hour, false, 4 * day, 0, 10 * minute, 45 * minute, hour},
		{"max-age", hour, false, 4 * day, 0, 6 * hour, 6 * hour, 8 * hour},
		{"max-age, and a TTL that the user chose", hour, true, 4 * day, 0, 6 * hour, 45 * minute, hour},
		{"max-age past half-life", hour, false, 4 * day, 0, 100 * day, 24 * hour, 42 * hour},
		{"max-age past half-life, TTL chosen", hour, true, 4 * day, 0, 100 * day, 45 * minute, hour},
		{"max-age of ages", hour, false, 4 * day, 0, math.MaxInt64, 24 * hour, 42 * hour},
		{"max-age until half-life, soon", hour, false, 4 * day, 30 * hour, 18 * hour, 18 * hour, 18*hour + 4*day/11},
		{"past half-life", hour, false, 4 * day, 92 * hour, 0, 22*minute + 30*second, 30 * minute},
		{"about to expire", hour, false, 4 * day, 4*day - 2*second, 0, minute, minute},
		{"4 s, about to expire", hour, false, 4 * second, 3900 * ms, 0, MinGap, MinGap},
	} {
		h := Held{From: now - tc.age, Until: now - tc.age + tc.length, Checked: now, MaxAge: tc.maxAge}
		from, to := h.Window(tc.ttl, tc.fixed)
		if from-now != tc.wantFrom || to-now != tc.until {
			t.Errorf("%s: %v to %v, want %v to %v", tc.name, span(from-now), span(to-now), span(tc.wantFrom), span(tc.until))
		}
	}
}

// REQ E3, E11: whatever the numbers, the window is in order, after the check and at
// half-life at the latest while that is to come.
func TestWindowAnyhow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	some := func(most int64) int64 { return 1 + rng.Int64N(most>>rng.IntN(60)|1) }
	for range 100_000 {
		h := Held{From: 1_700_000_000 * second, MaxAge: some(math.MaxInt64)}
		h.Until = h.From + some(200*365*day)
		h.Checked = h.From + rng.Int64N(h.Until-h.From)
		ttl := some(math.MaxInt64)
		from, to := h.Window(ttl, rng.IntN(2) == 0)
		half := h.From + (h.Until-h.From)/2
		latest := max(half, h.Checked+minute, h.Checked+(h.Until-h.Checked)/8)
		if h.MaxAge > 0 && half-h.Checked < (h.Until-h.From)/4 {
			latest = max(latest, half+(h.Until-h.From)/11) // the successor is awaited
		}
		if from > to || from < h.Checked+MinGap || to > latest {
			t.Fatalf("%+v, TTL %v: %v to %v, want until %v", h, span(ttl), span(from-h.Checked), span(to-h.Checked), span(latest-h.Checked))
		}
	}
}

// REQ E5: who has not the lease waits for its holder: for longer with each failure,
// for no more than a quarter of what can be lost.
func TestPatience(t *testing.T) {
	const now = 1_700_000_000 * second
	for _, tc := range []struct {
		s        stakes
		failures int
		want     int64
	}{
		{stakes{}, 0, 30 * second},
		{stakes{}, 3, 4 * minute},
		{stakes{}, math.MaxInt32, 32 * minute},
		{stakes{until: now + minute, validity: 3600}, 5, 15 * second},
		{stakes{until: now - minute, validity: 40}, 5, 10 * second},
	} {
		if got := tc.s.patience(now, tc.failures); got != tc.want {
			t.Errorf("%+v, %d failures: %v, want %v", tc.s, tc.failures, span(got), span(tc.want))
		}
	}
}

// REQ E5: the store is read again soon, then more rarely, until patience ends.
func TestDeferred(t *testing.T) {
	w := newWorld(t, 1)
	var looks []int64
	w.facts = func(*cert) Facts {
		looks = append(looks, w.now)
		return Facts{Need: Wanted, InUse: true, Route: []Key{at(0)}, Leased: true}
	}
	w.answer = always(20 * ms)
	certs := w.start(1, Routine)
	begun := w.now
	w.untilStapled(certs, minute)
	if took := w.now - begun; took < 25*second || took > 31*second {
		t.Errorf("asked without the lease after %v, want 30 s", span(took))
	}
	if first := looks[1] - looks[0]; first > 400*ms || len(looks) < 8 || len(looks) > 40 {
		t.Errorf("%d looks at the store, the first after %v", len(looks), span(first))
	}
}

// A heap is one whatever is done to it.
func TestHeap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type elem struct {
		place int32
		key   int64
	}
	h := heap[*elem]{place: func(e *elem) *int32 { return &e.place }}
	var all [50]elem
	for range 100_000 {
		e := &all[rng.IntN(len(all))]
		e.key = rng.Int64N(100)
		if rng.IntN(3) == 0 {
			e.key = Never
		}
		h.set(e, e.key)
		least, n := Never, 0
		for i := range all {
			if all[i].place == 0 {
				continue
			}
			n++
			least = min(least, all[i].key)
			if h.nodes[all[i].place-1].of != &all[i] {
				t.Fatal("an element is not where it says")
			}
		}
		if h.key() != least || h.len() != n {
			t.Fatalf("least key %d of %d, want %d of %d", h.key(), h.len(), least, n)
		}
	}
}

// A certificate names responders twice, and more than count.
func TestRoute(t *testing.T) {
	w := newWorld(t, 1)
	w.facts = func(*cert) Facts {
		return Facts{Need: Wanted, Route: []Key{at(0), at(1), at(0), at(2), at(3), at(4), at(5)}}
	}
	w.answer = always(20 * ms)
	c := w.start(1, Routine)[0]
	w.run(10 * hour)
	if got := len(w.s.responders); got != 3 {
		t.Errorf("%d responders are known, want 3: four URLs count, one stands there twice", got)
	}
	if r := w.s.responders[at(0)]; r.Certificates() != 1 {
		t.Errorf("a responder has %d certificates, want 1", r.Certificates())
	}
	w.do(w.s.Remove(c, w.now))
	if r, h := len(w.s.responders), len(w.s.hosts); r+h > 0 {
		t.Errorf("%d responders, %d hosts are known after the last certificate has gone", r, h)
	}
	if c.Phase() != Gone || c.Due() != Never || w.s.Next(w.now) != Never {
		t.Errorf("%v, due %d, next run %d after Remove", c.Phase(), c.Due(), w.s.Next(w.now))
	}
}

// A million items: what each takes beside its response.
func TestSizes(t *testing.T) {
	if got := unsafe.Sizeof(Item[*cert]{}); unsafe.Sizeof(uintptr(0)) == 8 && got > 112 {
		t.Errorf("an Item takes %d bytes, want 112", got)
	}
}

// Who is asked first: see Item.rank.
func TestOrder(t *testing.T) {
	w := newWorld(t, 1)
	route := []Key{at(0), at(1), at(2)}
	others := 30 // that have responses of each, so that none fails
	w.facts = func(c *cert) Facts {
		if c.id < others {
			return Facts{Need: Wanted, InUse: true, Route: route[c.id%3 : c.id%3+1]}
		}
		return Facts{Need: Wanted, InUse: true, Route: route}
	}
	bad := make(map[Key]int64) // how long it takes to fail
	w.answer = func(c *cert, k Key, _ int64) (int64, Outcome) {
		if c.id >= others && bad[k] > 0 {
			return bad[k], Outcome{Verdict: Fault}
		}
		return 20 * ms, Outcome{}
	}
	w.start(others, Routine)
	w.run(second)
	var c *cert
	for _, tc := range []struct {
		name string
		bad  map[Key]int64
		want []Key
	}{
		{"at first, the first refuses", map[Key]int64{at(0): ms}, []Key{at(0), at(1)}},
		{"the second worked, and hangs", map[Key]int64{at(1): hangs}, []Key{at(1), at(0)}},
		{"the first worked, and hangs", map[Key]int64{at(0): hangs}, []Key{at(0), at(2)}},
		{"the third worked, the others timed out", nil, []Key{at(2)}},
		{"the third refuses", map[Key]int64{at(2): ms}, []Key{at(2), at(0)}},
	} {
		w.requests, bad = nil, tc.bad
		if c == nil {
			c = w.start(1, Urgent)[0]
		} else {
			w.do(w.s.Start(c, Urgent, w.now))
		}
		w.run(20 * second)
		var got []Key
		for _, r := range w.requests {
			got = append(got, r.key)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: asked %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A million certificates cost no more than memory and logarithms.
func BenchmarkAttempt(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	s := New[*cert](Config{TTL: hour, Rand: rng.Int64N})
	const n = 1_000_000
	all := make([]cert, n)
	now := 1_700_000_000 * second
	facts := Facts{Need: Wanted, InUse: true, Route: []Key{at(0)}}
	attempt := func(c *cert, u Urgency) {
		s.Start(c, u, now)
		for _, a := range s.Prepared(c, facts, now) {
			s.Answered(a, Outcome{Held: Held{From: now, Until: now + 4*day, Checked: now}}, now)
		}
	}
	for i := range all {
		attempt(&all[i], Routine)
	}
	b.ReportAllocs()
	for b.Loop() {
		now += second
		attempt(&all[rng.IntN(n)], Routine)
	}
}
