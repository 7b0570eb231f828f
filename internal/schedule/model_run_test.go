package schedule

import (
	"cmp"
	"fmt"
	"slices"
)

// Answers, probes and what is due, in the model.

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
		r.quick = max(r.quick, min(q.sent, m.now))
		if m.usedAt(r) >= r.limit {
			r.limit = min(r.limit+1, m.limits.Responder)
		}
	}
	mine := it.phase != Gone && q.attempt == it.attempt
	if o.Verdict == Proof {
		q.place, q.open = o.Hangs, false
		m.settle(it, r, mine, o)
		m.judge(q, mine, o)
		return
	}
	q.place = o.Hangs
	m.judge(q, mine, o)
	q.open = false
	m.settle(it, r, mine, o)
}

func (m *model) judge(q *mReq, mine bool, o Outcome) {
	it, r := q.item, q.resp
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
		case len(r.failed) < 5 && (it.since == 0 || it.since >= r.worked):
			if r.since == 0 {
				r.since = m.now
				if it.since != 0 && !r.proven {
					r.since = max(it.since, m.now-minute)
				}
			}
			if it.phase != Gone && !slices.Contains(r.failed, it) {
				r.failed = append(r.failed, it)
			}
			if r.failing && len(r.failed) == 5 {
				m.turnAway(r)
			}
			if n := m.certs(r); !r.failing && n > 0 && len(r.failed) >= min(5, n) {
				m.breaks(r)
			}
		}
		if r.failing && q.forced > 0 {
			r.probeAt = max(r.probeAt, m.now+min(second, r.bound))
		}
	case Nothing:
		if mine && it.probe == r {
			m.dropProbe(it)
		}
	}
}

func (m *model) works(r *mResp) {
	r.failed, r.since = nil, 0
	if !r.failing {
		r.worked = m.now
		return
	}
	r.probeAt = 0
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
	r.failing, r.marked = true, m.calls
	before := r.probeAt
	m.planProbe(r)
	if before > m.now {
		r.probeAt = min(r.probeAt, before)
	}
	m.act(Fails, nil, r)
	m.turnAway(r)
}

func (m *model) turnAway(r *mResp) {
	waiting := m.in(Queued, r)
	slices.SortFunc(waiting, func(a, b *mItem) int { return cmp.Compare(a.deadline, b.deadline) })
	for _, it := range waiting {
		m.advance(it)
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
		m.dropProbe(it)
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
		sooner := h.Until < it.until && it.need == Wanted
		m.hold0(it, h)
		if sooner && it.phase == Planned && it.until > m.now {
			at := m.byExpiry(it, it.due)
			if it.since == 0 {
				at = m.refresh(it, h)
			}
			it.due = min(it.due, at)
		}
		if sooner && it.phase == StandingBy && it.until > m.now {
			m.hasten(it)
		}
	}
	m.end()
}

func (m *model) returned(q *mReq, now int64) {
	m.begin(now)
	q.place = false
	m.end()
}
