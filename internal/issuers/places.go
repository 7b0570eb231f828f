package issuers

import (
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
type places struct {
	mu      sync.Mutex     // guards the rest
	at      map[string]int // places taken, by host
	taken   []*place       // oldest first
	waiting []*place       // oldest first
}

// A place is what a download has, or waits for. ready, host and cancel do not change;
// places.mu guards the rest. cancel is called with the lock held and must not call
// back: that of a context does not.
type place struct {
	host   string
	ready  chan struct{} // closed when it is had
	cancel func(error)   // of the download
	giveUp *time.Timer   // after placeTime; nil while waiting
	over   bool          // placeTime is over
	leaves bool          // it was canceled
}

// take waits for a place, until ctx ends. cancel is called with errGaveWay if the place
// is to be given back; leave gives it back, and must be called once. The error is
// errNoPlace.
func (p *places) take(ctx context.Context, host string, cancel func(error)) (leave func(), err error) {
	w := &place{host: host, ready: make(chan struct{}), cancel: cancel}
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.moveLocked()
	p.mu.Unlock()
	select {
	case <-w.ready:
		return func() { p.leave(w) }, nil
	case <-ctx.Done():
		p.leave(w)
		return nil, errNoPlace
	}
}

// leave takes w from wherever it is: who stops waiting may have been given a place
// at the same moment.
func (p *places) leave(w *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	is := func(o *place) bool { return o == w }
	if w.giveUp == nil {
		p.waiting = slices.DeleteFunc(p.waiting, is)
		return
	}
	w.giveUp.Stop()
	p.taken = slices.DeleteFunc(p.taken, is)
	if p.at[w.host]--; p.at[w.host] == 0 {
		delete(p.at, w.host)
	}
	p.moveLocked()
}

// moveLocked gives places to those who wait. For those who get none, the oldest
// downloads that are in the way have to leave, once their time is over.
func (p *places) moveLocked() {
	for i := len(p.waiting) - 1; i >= 0 && len(p.taken) < maxPlaces; i-- {
		if w := p.waiting[i]; p.at[w.host] < maxAtHost {
			p.waiting = slices.Delete(p.waiting, i, i+1)
			p.startLocked(w)
		}
	}
	full, wanted := len(p.taken) >= maxPlaces, len(p.waiting)
	inTheWay := func(o *place) bool { return o.over && (full || p.wantedAtLocked(o.host)) }
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

// wantedAtLocked reports whether someone waits for a place at a host.
func (p *places) wantedAtLocked(host string) bool {
	return slices.ContainsFunc(p.waiting, func(w *place) bool { return w.host == host })
}

// startLocked gives w its place, and wakes who waits for it. When placeTime is over
// those that wait are considered anew.
func (p *places) startLocked(w *place) {
	if p.at == nil {
		p.at = make(map[string]int)
	}
	p.at[w.host]++
	p.taken = append(p.taken, w)
	w.giveUp = time.AfterFunc(placeTime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		w.over = true
		p.moveLocked()
	})
	close(w.ready)
}
