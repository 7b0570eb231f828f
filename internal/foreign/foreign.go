// Package foreign runs the user's code: stores, transports, callbacks. That code may
// panic, end its goroutine or never return. None of this ends the process, and the
// caller can name what hangs.
//
// [Calls] counts what runs, [Call] and [CallWithin] make one call, [Shared] one for
// all who want the same, and [Queue] calls our own functions with a bounded number of
// goroutines. The Stapler has one Calls; its Close waits for that by [Calls.Wait].
// internal/records and internal/issuers call through it, too. The package knows no
// error of the root; callers put [PanicError] and [HungError] into their own words.
//
// All of it may be used concurrently. Code is called in a goroutine of its own, and
// with no lock of this package held. It can't be stopped: a call that outlives its
// caller's context goes on, and counts until it returns.
package foreign

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// MaxHung is how many calls of one kind may be under way. What never returns
// must not pile up: each is a goroutine and, of a RoundTripper, a connection. The
// limit is by kind, so that a store that hangs stops no callback. [Call] has no
// such limit, as its caller waits for each.
const MaxHung = 64

// Calls counts what runs, by kind: foreign code, and our own goroutines, which
// have no kind. The zero Calls is ready.
type Calls struct {
	mu     sync.Mutex // guards the rest
	n      int
	byKind map[string]int
	over   bool          // no foreign code is called any more
	idle   chan struct{} // closed when n reaches 0; nil unless someone waits
}

// enter counts a call of a kind in, and leave counts it out. An empty kind is a
// goroutine of ours; of foreign code enter reports whether it may be called. Kinds are
// words for people: an error of Wait quotes them.
func (c *Calls) enter(kind string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over && kind != "" {
		return false
	}
	c.n++
	if kind != "" {
		if c.byKind == nil {
			c.byKind = make(map[string]int)
		}
		c.byKind[kind]++
	}
	return true
}

// leave counts a call out. The last one to leave wakes those in Wait.
func (c *Calls) leave(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if kind != "" {
		if c.byKind[kind]--; c.byKind[kind] == 0 {
			delete(c.byKind, kind)
		}
	}
	if c.n == 0 && c.idle != nil {
		close(c.idle)
		c.idle, c.over = nil, true
	}
}

// Count returns how many calls of a kind are under way, those that nobody waits for
// any more included.
func (c *Calls) Count(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byKind[kind]
}

// Full reports whether as many calls of a kind are under way as may be. Two callers
// may find room for one at the same time, so the limit may be passed by a few.
func (c *Calls) Full(kind string) bool { return c.Count(kind) >= MaxHung }

// Go runs f, code of ours, in a goroutine that Wait waits for. f is not run under
// recover: a panic of ours is a defect, and ends the process with its trace.
func (c *Calls) Go(f func()) {
	c.enter("")
	go func() {
		defer c.leave("")
		f()
	}()
}

// Wait waits until nothing runs. After d it returns an error that names the
// foreign code that still does, with the number of calls of each kind. Nothing keeps
// new calls from beginning meanwhile: the caller has to. Once Wait returned nil none begins:
// the goroutine of a [Shared] call that was given up may not have come to it.
func (c *Calls) Wait(d time.Duration) error {
	c.mu.Lock()
	if c.n == 0 {
		c.over = true
		c.mu.Unlock()
		return nil
	}
	if c.idle == nil {
		c.idle = make(chan struct{})
	}
	idle := c.idle
	c.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var kinds []string
	for kind, n := range c.byKind {
		kinds = append(kinds, fmt.Sprintf("%s (%d)", kind, n))
	}
	slices.Sort(kinds)
	return fmt.Errorf("still running after %v: %s", d, strings.Join(kinds, ", "))
}

// A PanicError is returned for code that panicked, or ended its goroutine. All who
// share the call get it. It names the code and what that panicked with, without a
// stack. The text is made within the call: the value may have methods, which are foreign
// code, too.
type PanicError struct {
	Kind string // of the call
	Did  string
}

// Error returns Kind and Did.
func (e *PanicError) Error() string { return e.Kind + " " + e.Did }

// A HungError is returned without a call: too many have not returned. It goes once
// one of them does.
type HungError struct {
	Kind  string
	Calls int
}

func (e *HungError) Error() string {
	return fmt.Sprintf("%s: %d calls have not returned", e.Kind, e.Calls)
}

// checkHung returns a HungError if too many calls of a kind are under way; nil if not.
func (c *Calls) checkHung(kind string) error {
	if n := c.Count(kind); n >= MaxHung {
		return &HungError{kind, n}
	}
	return nil
}

// Call calls f and waits for it, however long that takes. The error is that of
// f, or a [PanicError]. It is for callers with a goroutine that may wait: the one
// that delivers events, say.
func Call[T any](c *Calls, kind string, f func() (T, error)) (T, error) {
	r := <-start(c, kind, f)
	return r.v, r.err
}

// CallWithin is Call until ctx ends: then it returns the error of ctx, and f
// goes on without. It calls nothing and returns a [HungError] while too many
// calls of this kind have not returned.
func CallWithin[T any](ctx context.Context, c *Calls, kind string, f func() (T, error)) (T, error) {
	var none T
	if err := c.checkHung(kind); err != nil {
		return none, err
	}
	select {
	case r := <-start(c, kind, f):
		return r.v, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

type result[T any] struct {
	v   T
	err error
}

// start calls f in a goroutine of its own: runtime.Goexit (t.Fatal in a callback, say)
// would end the caller's, with its locks held. The channel has room for the result,
// so a call that nobody waits for any more ends, too. After Wait it is [context.Canceled].
func start[T any](c *Calls, kind string, f func() (T, error)) <-chan result[T] {
	done := make(chan result[T], 1)
	if !c.enter(kind) {
		done <- result[T]{err: context.Canceled}
		return done
	}
	go func() {
		r := result[T]{err: &PanicError{kind, "called runtime.Goexit"}} // stays if f does not return
		defer func() {
			_ = recover() // what a method of the first panic's value panicked with
			c.leave(kind)
			done <- r
		}()
		defer func() {
			if v := recover(); v != nil {
				r.err = &PanicError{kind, "panicked"} // stays if this does not return
				r.err = &PanicError{kind, fmt.Sprintf("panicked: %v", v)}
			}
		}()
		r.v, r.err = f()
	}()
	return done
}
