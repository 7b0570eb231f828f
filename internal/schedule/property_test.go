package schedule

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// REQ E3, E4, E7, E9, E12, E13, I3: whatever happens, in whatever order, the
// schedule does what a plain model of the rules does, after each event; nothing
// is lost, and once all responders work everybody has a response.
//
// STAPLE_LONG has it try 1,000 seeds.
func TestModel(t *testing.T) {
	seeds, events := 100, 2000
	switch {
	case os.Getenv("STAPLE_LONG") != "":
		seeds = 1000
	case testing.Short():
		seeds = 20
	}
	var seen counts
	for seed := range seeds {
		w := newChaos(t, uint64(seed))
		for range events {
			w.event()
		}
		w.heal()
		seen.add(w)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d events, %d actions: %v; %d samples of phases: %v", seeds*events, seen.total(), seen.kinds, seeds*events, seen.phases)
	for kind := range Misuse {
		if seen.kinds[kind] < seeds {
			t.Errorf("action %v: %d times in %d seeds: too rare to prove anything", kind, seen.kinds[kind], seeds)
		}
	}
	for phase := range Gone {
		if seen.phases[phase] < 10*seeds {
			t.Errorf("phase %v: seen %d times in %d seeds: too rare to prove anything", phase, seen.phases[phase], seeds)
		}
	}
}

// counts is what was seen.
type counts struct {
	kinds  [Misuse + 1]int
	phases [Gone + 1]int
}

func (c *counts) total() (n int) {
	for _, k := range c.kinds {
		n += k
	}
	return n
}

func (c *counts) add(w *chaos) {
	for i, n := range w.seen.kinds {
		c.kinds[i] += n
	}
	for i, n := range w.seen.phases {
		c.phases[i] += n
	}
}

// chaos calls a schedule, and the model of it, at random.
type chaos struct {
	t     *testing.T
	rng   *rand.Rand
	now   int64
	s     *Schedule[*cert]
	m     *model
	certs []*cert
	keys  []Key
	bad   map[Key]int // percentage of requests that fail

	preparing []*cert
	asks      []Action[*cert]
	hung      []Action[*cert]
	seen      counts
	healthy   bool
}

func newChaos(t *testing.T, seed uint64) *chaos {
	w := &chaos{t: t, rng: rand.New(rand.NewPCG(seed, 0)), now: 1_700_000_000 * second, bad: make(map[Key]int)}
	limits := Limits{First: 2, Responder: 3, Host: 4, All: 6, Unproven: 3}
	w.m = &model{ttl: hour, frac: int64(seed % 3), limits: limits, hosts: make(map[string]*mHost)}
	w.s = New[*cert](Config{TTL: hour, Rand: w.m.rand, Limits: limits})
	for i := range 2 + w.rng.IntN(6) {
		w.keys = append(w.keys, Key{URL: fmt.Sprintf("http://host%d/%d", i%3, i), Issuer: string(rune('A' + i%2)), Host: fmt.Sprintf("host%d", i%3)})
	}
	return w
}

// some reports true in one of n cases.
func (w *chaos) some(n int) bool { return w.rng.IntN(n) == 0 }

// span returns a length of time between a nanosecond and most, short ones as
// often as long ones.
func (w *chaos) span(most int64) int64 {
	return min(1+w.rng.Int64N(1+(most>>w.rng.IntN(40))), most)
}

// event has something happen.
func (w *chaos) event() {
	w.pass()
	switch n := w.rng.IntN(100); {
	case n < 30 && len(w.asks) > 0:
		w.answer()
	case n < 55 && len(w.preparing) > 0:
		w.prepared(w.facts)
	case n < 58 && len(w.hung) > 0:
		a := take(w.rng, &w.hung)
		q := w.m.request(a.Item, a.Responder.Key, a.sent)
		w.check(w.s.Returned(a, w.now), func() { w.m.returned(q, w.now) })
	case n < 62 && len(w.certs) < 25:
		w.start(w.add())
	case n < 66 && len(w.certs) > 0:
		w.start(w.certs[w.rng.IntN(len(w.certs))])
	case n < 67 && len(w.certs) > 8:
		c := w.certs[w.rng.IntN(len(w.certs))]
		w.check(w.s.Remove(c, w.now), func() { w.m.remove(c, w.now) })
		w.certs = slices.DeleteFunc(w.certs, func(o *cert) bool { return o == c })
	case n < 69 && len(w.certs) > 0:
		c, next, inUse := w.certs[w.rng.IntN(len(w.certs))], w.now+w.span(100*hour), w.some(2)
		w.check(w.s.Reviewed(c, next, inUse, w.now), func() { w.m.reviewed(c, next, inUse, w.now) })
	case n < 70 && len(w.certs) > 0:
		c, h := w.certs[w.rng.IntN(len(w.certs))], w.held()
		w.check(w.s.Hold(c, h, w.now), func() { w.m.holds(c, h, w.now) })
	case n < 73:
		w.bad[w.keys[w.rng.IntN(len(w.keys))]] = []int{0, 0, 50, 100}[w.rng.IntN(4)]
	default:
		w.run()
	}
}

// pass has time pass: mostly up to what is due, at times a step of the clock.
func (w *chaos) pass() {
	next := w.s.Next(w.now)
	if want := w.m.next(w.now); next != want {
		w.t.Fatalf("next run in %d ns, want %d", next-w.now, want-w.now)
	}
	switch n := w.rng.IntN(400); {
	case n == 0:
		w.now -= w.span(30 * hour)
	case n == 1:
		w.now += w.span(100 * hour)
	case n < 200 && next != Never:
		w.now = max(w.now, next-w.span(second)) + w.span(second)
	default:
		w.now += w.span(3 * second)
	}
}

func (w *chaos) run() { w.check(w.s.Run(w.now), func() { w.m.run(w.now) }) }

func (w *chaos) add() *cert {
	c := &cert{id: len(w.m.items)}
	w.certs = append(w.certs, c)
	return c
}

func (w *chaos) start(c *cert) {
	u := Urgency(w.rng.IntN(3))
	w.check(w.s.Start(c, u, w.now), func() { w.m.start(c, u, w.now) })
}

func (w *chaos) prepared(facts func(*cert) Facts) {
	c := take(w.rng, &w.preparing)
	f := facts(c)
	w.check(w.s.Prepared(c, f, w.now), func() { w.m.prepared(c, f, w.now) })
}

func take[E any](rng *rand.Rand, all *[]E) E {
	i := rng.IntN(len(*all))
	e := (*all)[i]
	*all = slices.Delete(*all, i, i+1)
	return e
}

// held returns a response: of any age and validity, most of them current.
func (w *chaos) held() Held {
	if w.some(20) {
		return Held{}
	}
	length := 4*second + w.span(10*24*hour)
	from := w.now - w.span(length+length/8)
	return Held{From: from, Until: from + length, Checked: w.now - w.span(min(length, hour)), MaxAge: w.span(12*hour) * w.rng.Int64N(2), Length: w.span(4*day) * w.rng.Int64N(2), Open: w.some(4), Silent: w.some(20)}
}

// route returns up to four responders of one issuer.
func (w *chaos) route(c *cert) (keys []Key) {
	rng := rand.New(rand.NewPCG(uint64(c.id), 7))
	issuer := w.keys[rng.IntN(len(w.keys))].Issuer
	for _, k := range w.keys {
		if k.Issuer == issuer && len(keys) <= c.id%4 {
			keys = append(keys, k)
		}
	}
	if w.some(50) {
		slices.Reverse(keys)
	}
	return keys
}

func (w *chaos) facts(c *cert) Facts {
	f := Facts{Need: Wanted, MustStaple: c.id%3 == 0, InUse: c.id%2 == 0, Route: w.route(c)}
	switch w.rng.IntN(30) {
	case 0:
		f.Need = Need(w.rng.IntN(int(LeafExpired + 1)))
		f.Again = w.rng.Int64N(2) * (w.now + w.span(hour))
		if f.Need != Wanted && w.some(2) {
			f.Route = nil
		}
	case 1:
		f.NotBefore = w.now + w.span(20*minute)
	case 2, 3, 4:
		f.Leased = true
	case 5:
		f.Spent = w.span(12 * second)
	case 6:
		h := w.held()
		f.Held, f.Fresh = &h, h.Until > w.now && w.some(2)
	}
	return f
}

func (w *chaos) answer() {
	a := take(w.rng, &w.asks)
	o := Outcome{RetryAfter: w.rng.Int64N(2) * w.rng.Int64N(2) * w.span(3*hour)}
	switch bad := w.rng.IntN(100) < w.bad[a.Responder.Key] && !w.healthy; {
	case bad:
		o.Verdict = Fault + Verdict(w.rng.IntN(2))
	case !w.healthy && w.some(5):
		o.Verdict = Certificate + Verdict(w.rng.IntN(2))
	default:
		o.Held = w.held()
	}
	if o.Hangs = !w.healthy && w.some(10); o.Hangs {
		w.hung = append(w.hung, a)
	}
	q := w.m.request(a.Item, a.Responder.Key, a.sent)
	if got, want := w.s.Late(a), q.attempt != q.item.attempt; got != want {
		w.t.Fatalf("answer about item %d is late: %v, want %v", a.Item.id, got, want)
	}
	w.check(w.s.Answered(a, o, w.now), func() { w.m.answered(q, o, w.now) })
}

// check compares what the schedule did with what the model does.
func (w *chaos) check(actions []Action[*cert], model func()) {
	w.m.asked = w.m.asked[:0]
	for _, a := range actions {
		w.seen.kinds[a.Kind]++
		switch a.Kind {
		case Prepare:
			w.preparing = append(w.preparing, a.Item)
		case Ask:
			w.asks = append(w.asks, a)
			w.m.asked = append(w.m.asked, a.Item)
		}
	}
	model()
	left := slices.Clone(w.m.acts)
	for _, a := range actions {
		i := slices.Index(left, actOf(a))
		if i < 0 {
			w.t.Fatalf("action %+v, want one of %+v", actOf(a), left)
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		w.t.Fatalf("no action %+v", left)
	}
	w.compare()
}

func (w *chaos) compare() {
	s, m := w.s, w.m
	for _, it := range m.items {
		c := it.c
		w.seen.phases[c.phase]++
		got := [...]int64{int64(c.phase), int64(c.need), c.Due(), c.until, c.since, int64(c.failures), orNever(c.alarm), c.review}
		want := [...]int64{int64(it.phase), int64(it.need), it.due, it.until, it.since, int64(it.failures), it.alarm, it.review}
		if got != want {
			w.t.Fatalf("item %d: phase, need, due, until, since, failures, alarm, review\n%d, want\n%d", c.id, got, want)
		}
		if (c.best == 0) != (it.best == nil) || c.best > 0 && c.Best().Key != it.best.key {
			w.t.Fatalf("item %d: best %v, want %v", c.id, c.Best(), it.best)
		}
		w.lost(c)
	}
	if len(s.responders) != len(m.resps) || len(s.hosts) != len(m.hosts) {
		w.t.Fatalf("%d responders at %d hosts, want %d at %d", len(s.responders), len(s.hosts), len(m.resps), len(m.hosts))
	}
	if used, unproven := m.used(func(*mReq) bool { return true }), m.used(func(q *mReq) bool { return !q.resp.proven }); s.places.used != used || s.places.unproven != unproven {
		w.t.Fatalf("%d places in use, %d unproven, want %d, %d", s.places.used, s.places.unproven, used, unproven)
	}
	for _, r := range m.resps {
		w.compareResponder(s.responders[r.key], r)
	}
}

func orNever(at int64) int64 {
	if at == 0 {
		return Never
	}
	return at
}

func (w *chaos) compareResponder(r *Responder[*cert], want *mResp) {
	m := w.m
	if r == nil {
		w.t.Fatalf("no responder %v", want.key)
	}
	probing := m.probing(want)
	got := [...]int64{int64(r.used), int64(r.limit), int64(r.certs), int64(len(r.failed)), r.since, r.probeAt}
	if want := [...]int64{int64(m.usedAt(want)), int64(want.limit), int64(m.certs(want)), int64(len(want.failed)), want.since, want.probeAt}; got != want {
		w.t.Fatalf("responder %v: used, limit, certs, failed, since, probeAt\n%d, want\n%d", r.Key, got, want)
	}
	if r.proven != want.proven || r.failing != want.failing || (r.probe != nil) != (probing != nil) || probing != nil && probing.c.at != r.probe {
		w.t.Fatalf("responder %v: proven %v, failing %v, probe %v; want %v, %v, %+v", r.Key, r.proven, r.failing, r.probe, want.proven, want.failing, probing)
	}
	for _, q := range []struct {
		name string
		heap *heap[*cert]
		want []*mItem
		key  func(*mItem) int64
	}{
		{"queue", &r.queue, m.in(Queued, want), func(it *mItem) int64 { return it.deadline }},
		{"standing", &r.standing, m.in(StandingBy, want), func(it *mItem) int64 { return it.turn }},
	} {
		if q.heap.len() != len(q.want) {
			w.t.Fatalf("responder %v: %d in %s, want %d", r.Key, q.heap.len(), q.name, len(q.want))
		}
		for _, n := range q.heap.nodes {
			if it := m.item(n.of); !slices.Contains(q.want, it) || q.key(it) != n.key {
				w.t.Fatalf("responder %v: item %d in %s at %d, want %d", r.Key, n.of.id, q.name, n.key, q.key(it))
			}
		}
	}
}

// lost fails the test if nothing will ever happen to an item that wants
// something to.
func (w *chaos) lost(c *cert) {
	ok := true
	switch c.phase {
	case Planned, Deferred:
		ok = c.Due() < Never
	case Preparing:
		ok = slices.Contains(w.preparing, c)
	case Queued: // in a queue that moves
		r := c.at.queue
		ok = r.used > 0 || r.host.used > 0 || w.s.places.used > 0
	case Asking:
		ok = slices.ContainsFunc(w.asks, func(a Action[*cert]) bool { return a.attempt == c.at })
	case StandingBy:
		for _, r := range c.responders() {
			ok = ok && r.failing && (r.probe != nil || r.host.slot > 0)
		}
	case Resting:
		ok = c.need != Wanted && c.need != NoIssuer
	}
	if !ok || c.phase != Gone && c.wake() == Never && c.review != 0 {
		w.t.Fatalf("item %d is lost: %v, %v", c.id, c.phase, c.need)
	}
}

// heal has all responders work. A few hours later everybody who wants one has a
// response.
func (w *chaos) heal() {
	w.healthy = true
	for _, a := range w.hung {
		q := w.m.request(a.Item, a.Responder.Key, a.sent)
		w.check(w.s.Returned(a, w.now), func() { w.m.returned(q, w.now) })
	}
	clear(w.hung)
	w.hung = nil
	begun := w.now
	for w.now-begun < 5*hour {
		w.now++
		switch {
		case len(w.asks) > 0:
			w.answer()
		case len(w.preparing) > 0:
			w.prepared(func(c *cert) Facts { return Facts{Need: Wanted, Route: w.route(c), InUse: true} })
		default:
			w.now = max(w.now, w.s.Next(w.now))
			w.run()
		}
	}
	for _, c := range w.certs {
		if c.phase != Resting && (c.phase == StandingBy || c.failures > 0) {
			w.t.Errorf("item %d starved: %v, %d failures, due in %d s", c.id, c.phase, c.failures, (c.Due()-w.now)/second)
		}
	}
}

// next is when the schedule is to be run.
func (m *model) next(now int64) int64 {
	at := Never
	for _, it := range m.items {
		at = min(at, m.wake(it))
	}
	for h := range m.hosts {
		at = min(at, m.probeDue(h))
	}
	if at == Never {
		return at
	}
	return min(at, now+minute)
}
