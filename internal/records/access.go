package records

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
)

const (
	// Soon is how long a read may take for which a handshake waits (REQ C5).
	Soon = 100 * time.Millisecond
	// Patience is how long a write may take, and a read that no handshake waits for: for
	// Prefetch and Refresh, and after one that was slow.
	Patience = 5 * time.Second
	// Rest is how long a store that was slow is left alone. Otherwise each certificate
	// would wait for it before a responder is asked.
	Rest = 5 * time.Second
	// LeaseTerm is longer than an attempt (10 s) and the write of what it brought. The
	// schedule's leaseTerm is the same.
	LeaseTerm = 15 * time.Second

	// leaseWait is how long a Leaser may take: an attempt waits for it.
	leaseWait = time.Second
	// newsAfter is how often a failure that lasts is logged above debug level.
	newsAfter = 24 * time.Hour
)

// ErrUnread says that a record was not read in time, or not at all: it may be
// there. The driver reads it again by a [Later]. Every other error is a miss. It is never
// wrapped, so compare with ==: errors.Is would call methods of the store's errors.
var ErrUnread = errors.New("store is slow, and rests")

// A Store has the method set of the root's Store, which see for what it may do.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
	Delete(ctx context.Context, key string) error
}

// A Leaser is a store that has leases, too: see the root's Leaser.
type Leaser interface {
	Lease(ctx context.Context, key string, ttl time.Duration) (held bool, err error)
}

// An Op is an operation of a store. Its limiter for log records, and its limit of calls
// that have not returned, are its own.
type Op string

// The operations, as they are called in logs.
const (
	Get    Op = "Get"
	Put    Op = "Put"
	Delete Op = "Delete"
	Lease  Op = "Lease"
)

// An Access reads and writes a store that may be slow, hang, panic or lie. Set its
// fields before its first use; it is safe for concurrent use.
//
// A store that is slow or panics rests: for a while nobody reads who has no patience,
// and leases count as free. Writes go on, as a response that is not stored is lost at
// a restart. A store that merely returns errors does not rest.
type Access struct {
	Store   Store
	Sharing foreign.Shared[[]byte] // makes the calls
	// Reads ends what reads; Writes ends what writes, and may end later: Close gives
	// writes a second, so that the last responses are there after a restart.
	Reads, Writes context.Context
	Now           func() time.Time
	// Slow is called when the store is left alone for a while, and says which
	// operation was too slow, or failed as code. It is called without a lock, once for
	// each rest.
	Slow func(op Op, err error)

	mu     sync.Mutex       // guards the rest
	rests  int64            // Unix ns: the store is left alone until then
	failed map[Op]time.Time // since when an operation fails, or when that was last logged
}

// Read returns the record under key, within wait. A store that was slow is left alone
// by who has no patience: a wait of Soon or less. While 64 calls of Get have not
// returned none is made. The error is ErrUnread, ErrForm, or the store's, which is
// a miss.
func (a *Access) Read(key string, wait time.Duration) (*Record, error) {
	if a.Resting() && wait <= Soon || a.Sharing.Calls.Full(kind(Get)) {
		return nil, ErrUnread
	}
	ctx, cancel := context.WithTimeout(a.Reads, wait)
	defer cancel()
	data, err := a.get(ctx, key)
	if err != nil {
		a.judge(ctx, Get, err)
		_, hung := err.(*foreign.HungError)
		if hung || ctx.Err() != nil || err == context.DeadlineExceeded { // the last, of another who shares the call
			err = ErrUnread
		}
		return nil, err
	}
	a.succeeded(Get)
	return Parse(data, a.Now().UnixNano())
}

// get calls the store. Who joined a call with less patience than its own makes
// another when that ends: a Prefetch that waits 5 s must not fail as a handshake's
// 100 ms are over.
func (a *Access) get(ctx context.Context, key string) ([]byte, error) {
	for {
		var ran atomic.Bool
		data, err := a.Sharing.Do(ctx, kind(Get), "read "+key, func() ([]byte, error) {
			ran.Store(true)
			data, err := a.Store.Get(ctx, key)
			if errors.Is(err, context.DeadlineExceeded) { // asked here, where it may panic
				return nil, context.DeadlineExceeded
			}
			return data, failed(err)
		})
		if ran.Load() || ctx.Err() != nil || err != context.DeadlineExceeded {
			return data, err
		}
	}
}

// Write stores r under key, or deletes what is there if r is nil. The caller makes one
// call for a key at a time: the driver queues each entry once. It waits Patience at
// most. A failure is logged by the driver and changes nothing in memory.
func (a *Access) Write(key string, r *Record) error {
	ctx, cancel := context.WithTimeout(a.Writes, Patience)
	defer cancel()
	op, call := Delete, func() error { return a.Store.Delete(ctx, key) }
	if r != nil {
		data := r.Encode()
		op, call = Put, func() error { return a.Store.Put(ctx, key, data) }
	}
	// An earlier write that did not return in its time may still be under way, and
	// Do then waits for it instead of calling ours: a Delete must not overtake a Put.
	// Its success is not ours: it has older data, and ours goes after it.
	var ran atomic.Bool
	for {
		_, err := a.Sharing.Do(ctx, kind(op), "write "+key, func() ([]byte, error) {
			ran.Store(true)
			return nil, failed(call())
		})
		if err == nil && ctx.Err() != nil && !ran.Load() {
			err = ctx.Err()
		}
		if err == nil && ran.Load() {
			a.succeeded(op)
		}
		if ran.Load() || ctx.Err() != nil || a.Sharing.Calls.Full(kind(op)) {
			return err
		}
	}
}

// lease reports whether this process has the lease on key, or may ask without: the
// store has none, rests, or fails. Both are false if another process has it. The
// lease saves requests and forbids none, so a store that fails must not prevent one.
func (a *Access) lease(key string) (held, without bool) {
	l, ok := a.Store.(Leaser)
	if !ok || a.Resting() {
		return false, true
	}
	ctx, cancel := context.WithTimeout(a.Reads, leaseWait)
	defer cancel()
	got, err := a.Sharing.Do(ctx, kind(Lease), "lease "+key, func() ([]byte, error) {
		held, err := l.Lease(ctx, key, LeaseTerm)
		if held {
			return []byte{1}, failed(err)
		}
		return nil, failed(err)
	})
	if err != nil {
		a.judge(ctx, Lease, err)
		return false, true
	}
	a.succeeded(Lease)
	return got != nil, false
}

// MayAsk reports whether this process is the one to ask a responder about key, and when
// it last took the lease, in Unix ns. leased is when it did before; failing says that its
// last attempt failed. Then it goes on until the lease ends, and leaves the next term to
// others: it may be this process that is cut off.
func (a *Access) MayAsk(key string, failing bool, leased int64) (mine bool, at int64) {
	now := a.Now().UnixNano()
	_, leases := a.Store.(Leaser)
	if since := now - leased; failing && since >= 0 {
		switch {
		case since < int64(LeaseTerm):
			return true, leased
		case since < 2*int64(LeaseTerm) && leases && !a.Resting():
			return false, leased
		}
	}
	held, without := a.lease(key)
	if held {
		return true, a.Now().UnixNano()
	}
	return without, leased
}

// Resting reports whether the store is left alone, as it was slow.
func (a *Access) Resting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restingLocked()
}

// restingLocked is Resting with the lock held.
func (a *Access) restingLocked() bool {
	now := a.Now().UnixNano()
	return now < a.rests && a.rests <= now+int64(Rest) // else the clock was set back
}

// judge leaves a store alone for a while after it was too slow, or failed as code.
// Other errors of Get are misses: each store has its own error for a miss. A rest
// under way is not made longer, or a store with many readers would never be tried.
// After Close nothing is judged: the contexts end then.
func (a *Access) judge(ctx context.Context, op Op, err error) {
	if a.Reads.Err() != nil {
		return
	}
	_, panicked := err.(*foreign.PanicError)
	_, hung := err.(*foreign.HungError)
	if ctx.Err() == nil && !panicked && !hung {
		a.succeeded(op)
		return
	}
	a.mu.Lock()
	was := a.restingLocked()
	if !was {
		a.rests = a.Now().UnixNano() + int64(Rest)
	}
	a.mu.Unlock()
	if !was {
		a.Slow(op, err)
	}
}

// succeeded has the next failure of op logged. Each operation has an entry of its own
// in failed, or one slow Get would hide that Put fails.
func (a *Access) succeeded(op Op) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, op)
}

// News reports whether a failure of op is to be logged above debug level: once a day,
// and again when the operation succeeded since. It notes that the failure is logged
// now, so call it once for each.
func (a *Access) News(op Op) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Now()
	if last := a.failed[op]; !last.After(now) && now.Sub(last) < newsAfter {
		return false
	}
	if a.failed == nil {
		a.failed = make(map[Op]time.Time)
	}
	a.failed[op] = now
	return true
}

// kind is how foreign.Calls counts an operation: each has a limit of its own, so that
// Gets that hang leave room for Puts.
func kind(op Op) string { return "store " + string(op) }
