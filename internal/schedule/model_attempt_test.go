package schedule

import (
	"cmp"
	"slices"
)

// Attempts, in the model.

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
	planned := Never
	if it.phase == Planned {
		planned = it.due
	}
	it.phase, it.due, it.turn = Preparing, Never, 0
	if it.attempt == 0 {
		m.newAttempt(it)
	}
	if it.review == 0 {
		it.review = m.now + hour
	}
	it.urgent = it.urgent || u != Routine
	if u == Forced {
		it.again = false
		it.forced, it.planned = m.calls, planned
	}
	m.act(Prepare, it, nil)
}

func (m *model) newAttempt(it *mItem) {
	m.endAttempt(it)
	m.serial++
	it.attempt = m.serial
}

func (m *model) endAttempt(it *mItem) {
	it.attempt, it.urgent, it.again, it.forced, it.planned, it.deferred, it.polls, it.left, it.ends = 0, false, false, 0, 0, 0, 0, 0, 0
	it.todo, it.wasAsked, it.fault, it.hint, it.queue, it.deadline, it.turn, it.postponed = nil, false, false, 0, nil, 0, 0, nil
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
		it.since, it.failures, it.tried = 0, 0, false
		m.over(it, Planned, max(f.Again, m.now+MinGap))
	case f.Need != Wanted:
		it.since, it.failures, it.tried = 0, 0, false
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
	m.dropProbe(it)
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
	failures := it.failures
	if it.forced > 0 {
		failures = 0
	}
	patience := 30 * second << min(failures, 6)
	if it.until > it.deferred {
		patience = min(patience, (it.until-it.deferred)/4)
	} else if it.length > 0 {
		patience = min(patience, it.length/4)
	}
	left := it.deferred + patience - m.now
	if left < MinGap {
		return false
	}
	d := min(max((it.until-m.now)/8, 400*second/1000), 2*second) << min(int(it.polls), 3+failures/2, 6)
	d = min(d, 2*left)
	it.polls++
	if it.probe != nil {
		it.postponed = it.probe
	}
	m.dropProbe(it)
	it.phase, it.due = Deferred, m.now+d-m.rand(d/2)
	return true
}

// dropProbe ends a probe that brought nothing.
func (m *model) dropProbe(it *mItem) {
	if r := it.probe; r != nil {
		it.probe = nil
		r.probeAt = m.now
		if it.wasAsked || it.postponed == r {
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
	turn, untried := int64(0), false
	if to == StandingBy {
		turn = m.now + (m.now-it.since)/16
		if untried = !it.tried; untried {
			turn = -m.rand(1 << 60)
			if it.until != 0 {
				turn = it.until - 1<<62
			}
		}
	}
	m.dropProbe(it)
	m.endAttempt(it)
	it.phase, it.due = to, due
	if to == StandingBy {
		m.newAttempt(it)
		it.turn = turn
		if untried && it.until <= m.now { // one that holds a response can wait
			for _, r := range it.route {
				r.probeAt = min(r.probeAt, max(m.now, r.last+minute))
			}
		}
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
		working := slices.DeleteFunc(slices.Clone(it.todo), func(r *mResp) bool { return r.failing && r != it.queue })
		it.queue = working[(slices.Index(working, it.queue)+1)%len(working)]
		if it.queue.failing { // it is the one that the attempt probes
			if len(working) > 1 {
				it.queue = working[(slices.Index(working, it.queue)+1)%len(working)]
			}
		}
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
	return m.now + 5*second + 10*minute
}

func (m *model) first(it *mItem) *mResp {
	for _, r := range it.todo {
		if !r.failing || it.probe == r {
			return r
		}
	}
	for _, r := range it.todo {
		if it.forced >= r.marked {
			m.reopen(r)
			return r
		}
		if it.failures == 0 && len(r.failed) < 5 {
			return r
		}
		due := !m.active(r) && r.probeAt <= m.now && !m.crowded(r.key.Host)
		if it.probe == nil && (due || it.postponed == r && m.probing(r) == nil) {
			m.tie(it, r)
			return r
		}
	}
	return nil
}

func (m *model) tie(it *mItem, r *mResp) {
	it.probe, it.postponed, r.probed, m.hosts[r.key.Host].probed = r, nil, m.now, m.now
}

func (m *model) ask(it *mItem, r *mResp) {
	if m.out(it) == 0 {
		it.ends = m.now + it.left
	}
	it.phase, it.queue, it.wasAsked, it.tried = Asking, nil, true, true
	it.todo = slices.DeleteFunc(slices.Clone(it.todo), func(o *mResp) bool { return o == r })
	m.reqs = append(m.reqs, &mReq{item: it, resp: r, attempt: it.attempt, forced: it.forced, sent: m.now, place: true, open: true})
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
		it.since, it.failures, it.tried = 0, 0, false
		m.hold0(it, o.Held)
	case mine:
		it.fault = it.fault || o.Verdict != Certificate && o.Verdict != Nothing
		it.hint = max(it.hint, o.RetryAfter)
		m.advance(it)
	}
}

func (m *model) succeed(it *mItem, h Held, r *mResp) {
	it.since, it.failures, it.tried = 0, 0, false
	m.hold0(it, h)
	if slices.Contains(it.route, r) {
		it.best = r
	}
	m.over(it, Planned, m.refresh(it, h))
}

func (m *model) refresh(it *mItem, h Held) int64 {
	from, to := h.Window(m.ttl, false)
	from = max(from, m.now+second/2)
	return m.byExpiry(it, from+m.rand(to-from))
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
	due := m.byExpiry(it, m.now+pause)
	if it.planned > m.now {
		due = min(due, it.planned)
	}
	if it.forced > 0 {
		due = max(due, m.now+min(second, m.bound(it, !it.fault && failing == 0)))
	}
	m.over(it, Planned, due)
}

func (m *model) hold0(it *mItem, h Held) {
	it.until, it.silent, it.open, it.alarm = h.Until, h.Silent, h.Open, Never
	if h.Until != 0 {
		length := max(h.Until-h.From, h.Length)
		if h.Open {
			length = max(length, min(m.ttl, 15*minute))
		}
		it.length = max((length+second-1)/second, 1) * second
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
