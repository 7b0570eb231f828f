package foreign

import "sync"

// A Queue calls functions one after the other, in a goroutine that lives while there
// are any. Set its fields before its first use.
type Queue struct {
	Calls *Calls
	Max   int // how many may wait

	mu      sync.Mutex // guards the rest
	waiting []func()
	running bool
}

// Add queues f, or reports that there is no room. It never blocks.
func (q *Queue) Add(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= q.Max {
		return false
	}
	q.waiting = append(q.waiting, f)
	if !q.running {
		q.running = true
		q.Calls.Go(q.run)
	}
	return true
}

func (q *Queue) run() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 {
		f := q.waiting[0]
		q.waiting[0], q.waiting = nil, q.waiting[1:]
		q.mu.Unlock()
		f()
		q.mu.Lock()
	}
	q.waiting, q.running = nil, false
}
