package issuers

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Certificates of one tenant may name any number of hosts that hang. With these
// limits they delay the download for another's certificate by less than 1 s, which
// TestHostsThatHang checks.
const (
	// maxPlaces is how many downloads may be under way, and maxAtHost at one host.
	maxPlaces = 64
	maxAtHost = 4
	// placeTime is how long a download keeps its place while another waits for one.
	// Certificates may be anybody's and name hosts that hang, as many as it takes.
	placeTime = 750 * time.Millisecond
)

var (
	errGaveWay = errors.New("no answer yet, and other downloads wait for their turn")
	errNoPlace = errors.New("no turn among the downloads in time")
)

// places bounds the downloads under way. The latest to come is the first to get a
// place: who waits longest waits behind those that hang. The zero places is ready.
//
// A download that answers in time is never canceled, nor a slow one whose place
// nobody wants. One that does not return when it is canceled keeps its place: places
// count what runs, not what should.
//
// Any number may wait. Each step costs the same for few and for many, but for the
// logarithm of the number of hosts: it is made under the lock.
type places struct {
	mu      sync.Mutex       // guards the rest
	hosts   map[string]*host // those with places taken or wanted
	next    queue            // of hosts that have room for who waits there
	taken   []*place         // oldest first
	waiting int
	came    uint64 // how many came so far
}

// A host is where downloads are made. places.mu guards it.
type host struct {
	name    string
	taken   int
	waiting list.List // of *place, oldest first
	index   int       // in next, plus 1; 0: not there
}

// latest is the one who came last of those who wait.
func (h *host) latest() *place { return h.waiting.Back().Value.(*place) }

// A place is what a download has, or waits for. host, number, ready and cancel do not
// change; places.mu guards the rest. cancel is called with the lock held and must not call
// back: that of a context does not.
type place struct {
	host   *host
	number uint64        // in the order in which they came
	ready  chan struct{} // closed when it is had
	cancel func(error)   // of the download
	waits  *list.Element // in host.waiting; nil once it is had
	giveUp *time.Timer   // after placeTime; nil while waiting
	over   bool          // placeTime is over
	leaves bool          // it was canceled
}

// take waits for a place, until ctx ends. cancel is called with errGaveWay if the place
// is to be given back; leave gives it back, and must be called once. The error is
// errNoPlace.
func (p *places) take(ctx context.Context, host string, cancel func(error)) (leave func(), err error) {
	w := p.enter(host, cancel)
	select {
	case <-w.ready:
		return func() { p.leave(w) }, nil
	case <-ctx.Done():
		p.leave(w)
		return nil, errNoPlace
	}
}

// enter has a download wait for a place, which it may get at once.
func (p *places) enter(name string, cancel func(error)) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[name]
	if h == nil {
		if p.hosts == nil {
			p.hosts = make(map[string]*host)
		}
		h = &host{name: name}
		p.hosts[name] = h
	}
	p.came++
	w := &place{host: h, number: p.came, ready: make(chan struct{}), cancel: cancel}
	w.waits = h.waiting.PushBack(w)
	p.waiting++
	p.changedLocked(h)
	p.moveLocked()
	return w
}

// leave takes w from wherever it is: who stops waiting may have been given a place
// at the same moment.
func (p *places) leave(w *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.waits != nil {
		p.stopWaitingLocked(w)
		p.changedLocked(w.host)
		return
	}
	w.giveUp.Stop()
	p.taken = slices.DeleteFunc(p.taken, func(o *place) bool { return o == w })
	w.host.taken--
	p.changedLocked(w.host)
	p.moveLocked()
}

// moveLocked gives places to those who wait. For those who get none, the oldest
// downloads that are in the way have to leave, once their time is over.
func (p *places) moveLocked() {
	for len(p.next) > 0 && len(p.taken) < maxPlaces {
		p.startLocked(p.next[0].latest())
	}
	full, wanted := len(p.taken) >= maxPlaces, p.waiting
	inTheWay := func(o *place) bool { return o.over && (full || o.host.waiting.Len() > 0) }
	for _, o := range p.taken {
		if o.leaves && inTheWay(o) {
			wanted--
		}
	}
	for _, o := range p.taken {
		if wanted > 0 && !o.leaves && inTheWay(o) {
			wanted--
			o.leaves = true
			o.cancel(errGaveWay)
		}
	}
}

// startLocked gives w its place, and wakes who waits for it. When placeTime is over
// those that wait are considered anew.
func (p *places) startLocked(w *place) {
	p.stopWaitingLocked(w)
	w.host.taken++
	p.taken = append(p.taken, w)
	p.changedLocked(w.host)
	w.giveUp = time.AfterFunc(placeTime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		w.over = true
		p.moveLocked()
	})
	close(w.ready)
}

func (p *places) stopWaitingLocked(w *place) {
	w.host.waiting.Remove(w.waits)
	w.waits = nil
	p.waiting--
}

// changedLocked has h be in next where it belongs, or nowhere. It is called after each
// change of who waits at h, and of the places taken there.
func (p *places) changedLocked(h *host) {
	switch wants := h.waiting.Len() > 0 && h.taken < maxAtHost; {
	case wants && h.index > 0:
		heap.Fix(&p.next, h.index-1)
	case wants:
		heap.Push(&p.next, h)
	case h.index > 0:
		heap.Remove(&p.next, h.index-1)
	}
	if h.waiting.Len() == 0 && h.taken == 0 {
		delete(p.hosts, h.name)
	}
}

// A queue is a heap of hosts: the one where somebody came last is the first.
type queue []*host

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].latest().number > q[j].latest().number }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i+1, j+1
}

func (q *queue) Push(h any) {
	*q = append(*q, h.(*host))
	(*q)[len(*q)-1].index = len(*q)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	h := (*q)[last]
	h.index = 0
	(*q)[last] = nil
	*q = (*q)[:last]
	return h
}
