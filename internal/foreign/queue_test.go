package foreign_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
)

// One worker calls in the order of what is added, the urgent first; what finds no room
// is refused.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		q := foreign.Queue{Calls: &calls, Max: 4}
		gate := make(chan struct{})
		var got []int
		add := func(n int, to func(func()) bool, want bool) {
			if to(func() { got = append(got, n) }) != want {
				t.Errorf("%d: queued %v", n, !want)
			}
		}
		q.Add(func() { <-gate })
		synctest.Wait() // it is under way, and waits no more
		add(3, q.Add, true)
		add(4, q.Add, true)
		add(1, q.AddUrgent, true)
		add(2, q.AddUrgent, true)
		add(5, q.Add, false)
		add(6, q.AddUrgent, false)
		close(gate)
		synctest.Wait()
		if want := []int{1, 2, 3, 4}; !slices.Equal(got, want) {
			t.Errorf("called %v, want %v", got, want)
		}
		if err := calls.Wait(0); err != nil {
			t.Errorf("its goroutine stays: %v", err)
		}
		add(7, q.Add, true)
		synctest.Wait()
		if len(got) != 5 {
			t.Error("it does not go on after a pause")
		}
	})
}

// Urgent ones that never end, as handshakes bring them for certificates that a source
// invents, do not keep others waiting for ever.
func TestQueueStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		q := foreign.Queue{Calls: &calls, Workers: 1}
		n := 0
		var again func()
		again = func() {
			if n++; n < 1000 {
				q.AddUrgent(again)
			}
		}
		q.AddUrgent(again)
		var got [2]int
		q.AddRefresh(func() { got[0] = n })
		q.Add(func() { got[1] = n })
		synctest.Wait()
		if got[0] < 1 || got[1] < 1 || max(got[0], got[1]) > 8 {
			t.Errorf("a refresh and a routine call came after %d urgent ones, want a few", got)
		}
	})
}

// Several workers call that many at once.
func TestQueueWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		q := foreign.Queue{Calls: &calls, Workers: 3}
		var running, most atomic.Int32
		var all sync.WaitGroup
		for range 1000 {
			all.Add(1)
			q.Add(func() {
				defer all.Done()
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second)
				running.Add(-1)
			})
		}
		begun := time.Now()
		all.Wait()
		if took := time.Since(begun); most.Load() != 3 || took != 334*time.Second {
			t.Errorf("%d at once, in %v", most.Load(), took)
		}
	})
}

// Close drops what waits.
func TestQueueClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		q := foreign.Queue{Calls: &calls}
		gate := make(chan struct{})
		var n atomic.Int32
		q.Add(func() { <-gate; n.Add(1) })
		synctest.Wait()
		q.Add(func() { n.Add(1) })
		q.AddUrgent(func() { n.Add(1) })
		q.Close()
		if q.Add(func() { n.Add(1) }) {
			t.Error("queued after Close")
		}
		close(gate)
		if err := calls.Wait(time.Second); err != nil || n.Load() != 1 {
			t.Errorf("%d were called, %v", n.Load(), err)
		}
	})
}
