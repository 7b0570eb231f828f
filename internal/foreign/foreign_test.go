package foreign_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
)

// Whatever code does in the place of its work, who called it goes on with an
// error that names it, and it is counted out.
func TestMisconduct(t *testing.T) {
	failure := errors.New("no luck")
	for _, tt := range []struct {
		name string
		do   func() (string, error)
		want string
	}{
		{"panics", func() (string, error) { panic("not my day") }, "store Get panicked: not my day"},
		{"panics with an error", func() (string, error) { panic(http.ErrAbortHandler) }, "store Get panicked: net/http: abort Handler"},
		{"panics with nil", func() (string, error) { panic(nil) }, "store Get panicked: panic called with nil argument"},
		{"panics with what panics", func() (string, error) { panic(value(func() { panic("again") })) }, "store Get panicked: %!v(PANIC=String method: again)"},
		{"panics with what panics with what panics", func() (string, error) { panic(value(func() { panic(value(func() { panic("again") })) })) }, "store Get panicked"},
		{"panics with what exits", func() (string, error) { panic(value(runtime.Goexit)) }, "store Get panicked"},
		{"exits", func() (string, error) { runtime.Goexit(); return "", nil }, "store Get called runtime.Goexit"}, // as t.Fatal does
		{"fails", func() (string, error) { return "in part", failure }, "no luck"},
		{"works", func() (string, error) { return "done", nil }, ""},
	} {
		var calls foreign.Calls
		shared := foreign.Shared[string]{Calls: &calls}
		for how, call := range map[string]func() (string, error){
			"Call":       func() (string, error) { return foreign.Call(&calls, "store Get", tt.do) },
			"CallWithin": func() (string, error) { return foreign.CallWithin(t.Context(), &calls, "store Get", tt.do) },
			"Do":         func() (string, error) { return shared.Do(t.Context(), "store Get", "key", tt.do) },
			"Attempt": func() (string, error) {
				v, left, err := shared.Attempt(t.Context(), "store Get", "key", tt.do)
				if left != nil {
					t.Errorf("Attempt: %s: a call that returned is lost", tt.name)
				}
				return v, err
			},
		} {
			v, err := call()
			var panicked *foreign.PanicError
			switch {
			case tt.want == "" && (v != "done" || err != nil), tt.want == failure.Error() && (v != "in part" || err != failure):
				t.Errorf("%s: %s: got %q, %v", how, tt.name, v, err)
			case tt.want == "" || tt.want == failure.Error():
			case !errors.As(err, &panicked), !strings.HasPrefix(err.Error(), tt.want), v != "":
				t.Errorf("%s: %s: got %q, %v, want %s", how, tt.name, v, err, tt.want)
			}
			if n := calls.Count("store Get"); n != 0 {
				t.Errorf("%s: %s: %d calls under way, want none", how, tt.name, n)
			}
		}
		if err := calls.Wait(0); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A value that code panics with may have methods, which are foreign code, too.
type value func()

func (v value) String() string { v(); return "" }

// hang calls what hangs until the function that it returns is called.
func hang(calls *foreign.Calls, kind string, n int) (free func()) {
	stop := make(chan struct{})
	for range n {
		go func() {
			_, _ = foreign.Call(calls, kind, func() (any, error) { <-stop; return nil, nil })
		}()
	}
	synctest.Wait()
	return func() { close(stop); synctest.Wait() }
}

// Calls that never return do not pile up: of one kind there are 64, and no other
// kind suffers.
func TestHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		shared := foreign.Shared[int]{Calls: &calls}
		unbound := foreign.Shared[int]{Calls: &calls, Unbound: true}
		one := func() (int, error) { return 1, nil }
		try := func(kind string) (errs [3]error) {
			_, errs[0] = foreign.CallWithin(t.Context(), &calls, kind, one)
			_, errs[1] = shared.Do(t.Context(), kind, "key", one)
			_, _, errs[2] = shared.Attempt(t.Context(), kind, "key", one)
			return errs
		}
		most := hang(&calls, "store Get", foreign.MaxHung-1)
		if calls.Full("store Get") || try("store Get") != [3]error{} {
			t.Errorf("%d calls are too many", calls.Count("store Get"))
		}
		last := hang(&calls, "store Get", 1)
		for i, err := range try("store Get") {
			var hung *foreign.HungError
			if !errors.As(err, &hung) || hung.Error() != "store Get: 64 calls have not returned" {
				t.Errorf("way %d: %v", i, err)
			}
		}
		if !calls.Full("store Get") || calls.Full("store Put") || try("store Put") != [3]error{} {
			t.Error("one kind suffers from another, or none from itself")
		}
		if v, err := unbound.Do(t.Context(), "store Get", "key", one); v != 1 || err != nil {
			t.Errorf("unbound: %d, %v", v, err)
		}
		last()
		if errs := try("store Get"); errs != [3]error{} {
			t.Errorf("one has returned: %v", errs)
		}
		most()
	})
}

// Who gave up goes on at once; what it called counts until it returns.
func TestCallWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		v, err := foreign.CallWithin(ctx, &calls, "switch", func() (int, error) { time.Sleep(time.Minute); return 1, nil })
		if took := time.Since(begun); v != 0 || !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("got %d, %v after %v", v, err, took)
		}
		if n := calls.Count("switch"); n != 1 {
			t.Errorf("%d calls under way, want 1", n)
		}
		time.Sleep(time.Minute)
		if n := calls.Count("switch"); n != 0 {
			t.Errorf("%d calls under way, want none", n)
		}
	})
}

// Wait returns as soon as nothing runs, ours or theirs, and else names, in order,
// what hangs.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first, calls foreign.Calls
		if err := first.Wait(time.Hour); err != nil {
			t.Errorf("nothing runs: %v", err)
		}
		begun := time.Now()
		first.Go(func() { time.Sleep(2 * time.Second) })
		if err := first.Wait(5 * time.Second); err != nil || time.Since(begun) != 2*time.Second {
			t.Errorf("ours: %v after %v", err, time.Since(begun))
		}

		free, ours := hang(&calls, "store Put", 2), make(chan struct{})
		logger := hang(&calls, "logger", 1)
		calls.Go(func() { <-ours })
		begun = time.Now()
		err := calls.Wait(5 * time.Second)
		const want = "still running after 5s: logger (1), store Put (2)"
		if took := time.Since(begun); err == nil || err.Error() != want || took != 5*time.Second {
			t.Errorf("got %v after %v, want %s", err, took, want)
		}
		logger()
		if err := calls.Wait(time.Second); err == nil || strings.Contains(err.Error(), "logger") {
			t.Errorf("the logger has returned: %v", err)
		}
		waited := make(chan error)
		for range 2 { // both are told
			go func() { waited <- calls.Wait(time.Hour) }()
		}
		free()
		close(ours)
		if err := errors.Join(<-waited, <-waited); err != nil {
			t.Errorf("all have returned: %v", err)
		}
	})
}

// Once Wait has returned nil no foreign code is called: a connection of it would be left, or a
// store written that its owner has closed. The goroutines of shared calls are late here.
func TestNoCallAfterWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		ended, end := context.WithCancel(t.Context())
		end()
		var waited atomic.Bool
		s := foreign.Shared[int]{Calls: &calls}
		f := func() (int, error) {
			if waited.Load() {
				t.Error("called after Wait")
			}
			return 0, nil
		}
		for i := range 100 {
			_, _ = s.Do(ended, "store Get", string(rune(i)), f)
		}
		if err := calls.Wait(time.Second); err != nil {
			t.Error(err)
		}
		waited.Store(true)
		if _, err := foreign.Call(&calls, "logger", f); !errors.Is(err, context.Canceled) {
			t.Errorf("Call after Wait: %v", err)
		}
	})
}
