package staple

import (
	"context"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/records"
)

const (
	// leaseWait is how long to wait for a lease.
	leaseWait = time.Second
	// leaseTTL is longer than an attempt and the write of what it brought.
	leaseTTL = 15 * time.Second
)

// A Leaser is a [Store] that lets one of the processes that share it ask a
// responder at a time. Lease reports whether the caller holds the lease on key
// for ttl from now: it was free, had ended, or was held by this same Leaser,
// which renews it. The others read what the holder stores; where nothing comes
// they ask without the lease, so that a holder that is cut off costs nobody a
// staple. An error counts as held: a store that fails must not keep anyone from
// asking. key is that of the record; the lease must not get in its way. ctx ends
// after 1 s.
type Leaser interface {
	Lease(ctx context.Context, key string, ttl time.Duration) (held bool, err error)
}

// lease reports whether this process may ask about e now, and else has e wait
// for what the holder of the lease will store.
func (s *Stapler) lease(e *entry) bool {
	l, ok := s.opts.store.(Leaser)
	s.mu.Lock()
	now := s.nanos()
	resting := now < s.storeUntil
	mine, pass := e.turnLocked(now)
	mine = mine || e.at != nil && e.at.call.refreshes()
	s.mu.Unlock()
	if !ok || resting || mine {
		return true
	}
	if !pass && s.take(e, l) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.at != nil && !e.flags.gone && s.deferLocked(e, s.nanos())
}

// take asks for the lease on e.
func (s *Stapler) take(e *entry, l Leaser) bool {
	key := records.Key(e.DER)
	ctx, cancel := context.WithTimeout(s.ctx, leaseWait)
	defer cancel()
	got, err := s.shared(ctx, "store Lease", key, func() ([]byte, error) {
		held, err := l.Lease(ctx, key, leaseTTL)
		if held {
			return []byte{1}, err
		}
		return nil, err
	})
	if err != nil {
		s.storeFailed("Lease", ctx, err)
		return true
	}
	if got != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.also().leased = s.nanos()
	}
	return got != nil
}

// turnLocked reports whether e has the lease still, and whether it is the turn
// of others: who fails does not renew it, and leaves it alone for as long as it
// lasted. It may be this process that is cut off.
func (e *entry) turnLocked(now int64) (mine, pass bool) {
	m := e.rare()
	since := now - m.leased
	if m.failures == 0 || since < 0 {
		return false, false
	}
	return since < int64(leaseTTL), since >= int64(leaseTTL) && since < 2*int64(leaseTTL)
}

// deferLocked has e wait for what the holder of the lease will store, or
// reports that it waited long enough: the holder may be cut off from the
// responder, or say that it has the lease for ever.
func (s *Stapler) deferLocked(e *entry, now int64) (ask bool) {
	at, h := e.at, e.held.Load()
	if at.deferred == 0 || now < at.deferred {
		at.deferred = now
	}
	backoff := e.backoff
	if at.call != nil { // whose caller waits
		backoff = 0
	}
	left := at.deferred + h.patience(at.deferred, backoff) - now
	if left < int64(minGap) {
		return true
	}
	at.prepared = false
	// Soon at first, for a handshake may be waiting; then a holder that gets
	// no answer is no reason to keep the store busy. Who asks without the lease
	// stores what comes: not all at once, then, and the others find it.
	pause := clamp(time.Duration(h.until-now)/8, 400*time.Millisecond, 2*time.Second)
	e.dueAt(now + jitter(min(pause<<min(at.polls, 3+e.backoff/2, 6), 2*left), 0.5))
	at.polls++
	s.moveLocked(e)
	if m := e.more; m != nil && len(m.turns) > 0 { // a Refresh that came meanwhile does not wait for the lease
		m.turns = slices.DeleteFunc(m.turns, s.stepLocked)
	}
	return false
}

// patience returns how long to wait for the holder of the lease, from a time
// on: for two of its terms, and in an outage for longer each time, or a fleet
// would ask as often as all its members; but for a quarter of what is left of h
// at most.
func (h *held) patience(from int64, backoff uint8) int64 {
	d := 2 * int64(leaseTTL) << min(backoff, 6)
	if h.current(from) {
		return min(d, (h.until-from)/4)
	}
	if h.raw != nil {
		_, length := h.span()
		d = min(d, length/4)
	}
	return d
}
