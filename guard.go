package staple

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
)

const (
	clientCode = "HTTP client"             // calls of the RoundTripper
	switchCode = "WithResponders function" // calls of it
	callWait   = 5 * time.Second           // for one of these
)

// fault says in our words how code that is not ours failed.
func fault(err error) error {
	switch err := err.(type) {
	case *foreign.PanicError:
		return &ResponseError{Reason: ReasonPanic, Err: err}
	case *foreign.HungError:
		return fmt.Errorf("staple: %w", err)
	}
	return err
}

// guard calls code that is not ours, however long that takes: Close can say that
// it hangs, and a panic of it is an error like others.
func guard[T any](s *Stapler, what string, f func() (T, error)) (T, error) {
	v, err := foreign.Call(&s.calls, what, f)
	return v, fault(err)
}

// shared calls f for all who ask for the same key at the same time, and
// returns when it does or ctx ends; f then goes on without.
func (s *Stapler) shared(ctx context.Context, what, key string, f func() ([]byte, error)) ([]byte, error) {
	v, err := s.sharing.Do(ctx, what, key, f)
	return v, fault(err)
}

// askSwitch calls the function of WithResponders. An error says that it gave no
// answer.
func (s *Stapler) askSwitch(e *entry, leaf *x509.Certificate) (urls []string, on bool, err error) {
	type answer struct {
		urls []string
		on   bool
	}
	ctx, cancel := context.WithTimeout(s.ctx, callWait)
	defer cancel()
	a, err := foreign.CallWithin(ctx, &s.calls, switchCode, func() (a answer, _ error) {
		a.urls, a.on = s.opts.responders(leaf)
		return a, nil
	})
	var hung *foreign.HungError
	switch {
	case err == nil:
		return a.urls, a.on, nil
	case errors.As(err, &hung):
		return nil, false, &ResponseError{Reason: ReasonTimeout, Err: err}
	case s.ctx.Err() != nil:
		return nil, false, ErrClosed
	case errors.Is(err, context.DeadlineExceeded):
		err = &ResponseError{Reason: ReasonTimeout, Err: fmt.Errorf("%s: no answer in %v: %w", switchCode, callWait, err)}
	}
	err = fault(err)
	s.complain(switchCode, switchFailed, err, "certificate", e)
	return nil, false, err
}

const switchFailed = "WithResponders function panicked or is slow; what it said last stays, and before that nothing is fetched"

// complaints says when a failure of each kind of the user's code was last logged
// as an error.
type complaints struct {
	mu   sync.Mutex       // guards told
	told map[string]int64 // Unix ns
}

// complain logs that code of the user's failed: once a day for each kind, or
// what fails each time would fill the log.
func (s *Stapler) complain(what, msg string, err error, args ...any) {
	now, level := s.nanos(), slogError
	c := &s.complaints
	c.mu.Lock()
	if recent(c.told[what], now, warnEach) {
		level = slogDebug
	} else {
		if c.told == nil {
			c.told = make(map[string]int64)
		}
		c.told[what] = now
	}
	c.mu.Unlock()
	s.log(level, msg, append(args, "error", err)...)
}
