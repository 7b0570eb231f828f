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

	mu      sync.Mutex // guards the rest
	lanes   [lanes][]func()
	turn    int // of the next call, in turns
	running int
	closed  bool
}

// The lanes of a Queue, the most urgent first.
const (
	urgent = iota
	refresh
	routine
	lanes
)

// turns is the order in which the lanes are served while something waits in each. Urgent and
// new work may be anybody's and never end: a refresh must not wait for that.
var turns = [...]int{urgent, refresh, urgent, routine}

// Add queues f, or reports that there is no room, or that q is closed. It never
// blocks, so it may be called with a lock held. All lanes count together
// against Max.
func (q *Queue) Add(f func()) bool { return q.add(routine, f) }

// AddUrgent queues f before what Add and AddRefresh have queued, of which each has one
// turn in four.
func (q *Queue) AddUrgent(f func()) bool { return q.add(urgent, f) }

// AddRefresh queues f for what has something to lose, before what Add has queued.
func (q *Queue) AddRefresh(f func()) bool { return q.add(refresh, f) }

// Close drops what waits, and what is added later. Calls under way go on.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lanes, q.closed = [lanes][]func(){}, true
}

// add queues f in one of the lanes, and starts a goroutine for it unless as many run as may.
// A goroutine ends when it finds nothing, with the lock held: none is missed.
func (q *Queue) add(lane int, f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.Max > 0 && len(q.lanes[urgent])+len(q.lanes[refresh])+len(q.lanes[routine]) >= q.Max {
		return false
	}
	q.lanes[lane] = append(q.lanes[lane], f)
	if q.running < max(q.Workers, 1) {
		q.running++
		q.Calls.Go(q.run)
	}
	return true
}

// run calls what waits, mostly the urgent first, until nothing does. The lock is not held
// during a call.
func (q *Queue) run() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		from := &q.lanes[turns[q.turn%len(turns)]]
		q.turn++
		for lane := 0; lane < lanes && len(*from) == 0; lane++ {
			from = &q.lanes[lane]
		}
		if len(*from) == 0 {
			q.lanes = [lanes][]func(){} // the arrays grow to what a burst took
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
