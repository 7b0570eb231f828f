package schedule

import (
	"slices"
	"time"
)

const (
	// attemptTime is how long an attempt may take over all responders: a CA
	// answers within 10 s (CA/B Forum baseline requirements, 4.10.2).
	attemptTime = 10 * second
	// stagger is how long after one responder the next is asked beside it,
	// urgentStagger where somebody waits: RFC 8305 for responders.
	stagger       = 2 * second
	urgentStagger = int64(time.Second)
)

// place returns where r is in the route of the item, -1 if it is not.
func (it *Item[T]) place(r *Responder[T]) int {
	for i, other := range it.route.responders() {
		if other == r {
			return i
		}
	}
	return -1
}

// order returns in which order to ask the responders of the route, by their
// places: the one that this attempt is to probe, the one that answered last,
// others, those that timed out last.
func (it *Item[T]) order() (order [MaxRoute]uint8) {
	n := 0
	for rank := range 4 {
		for i, r := range it.route.all {
			is := 2
			switch {
			case it.at.probe == r:
				is = 0
			case it.late&(1<<i) != 0:
				is = 3
			case it.best == r:
				is = 1
			}
			if is == rank {
				order[n] = uint8(i)
				n++
			}
		}
	}
	return order
}

// setRoute has t go by keys.
func (s *Schedule[T]) setRoute(t T, keys []Key) {
	it := t.item()
	keys = keys[:min(len(keys), MaxRoute)]
	if it.route.matches(keys) {
		return
	}
	if at := it.at; at != nil && at.probe != nil {
		s.unprobe(at, false)
	}
	old := it.route
	it.route, it.late = s.known.route(keys), 0
	if it.place(it.best) < 0 {
		it.best = nil
	}
	if old != nil {
		for _, r := range old.all {
			r.failed = slices.DeleteFunc(r.failed, func(o T) bool { return o == t })
		}
		s.known.leave(old)
		for _, r := range old.all {
			s.wake(r.host)
		}
	}
}

// prepare begins an attempt, or goes on with one.
func (s *Schedule[T]) prepare(t T, u Urgency) {
	s.move(t, Preparing, Never)
	at := t.item().at
	at.urgent = at.urgent || u > Routine
	if u == Forced {
		at.forced = s.now
	}
	s.act(Action[T]{Kind: Prepare, Item: t, Urgent: at.urgent})
}

// deferred has t wait for what the holder of the lease will store, or reports
// that it waited long enough: the holder may be cut off from the responder.
func (s *Schedule[T]) deferred(t T) bool {
	it := t.item()
	at, failures := it.at, int(it.failures)
	if at.deferred == 0 {
		at.deferred = s.now
	}
	left := at.deferred + it.patience(at.deferred, failures) - s.now
	if left < MinGap {
		return false
	}
	pause := it.poll(s.now, left, at.polls, failures, s.rand)
	at.polls++
	s.move(t, Deferred, s.now+pause)
	return true
}

// advance has the next responder asked about t: beside those that are being
// asked, or from the queue in which t waits, if it has a place; else t waits in
// its queue. If nobody is left the attempt has failed.
func (s *Schedule[T]) advance(t T) {
	it := t.item()
	at := it.at
	beside := s.beside(t)
	switch {
	case at.out > 0 && (beside == nil || at.ends-s.now < second):
		s.move(t, Asking, s.step(t))
		return
	case beside != nil && (at.out > 0 || it.phase == Queued):
		s.ask(t, beside)
		return
	case it.phase == Queued && s.usable(at.queue, at):
		s.move(t, Queued, s.step(t))
		return
	case it.phase == Asking:
		at.left = at.ends - s.now
	}
	at.next = s.first(t)
	if at.next == nil || at.left < second {
		s.fail(t)
		return
	}
	s.move(t, Queued, s.step(t))
}

// usable reports whether r is asked in an attempt.
func (s *Schedule[T]) usable(r *Responder[T], at *attempt[T]) bool {
	return !r.failing || at.probe == r
}

// first returns the first responder to be asked still, nil for none. Those that
// fail come last, if at all.
func (s *Schedule[T]) first(t T) *Responder[T] {
	it := t.item()
	for _, i := range it.at.order[:len(it.route.all)] {
		if r := it.route.all[i]; it.at.states[i] == unasked && s.usable(r, it.at) {
			return r
		}
	}
	for _, i := range it.at.order[:len(it.route.all)] {
		if r := it.route.all[i]; it.at.states[i] == unasked && s.mayAsk(r, it.at) {
			return r
		}
	}
	return nil
}

// beside returns the next responder that may be asked without waiting, nil for
// none.
func (s *Schedule[T]) beside(t T) *Responder[T] {
	it := t.item()
	for _, i := range it.at.order[:len(it.route.all)] {
		if r := it.route.all[i]; it.at.states[i] == unasked && !r.failing && s.places.room(r) {
			return r
		}
	}
	return nil
}

// step returns when to have a look at the next responder.
func (s *Schedule[T]) step(t T) int64 {
	it := t.item()
	at, next := it.at, s.now+stagger
	if at.urgent {
		next = s.now + urgentStagger
	}
	if at.out > 0 && next+second > at.ends {
		return Never // there is no time for it
	}
	for _, i := range at.order[:len(it.route.all)] {
		if r := it.route.all[i]; at.states[i] == unasked && !r.failing && r != at.next {
			return next
		}
	}
	return Never
}

func (s *Schedule[T]) enqueue(t T, r *Responder[T]) {
	it := t.item()
	it.at.queue = r
	if it.at.deadline == 0 {
		it.at.deadline = it.queueUntil(s.now)
	}
	r.queue.set(t, it.at.deadline)
	s.places.update(r)
}

// ask asks r about t. It may take what is left of the attempt's time.
func (s *Schedule[T]) ask(t T, r *Responder[T]) {
	it := t.item()
	at := it.at
	if at.out == 0 {
		at.ends = s.now + at.left
	}
	at.out++
	at.states[it.place(r)], at.asked, at.next = asking, true, nil
	s.places.take(r)
	s.move(t, Asking, s.step(t))
	budget := min(at.ends-s.now, it.affords(s.now))
	s.act(Action[T]{Kind: Ask, Item: t, Responder: r, Budget: budget, attempt: at, sent: s.now})
}

// free has a place at r back.
func (s *Schedule[T]) free(r *Responder[T]) {
	s.places.free(r)
	s.known.forget(r)
}

// settle has the outcome of a decide how t goes on.
func (s *Schedule[T]) settle(a Action[T], o Outcome) {
	t, r := a.Item, a.Responder
	it := t.item()
	if it.phase == Gone {
		return
	}
	at, i := it.at, it.place(r)
	mine := at != nil && at == a.attempt
	if mine {
		at.out--
		at.states[i] = answered
	}
	switch {
	case i < 0:
	case o.Verdict == TimedOut:
		it.late |= 1 << i
	case o.Verdict == Proof:
		it.late &^= 1 << i
	}
	switch {
	case o.Verdict == Proof && (mine || it.need == Wanted && set(Planned, Deferred, StandingBy).has(it.phase)):
		s.succeed(t, o.Held, r)
	case o.Verdict == Proof: // an attempt that is under way goes on
		s.recovered(t, o.Held)
	case mine:
		at.fault = at.fault || o.Verdict == Fault || o.Verdict == TimedOut
		at.hint = max(at.hint, o.RetryAfter)
		s.advance(t)
	}
}

// recovered forgets what failed.
func (s *Schedule[T]) recovered(t T, h Held) {
	it := t.item()
	it.since, it.failures = 0, 0
	s.hold(t, h)
}

// succeed ends an attempt with a response, from r or from elsewhere.
func (s *Schedule[T]) succeed(t T, h Held, r *Responder[T]) {
	it := t.item()
	s.recovered(t, h)
	if r != nil && it.place(r) >= 0 {
		it.best = r
	}
	from, to := h.Window(s.config.TTL, s.config.FixedTTL)
	from = max(from, s.now+MinGap)
	s.finish(t, Planned, it.byExpiry(from+s.rand.below(to-from), s.now, s.rand))
}

// fail ends an attempt that brought nothing. Where all responders fail the item
// stands by.
func (s *Schedule[T]) fail(t T) {
	it := t.item()
	at, failing := it.at, it.route.failing()
	if it.failures++; it.since == 0 {
		it.since = s.now
		s.setAlarm(t)
	}
	if failing > 0 && failing == len(it.route.all) && it.need == Wanted {
		s.act(Action[T]{Kind: Failed, Item: t, Responder: it.route.all[0]})
		s.finish(t, StandingBy, Never)
		return
	}
	s.act(Action[T]{Kind: Failed, Item: t})
	s.finish(t, Planned, it.retry(s.now, at.fault || failing > 0, at.hint, s.rand))
}

// retry returns when to make the next attempt after one that failed.
func (it *Item[T]) retry(now int64, fault bool, hint int64, r random) int64 {
	pause := r.pause(now-it.since, it.bound(now, !fault), hint)
	return it.byExpiry(now+pause, now, r)
}

// finish ends an attempt. Another follows at once if somebody asked for it.
func (s *Schedule[T]) finish(t T, to Phase, due int64) {
	at := t.item().at
	again := at != nil && at.again
	s.move(t, to, due)
	if again {
		s.prepare(t, Forced)
	}
}
