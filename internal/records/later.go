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
	maxRest    = time.Minute
)

// A Later reads again what was not read in time, once the store has rested: or one
// slow read would keep what is stored for all others from being served, for as long
// as no responder answers. The store rests longer each time, where none of those that
// are read at once is answered. Set its fields before its first use.
type Later[T any] struct {
	Calls   *foreign.Calls
	Context context.Context         // ends it
	Read    func(T) (answered bool) // may take its time: nobody waits for it

	mu      sync.Mutex // guards the rest
	waiting []T
	running bool
}

// Add has Read called with item. It never blocks.
func (l *Later[T]) Add(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, item)
	if !l.running {
		l.running = true
		l.Calls.Go(l.run)
	}
}

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

// sleep returns after d, or reports false when the context has ended.
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

// next returns what is read next; nil ends the reading.
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
