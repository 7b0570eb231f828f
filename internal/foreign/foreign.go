// Package foreign runs the user's code: stores, transports, callbacks. That code may
// panic, end its goroutine or never return. None of this blocks the caller, and the
// caller can name what hangs.
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
// must not pile up.
const MaxHung = 64

// Calls counts what runs, by kind: foreign code, and our own goroutines, which
// have no kind. The zero Calls is ready.
type Calls struct {
	mu     sync.Mutex // guards the rest
	n      int
	byKind map[string]int
	idle   chan struct{} // closed when n reaches 0; nil unless someone waits
}

// Enter counts a call of a kind in, and Leave counts it out. An empty kind is a
// goroutine of ours.
func (c *Calls) Enter(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	if kind != "" {
		if c.byKind == nil {
			c.byKind = make(map[string]int)
		}
		c.byKind[kind]++
	}
}

// Leave counts a call out.
func (c *Calls) Leave(kind string) {
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
		c.idle = nil
	}
}

// Count returns how many calls of a kind are under way.
func (c *Calls) Count(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byKind[kind]
}

// Full reports whether as many calls of a kind are under way as may be.
func (c *Calls) Full(kind string) bool { return c.Count(kind) >= MaxHung }

// Go runs f, code of ours, in a goroutine that Wait waits for.
func (c *Calls) Go(f func()) {
	c.Enter("")
	go func() {
		defer c.Leave("")
		f()
	}()
}

// Wait waits until nothing runs. After d it returns an error that names the
// foreign code that still does.
func (c *Calls) Wait(d time.Duration) error {
	c.mu.Lock()
	if c.n == 0 {
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

// A PanicError is returned for code that panicked, or ended its goroutine.
type PanicError struct {
	Kind  string // of the call
	Value any    // what recover returned; nil for runtime.Goexit
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return e.Kind + " called runtime.Goexit"
	}
	return fmt.Sprintf("%s panicked: %v", e.Kind, e.Value)
}

// A HungError is returned without a call: too many have not returned.
type HungError struct {
	Kind  string
	Calls int
}

func (e *HungError) Error() string {
	return fmt.Sprintf("%s: %d calls have not returned", e.Kind, e.Calls)
}

// checkHung returns a HungError if too many calls of a kind are under way.
func (c *Calls) checkHung(kind string) error {
	if n := c.Count(kind); n >= MaxHung {
		return &HungError{kind, n}
	}
	return nil
}

// Call calls f and waits for it, however long that takes. The error is that of
// f, or a [PanicError].
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
// would end the caller's, with its locks held.
func start[T any](c *Calls, kind string, f func() (T, error)) <-chan result[T] {
	c.Enter(kind)
	done := make(chan result[T], 1)
	go func() {
		r := result[T]{err: &PanicError{Kind: kind}} // stays if f does not return
		defer func() {
			if v := recover(); v != nil {
				r.err = &PanicError{kind, v}
			}
			c.Leave(kind)
			done <- r
		}()
		r.v, r.err = f()
	}()
	return done
}
