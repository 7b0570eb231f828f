package schedule

import (
	"cmp"
	"fmt"
	"slices"
)

// cert is what a driver would keep.
type cert struct {
	Item[*cert]
	id int
}

// model is a plain schedule: lists that are scanned, no heaps, no state that is
// kept in two places. It is written from DESIGN's rules and used by the property
// test alone.
type model struct {
	real   *Schedule[*cert]
	now    int64
	ttl    int64
	limits Limits
	frac   int64 // random numbers: 0 the least, 1 the middle, 2 the greatest
	items  []*mItem
	resps  []*mResp
	hosts  map[string]*mHost
	reqs   []*mReq
	acts   []mAct
	serial int     // of the last attempt
	asked  []*cert // whom the schedule asked about in this call, in its order
}

type mItem struct {
	c               *cert
	phase           Phase
	need            Need
	due             int64
	until, length   int64
	must, inUse     bool
	silent          bool
	since           int64
	failures        int
	alarm, review   int64
	route           []*mResp
	best            *mResp
	late            []*mResp
	attempt         int // serial number, zero for none
	urgent, again   bool
	forced          int64
	deferred, polls int64
	left, ends      int64
	todo            []*mResp // not asked yet in this attempt, in order
	wasAsked, fault bool
	hint            int64
	probe, queue    *mResp
	deadline, turn  int64
}

type mResp struct {
	key                                      Key
	limit                                    int
	cut, quick                               int64
	proven, failing                          bool
	failed                                   []*mItem
	since, worked, marked, last, bound, hint int64
	probeAt, probed                          int64
}

type mHost struct {
	probed int64
	proven bool
}

type mReq struct {
	item    *mItem
	resp    *mResp
	attempt int
	sent    int64
	place   bool // holds a place
	open    bool // not answered
}

// mAct is an Action, comparable.
type mAct struct {
	kind     Kind
	item     *cert
	key      Key
	budget   int64
	urgent   bool
	from, to Phase
}

func actOf(a Action[*cert]) mAct {
	m := mAct{kind: a.Kind, item: a.Item, budget: a.Budget, urgent: a.Urgent, from: a.From, to: a.To}
	if a.Responder != nil {
		m.key = a.Responder.Key
	}
	return m
}

func (m *model) rand(n int64) int64 {
	switch {
	case n <= 0 || m.frac == 0:
		return 0
	case m.frac == 1:
		return n / 2
	}
	return n - 1
}

func (m *model) item(c *cert) *mItem {
	for _, it := range m.items {
		if it.c == c {
			return it
		}
	}
	it := &mItem{c: c, due: Never, alarm: Never}
	m.items = append(m.items, it)
	return it
}

// What is counted is counted anew each time.

func (m *model) certs(r *mResp) (n int) {
	for _, it := range m.items {
		if slices.Contains(it.route, r) {
			n++
		}
	}
	return n
}

func (m *model) used(which func(*mReq) bool) (n int) {
	for _, q := range m.reqs {
		if q.place && which(q) {
			n++
		}
	}
	return n
}

func (m *model) usedAt(r *mResp) int { return m.used(func(q *mReq) bool { return q.resp == r }) }

// room reports whether r may have one more request.
func (m *model) room(r *mResp) bool {
	return m.usedAt(r) < r.limit &&
		m.used(func(q *mReq) bool { return q.resp.key.Host == r.key.Host }) < m.limits.Host &&
		m.used(func(*mReq) bool { return true }) < m.limits.All &&
		(r.proven || m.used(func(q *mReq) bool { return !q.resp.proven }) < m.limits.Unproven)
}

func (m *model) in(phase Phase, r *mResp) (all []*mItem) {
	for _, it := range m.items {
		if it.phase == phase && (phase == Queued && it.queue == r || phase == StandingBy && slices.Contains(it.route, r)) {
			all = append(all, it)
		}
	}
	return all
}

func (m *model) probing(r *mResp) *mItem {
	for _, it := range m.items {
		if it.probe == r {
			return it
		}
	}
	return nil
}

func (m *model) active(r *mResp) bool {
	return r.failing && (m.probing(r) != nil || len(m.in(StandingBy, r)) > 0)
}

func (m *model) crowded(host string) bool {
	n := 0
	for _, r := range m.resps {
		if r.key.Host == host && m.active(r) {
			n++
		}
	}
	return n > 1
}

// Formulas.

func (m *model) pause(lasted, bound, hint int64) int64 {
	d := lasted
	switch {
	case lasted < second:
		d = second
	case lasted > 16*minute:
		d = lasted / 16
	case lasted > minute:
		d = minute
	}
	d = max(min(d, bound), MinGap)
	d -= m.rand(d / 4)
	return max(d, min(hint, bound), MinGap)
}

func (m *model) bound(it *mItem, certificate bool) int64 {
	most := 2 * hour
	switch {
	case it.inUse && it.must && certificate:
		most = 15 * minute
	case it.inUse && it.must:
		most = 5 * minute
	case it.inUse && certificate:
		most = hour
	case it.inUse:
		most = 15 * minute
	}
	if it.length > 0 {
		most = min(most, it.length)
	}
	if left := it.until - m.now; left > 0 {
		most = min(most, max(left/8, MinGap, min(it.length/64, minute)))
	}
	return most
}

func (m *model) byExpiry(it *mItem, at int64) int64 {
	if it.until > m.now {
		at = min(at, it.until+m.rand(MinGap))
	}
	return max(at, m.now+MinGap)
}

func (m *model) act(kind Kind, it *mItem, r *mResp) {
	a := mAct{kind: kind}
	if it != nil {
		a.item, a.urgent = it.c, kind == Prepare && it.urgent
	}
	if r != nil {
		a.key = r.key
	}
	m.acts = append(m.acts, a)
}

// The calls.

func (m *model) begin(now int64) {
	m.acts = nil
	back := m.now - now
	if back <= second {
		m.now = max(m.now, now)
		return
	}
	m.now = now
	for _, it := range m.items {
		if it.phase == Gone || it.review == 0 {
			continue
		}
		if it.since != 0 {
			it.since -= back
		}
		if it.attempt != 0 {
			it.ends -= back
			it.deferred -= min(back, it.deferred)
			it.forced -= min(back, it.forced)
		}
		if it.alarm == Never {
			m.setAlarm(it)
		}
		if it.due != Never {
			it.due -= back
		}
		if it.need == LeafExpired && it.phase == Resting {
			m.prepare(it, Routine)
		}
	}
	for _, r := range m.resps {
		r.since -= min(back, r.since)
		r.worked -= back
		r.marked, r.last, r.cut, r.quick, r.probeAt, r.probed = r.marked-back, r.last-back, r.cut-back, r.quick-back, r.probeAt-back, r.probed-back
	}
	for _, h := range m.hosts {
		h.probed -= back
	}
}

// end asks about those whose turn it is, the earliest deadline first.
func (m *model) end() {
	for {
		var next *mItem
		for _, it := range m.items {
			if it.phase == Queued && m.room(it.queue) && (next == nil || it.deadline < next.deadline || it.deadline == next.deadline && m.before(it, next)) {
				next = it
			}
		}
		if next == nil {
			break
		}
		m.ask(next, next.queue)
	}
	m.resps = slices.DeleteFunc(m.resps, func(r *mResp) bool { return m.certs(r) == 0 && m.usedAt(r) == 0 })
	for name := range m.hosts {
		if !slices.ContainsFunc(m.resps, func(r *mResp) bool { return r.key.Host == name }) {
			delete(m.hosts, name)
		}
	}
	m.reqs = slices.DeleteFunc(m.reqs, func(q *mReq) bool { return !q.place && !q.open })
}

func (m *model) start(c *cert, u Urgency, now int64) {
	m.begin(now)
	it := m.item(c)
	switch it.phase {
	case Gone:
	case Preparing, Queued, Asking:
		it.again = it.again || u == Forced
		if u != Routine && !it.urgent {
			it.urgent = true
			if it.phase != Preparing {
				it.deadline, it.due = min(it.deadline, m.deadline(it)), min(it.due, m.now+second)
			}
		}
	default:
		m.prepare(it, u)
	}
	m.end()
}

func (m *model) prepare(it *mItem, u Urgency) {
	it.phase, it.due, it.turn = Preparing, Never, 0
	if it.attempt == 0 {
		m.newAttempt(it)
	}
	if it.review == 0 {
		it.review = m.now + hour
	}
	it.urgent = it.urgent || u != Routine
	if u == Forced {
		it.forced = m.now
	}
	m.act(Prepare, it, nil)
}

func (m *model) newAttempt(it *mItem) {
	m.endAttempt(it)
	m.serial++
	it.attempt = m.serial
}

func (m *model) endAttempt(it *mItem) {
	it.attempt, it.urgent, it.again, it.forced, it.deferred, it.polls, it.left, it.ends = 0, false, false, 0, 0, 0, 0, 0
	it.todo, it.wasAsked, it.fault, it.hint, it.queue, it.deadline, it.turn = nil, false, false, 0, nil, 0, 0
}

func (m *model) prepared(c *cert, f Facts, now int64) {
	m.begin(now)
	defer m.end()
	it := m.item(c)
	if it.phase != Preparing {
		return
	}
	it.need, it.must, it.inUse = f.Need, f.MustStaple, f.InUse
	m.setRoute(it, f.Route)
	if f.Held != nil {
		m.hold0(it, *f.Held)
	}
	switch {
	case f.Fresh:
		m.succeed(it, *f.Held, nil)
	case f.Need == NoIssuer || f.Need == Wanted && len(it.route) == 0:
		m.fail(it)
	case f.Need != Wanted && f.Again > 0:
		m.over(it, Planned, max(f.Again, m.now+MinGap))
	case f.Need != Wanted:
		m.over(it, Resting, Never)
	case f.NotBefore-5*minute > m.now:
		m.over(it, Planned, f.NotBefore-5*minute)
	case f.Leased && m.patient(it):
	default:
		it.left = max(10*second-f.Spent, second)
		it.todo = slices.Clone(it.route)
		rank := func(r *mResp) int {
			switch {
			case it.probe == r:
				return 0
			case slices.Contains(it.late, r):
				return 3
			case it.best == r:
				return 1
			}
			return 2
		}
		slices.SortStableFunc(it.todo, func(a, b *mResp) int { return cmp.Compare(rank(a), rank(b)) })
		m.advance(it)
	}
}

func (m *model) setRoute(it *mItem, keys []Key) {
	if slices.EqualFunc(it.route, keys, func(r *mResp, k Key) bool { return r.key == k }) {
		return
	}
	m.dropProbe(it, false)
	old := it.route
	it.route, it.late = nil, nil
	for _, k := range keys {
		it.route = append(it.route, m.resp(k))
	}
	for _, r := range old {
		if !slices.Contains(it.route, r) {
			r.failed = slices.DeleteFunc(r.failed, func(o *mItem) bool { return o == it })
		}
	}
	if !slices.Contains(it.route, it.best) {
		it.best = nil
	}
}

func (m *model) resp(k Key) *mResp {
	for _, r := range m.resps {
		if r.key == k {
			return r
		}
	}
	r := &mResp{key: k, limit: m.limits.First}
	m.resps = append(m.resps, r)
	if m.hosts[k.Host] == nil {
		m.hosts[k.Host] = &mHost{proven: true}
	}
	return r
}

func (m *model) patient(it *mItem) bool {
	if it.deferred == 0 {
		it.deferred = m.now
	}
	patience := 30 * second << min(it.failures, 6)
	if it.until > it.deferred {
		patience = min(patience, (it.until-it.deferred)/4)
	} else if it.length > 0 {
		patience = min(patience, it.length/4)
	}
	left := it.deferred + patience - m.now
	if left < MinGap {
		return false
	}
	d := min(max((it.until-m.now)/8, 400*second/1000), 2*second) << min(int(it.polls), 3+it.failures/2, 6)
	d = min(d, 2*left)
	it.polls++
	m.dropProbe(it, true)
	it.phase, it.due = Deferred, m.now+d-m.rand(d/2)
	return true
}

// dropProbe ends a probe for which nobody was asked.
func (m *model) dropProbe(it *mItem, leased bool) {
	if r := it.probe; r != nil {
		it.probe = nil
		r.probeAt = m.now
		if leased {
			m.planProbe(r)
		}
	}
}

func (m *model) planProbe(r *mResp) {
	r.last, r.bound = m.now, 2*hour
	for _, it := range m.in(StandingBy, r) {
		r.bound = min(r.bound, m.bound(it, false))
	}
	r.probeAt = m.now + m.pause(m.now-r.since, r.bound, r.hint)
}

// over ends an attempt.
func (m *model) over(it *mItem, to Phase, due int64) {
	again := it.again
	turn := int64(0)
	if to == StandingBy {
		turn = m.now + (m.now-it.since)/16
		if it.until != 0 && it.failures == 1 && !it.wasAsked {
			turn = it.until - 1<<62
		}
	}
	m.dropProbe(it, false)
	m.endAttempt(it)
	it.phase, it.due = to, due
	if to == StandingBy {
		m.newAttempt(it)
		it.turn = turn
		m.hasten(it)
	}
	if again {
		m.prepare(it, Forced)
	}
}

func (m *model) hasten(it *mItem) {
	switch {
	case it.phase == Planned && it.since != 0:
		pause := m.pause(m.now-it.since, m.bound(it, false), 0)
		it.due = min(it.due, m.byExpiry(it, m.now+pause))
	case it.phase == StandingBy:
		for _, r := range it.route {
			if b := m.bound(it, false); b < r.bound {
				r.bound = b
				r.probeAt = min(r.probeAt, max(m.now, r.last+m.pause(m.now-r.since, b, r.hint)))
			}
		}
	}
}

func (m *model) out(it *mItem) (n int) {
	for _, q := range m.reqs {
		if q.item == it && q.open && q.attempt == it.attempt {
			n++
		}
	}
	return n
}

func (m *model) step(it *mItem) int64 {
	next := m.now + 2*second
	if it.urgent {
		next = m.now + second
	}
	if m.out(it) > 0 && next+second > it.ends {
		return Never
	}
	for _, r := range it.todo {
		if !r.failing && r != it.queue {
			return next
		}
	}
	return Never
}

func (m *model) advance(it *mItem) {
	var beside *mResp
	for _, r := range it.todo {
		if beside == nil && !r.failing && m.room(r) && len(m.in(Queued, r)) == 0 {
			beside = r
		}
	}
	if m.out(it) > 0 {
		if beside != nil && it.ends-m.now >= second {
			m.ask(it, beside)
		} else {
			it.due = m.step(it)
		}
		return
	}
	if it.phase == Queued && beside != nil {
		m.ask(it, beside)
		return
	}
	if it.phase == Queued && (!it.queue.failing || it.probe == it.queue) {
		it.due = m.step(it)
		return
	}
	if it.phase == Asking {
		it.left = it.ends - m.now
	}
	r := m.first(it)
	if r == nil || it.left < second {
		m.fail(it)
		return
	}
	it.phase, it.queue = Queued, r
	if it.deadline == 0 {
		it.deadline = m.deadline(it)
	}
	it.due = m.step(it)
}

// deadline returns when an item should be asked about, if it is queued now.
func (m *model) deadline(it *mItem) int64 {
	if it.until > m.now {
		return min(it.until, m.now+hour)
	}
	if it.urgent {
		return m.now
	}
	return m.now + 5*second
}

func (m *model) first(it *mItem) *mResp {
	for _, r := range it.todo {
		if !r.failing || it.probe == r {
			return r
		}
	}
	for _, r := range it.todo {
		if it.forced > r.marked {
			m.reopen(r)
			return r
		}
		h := m.hosts[r.key.Host]
		if it.probe == nil && !m.active(r) && r.probeAt <= m.now && (!m.crowded(r.key.Host) || m.now-h.probed >= 30*second) {
			m.tie(it, r)
			return r
		}
	}
	return nil
}

func (m *model) tie(it *mItem, r *mResp) {
	it.probe, r.probed, m.hosts[r.key.Host].probed = r, m.now, m.now
}

func (m *model) ask(it *mItem, r *mResp) {
	if m.out(it) == 0 {
		it.ends = m.now + it.left
	}
	it.phase, it.queue, it.wasAsked = Asking, nil, true
	it.todo = slices.DeleteFunc(slices.Clone(it.todo), func(o *mResp) bool { return o == r })
	m.reqs = append(m.reqs, &mReq{item: it, resp: r, attempt: it.attempt, sent: m.now, place: true, open: true})
	it.due = m.step(it)
	budget := it.ends - m.now
	if left := it.until - m.now; left > 0 {
		budget = min(budget, max(left/2, second))
	} else if it.length > 0 {
		budget = min(budget, max(it.length/2, second))
	}
	m.act(Ask, it, r)
	m.acts[len(m.acts)-1].budget = budget
}

func (m *model) request(c *cert, key Key, sent int64) *mReq {
	for _, q := range m.reqs {
		if q.item.c == c && q.resp.key == key && q.sent == sent {
			return q
		}
	}
	panic(fmt.Sprint("no request of ", c.id, key, sent))
}

func (m *model) answered(q *mReq, o Outcome, now int64) {
	m.begin(now)
	defer m.end()
	it, r := q.item, q.resp
	switch {
	case o.Verdict == TimedOut && q.sent >= r.cut && q.sent >= r.quick:
		r.limit, r.cut = max(r.limit/2, 1), m.now
	case (o.Verdict == Proof || o.Verdict == Certificate) && m.now-q.sent <= second:
		r.quick = max(r.quick, q.sent)
		if m.usedAt(r) >= r.limit {
			r.limit = min(r.limit+1, m.limits.Responder)
		}
	}
	mine := it.phase != Gone && q.attempt == it.attempt
	if o.Verdict == Proof {
		q.place, q.open = o.Hangs, false
		m.settle(it, r, mine, o)
		m.judge(it, r, mine, o)
		return
	}
	q.place = o.Hangs
	m.judge(it, r, mine, o)
	q.open = false
	m.settle(it, r, mine, o)
}

func (m *model) judge(it *mItem, r *mResp, mine bool, o Outcome) {
	switch o.Verdict {
	case Proof:
		r.proven = true
		m.works(r)
	case Certificate:
		m.works(r)
	case Fault, TimedOut:
		r.hint = o.RetryAfter
		switch {
		case r.failing && mine && it.probe == r:
			it.probe = nil
			m.planProbe(r)
		case !r.failing && (it.since == 0 || it.since > r.worked):
			if r.since == 0 {
				r.since = m.now
			}
			if it.phase != Gone && !slices.Contains(r.failed, it) {
				r.failed = append(r.failed, it)
			}
			if n := m.certs(r); n > 0 && len(r.failed) >= min(5, n) {
				m.breaks(r)
			}
		}
	case Nothing:
		if mine && it.probe == r {
			m.dropProbe(it, false)
		}
	}
}

func (m *model) works(r *mResp) {
	r.failed, r.since, r.worked = nil, 0, m.now
	if !r.failing {
		return
	}
	m.reopen(r)
	m.act(Recovers, nil, r)
	others := slices.SortedFunc(slices.Values(m.resps), func(a, b *mResp) int { return cmp.Compare(a.marked, b.marked) })
	for _, o := range others { // who has failed longest first
		if o.key.Host == r.key.Host && o.failing && m.probing(o) == nil && len(m.in(StandingBy, o)) > 0 && m.now-o.probed >= 10*second {
			m.startProbe(o)
		}
	}
}

func (m *model) reopen(r *mResp) {
	r.failing, r.failed, r.limit = false, nil, max(r.limit, m.limits.First)
	if it := m.probing(r); it != nil {
		it.probe = nil
	}
	for _, it := range m.in(StandingBy, r) {
		m.prepare(it, Routine)
	}
}

func (m *model) startProbe(r *mResp) {
	it := m.firstAt(r)
	m.prepare(it, Urgent)
	m.tie(it, r)
}

// firstAt returns who probes r next. Where several are first, it is the one that
// the schedule chose.
func (m *model) firstAt(r *mResp) (first *mItem) {
	for _, it := range m.in(StandingBy, r) {
		if first == nil || it.turn < first.turn || it.turn == first.turn && probes(it, r) {
			first = it
		}
	}
	return first
}

func probes(it *mItem, r *mResp) bool {
	return it.c.at != nil && it.c.at.probe != nil && it.c.at.probe.Key == r.key
}

// chosen reports whether the schedule has the first in line probe r.
func (m *model) chosen(r *mResp) bool { return probes(m.firstAt(r), r) }

func (m *model) breaks(r *mResp) {
	r.failing, r.marked = true, m.now
	m.planProbe(r)
	m.act(Fails, nil, r)
	waiting := m.in(Queued, r)
	slices.SortFunc(waiting, func(a, b *mItem) int { return cmp.Compare(a.deadline, b.deadline) })
	for _, it := range waiting {
		m.advance(it)
	}
}

func (m *model) settle(it *mItem, r *mResp, mine bool, o Outcome) {
	if it.phase == Gone {
		return
	}
	if slices.Contains(it.route, r) {
		late := slices.DeleteFunc(slices.Clone(it.late), func(o *mResp) bool { return o == r })
		switch o.Verdict {
		case TimedOut:
			it.late = append(late, r)
		case Proof:
			it.late = late
		}
	}
	switch {
	case o.Verdict == Proof && (mine || it.need == Wanted && (it.phase == Planned || it.phase == Deferred || it.phase == StandingBy)):
		m.succeed(it, o.Held, r)
	case o.Verdict == Proof:
		it.since, it.failures = 0, 0
		m.hold0(it, o.Held)
	case mine:
		it.fault = it.fault || o.Verdict != Certificate && o.Verdict != Nothing
		it.hint = max(it.hint, o.RetryAfter)
		m.advance(it)
	}
}

func (m *model) succeed(it *mItem, h Held, r *mResp) {
	it.since, it.failures = 0, 0
	m.hold0(it, h)
	if slices.Contains(it.route, r) {
		it.best = r
	}
	from, to := h.Window(m.ttl, false)
	from = max(from, m.now+MinGap)
	m.over(it, Planned, m.byExpiry(it, from+m.rand(to-from)))
}

func (m *model) fail(it *mItem) {
	failing := 0
	for _, r := range it.route {
		if r.failing {
			failing++
		}
	}
	it.failures++
	if it.since == 0 {
		it.since = m.now
		m.setAlarm(it)
	}
	if failing > 0 && failing == len(it.route) && it.need == Wanted {
		m.act(Failed, it, it.route[0])
		m.over(it, StandingBy, Never)
		return
	}
	m.act(Failed, it, nil)
	pause := m.pause(m.now-it.since, m.bound(it, !it.fault && failing == 0), it.hint)
	m.over(it, Planned, m.byExpiry(it, m.now+pause))
}

func (m *model) hold0(it *mItem, h Held) {
	it.until, it.silent, it.alarm = h.Until, h.Silent, Never
	if h.Until != 0 {
		it.length = max((h.Until-h.From+second-1)/second, 1) * second
	}
	m.setAlarm(it)
}

func (m *model) setAlarm(it *mItem) {
	if it.until > m.now && !it.silent {
		it.alarm = it.until
		if it.since != 0 {
			it.alarm = m.now + (it.until-m.now)/2
		}
	}
}

func (m *model) run(now int64) {
	m.begin(now)
	for {
		var next *mItem
		for _, it := range m.items {
			if wake := m.wake(it); wake <= m.now && (next == nil || wake < m.wake(next) || wake == m.wake(next) && m.before(it, next)) {
				next = it
			}
		}
		if next == nil {
			break
		}
		m.fire(next)
	}
	for {
		first, at := "", m.now+1
		for name := range m.hosts {
			if due := m.probeDue(name); due < at || due == at && at <= m.now && m.chosen(m.nextAt(name)) {
				first, at = name, due
			}
		}
		if first == "" {
			break
		}
		r := m.nextAt(first)
		m.hosts[first].proven = !r.proven
		m.startProbe(r)
	}
	m.end()
}

// before orders items that are due at the same time as the schedule had them,
// who was asked about first.
func (m *model) before(a, b *mItem) bool {
	i, j := slices.Index(m.asked, a.c), slices.Index(m.asked, b.c)
	return i >= 0 && (j < 0 || i < j)
}

func (m *model) wake(it *mItem) int64 {
	at := min(it.due, it.alarm)
	if it.review != 0 {
		at = min(at, it.review)
	}
	return at
}

func (m *model) fire(it *mItem) {
	if it.review != 0 && it.review <= m.now {
		it.review = m.now + hour
		m.act(Review, it, nil)
	}
	if it.alarm <= m.now {
		if it.until > m.now {
			it.alarm = it.until
			m.act(Expiring, it, nil)
		} else {
			it.alarm = Never
			m.act(Expired, it, nil)
		}
	}
	switch {
	case it.due > m.now:
	case it.phase == Planned && m.now-it.due >= 90*second && it.until > m.now:
		it.due = m.now + 1 + m.rand(min((it.until-m.now)/8, 15*minute))
	case it.phase == Planned || it.phase == Deferred:
		m.prepare(it, Routine)
	default:
		m.advance(it)
	}
}

// probeDue returns when a responder of a host is probed next.
func (m *model) probeDue(host string) int64 {
	at := Never
	for _, r := range m.resps {
		if r.key.Host == host && r.failing && m.probing(r) == nil && len(m.in(StandingBy, r)) > 0 {
			at = min(at, r.probeAt)
		}
	}
	if at != Never && m.crowded(host) {
		at = max(at, m.hosts[host].probed+30*second)
	}
	return at
}

// nextAt returns the responder of a host that is probed next.
func (m *model) nextAt(host string) (next *mResp) {
	for _, want := range []bool{m.hosts[host].proven, !m.hosts[host].proven} {
		for _, r := range m.resps {
			due := r.key.Host == host && r.failing && m.probing(r) == nil && len(m.in(StandingBy, r)) > 0 && r.probeAt <= m.now
			if due && r.proven == want && (next == nil || next.proven == want && r.probeAt < next.probeAt) {
				next = r
			}
		}
	}
	return next
}

func (m *model) remove(c *cert, now int64) {
	m.begin(now)
	it := m.item(c)
	if it.phase != Gone {
		m.dropProbe(it, false)
		m.endAttempt(it)
		m.setRoute(it, nil)
		it.phase, it.due, it.alarm, it.review = Gone, Never, Never, Never
	}
	m.end()
}

func (m *model) reviewed(c *cert, next int64, inUse bool, now int64) {
	m.begin(now)
	if it := m.item(c); it.phase != Gone {
		it.review = min(next, Never-1)
		was := it.inUse
		if it.inUse = inUse; inUse && !was {
			m.hasten(it)
		}
	}
	m.end()
}

func (m *model) holds(c *cert, h Held, now int64) {
	m.begin(now)
	if it := m.item(c); it.phase != Gone {
		m.hold0(it, h)
	}
	m.end()
}

func (m *model) returned(q *mReq, now int64) {
	m.begin(now)
	q.place = false
	m.end()
}
