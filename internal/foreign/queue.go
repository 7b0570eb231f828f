package foreign

import "sync"

// A Queue calls functions, in goroutines that live while there are any to call. Set its
// fields before its first use. The Stapler has three: certificates to be prepared,
// writes to the store, and events.
//
// The functions are ours: they call foreign code by [Call] and the like, so that one
// that panics ends no worker. One that hangs keeps its worker.
type Queue struct {
	Calls   *Calls
	Max     int // how many may wait; 0: any number
	Workers int // how many are called at once; 0: one, and so in the order in which they came

	mu              sync.Mutex // guards the rest
	urgent, routine []func()
	running         int
	closed          bool
}

// Add queues f, or reports that there is no room, or that q is closed. It never
// blocks, so it may be called with a lock held. Urgent and routine ones count
// together against Max.
func (q *Queue) Add(f func()) bool { return q.add(&q.routine, f) }

// AddUrgent queues f before all that Add has queued.
func (q *Queue) AddUrgent(f func()) bool { return q.add(&q.urgent, f) }

// Close drops what waits, and what is added later. What is being called goes on.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.urgent, q.routine, q.closed = nil, nil, true
}

// add queues f in one of the two, and starts a goroutine for it unless as many run as may.
// A goroutine ends when it finds nothing, with the lock held: none is missed.
func (q *Queue) add(to *[]func(), f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.Max > 0 && len(q.urgent)+len(q.routine) >= q.Max {
		return false
	}
	*to = append(*to, f)
	if q.running < max(q.Workers, 1) {
		q.running++
		q.Calls.Go(q.run)
	}
	return true
}

// run calls what waits, the urgent first, until nothing does. The lock is not held
// during a call.
func (q *Queue) run() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		from := &q.urgent
		if len(*from) == 0 {
			from = &q.routine
		}
		if len(*from) == 0 {
			q.urgent, q.routine = nil, nil // the arrays grow to what a burst took
			q.running--
			return
		}
		f := (*from)[0]
		(*from)[0], *from = nil, (*from)[1:]
		q.mu.Unlock()
		f()
		q.mu.Lock()
	}
}
