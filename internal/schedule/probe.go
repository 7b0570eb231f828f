package schedule

import (
	"cmp"
	"slices"
)

// A responder that fails is asked by one probe at a time, for all of its items:
// a hundred certificates cost what one costs. Those that fail at one host share
// two probes a minute. A probe is an attempt of one item, as any other. It uses the
// backoff of the responder, and not that of the item.

const (
	// probesApart is the time between two probes of a host, if several of its
	// responders fail.
	probesApart = minute / 2
	// probedLately is how soon a probe is not worth repeating because another
	// responder of the host recovered. One that flaps would have all others probed
	// each time.
	probedLately = 10 * second
)

// judge counts the outcome of a for or against its responder. An answer about the
// certificate shows that the responder works, but proves nothing.
func (s *Schedule[T]) judge(a Action[T], o Outcome) {
	r := a.Responder
	switch o.Verdict {
	case Proof:
		s.places.prove(r)
		s.works(r)
	case Certificate:
		s.works(r)
	case Fault, TimedOut:
		s.fault(a, o.RetryAfter)
	case Nothing:
		if a.attempt.probe == r {
			s.unprobe(a.attempt)
		}
	}
}

// works notes that r answered. If it failed before, that ends the outage: all its
// items are prepared, and other failing responders of the host are probed. The answer
// says nothing of the certificates that failed in the outage: worked stays.
func (s *Schedule[T]) works(r *Responder[T]) {
	r.failed, r.since = r.failed[:0], 0
	if !r.failing {
		r.worked = s.now
		return
	}
	r.probeAt = 0
	s.reopen(r)
	s.act(Action[T]{Kind: Recovers, Responder: r})
	// Its host is back, so others there may be.
	for _, other := range slices.Clone(r.host.failing) {
		if other.probe == nil && other.standing.len() > 0 && s.now-other.probed >= probedLately {
			s.startProbe(other)
		}
	}
}

// fault counts a failure of r. It fails when the last certificates, or all that
// it has, failed. A certificate that fails again does not count again, and not at
// all if others succeeded since it began to fail: then it may be the reason itself.
// Without that, thirty such among a hundred open the breaker 6,912 times in five days.
func (s *Schedule[T]) fault(a Action[T], hint int64) {
	r, t := a.Responder, a.Item
	r.hint = hint
	switch {
	case a.attempt.probe == r:
		a.attempt.probe, r.probe = nil, nil
		s.planProbe(r)
	case len(r.failed) < failsAfter && (t.item().since == 0 || t.item().since >= r.worked):
		if r.since == 0 {
			r.since = s.now
			if since := t.item().since; since != 0 && !r.proven { // a route that changes begins no outage anew
				r.since = max(since, s.now-minute)
			}
		}
		if t.item().phase != Gone && !slices.Contains(r.failed, t) {
			r.failed = append(r.failed, t)
		}
		switch {
		case r.failing && len(r.failed) == failsAfter:
			s.turnAway(r)
		case !r.failing && len(r.failed) >= min(failsAfter, r.certs) && r.certs > 0:
			s.breaks(r)
		}
	}
	if r.failing && a.attempt.forced > 0 { // Prefetch promises a second between two attempts
		r.probeAt = max(r.probeAt, s.now+min(second, r.bound))
		s.wake(r)
	}
}

// breaks marks r as failing: from now on it is probed only.
func (s *Schedule[T]) breaks(r *Responder[T]) {
	r.marked = s.calls
	r.fails(true)
	before := r.probeAt
	s.planProbe(r)
	if before > s.now { // a forced attempt delays no planned probe
		r.probeAt = min(r.probeAt, before)
		s.wake(r)
	}
	s.act(Action[T]{Kind: Fails, Responder: r})
	s.turnAway(r)
}

// turnAway empties the queue of r, in its order: each item is asked about at its next
// responder, or is StandingBy if all fail. If they stayed, a thousand new certificates
// would cost a thousand requests to a responder that fails.
func (s *Schedule[T]) turnAway(r *Responder[T]) {
	waiting := slices.Clone(r.queue.nodes)
	slices.SortFunc(waiting, func(a, b node[T]) int { return cmp.Compare(a.key, b.key) })
	for _, n := range waiting {
		s.advance(n.of)
	}
}

// reopen ends the failure of r. All its items that are StandingBy are prepared: their
// certificates may have expired meanwhile, or the store may have a response.
func (s *Schedule[T]) reopen(r *Responder[T]) {
	r.fails(false)
	r.failed, r.limit = r.failed[:0], max(r.limit, s.places.limits.First)
	if r.probe != nil {
		r.probe.probe, r.probe = nil, nil
	}
	begun := len(s.actions)
	for r.standing.len() > 0 {
		s.prepare(r.standing.last(), Routine) // the last is quick to take out
	}
	slices.Reverse(s.actions[begun:]) // the first in the queue for probes goes first
	s.places.update(r)
	s.wake(r)
}

// mayAsk reports whether r, which fails, is asked about an item that is not its probe.
// There are four cases. The attempt was forced after r began to fail: then r counts
// as working until it has failed for five again. Or r failed for all its
// certificates, fewer than five, and this one is new. Or a probe is due and no item
// is StandingBy to make it: then this attempt is the probe. Or it was the probe, and waited
// for another process that has the lease: else a store that denies leases ends all probes.
func (s *Schedule[T]) mayAsk(r *Responder[T], it *Item[T]) bool {
	at := it.at
	if at.forced >= r.marked {
		s.reopen(r)
		return true
	}
	if it.failures == 0 && len(r.failed) < failsAfter {
		return true
	}
	due := !r.active() && r.probeAt <= s.now && !r.host.crowded()
	if at.probe != nil || !due && (at.postponed != r || r.probe != nil) {
		return false
	}
	s.tie(r, at)
	return true
}

// tie makes an attempt the probe of r, and of no other.
func (s *Schedule[T]) tie(r *Responder[T], at *attempt[T]) {
	r.probe, at.probe, at.postponed = at, r, nil
	r.probed, r.host.probed = s.now, s.now
	s.wake(r)
}

// startProbe prepares the first item in the queue for probes of r, and makes its
// attempt the probe: see Item.turn for the order.
func (s *Schedule[T]) startProbe(r *Responder[T]) {
	t := r.standing.first()
	s.prepare(t, Urgent)
	s.tie(r, t.item().at)
}

// unprobe ends a probe that brought nothing, so that the next in line is it: at once if nobody
// was asked, nor left to another process, which has the lease.
func (s *Schedule[T]) unprobe(at *attempt[T]) {
	r := at.probe
	at.probe, r.probe = nil, nil
	if at.asked || at.postponed == r {
		s.planProbe(r)
		return
	}
	r.probeAt = s.now
	s.wake(r)
}

// planProbe plans the next probe of r after a failure: after the shortest pause
// that any of its waiting items can afford. It looks at all of them, which is
// cheap beside a request.
func (s *Schedule[T]) planProbe(r *Responder[T]) {
	r.last, r.bound = s.now, longest[0][2]
	for _, n := range r.standing.nodes {
		r.bound = min(r.bound, n.of.item().bound(s.now, false))
	}
	r.probeAt = s.now + s.rand.pause(s.now-r.since, r.bound, r.hint)
	s.wake(r)
}

// standBy queues t for the probes of all its responders. If it was not asked about
// yet and holds no response, the next probe comes within a minute of the last: the
// items in the queue may all be ones that no responder has a response for. An item
// that holds a response brings no probe forward: a thousand that come due in an
// outage would cost a probe a minute.
func (s *Schedule[T]) standBy(t T, turn int64, untried bool) {
	for _, r := range t.item().responders() {
		r.standing.set(t, turn)
		if untried {
			r.probeAt = min(r.probeAt, max(s.now, r.last+minute))
		}
		s.wake(r)
	}
	s.hasten(t)
}

// hasten brings the next retry or probe forward where t can wait less than when that
// was planned: its certificate came into use again.
func (s *Schedule[T]) hasten(t T) {
	it := t.item()
	switch {
	case it.phase == Planned && it.since != 0:
		s.move(t, Planned, min(it.Due(), it.retry(s.now, true, 0, s.rand)))
	case it.phase == StandingBy:
		for _, r := range it.responders() {
			if b := it.bound(s.now, false); b < r.bound {
				r.bound = b
				r.probeAt = min(r.probeAt, max(s.now, r.last+s.rand.pause(s.now-r.since, b, r.hint)))
				s.wake(r)
			}
		}
	}
}

// crowded reports whether several responders of h fail and are probed.
func (h *host[T]) crowded() bool { return h.active > 1 }

// wake plans when the next responder of r's host is probed, after a change of r. Those of
// one host get two probes a minute together.
func (s *Schedule[T]) wake(r *Responder[T]) {
	h, at, active := r.host, Never, r.active()
	if active != r.counted {
		r.counted = active
		if active {
			h.active++
		} else {
			h.active--
		}
	}
	if active && r.probe == nil {
		at = r.probeAt
	}
	h.due.set(r, at)
	if at = h.due.key(); h.crowded() {
		at = max(at, h.probed+probesApart)
	}
	s.probes.set(h, at)
}

// probeOne probes one of the failing responders of h: the one that has been due
// longest, alternating between those that proved something before and those that did
// not. Anybody's certificates may name any number of the latter.
func (s *Schedule[T]) probeOne(h *host[T]) {
	var next *Responder[T]
	for _, r := range h.failing {
		if r.probe != nil || r.standing.len() == 0 || r.probeAt > s.now {
			continue
		}
		if next == nil || r.proven == next.proven && r.probeAt < next.probeAt || r.proven != next.proven && r.proven == h.proven {
			next = r
		}
	}
	h.proven = !next.proven
	s.startProbe(next)
}
