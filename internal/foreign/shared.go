package foreign

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Shared makes one call for all who ask for the same at the same time. Set its
// fields before its first use. What f returns is shared by all callers and must not
// be changed. A context that f uses is that of the caller who made the call: others
// may find that it ended before theirs.
type Shared[T any] struct {
	Calls   *Calls
	Unbound bool // calls are made however many have not returned: the caller bounds them
	MaxLost int  // how many lost calls of Attempt may be under way; 0: any number

	lost   atomic.Int32
	flight singleflight.Group
}

// Do calls f, or waits for the call under key that is under way, whatever its kind. It
// returns what the call does, or the error of ctx when ctx ends; the call then goes on,
// and later callers share it. While too many calls of kind have not returned Do calls
// nothing and returns a [HungError]. Sharing a call that was given up is right for a
// store: a second write must not overtake the first.
func (s *Shared[T]) Do(ctx context.Context, kind, key string, f func() (T, error)) (T, error) {
	v, _, err := s.do(ctx, kind, key, f)
	return v, err
}

// Attempt is Do for callers that retry: a call that is still under way when ctx ends is
// lost, and the next Attempt makes a new call instead of waiting for it. left is nil
// unless the call was lost; it is closed when the lost call returns. Requests and
// downloads are made so: one that hangs must not keep its certificate from ever being
// asked about again. While MaxLost calls are lost the error is a [HungError].
func (s *Shared[T]) Attempt(ctx context.Context, kind, key string, f func() (T, error)) (v T, left <-chan struct{}, err error) {
	if n := int(s.lost.Load()); s.MaxLost > 0 && n >= s.MaxLost {
		return v, nil, &HungError{kind, n}
	}
	v, lost, err := s.do(ctx, kind, key, f)
	if lost == nil {
		return v, nil, err
	}
	select {
	case r := <-lost: // it returned as ctx ended: Forget would be of the next one
		v, _ = r.Val.(T)
		return v, nil, r.Err
	default:
	}
	s.flight.Forget(key)
	returned := make(chan struct{})
	s.lost.Add(1)
	go func() {
		<-lost
		s.lost.Add(-1)
		close(returned)
	}()
	return v, returned, err
}

// grace is how long a call of AttemptFor may go on after its context ended: code that
// heeds it is done by then, and what came of it is learned before the next attempt.
const grace = 50 * time.Millisecond

// AttemptFor is Attempt with a context for f that ends after d. While f has set ours the
// call is not given up: it has come back from foreign code, and what is left ends.
func (s *Shared[T]) AttemptFor(ctx context.Context, d time.Duration, kind, key string, f func(ctx context.Context, ours *atomic.Bool) (T, error)) (v T, left <-chan struct{}, err error) {
	limited, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	patient, end := context.WithCancel(ctx)
	defer end()
	var ours atomic.Bool
	defer time.AfterFunc(d+grace, func() {
		if !ours.Load() {
			end()
		}
	}).Stop()
	return s.Attempt(patient, kind, key, func() (T, error) { return f(limited, &ours) })
}

// do returns the call as lost if ctx ended before it did. The call then goes on in its
// goroutine, and lost gets its result.
func (s *Shared[T]) do(ctx context.Context, kind, key string, f func() (T, error)) (v T, lost <-chan singleflight.Result, err error) {
	if !s.Unbound {
		if err := s.Calls.checkHung(kind); err != nil {
			return v, nil, err
		}
	}
	// Call recovers: singleflight would end the process with a panic of f.
	call := s.flight.DoChan(key, func() (any, error) { return Call(s.Calls, kind, f) })
	select {
	case r := <-call:
		v, _ = r.Val.(T)
		return v, nil, r.Err
	case <-ctx.Done():
		return v, call, ctx.Err()
	}
}
