// Package schedule decides which responder is asked about which certificate, and
// when: refreshes, retries, backoff, probes of responders that fail.
//
// It is a data structure, without goroutines, clock, context or I/O. A driver (the
// root's fetch.go) reports what happened; each call returns actions for the driver
// to do, and changes nothing else. Times are Unix ns of the wall clock, given with
// each call, spans are ns. A [Schedule], its items and responders are guarded by one
// lock of the driver's, but for [Item.Due]. Actions are done without the lock.
//
// It never decides what a response is worth, nor what an error means: the driver
// reports a [Verdict]. It keeps no response: a [Held] has the times of one.
//
// # The life of an item
//
// [Schedule.Start] has it prepared. The driver reads the certificate, the store,
// the lease and reports by [Schedule.Prepared]. The item then waits for a place at
// its first responder, is asked about there and, where that takes long or fails,
// at the next ones. [Schedule.Answered] reports each answer. The first proof ends
// the attempt and plans the refresh. Where none comes the attempt has failed, and
// the next one is planned. [Schedule.Run] starts what is due.
//
//	Resting -> Preparing -> Queued -> Asking -> Planned -> Preparing ...
//
// From Preparing an item may go back to Resting (nothing is needed) or Planned (the
// store had a response), or be Deferred (another process asks). Where all its
// responders fail it is StandingBy. One function, move, changes the phase.
//
// # Responders that fail
//
// A responder fails when the last five certificates, or all that it has, failed by
// its fault: a circuit breaker. From then on its items are StandingBy, and the
// attempt of one at a time is the probe. It is prepared and asked about as any other.
// When a probe, or a late answer, shows that the responder works, all are prepared.
// A hundred certificates cost the requests of one (REQ E12).
//
// # Pauses
//
// One formula, random.pause, says how long to wait after a failure, of an item or a
// responder. What an item can afford bounds it: stakes.bound.
//
// # Limits
//
// At each responder, at each host and in all there are places for requests:
// [Limits]. The item with the earliest deadline gets the next one. A responder's own
// limit adapts to how it answers.
//
// # Reading order
//
// phase.go has the states, schedule.go the calls of the driver and move. attempt.go
// is one attempt from beginning to end, run.go what the clock starts. window.go and
// pause.go are the formulas, without state. probe.go has responders that fail,
// places.go the limits, responder.go and item.go what is kept, heap.go the queues.
//
// TestModel drives it with random events and compares it with a plain model after
// each; planted_test.go shows that the model finds faults.
package schedule

// Config says what a Schedule goes by.
type Config struct {
	// TTL is how long a response is used before it is refreshed, and FixedTTL
	// whether the user chose it: see Held.Window.
	TTL      int64
	FixedTTL bool
	// Rand returns a random number in [0, n), n being positive.
	Rand func(n int64) int64
	// Limits are the default ones if they are zero.
	Limits Limits
}

// A Schedule holds all items and the responders that they name. T is the driver's
// pointer to a certificate.
type Schedule[T Holder[T]] struct {
	config     Config
	rand       random
	now        int64          // of the last call, or of one before: it never runs back
	calls      int64          // so far: orders what happened at the same time
	actions    []Action[T]    // of the call under way
	items      heap[T]        // by when Run has something to do: all but those that are gone
	probes     heap[*host[T]] // by when a responder there is to be probed
	responders map[Key]*Responder[T]
	hosts      map[string]*host[T]
	places     places[T]
}

// New returns an empty Schedule.
func New[T Holder[T]](c Config) *Schedule[T] {
	if c.Limits == (Limits{}) {
		c.Limits = defaultLimits
	}
	s := &Schedule[T]{config: c, rand: c.Rand, responders: make(map[Key]*Responder[T]), hosts: make(map[string]*host[T])}
	s.items.place = func(t T) *int32 { return &t.item().slot }
	s.probes.place = func(h *host[T]) *int32 { return &h.slot }
	s.places.init(c.Limits)
	return s
}

// A Kind says what an Action is.
type Kind uint8

const (
	// Prepare the item and report it by Prepared.
	Prepare Kind = iota
	// Ask the Responder about the item, for Budget at most, and report it by
	// Answered.
	Ask
	// Failed: an attempt ended without a response.
	Failed
	// Expiring: half of the time that the response had left when refreshes began
	// to fail is over.
	Expiring
	// Expired: the response is not served any more.
	Expired
	// Review whether the item is needed still: Remove it, or say by Reviewed when
	// to look again.
	Review
	// Fails: the Responder is probed only until it recovers.
	Fails
	// Recovers: the Responder works again.
	Recovers
	// Misuse: something was to move an item From a phase To one that may not
	// follow. It is planned a minute ahead. Log it: it is a defect.
	Misuse
)

var kindNames = [...]string{"prepare", "ask", "failed", "expiring", "expired", "review", "fails", "recovers", "misuse"}

// String returns the name of the kind, in lower case.
func (k Kind) String() string { return name(kindNames[:], int(k)) }

// An Action is something for the driver to do or to report. Prepare and Ask have to be
// answered, once each. A Review that is not answered is repeated in an hour.
type Action[T any] struct {
	Kind Kind
	// Item is who it is about; zero for Fails and Recovers.
	Item T
	// Responder is that of Ask, Fails and Recovers. Failed has one where the
	// attempt ended as all responders fail: the first.
	Responder *Responder[T]
	// Budget is how long an Ask may take.
	Budget int64
	// Urgency of the attempt that a Prepare, an Ask or a Failed belongs to. Those that are
	// not Routine are done before others: somebody waits.
	Urgency Urgency
	// Overslept: a Review that is so late that the timer cannot have been awake. The
	// item may be needed any moment.
	Overslept bool
	// From and To are the phases of a Misuse.
	From, To Phase

	// An Ask is answered by itself: its item may have moved on to another attempt.
	attempt *attempt[T]
	sent    int64
}

// Facts are what preparing an item has found.
type Facts struct {
	Need       Need
	MustStaple bool
	InUse      bool // a config lists it, or it had a handshake within a day
	// Route is whom to ask, in order. The first MaxRoute count.
	Route []Key
	// NotBefore is the certificate's. Nobody is asked long before.
	NotBefore int64
	// Held is the response that is held, nil for the one that was. Fresh: it needs
	// no refresh, as the store had it, say, so the attempt was a success.
	Held  *Held
	Fresh bool
	// Leased: another process has the lease on the certificate, and asks.
	Leased bool
	// Spent is how much of the attempt's time preparing took, looking for the
	// issuer, say.
	Spent int64
	// Again is when to prepare an item again whose need is not Wanted, as the
	// configuration may change; zero for never.
	Again int64
}

// A Verdict says what an outcome is evidence of: it decides whether the attempt has
// ended, and whether the responder is to blame.
type Verdict uint8

const (
	// Proof: a valid response, or that the one that is held is valid still.
	Proof Verdict = iota
	// Fault: the responder's, or that of the way to it.
	Fault
	// TimedOut is a Fault that took all of its time.
	TimedOut
	// Certificate: the certificate is the reason. The responder works.
	Certificate
	// Nothing: neither is to blame. The certificate is not valid yet, say.
	Nothing
)

// An Outcome is what came of an Ask.
type Outcome struct {
	Verdict    Verdict
	Held       Held  // of a Proof
	RetryAfter int64 // ns
	// Hangs: the call has not returned. Its place is kept until Returned.
	Hangs bool
}

// begin notes the time of a call. Every call begins with it, and ends with end.
// Inside, the time never runs back: a small step of the clock is ignored, and a
// greater one shifts what is planned. Of a leap forward a quarter of an hour counts.
func (s *Schedule[T]) begin(now int64) {
	if leap := now - s.now; leap > 0 || leap < -second {
		s.now = now
		if max(leap, -leap) >= overslept {
			s.leap(leap)
		}
		if leap < 0 {
			s.shift(-leap)
		}
	}
	s.calls++
}

// end asks about those that have a place now, whatever the call has changed, and
// returns the actions.
func (s *Schedule[T]) end() []Action[T] {
	for r := s.places.next(); r != nil; r = s.places.next() {
		s.ask(r.queue.first(), r)
	}
	actions := s.actions
	s.actions = nil
	return actions
}

// act adds an action to those that the call returns.
func (s *Schedule[T]) act(a Action[T]) { s.actions = append(s.actions, a) }

// Start has an attempt made for t now: it is new, or somebody wants it. Where one
// is under way its urgency is raised.
func (s *Schedule[T]) Start(t T, u Urgency, now int64) []Action[T] {
	s.begin(now)
	it := t.item()
	switch {
	case it.phase == Gone:
	case it.phase.UnderWay() && it.phase != Deferred:
		at := it.at
		if u >= Forced {
			at.again = max(at.again, u)
		}
		if u > Routine && at.urgency == Routine {
			at.urgency = Urgent
			if it.phase != Preparing {
				at.deadline = min(at.deadline, it.queueUntil(s.now))
				s.move(t, it.phase, min(it.Due(), s.now+urgentStagger))
			}
		}
	default:
		s.prepare(t, u)
	}
	return s.end()
}

// Prepared reports what was found of t, once for each Prepare, also when t was
// removed. The attempt ends here where the store had a response, nothing is
// needed, or nobody can be asked; else t waits for a place at a responder.
func (s *Schedule[T]) Prepared(t T, f Facts, now int64) []Action[T] {
	s.begin(now)
	it := t.item()
	if it.phase != Preparing {
		if it.phase != Gone {
			s.move(t, Resting, Never) // a misuse: Resting follows Preparing alone
		}
		return s.end()
	}
	it.need, it.must, it.inUse = f.Need, f.MustStaple, f.InUse
	s.setRoute(t, f.Route)
	if f.Held != nil {
		s.hold(t, *f.Held)
	}
	switch at := it.at; {
	case f.Fresh:
		s.succeed(t, *f.Held, nil)
	case f.Need == NoIssuer || f.Need == Wanted && it.route == nil:
		s.fail(t)
	case f.Need != Wanted:
		it.since, it.failures, it.tried = 0, 0, false
		if f.Again > 0 {
			s.finish(t, Planned, max(f.Again, s.now+MinGap))
		} else {
			s.finish(t, Resting, Never)
		}
	case f.NotBefore-clockSkew > s.now:
		s.finish(t, Planned, f.NotBefore-clockSkew)
	case f.Leased && s.deferred(t):
	default:
		at.left = max(attemptTime-f.Spent, second)
		at.todo = it.order()
		s.advance(t)
	}
	return s.end()
}

// Answered reports what came of an Ask, once for each, also when the item has
// moved on or was removed: the place is free then, the responder is judged, and a
// late proof is a success. A proof cancels none of the other requests for the item:
// each is answered by a call of its own.
func (s *Schedule[T]) Answered(a Action[T], o Outcome, now int64) []Action[T] {
	s.begin(now)
	r := a.Responder
	switch o.Verdict {
	case TimedOut:
		s.places.shrink(r, a.sent, s.now)
	case Proof, Certificate:
		s.places.grow(r, a.sent, s.now)
	}
	if o.Hangs {
		s.places.update(r)
	} else {
		s.free(r)
	}
	if o.Verdict == Proof {
		s.settle(a, o) // first, or it would be prepared again when its responder recovers
		s.judge(a, o)
	} else {
		s.judge(a, o)
		s.settle(a, o)
	}
	return s.end()
}

// Late reports whether the attempt that a, an Ask, is part of has ended, as
// another responder was quicker or the item was removed.
func (s *Schedule[T]) Late(a Action[T]) bool { return a.Item.item().at != a.attempt }

// Returned reports that the call for an Ask, whose Outcome said that it hangs,
// has returned.
func (s *Schedule[T]) Returned(a Action[T], now int64) []Action[T] {
	s.begin(now)
	s.free(a.Responder)
	return s.end()
}

// Hold notes that another response is held for t, or none, without an attempt: the
// source of the certificate had it, say. Attempts go on as planned, or sooner if that
// ends sooner.
func (s *Schedule[T]) Hold(t T, h Held, now int64) []Action[T] {
	s.begin(now)
	if it := t.item(); it.phase != Gone {
		sooner := h.Until < it.until && it.need == Wanted
		s.hold(t, h)
		switch {
		case !sooner || !it.current(s.now):
		case it.phase == StandingBy:
			s.hasten(t)
		case it.phase == Planned:
			at := it.byExpiry(it.Due(), s.now, s.rand)
			if it.since == 0 {
				at = s.refresh(it, h)
			}
			s.move(t, Planned, min(it.Due(), at))
		}
	}
	return s.end()
}

// Reviewed says when t is to be reviewed next, and whether it is in use. Call it
// when a certificate comes into use again, too: it can wait less from then on.
func (s *Schedule[T]) Reviewed(t T, next int64, inUse bool, now int64) []Action[T] {
	s.begin(now)
	if it := t.item(); it.phase != Gone {
		it.review = min(next, Never-1)
		if inUse && !it.inUse {
			it.inUse = true
			s.hasten(t)
		}
		it.inUse = inUse
		s.items.set(t, it.wake())
	}
	return s.end()
}

// Remove forgets t. Requests that are out for it come to nothing.
func (s *Schedule[T]) Remove(t T, now int64) []Action[T] {
	s.begin(now)
	if t.item().phase != Gone {
		s.move(t, Gone, Never)
	}
	return s.end()
}

// move moves t to a phase, and says when it is due. Nothing else writes these
// two. What only one phase needs is set and cleared here: the places in queues,
// the probe, the attempt.
func (s *Schedule[T]) move(t T, to Phase, due int64) {
	it := t.item()
	if !follows[it.phase].has(to) {
		s.act(Action[T]{Kind: Misuse, Item: t, From: it.phase, To: to})
		if it.phase == Gone {
			return
		}
		to, due = Planned, s.now+minute
	}
	turn, untried := int64(0), false
	if to == StandingBy {
		turn, untried = it.turn(s.now, s.rand), !it.tried && !it.current(s.now)
	}
	s.leave(t, to)
	it.phase = to
	it.due.Store(due)
	switch to {
	case Gone:
		it.at, it.alarm, it.review = nil, Never, Never
		s.setRoute(t, nil)
	case Resting, Planned:
		it.at = nil
	case Preparing:
		if it.at == nil {
			it.at = new(attempt[T])
		}
		if it.review == 0 { // it is new
			it.review = s.now + reviewAgain
		}
	case Queued:
		s.enqueue(t, it.at.next)
	case StandingBy:
		it.at = new(attempt[T])
		s.standBy(t, turn, untried)
	}
	s.items.set(t, it.wake())
}

// leave takes t out of the queues that only its phase has it in. An attempt that
// ends, or waits for another process, is no probe.
func (s *Schedule[T]) leave(t T, to Phase) {
	it := t.item()
	at := it.at
	switch it.phase {
	case Queued:
		at.queue.queue.set(t, Never)
		s.places.update(at.queue)
		at.queue = nil
	case StandingBy:
		for _, r := range it.responders() {
			r.standing.set(t, Never)
			s.wake(r)
		}
	}
	if at != nil && at.probe != nil && (!to.UnderWay() || to == Deferred) {
		if to == Deferred {
			at.postponed = at.probe
		}
		s.unprobe(at)
	}
}

// hold notes what is held for t, all that the schedule has to know of it. The validity
// stays when a response is lost: pauses are bounded by that of the last one.
func (s *Schedule[T]) hold(t T, h Held) {
	it := t.item()
	it.until, it.silent, it.open, it.alarm = h.Until, h.Silent, h.Open, Never
	if h.Until != 0 {
		length := max(h.Length, h.Until-h.From)
		if h.Open { // a delegate's certificate may have ended it soon
			length = max(length, min(s.config.TTL, hour/4))
		}
		it.validity = uint32(min(max((length+second-1)/second, 1), 1<<32-1))
	}
	s.setAlarm(t)
}

// setAlarm plans Expiring while refreshes fail, else Expired.
func (s *Schedule[T]) setAlarm(t T) {
	it := t.item()
	if it.current(s.now) && !it.silent {
		it.alarm = it.until
		if it.since != 0 {
			it.alarm = s.now + (it.until-s.now)/2
		}
	}
	s.items.set(t, it.wake())
}
