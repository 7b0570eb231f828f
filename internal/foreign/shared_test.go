package foreign_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
)

// slow returns a function that takes d, and returns which call of it this was.
func slow(d time.Duration) (f func() (int, error), calls *atomic.Int64) {
	calls = new(atomic.Int64)
	return func() (int, error) {
		n := calls.Add(1)
		time.Sleep(d)
		return int(n), nil
	}, calls
}

// REQ E4: who asks for the same meanwhile shares one call, and what came of it;
// another key has its own. The kind only says how calls are counted.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		s := foreign.Shared[int]{Calls: &calls}
		f, n := slow(time.Second)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				v, err := 0, error(nil)
				if i%2 == 0 {
					v, err = s.Do(t.Context(), "store Get", "key", f)
				} else {
					v, _, err = s.Attempt(t.Context(), "download", "other key", f)
				}
				if err != nil || v == 0 {
					t.Errorf("got %d, %v", v, err)
				}
			})
		}
		wg.Wait()
		if n := n.Load(); n != 2 {
			t.Errorf("%d calls for two questions", n)
		}
		for _, key := range []string{"a", "b"} {
			go func() { _, _ = s.Do(t.Context(), "store Get", key, f) }()
		}
		synctest.Wait()
		if n := n.Load(); n != 4 {
			t.Errorf("%d calls, want one for each key", n)
		}
		time.Sleep(time.Second)
	})
}

// Each waits for as long as its context lasts. Do goes on to share the call that
// it gave up, Attempt makes another.
func TestLostCall(t *testing.T) {
	type way func(ctx context.Context, s *foreign.Shared[int], f func() (int, error)) (int, <-chan struct{}, error)
	for _, tt := range []struct {
		name  string
		call  way
		calls int
		isNew bool
	}{
		{"Do", func(ctx context.Context, s *foreign.Shared[int], f func() (int, error)) (int, <-chan struct{}, error) {
			v, err := s.Do(ctx, "kind", "key", f)
			return v, nil, err
		}, 1, false},
		{"Attempt", func(ctx context.Context, s *foreign.Shared[int], f func() (int, error)) (int, <-chan struct{}, error) {
			return s.Attempt(ctx, "kind", "key", f)
		}, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls foreign.Calls
				s := foreign.Shared[int]{Calls: &calls}
				f, n := slow(10 * time.Second)
				patient := make(chan int)
				go func() { v, _, _ := tt.call(t.Context(), &s, f); patient <- v }()
				synctest.Wait()

				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begun := time.Now()
				v, left, err := tt.call(ctx, &s, f)
				if took := time.Since(begun); v != 0 || !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
					t.Errorf("got %d, %v after %v", v, err, took)
				}
				if (left != nil) != tt.isNew {
					t.Error("left says otherwise whether the call was lost")
				}
				v, again, err := tt.call(t.Context(), &s, f)
				if v != tt.calls || err != nil || int(n.Load()) != tt.calls || again != nil {
					t.Errorf("got the result of call %d of %d, %v, want %d", v, n.Load(), err, tt.calls)
				}
				if v := <-patient; v != 1 {
					t.Errorf("who waited for the first call got the result of %d", v)
				}
				if left != nil {
					<-left // or the bubble is deadlocked
				}
			})
		})
	}
}

// left ends with the lost call, and not before.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		s := foreign.Shared[int]{Calls: &calls, Unbound: true}
		f, _ := slow(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, left, _ := s.Attempt(ctx, "HTTP client", "key", f)
		select {
		case <-left:
			t.Error("left ended before the call")
		default:
		}
		<-left
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("left ended after %v", took)
		}
		if n := calls.Count("HTTP client"); n != 0 {
			t.Errorf("%d calls under way", n)
		}
	})
}

// A panic is everybody's error who shares the call, and the end of nobody.
func TestSharedPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		s := foreign.Shared[int]{Calls: &calls}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := s.Do(t.Context(), "kind", "key", func() (int, error) { time.Sleep(time.Second); panic("ouch") })
				var panicked *foreign.PanicError
				if !errors.As(err, &panicked) || panicked.Did != "panicked: ouch" {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
	})
}

// Lost calls do not pile up: at MaxLost no call is made until one of them returns.
func TestMaxLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		s := foreign.Shared[int]{Calls: &calls, Unbound: true, MaxLost: 2}
		f, n := slow(10 * time.Second)
		lose := func(key string) (<-chan struct{}, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, left, err := s.Attempt(ctx, "HTTP client", key, f)
			return left, err
		}
		first, _ := lose("a")
		second, _ := lose("b")
		var hung *foreign.HungError
		if left, err := lose("c"); left != nil || !errors.As(err, &hung) || hung.Calls != 2 || n.Load() != 2 {
			t.Errorf("a third one: %v after %d calls", err, n.Load())
		}
		<-first
		third, err := lose("c")
		if third == nil || !errors.Is(err, context.DeadlineExceeded) || n.Load() != 3 {
			t.Errorf("one has returned: %v after %d calls", err, n.Load())
		}
		<-second
		<-third
	})
}

// A call that has come back from foreign code is waited for; one that has not is lost.
func TestAttemptFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		s := foreign.Shared[int]{Calls: &calls}
		for _, tt := range []struct {
			name  string
			ours  bool
			takes time.Duration
			lost  bool
			most  time.Duration
		}{
			{"in time", false, time.Second, false, time.Second},
			{"just late", false, 2*time.Second + 10*time.Millisecond, false, 2*time.Second + 10*time.Millisecond},
			{"late", false, time.Minute, true, 2*time.Second + 50*time.Millisecond},
			{"late, and ours", true, time.Minute, false, time.Minute},
		} {
			begun := time.Now()
			v, left, err := s.AttemptFor(t.Context(), 2*time.Second, "kind", tt.name, func(ctx context.Context, ours *atomic.Bool) (int, error) {
				ours.Store(tt.ours)
				time.Sleep(tt.takes)
				if late := time.Since(begun) > 2*time.Second; (ctx.Err() != nil) != late {
					t.Errorf("%s: the context of the call: %v", tt.name, ctx.Err())
				}
				return 1, nil
			})
			if took := time.Since(begun); (left != nil) != tt.lost || (err != nil) != tt.lost || (v == 1) == tt.lost || took != tt.most {
				t.Errorf("%s: %d, lost %v, %v after %v, want %v", tt.name, v, left != nil, err, took, tt.most)
			}
		}
		time.Sleep(time.Hour)
	})
}
