package schedule

// quick is how soon an answer comes that has its responder get one more request.
const quick = second

// Limits are how many requests may be in flight. Hosts that hang must not take
// every file descriptor of the process.
type Limits struct {
	// First is what a responder gets at once to begin with. It gets one more after
	// each answer that came quickly, and half of them after a time-out: one that
	// serves a caller at a time collapses under 32.
	First     int
	Responder int // at one responder at most
	Host      int // at one host
	All       int
	Unproven  int // at responders that never proved anything: anybody's certificate may name any number of them
}

// defaultLimits are those of a Config that has none.
var defaultLimits = Limits{First: 4, Responder: 32, Host: 64, All: 256, Unproven: 128}

// places are the requests in flight, and who waits for one: earliest deadline
// first among all items whose responder and host have a place.
type places[T any] struct {
	limits   Limits
	used     int
	unproven int // of these at responders that never proved anything
	lines    [2]heap[*host[T]]
}

func (p *places[T]) init(l Limits) {
	p.limits = l
	for i := range p.lines {
		p.lines[i].place = func(h *host[T]) *int32 { return &h.slots[i] }
	}
}

// line is the index of the line of r: proven responders have one of their own.
func (r *Responder[T]) line() int {
	if r.proven {
		return 1
	}
	return 0
}

// take occupies a place at r. free releases it.
func (p *places[T]) take(r *Responder[T]) { p.add(r, 1) }

func (p *places[T]) free(r *Responder[T]) { p.add(r, -1) }

// add counts requests everywhere where they count.
func (p *places[T]) add(r *Responder[T], n int) {
	p.used += n
	r.host.used += n
	r.used += n
	if !r.proven {
		p.unproven += n
	}
	p.update(r)
}

// prove has the requests of r count among those at proven responders.
func (p *places[T]) prove(r *Responder[T]) {
	if !r.proven {
		r.host.ready[r.line()].set(r, Never)
		p.unproven -= r.used
		r.proven = true
		p.update(r)
	}
}

// update sorts r, and its host, into the lines. It is called after any change of a
// queue or of places. A responder or host without a free place is in no line.
func (p *places[T]) update(r *Responder[T]) {
	h, key := r.host, Never
	if r.used < r.limit {
		key = r.queue.key()
	}
	h.ready[r.line()].set(r, key)
	for i := range h.ready {
		key = Never
		if h.used < p.limits.Host {
			key = h.ready[i].key()
		}
		p.lines[i].set(h, key)
	}
}

// room reports whether r may be asked without queueing: no item waits there, and all
// limits allow one more request.
func (p *places[T]) room(r *Responder[T]) bool {
	return r.queue.len() == 0 && r.used < r.limit && r.host.used < p.limits.Host && p.used < p.limits.All && (r.proven || p.unproven < p.limits.Unproven)
}

// next returns the responder whose first item is to be asked about now, nil for
// none: the item with the earliest deadline of all that have a place. Items at
// responders that never proved anything wait apart while those have their share.
func (p *places[T]) next() *Responder[T] {
	line := 1
	if p.unproven < p.limits.Unproven && p.lines[0].key() < p.lines[1].key() {
		line = 0
	}
	if p.used >= p.limits.All || p.lines[line].len() == 0 {
		return nil
	}
	return p.lines[line].first().ready[line].first()
}

// grow gives r one more place after an answer that came quickly while it had no
// place left. One that answers quickly when it has little to do says nothing.
func (p *places[T]) grow(r *Responder[T], sent, now int64) {
	if now-sent > quick {
		return
	}
	r.quick = max(r.quick, min(sent, now)) // the clock was set back meanwhile
	if r.used >= r.limit && r.limit < p.limits.Responder {
		r.limit++
	}
}

// shrink halves the places of r after a time-out, once for all requests that were
// out together. Where a later one was answered quickly r is not overloaded.
func (p *places[T]) shrink(r *Responder[T], sent, now int64) {
	if sent >= max(r.cut, r.quick) {
		r.limit, r.cut = max(r.limit/2, 1), now
	}
}
