package schedule

import "slices"

// cert is what a driver would keep.
type cert struct {
	Item[*cert]
	id int
}

// model is a plain schedule: lists that are scanned, no heaps, no state that is
// kept in two places. It is written from DESIGN's rules and used by the property
// test alone.
type model struct {
	now    int64
	ttl    int64
	limits Limits
	frac   int64 // random numbers: 0 the least, 1 the middle, 2 the greatest
	items  []*mItem
	resps  []*mResp
	hosts  map[string]*mHost
	reqs   []*mReq
	acts   []mAct
	serial int // of the last attempt
	calls  int64
	asked  []*cert // whom the schedule asked about in this call, in its order
}

type mItem struct {
	c               *cert
	phase           Phase
	need            Need
	due             int64
	until, length   int64
	must, inUse     bool
	silent, open    bool
	since           int64
	failures        int
	alarm, review   int64
	route           []*mResp
	best            *mResp
	late            []*mResp
	attempt         int // serial number, zero for none
	urgent, again   bool
	forced, planned int64
	deferred, polls int64
	left, ends      int64
	todo            []*mResp // not asked yet in this attempt, in order
	wasAsked, fault bool
	tried           bool // somebody was asked since the last success
	hint            int64
	probe, queue    *mResp
	postponed       *mResp // what it was the probe of, until it was deferred
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
	forced  int64
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
	m := mAct{kind: a.Kind, item: a.Item, budget: a.Budget, urgent: a.Kind == Prepare && a.Urgency > Routine, from: a.From, to: a.To}
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
	m.calls++
	back := m.now - now
	if back >= overslept || -back >= overslept {
		m.now = now
		counted := int64(0)
		if back < 0 {
			counted = min(-back, 15*minute)
		}
		for _, it := range m.items {
			if it.phase == Gone {
				continue
			}
			if it.since != 0 {
				it.since -= back + counted
			}
			if it.deadline != 0 {
				it.deadline = min(it.deadline-back, m.deadline(it))
			}
		}
		for _, r := range m.resps {
			if r.since != 0 {
				r.since -= back + counted
			}
			if r.worked != 0 {
				r.worked -= back + counted
			}
		}
	}
	if back <= second {
		m.now = max(m.now, now)
		return
	}
	m.now = now
	for _, it := range m.items {
		if it.phase == Gone || it.review == 0 {
			continue
		}
		it.since = min(it.since, now)
		if it.review = min(it.review, now+reviewAgain); !it.inUse {
			it.review = now
		}
		if it.attempt != 0 {
			it.ends -= back
			it.deferred = min(it.deferred, now)
			it.planned -= min(back, it.planned)
		}
		if it.alarm == Never {
			m.setAlarm(it)
		} else if it.alarm < it.until {
			it.alarm = min(it.alarm, m.now+(it.until-m.now)/2)
		}
		if it.phase == StandingBy {
			it.turn = min(it.turn, m.now+(m.now-it.since)/16)
		}
		ahead, again := it.open && it.until-it.length > now+clockSkew, it.phase == Resting && it.need == LeafExpired || back > minute && it.length > 0 && (it.need == None || it.need == Hopeless)
		switch {
		case it.phase == Planned && again: // below
		case it.phase == Planned && ahead:
			m.prepare(it, Routine)
		case it.due != Never:
			it.due -= back
		}
		if (it.phase == Resting || it.phase == Planned) && again {
			m.prepare(it, Routine)
		}
	}
	for _, r := range m.resps {
		for _, done := range []*int64{&r.since, &r.worked, &r.last, &r.cut, &r.quick, &r.probed} {
			*done = min(*done, now)
		}
		r.probeAt -= back
	}
	for _, h := range m.hosts {
		h.probed = min(h.probed, now)
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
