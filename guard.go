package staple

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"
)

// clientCode names the RoundTripper's calls to the tracker.
const clientCode = "HTTP client"

// maxHung is how many calls of one kind of foreign code may be under way.
const (
	maxHung  = 64
	callWait = 5 * time.Second // for the function of WithResponders
)

// tracker counts what runs, by name: our goroutines and, in them, code that is
// not ours and may hang.
type tracker struct {
	mu   sync.Mutex // guards the rest
	n    int
	by   map[string]int   // foreign code alone
	told map[string]int64 // Unix ns: when its failure was last logged as an error
	idle chan struct{}    // closed when n reaches 0; nil unless someone waits
}

// enter counts something in. what is empty for our own goroutines.
func (t *tracker) enter(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	if what != "" {
		if t.by == nil {
			t.by = make(map[string]int)
		}
		t.by[what]++
	}
}

func (t *tracker) leave(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if what != "" {
		if t.by[what]--; t.by[what] == 0 {
			delete(t.by, what)
		}
	}
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// count returns how many calls of what run.
func (t *tracker) count(what string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[what]
}

// wait waits until nothing runs, or returns an error that names what does.
func (t *tracker) wait(d time.Duration) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for what, n := range t.by {
		names = append(names, fmt.Sprintf("%s (%d)", what, n))
	}
	sort.Strings(names)
	return fmt.Errorf("staple: close: still running after %v: %s", d, strings.Join(names, ", "))
}

// goLocked runs f in a goroutine that Close waits for.
func (s *Stapler) goLocked(f func()) {
	s.track.enter("")
	go func() {
		defer s.track.leave("")
		f()
	}()
}

// guard calls code that is not ours: counted, so that Close can say what
// hangs, and under recover, so that a panic of it is an error like others.
// Inside a singleflight call it must be: that re-panics where nobody recovers.
// The goroutine is for runtime.Goexit (t.Fatal in a callback, say), which would
// take ours along, its locks and whoever waits for it.
func guard[T any](s *Stapler, what string, f func() (T, error)) (v T, err error) {
	s.track.enter(what)
	done := make(chan struct{})
	err = &ResponseError{Reason: ReasonPanic, Err: errors.New(what + " called runtime.Goexit")}
	go func() {
		defer close(done)
		defer s.track.leave(what)
		defer func() {
			if r := recover(); r != nil {
				err = &ResponseError{Reason: ReasonPanic, Err: fmt.Errorf("%s panicked: %v", what, r)}
			}
		}()
		v, err = f()
	}()
	<-done
	return v, err
}

// shared calls f for all who ask for the same key at the same time, and
// returns when it does or ctx ends; f then goes on without. Calls that never
// return must not pile up: past maxHung nothing is called.
func (s *Stapler) shared(ctx context.Context, what, key string, f func() ([]byte, error)) ([]byte, error) {
	if n := s.track.count(what); n >= maxHung {
		return nil, fmt.Errorf("staple: %s: %d calls have not returned", what, n)
	}
	ch := s.flight.DoChan(what+" "+key, func() (any, error) { return guard(s, what, f) })
	select {
	case res := <-ch:
		return res.Val.([]byte), res.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askSwitch calls the function of WithResponders. An error says that it gave no
// answer.
func (s *Stapler) askSwitch(e *entry, leaf *x509.Certificate) (urls []string, on bool, err error) {
	const what = "WithResponders function"
	if n := s.track.count(what); n >= maxHung {
		return nil, false, &ResponseError{Reason: ReasonTimeout, Err: fmt.Errorf("%s: %d calls have not returned", what, n)}
	}
	var answer struct { // complete once done is closed, which may be too late
		urls []string
		on   bool
		err  error
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, answer.err = guard(s, what, func() (_ any, err error) {
			answer.urls, answer.on = s.opts.responders(leaf)
			return nil, nil
		})
	}()
	timer := time.NewTimer(callWait)
	defer timer.Stop()
	select {
	case <-done:
		urls, on, err = answer.urls, answer.on, answer.err
	case <-timer.C:
		err = &ResponseError{Reason: ReasonTimeout, Err: fmt.Errorf("%s: no answer in %v: %w", what, callWait, context.DeadlineExceeded)}
	case <-s.ctx.Done():
		return nil, false, ErrClosed
	}
	if err != nil {
		s.complain(what, switchFailed, err, "certificate", e)
	}
	return urls, on, err
}

const switchFailed = "WithResponders function panicked or is slow; what it said last stays, and before that nothing is fetched"

// complain logs that code of the user's failed: once a day for each kind, or
// what fails each time would fill the log.
func (s *Stapler) complain(what, msg string, err error, args ...any) {
	now, level := s.nanos(), slogError
	t := &s.track
	t.mu.Lock()
	if recent(t.told[what], now, warnEach) {
		level = slogDebug
	} else {
		if t.told == nil {
			t.told = make(map[string]int64)
		}
		t.told[what] = now
	}
	t.mu.Unlock()
	s.log(level, msg, append(args, "error", err)...)
}
