package schedule

const (
	// maxSleep bounds the driver's one timer: timers run on the monotonic clock,
	// which stops in suspend and knows nothing of clock steps.
	maxSleep = minute
	// overslept is how late something is if the timer cannot have been awake, or
	// the clock leapt.
	overslept = maxSleep + maxSleep/2
	// maxBatch is for how many items a Run does what is due. The next one goes on:
	// the driver's lock must not be held for seconds where a million are due.
	maxBatch = 1000
	// reviewAgain is when a review is repeated that the driver did not answer.
	reviewAgain = hour
)

// Next returns when Run is to be called next, a minute after now at the latest; Never
// if there is nothing to do.
func (s *Schedule[T]) Next(now int64) int64 {
	next := min(s.items.key(), s.probes.key())
	if next == Never {
		return Never
	}
	return min(next, now+maxSleep)
}

// Run does what is due. Call it when Next says, which may be at once, and when a
// handshake finds that an item is past due.
func (s *Schedule[T]) Run(now int64) []Action[T] {
	s.begin(now)
	for n := 0; n < maxBatch && s.items.key() <= s.now; n++ {
		s.fire(s.items.first())
	}
	for s.probes.key() <= s.now {
		s.probeOne(s.probes.first())
	}
	return s.end()
}

// fire does what is due for t: a review, an alarm, the next step of an attempt.
// Afterwards nothing is due, so Run ends.
func (s *Schedule[T]) fire(t T) {
	it := t.item()
	if it.review != 0 && it.review <= s.now {
		s.act(Action[T]{Kind: Review, Item: t, Overslept: s.now-it.review >= overslept})
		it.review = s.now + reviewAgain
	}
	switch {
	case it.alarm == 0 || it.alarm > s.now:
	case it.current(s.now):
		it.alarm = it.until
		s.act(Action[T]{Kind: Expiring, Item: t})
	default:
		it.alarm = Never
		s.act(Action[T]{Kind: Expired, Item: t})
	}
	switch due := it.Due(); {
	case due > s.now:
	case it.phase == Planned && s.now-due >= overslept && it.current(s.now):
		// After a suspend all items are due at once. Those that can wait are spread.
		wait := 1 + s.rand.below(min((it.until-s.now)/8, hour/4))
		s.move(t, Planned, s.now+wait)
	case it.phase == Queued || it.phase == Asking:
		s.advance(t)
	default:
		s.prepare(t, Routine)
	}
	s.items.set(t, it.wake())
}

// leap follows a clock that leapt, as in a suspend: nothing was tried meanwhile, so it is
// no time that anything failed for, which pauses go by, or waited in a queue. A quarter of
// an hour counts, or a process that is mostly frozen would try at each awakening.
func (s *Schedule[T]) leap(by int64) {
	uncounted := min(by, max(by-hour/4, 0))
	for _, n := range s.items.nodes {
		it := n.of.item()
		if it.since != 0 {
			it.since += uncounted
		}
		if at := it.at; at != nil && at.deadline != 0 {
			at.deadline = min(at.deadline+by, it.queueUntil(s.now))
			if at.queue != nil {
				at.queue.queue.set(n.of, at.deadline)
				s.places.update(at.queue)
			}
		}
	}
	for _, r := range s.responders {
		for _, at := range []*int64{&r.since, &r.worked} {
			if *at != 0 {
				*at += uncounted
			}
		}
	}
}

// shift follows a clock that was set back. Without this, what was due in an hour
// would be due in an hour and the step, and what had expired by the wrong clock
// would stay so. Limits of responses are wall time and stay. Due times move along, and no
// time of what was done is after now: the clock may only have been ahead for a moment.
func (s *Schedule[T]) shift(back int64) {
	all := make([]T, len(s.items.nodes))
	for i, n := range s.items.nodes {
		all[i] = n.of
	}
	for _, t := range all {
		it := t.item()
		it.since = min(it.since, s.now)
		switch {
		case it.review == 0:
		case it.inUse:
			it.review = min(it.review, s.now+reviewAgain)
		default: // it may be in use by the right clock
			it.review = s.now
		}
		if at := it.at; at != nil {
			at.ends -= back
			at.planned, at.deferred = at.planned-min(back, at.planned), min(at.deferred, s.now)
		}
		switch {
		case it.alarm == Never:
			s.setAlarm(t) // what had expired by the wrong clock may be current
		case it.alarm < it.until: // Expiring is to come
			it.alarm = min(it.alarm, s.now+(it.until-s.now)/2)
		}
		if it.phase == StandingBy { // nobody is the last in turn until then
			for i, r := range it.responders() {
				key := r.standing.nodes[it.at.stands[i]-1].key
				r.standing.set(t, min(key, it.turnAgain(s.now)))
			}
		}
		switch due := it.Due(); {
		case it.phase == Resting && it.need == LeafExpired:
			s.prepare(t, Routine)
		case back > minute && set(Resting, Planned).has(it.phase) && it.validity > 0 && (it.need == None || it.need == Hopeless):
			s.prepare(t, Routine) // what it held may be valid still
		case it.phase == Planned && it.open && it.until-it.length() > s.now+clockSkew:
			s.prepare(t, Routine) // it was received by the wrong clock, and is not served
		case due != Never:
			s.move(t, it.phase, due-back)
		default:
			s.items.set(t, it.wake())
		}
	}
	for _, h := range s.hosts {
		h.probed = min(h.probed, s.now)
	}
	for _, r := range s.responders {
		r.since, r.worked, r.last, r.probed = min(r.since, s.now), min(r.worked, s.now), min(r.last, s.now), min(r.probed, s.now)
		r.cut, r.quick = min(r.cut, s.now), min(r.quick, s.now)
		r.probeAt -= back
		s.wake(r)
	}
}
