package records

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
)

const (
	// maxReaders is how many records are read again at once.
	maxReaders = 32
	// maxRest is the longest pause before a store that answers nothing is read again.
	maxRest = time.Minute
)

// A Later reads again what was not read in time, once the store has rested. Without it one
// slow read would keep all other records from being served for as long as no responder
// answers: after a restart in an outage, with one slow read in four, 93 of 500
// certificates were stapled. If none of a batch is answered it pauses, longer each
// time, from Rest to maxRest; otherwise the next batch follows at once. Set its
// fields before its first use.
//
// There is one goroutine while anything waits, and one for each record of a batch.
type Later[T any] struct {
	Calls   *foreign.Calls
	Context context.Context         // ends it
	Read    func(T) (answered bool) // may take its time: nobody waits for it

	mu      sync.Mutex // guards the rest
	waiting []T
	running bool
}

// Add has Read called with item. It never blocks. An item that is added twice is read
// twice: the driver keeps note of what waits. Read may call Add.
func (l *Later[T]) Add(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, item)
	if !l.running {
		l.running = true
		l.Calls.Go(l.run)
	}
}

// run reads batch after batch, until nothing waits or the context ends. A pause is
// longer by up to a quarter, at random.
func (l *Later[T]) run() {
	for pause := Rest; l.sleep(pause + pause/4 - rand.N(pause/4+1)); {
		batch := l.next()
		if batch == nil {
			return
		}
		var answered atomic.Bool
		var readers sync.WaitGroup
		for _, item := range batch {
			readers.Go(func() {
				if l.Read(item) {
					answered.Store(true)
				}
			})
		}
		readers.Wait()
		if answered.Load() {
			pause = 0
		} else {
			pause = min(max(2*pause, Rest), maxRest)
		}
	}
}

// sleep returns after d, or reports false when the context has ended. What waits then
// is not read: the Stapler is closed.
func (l *Later[T]) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return l.Context.Err() == nil
	case <-l.Context.Done():
		return false
	}
}

// next returns what is read next; nil ends the reading, and has the next Add begin
// it again. Both are decided under the lock, so no item is left behind.
func (l *Later[T]) next() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting), maxReaders)
	if n == 0 {
		l.waiting, l.running = nil, false
		return nil
	}
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	return batch
}
