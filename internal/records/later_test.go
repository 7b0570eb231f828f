package records_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/records"
)

// A later is a Later whose reads are noted.
type later struct {
	records.Later[int]
	calls   foreign.Calls
	answers bool

	mu   sync.Mutex
	read []time.Duration // since the beginning
}

func newLater(ctx context.Context) *later {
	l, begun := new(later), time.Now()
	l.Calls, l.Context = &l.calls, ctx
	l.Read = func(n int) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.read = append(l.read, time.Since(begun))
		if !l.answers {
			l.Add(n)
		}
		return l.answers
	}
	return l
}

// REQ E1: a store that answers is read at once after its rest, one that does not twice as
// late each time, up to a minute; for 32 records at once as for one.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := newLater(ctx)
		for n := range 32 {
			l.Add(n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		l.mu.Lock()
		when := slices.Compact(slices.Clone(l.read))
		if len(l.read) != 32*len(when) {
			t.Errorf("%d reads at %d times, want 32 each time", len(l.read), len(when))
		}
		at := time.Duration(0)
		for i, pause := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
			if d := when[i] - at; d < pause || d > pause+pause/4 {
				t.Errorf("read %d came after %v, want %v and a quarter at most", i, d, pause)
			}
			at = when[i]
		}
		l.answers, l.read = true, nil
		l.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if err := l.calls.Wait(0); err != nil || len(l.read) != 32 {
			t.Errorf("%d reads, %v: want one of each, and the end", len(l.read), err)
		}
		for n := range 100 { // 4 times 32 at most, without a pause
			l.Add(n)
		}
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if len(l.read) != 132 {
			t.Errorf("%d reads of 100", len(l.read)-32)
		}
		cancel()
	})
}

// Its context ends it.
func TestLaterEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := newLater(ctx)
		l.Add(1)
		time.Sleep(time.Second)
		cancel()
		if err := l.calls.Wait(time.Second); err != nil {
			t.Error(err)
		}
		if len(l.read) != 0 {
			t.Error("read after the end")
		}
	})
}
