package schedule

import "slices"

// The steps of an attempt: prepare has the driver look at the item, Prepared takes
// what it found and has advance choose the first responder; ask sends the
// request once there is a place; settle takes the answer, and advance the next
// responder, until succeed or fail ends it and plans the next attempt.

const (
	// attemptTime is how long an attempt may take over all responders: a CA
	// answers within 10 s (CA/B Forum baseline requirements, 4.10.2).
	attemptTime = 10 * second
	// stagger is how long after one responder the next is asked beside it,
	// urgentStagger where somebody waits: RFC 8305 for responders.
	stagger       = 2 * second
	urgentStagger = second
)

// rank orders the responders of an item: the one that this attempt is to probe,
// the one that answered last, others, those that timed out last.
func (it *Item[T]) rank(r *Responder[T]) int {
	switch {
	case it.at.probe == r:
		return 0
	case it.late&(1<<it.place(r)) != 0:
		return 3
	case it.best > 0 && it.Best() == r:
		return 1
	}
	return 2
}

// order returns the responders of an item in the order in which to ask them.
func (it *Item[T]) order() []*Responder[T] {
	return slices.SortedStableFunc(slices.Values(it.responders()), func(a, b *Responder[T]) int { return it.rank(a) - it.rank(b) })
}

// setRoute sets the responders of t. Each attempt sets them, as the configuration
// may name others; mostly they are the same. A responder that t no longer names forgets
// its failure for t, and is dropped if no other item names it.
func (s *Schedule[T]) setRoute(t T, keys []Key) {
	it := t.item()
	old, best := it.responders(), it.Best()
	if it.route = s.route(keys); !slices.Equal(it.responders(), old) {
		it.late = 0
		if it.best > 0 {
			it.best = uint8(it.place(best) + 1)
		}
		if it.at != nil && it.at.probe != nil {
			s.unprobe(it.at)
		}
	}
	for _, r := range old {
		r.certs--
		if it.place(r) < 0 {
			r.failed = slices.DeleteFunc(r.failed, func(o T) bool { return o == t })
			s.forget(r)
			s.wake(r)
		}
	}
}

// prepare begins an attempt. One that was deferred goes on, and keeps its polls; so
// does that of an item that was StandingBy.
func (s *Schedule[T]) prepare(t T, u Urgency) {
	planned := Never
	if t.item().phase == Planned {
		planned = t.item().Due()
	}
	s.move(t, Preparing, Never)
	at := t.item().at
	at.urgency = max(at.urgency, u)
	if u >= at.again { // this attempt is the one that was wanted
		at.again = Routine
	}
	if u >= Forced {
		at.forced, at.planned = s.calls, planned
	}
	s.act(Action[T]{Kind: Prepare, Item: t, Urgency: at.urgency})
}

// deferred has t wait for what the holder of the lease will store, or reports
// that it waited long enough: the holder may be cut off from the responder.
func (s *Schedule[T]) deferred(t T) bool {
	it := t.item()
	at, failures := it.at, int(it.failures)
	if at.forced > 0 { // a call waits
		failures = 0
	}
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
	beside := s.beside(at)
	switch {
	case at.out > 0 && (beside == nil || at.ends-s.now < second):
		s.move(t, Asking, s.step(at))
		return
	case beside != nil && (at.out > 0 || it.phase == Queued):
		s.ask(t, beside)
		return
	case it.phase == Queued && usable(at.queue, at):
		at.next = at.another()
		s.move(t, Queued, s.step(at))
		return
	case it.phase == Asking:
		at.left = at.ends - s.now
	}
	at.next = s.first(it)
	if at.next == nil || at.left < second {
		s.fail(t)
		return
	}
	s.move(t, Queued, s.step(at))
}

// usable reports whether r is asked in an attempt: it does not fail, or the attempt
// is its probe.
func usable[T any](r *Responder[T], at *attempt[T]) bool { return !r.failing || at.probe == r }

// first returns the first responder to be asked still, nil for none. Those that
// fail come last, if at all.
func (s *Schedule[T]) first(it *Item[T]) *Responder[T] {
	at := it.at
	for _, r := range at.todo {
		if usable(r, at) {
			return r
		}
	}
	for _, r := range at.todo {
		if s.mayAsk(r, it) {
			return r
		}
	}
	return nil
}

// beside returns the next responder that may be asked without waiting, nil for
// none.
func (s *Schedule[T]) beside(at *attempt[T]) *Responder[T] {
	for _, r := range at.todo {
		if !r.failing && s.places.room(r) {
			return r
		}
	}
	return nil
}

// another returns the next responder to wait at instead of the one in whose queue the
// item has waited for a while, which may have no place for long: the same one, if
// there is no other that works.
func (at *attempt[T]) another() *Responder[T] {
	i := slices.Index(at.todo, at.queue)
	for n := range at.todo {
		if r := at.todo[(i+1+n)%len(at.todo)]; !r.failing {
			return r
		}
	}
	return at.queue
}

// step returns when to have a look at the next responder, Never if there is none
// or no time for it. It is not tied to an answer: one that never comes must not
// keep the next from being asked.
func (s *Schedule[T]) step(at *attempt[T]) int64 {
	next := s.now + stagger
	if at.urgency > Routine {
		next = s.now + urgentStagger
	}
	if at.out > 0 && next+second > at.ends || !slices.ContainsFunc(at.todo, func(r *Responder[T]) bool { return !r.failing && r != at.next }) {
		return Never
	}
	return next
}

// enqueue has t wait for a place at r.
func (s *Schedule[T]) enqueue(t T, r *Responder[T]) {
	it := t.item()
	it.at.queue = r
	if it.at.deadline == 0 {
		it.at.deadline = it.queueUntil(s.now)
	}
	r.queue.set(t, it.at.deadline)
	s.places.update(r)
}

// ask asks r about t. It may take what is left of the attempt's time: dividing
// that among the responders would starve a slow one for ever.
func (s *Schedule[T]) ask(t T, r *Responder[T]) {
	it := t.item()
	at := it.at
	if at.out == 0 {
		at.ends = s.now + at.left
	}
	at.out++
	it.tried, at.asked, at.next = true, true, nil
	at.todo = slices.DeleteFunc(at.todo, func(o *Responder[T]) bool { return o == r })
	s.places.take(r)
	s.move(t, Asking, s.step(at))
	budget := min(at.ends-s.now, it.affords(s.now))
	s.act(Action[T]{Kind: Ask, Item: t, Responder: r, Budget: budget, Urgency: at.urgency, attempt: at, sent: s.now})
}

// free releases a place at r. It also drops r if no certificate names it any more.
func (s *Schedule[T]) free(r *Responder[T]) {
	s.places.free(r)
	s.forget(r)
}

// settle has the outcome of a decide how t goes on. The answer may belong to an
// attempt that has ended: only a proof matters then.
func (s *Schedule[T]) settle(a Action[T], o Outcome) {
	t, r := a.Item, a.Responder
	it := t.item()
	if it.phase == Gone {
		return
	}
	at, i, mine := it.at, it.place(r), !s.Late(a)
	if mine {
		at.out--
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

// recovered resets the backoff of t, as there is a response.
func (s *Schedule[T]) recovered(t T, h Held) {
	it := t.item()
	it.since, it.failures, it.tried = 0, 0, false
	s.hold(t, h)
}

// succeed ends an attempt with a response, from r or from elsewhere, and plans
// the refresh at a random time in its window.
func (s *Schedule[T]) succeed(t T, h Held, r *Responder[T]) {
	it := t.item()
	s.recovered(t, h)
	if i := it.place(r); i >= 0 {
		it.best = uint8(i + 1)
	}
	s.finish(t, Planned, s.refresh(it, h))
}

// refresh returns when to ask again where h is held: at a random time in its window.
func (s *Schedule[T]) refresh(it *Item[T], h Held) int64 {
	from, to := h.Window(s.config.TTL, s.config.FixedTTL)
	from = max(from, s.now+refreshGap)
	return it.byExpiry(from+s.rand.below(to-from), s.now, s.rand)
}

// fail ends an attempt that brought nothing. The response held stays. Where all
// responders fail the item is StandingBy, and makes no request until it is the probe
// or a responder recovers.
func (s *Schedule[T]) fail(t T) {
	it := t.item()
	at, failing, all := it.at, 0, it.responders()
	for _, r := range all {
		if r.failing {
			failing++
		}
	}
	if it.failures++; it.since == 0 {
		it.since = s.now
		s.setAlarm(t)
	}
	if failing > 0 && failing == len(all) && it.need == Wanted {
		s.act(Action[T]{Kind: Failed, Item: t, Responder: all[0], Urgency: at.urgency})
		s.finish(t, StandingBy, Never)
		return
	}
	s.act(Action[T]{Kind: Failed, Item: t, Urgency: at.urgency})
	due := it.retry(s.now, at.fault || failing > 0, at.hint, s.rand)
	if at.planned > s.now { // a forced attempt delays no planned one
		due = min(due, at.planned)
	}
	if at.forced > 0 { // Prefetch promises a second between two attempts
		due = max(due, s.now+min(second, it.bound(s.now, false)))
	}
	s.finish(t, Planned, due)
}

// retry returns when to make the next attempt after one that failed. fault: a
// responder is to blame, and not the certificate.
func (it *Item[T]) retry(now int64, fault bool, hint int64, r random) int64 {
	pause := r.pause(now-it.since, it.bound(now, !fault), hint)
	return it.byExpiry(now+pause, now, r)
}

// finish ends an attempt. Another follows at once if a call forced one while it was
// under way: its response may have been made before the call.
func (s *Schedule[T]) finish(t T, to Phase, due int64) {
	at := t.item().at
	again := Routine
	if at != nil {
		again = at.again
	}
	s.move(t, to, due)
	if again > Routine {
		s.prepare(t, again)
	}
}
