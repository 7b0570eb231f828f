package schedule

import (
	"slices"
	"sync/atomic"
)

// An Item is what the schedule knows of a certificate. It is embedded in the driver's
// entry, and T points to that. The zero value is Resting and Unread. The driver's
// lock guards it; only due may be read without.
//
// Keep it at 80 bytes: eight more cost 8 MB for a million certificates. What only
// an attempt needs is in one.
type Item[T any] struct {
	stakes
	due      atomic.Int64     // written by move alone, as phase is
	since    int64            // when the failures began; zero: the last attempt succeeded
	alarm    int64            // when Expiring or Expired is due; zero and Never: neither
	review   int64            // when Review is due; zero: never
	route    *[]*Responder[T] // whom to ask, in the certificate's order; nil: nobody
	at       *attempt[T]      // nil unless an attempt is under way or the item is StandingBy
	failures int32            // since the last success
	slot     int32            // in Schedule.items
	phase    Phase
	need     Need
	tried    bool  // somebody was asked about it since the last success
	late     uint8 // those of the route that timed out last, a bit for each
	best     uint8 // the place in the route of the one that answered last, from 1; zero: none
	silent   bool  // see Held, as for open
	open     bool
}

// A Holder is a pointer to a struct that embeds an Item.
type Holder[T any] interface {
	comparable
	item() *Item[T]
}

func (it *Item[T]) item() *Item[T] { return it }

// Phase returns what is being done.
func (it *Item[T]) Phase() Phase { return it.phase }

// Need returns whether there is anything to do.
func (it *Item[T]) Need() Need { return it.need }

// Failures returns how many attempts failed since the last success.
func (it *Item[T]) Failures() int { return int(it.failures) }

// FailingSince returns when the attempts since the last success began to fail, in Unix ns;
// zero if none failed.
func (it *Item[T]) FailingSince() int64 { return it.since }

// Best returns the responder that answered last, or the first of the route; nil
// for none.
func (it *Item[T]) Best() *Responder[T] {
	switch all := it.responders(); {
	case len(all) == 0:
		return nil
	case it.best > 0:
		return all[it.best-1]
	default:
		return all[0]
	}
}

// Route returns the keys of whom to ask, in the certificate's order.
func (it *Item[T]) Route() []Key {
	var keys []Key
	for _, r := range it.responders() {
		keys = append(keys, r.Key)
	}
	return keys
}

// responders returns whom to ask.
func (it *Item[T]) responders() []*Responder[T] {
	if it.route == nil {
		return nil
	}
	return *it.route
}

// place returns where r is in the route, -1 if it is not.
func (it *Item[T]) place(r *Responder[T]) int { return slices.Index(it.responders(), r) }

// Due returns when the next step of the item is due, in Unix ns: Never if
// something else has to happen before. It needs no lock, so that a handshake can
// notice that Run is overdue: the timer slept through a suspend.
func (it *Item[T]) Due() int64 {
	if due := it.due.Load(); due != 0 {
		return due
	}
	return Never // the zero value
}

// NextAttempt returns when the next attempt is due, Never while one is under way
// and if none is planned.
func (it *Item[T]) NextAttempt() int64 {
	switch it.phase {
	case Planned, Deferred:
		return it.Due()
	case StandingBy:
		at := Never
		for _, r := range it.responders() {
			at = min(at, r.probeAt)
		}
		return at
	}
	return Never
}

// wake returns when Run has something to do for the item: an attempt or a step of
// one, an alarm, a review.
func (it *Item[T]) wake() int64 {
	at := it.Due()
	for _, other := range [...]int64{it.alarm, it.review} {
		if other != 0 {
			at = min(at, other)
		}
	}
	return at
}

// turn returns the key of an item in the queue for probes: the least is the next
// probe. Items that were not asked about since they began to fail come first. Of
// these, those that had a response come before others, the earliest to expire first.
// The others come in random order: those that were prepared first may all be ones that
// no responder has a response for. The rest follow in the order in which they failed; a
// long failure adds a sixteenth of its length, so that a certificate that never gets a
// response is not each probe.
func (it *Item[T]) turn(now int64, r random) int64 {
	switch {
	case it.tried:
		return it.turnAgain(now)
	case it.until != 0:
		return it.until - 1<<62 // before any time of today
	}
	return -r.below(1 << 60)
}

// turnAgain is the turn of who was asked about before.
func (it *Item[T]) turnAgain(now int64) int64 { return now + (now-it.since)/16 }

// attempt is one pass over the responders of an item, from Preparing on. The
// item has one while it is StandingBy, too, for its places in the queues.
type attempt[T any] struct {
	urgency  Urgency
	again    Urgency // of the attempt that follows; Routine: none
	forced   int64   // call that Forced it; responders that began to fail before are asked
	planned  int64   // when it was due before it was Forced
	deferred int64   // when another process was first found to have the lease
	polls    int     // how often it was

	todo  []*Responder[T] // who was not asked yet, in order
	left  int64           // ns of the attempt's time, before a request is out
	ends  int64           // when that is over, while one is
	out   int             // requests
	asked bool            // there was one
	fault bool            // one failed by the responder's fault
	hint  int64           // the longest Retry-After

	probe     *Responder[T] // that this attempt is the probe of
	postponed *Responder[T] // that it was the probe of until it was deferred
	next      *Responder[T] // whose queue to wait in
	queue     *Responder[T] // that it waits in
	deadline  int64         // the order in queue
	slot      int32         // in queue
	stands    [MaxRoute]int32
}

const (
	// waitsFor is how long who has no response can wait in a queue: then clients
	// give up.
	waitsFor = 5 * second
	// waitsAtMost is for those that hold one.
	waitsAtMost = hour
	// headStart is what others have before who has no response and nobody waits for.
	headStart = 10 * minute
)

// queueUntil returns the deadline of an item that is queued now. Of those that hold a
// response none is overtaken past its end. A deadline only ever comes nearer, so nobody is
// overtaken for ever.
func (it *Item[T]) queueUntil(now int64) int64 {
	switch {
	case it.current(now):
		return min(it.until, now+waitsAtMost)
	case it.at.urgency > Routine:
		return now
	}
	return now + waitsFor + headStart
}
