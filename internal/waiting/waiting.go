// Package waiting knows who waits for news of a certificate, and when the waiting ends.
//
// [Waiters] are all who wait for one certificate: handshakes, which share a [Gate], and
// turns of calls. A [Call] is a Prefetch or a Refresh, and has a [Turn] for each of its
// certificates. A turn has no goroutine, as a Refresh may have one for each certificate
// that is known. It is told what happened, and answers what to do.
//
// The root keeps the Waiters of a certificate beside its entry. It calls them when an
// attempt ended ([Waiters.Ended]), when the attempt is left to another process
// ([Waiters.Deferred]), and whenever anything changed ([Waiters.News], with the [Facts]
// of that moment). They start nothing: News returns the urgency of the attempt that is
// to be started. All but [Gate.Wait] is called under the root's lock. Nothing here
// reads a clock, makes a request, or knows what a response is.
//
// waiting.go has the waiters of one certificate; read turn.go for the rules of calls.
package waiting

import (
	"context"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/schedule"
)

// Waiters are those who wait for one certificate. The zero value is nobody.
type Waiters[T any] struct {
	gate  *Gate
	turns []*Turn[T]
}

// Empty reports whether nobody waits.
func (w *Waiters[T]) Empty() bool { return w.gate == nil && len(w.turns) == 0 }

// Calls reports whether a call waits: the certificate must not be evicted.
func (w *Waiters[T]) Calls() bool { return len(w.turns) > 0 }

// Add has t wait. Its first step was not its last.
func (w *Waiters[T]) Add(t *Turn[T]) { w.turns = append(w.turns, t) }

// Leave ends t with err before its time.
func (w *Waiters[T]) Leave(t *Turn[T], err error) {
	t.finish(err)
	w.turns = slices.DeleteFunc(w.turns, func(o *Turn[T]) bool { return o == t })
}

// Ended notes that an attempt ended. Call News next. err is why it failed, nil if it did
// not.
func (w *Waiters[T]) Ended(err error) {
	for _, t := range w.turns {
		t.ended(err)
	}
}

// Deferred notes that the attempt under way, of urgency u, waits for another process. It
// has to go on at once with the urgency that Deferred returns, unless that is Routine.
func (w *Waiters[T]) Deferred(u schedule.Urgency) (start schedule.Urgency) {
	for _, t := range w.turns {
		start = max(start, t.deferred(u))
	}
	return start
}

// News opens the gate and makes the next step of each turn. An attempt has to be
// started with the urgency that it returns, unless that is Routine. One is enough for
// all turns.
func (w *Waiters[T]) News(f Facts) (start schedule.Urgency) {
	if w.gate != nil {
		close(w.gate.open)
		w.gate = nil
	}
	w.turns = slices.DeleteFunc(w.turns, func(t *Turn[T]) bool {
		u, done := t.Step(f)
		start = max(start, u)
		return done
	})
	return start
}

// A Gate is what handshakes wait at. News opens it, and the next handshake that has to
// wait closes another.
type Gate struct {
	open  chan struct{}
	since time.Time
}

// Gate returns the gate for a handshake that began to wait at begun. first: it is the
// first one there.
func (w *Waiters[T]) Gate(begun time.Time) (g *Gate, first bool) {
	if w.gate == nil {
		w.gate, first = &Gate{open: make(chan struct{}), since: begun}, true
	}
	return w.gate, first
}

// Left returns what is left at now of the time that a handshake may wait. It counts
// from when the handshake began to wait, or from when the first one did: those that
// come late in an attempt do not wait past its end.
func (g *Gate) Left(limit time.Duration, begun, now time.Time) time.Duration {
	return limit - max(now.Sub(g.since), now.Sub(begun))
}

// Wait returns when g opens, after d, or when a context ends. again: neither context
// has, so there may be something to wait for still. The lock is not held.
func (g *Gate) Wait(d time.Duration, handshake, closing context.Context) (again bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-g.open:
	case <-timer.C:
	case <-handshake.Done():
	case <-closing.Done():
	}
	return handshake.Err() == nil && closing.Err() == nil
}
