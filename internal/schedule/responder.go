package schedule

import "slices"

const (
	// MaxRoute is how many responders of a certificate are asked. A certificate may
	// be anybody's and name thousands.
	MaxRoute = 4
	// failsAfter is for how many certificates in a row a responder must fail, or
	// for all that it has: a few that nobody gets a response for, in the midst of
	// others, say nothing about it.
	failsAfter = 5
)

// A Key names a responder: a URL, and the issuer whose key signed the
// certificates. What happens to those of one CA says nothing about another's at
// the same URL, or a thousand certificates of a private CA, which an honest CA's
// responder refuses, would take it from the honest CA's.
type Key struct {
	URL, Issuer string
	Host        string // of the URL, with the port
}

// A Responder is whom to ask about the certificates of one issuer at one URL. It
// has a queue, limits and failures of its own, so that none delays another's
// certificates.
//
// While it works, items that wait for a place are in its queue. While it fails
// there is at most one, the probe: all others are StandingBy, in standing.
type Responder[T any] struct {
	Key
	// Data is the driver's: what it has learned about the responder.
	Data any

	host  *host[T]
	certs int             // items that have it in their route
	alone []*Responder[T] // r, as a route

	// Requests in flight: see places.
	queue       heap[T] // by deadline
	used, limit int     // places
	cut         int64   // when limit was last halved
	quick       int64   // when the last request was sent that was answered quickly
	proven      bool    // it gave a valid response once
	slot        int32   // in host.ready

	// Failures: see probe.go.
	failing  bool        // nobody is asked but probes
	failed   []T         // whom it failed for since the last success, up to failsAfter
	worked   int64       // when r last answered while it did not fail
	since    int64       // when that began
	marked   int64       // call in which failing began
	last     int64       // the last failure of a probe
	bound    int64       // the shortest pause that its certificates can afford: see planProbe
	hint     int64       // a Retry-After
	standing heap[T]     // items that are StandingBy, by Item.turn
	probe    *attempt[T] // that is under way
	probeAt  int64       // when the next is due
	probed   int64       // when the last began
	at       int32       // in host.failing, while it fails
	due      int32       // in host.due
	counted  bool        // in host.active
}

// Failing reports whether the responder is probed only.
func (r *Responder[T]) Failing() bool { return r.failing }

// Certificates returns how many items have r in their route.
func (r *Responder[T]) Certificates() int { return r.certs }

// active reports whether probes of r are under way or to come.
func (r *Responder[T]) active() bool { return r.failing && (r.probe != nil || r.standing.len() > 0) }

// fails adds r to the failing ones of its host, or takes it out.
func (r *Responder[T]) fails(now bool) {
	all := r.host.failing
	if r.failing = now; now {
		r.at = int32(len(all))
		r.host.failing = append(all, r)
		return
	}
	last := all[len(all)-1]
	all[r.at], last.at = last, r.at
	all[len(all)-1] = nil
	r.host.failing = all[:len(all)-1]
}

// A host is what responders share: the machine behind their URLs. What stops one
// of them, and what too many requests do, may concern them all.
type host[T any] struct {
	name       string
	responders int
	used       int                    // places
	ready      [2]heap[*Responder[T]] // who has items waiting and a place, by the first deadline; proven ones apart
	slots      [2]int32               // in places.lines
	failing    []*Responder[T]
	active     int                 // of these, those that have probes under way or to come
	due        heap[*Responder[T]] // of these, those whose next probe is to come
	probed     int64               // when one of these was last probed
	proven     bool                // the next probe is one of a responder that has proven something
	slot       int32               // in Schedule.probes
}

// route returns the responders with these keys, counting one more item for each.
func (s *Schedule[T]) route(keys []Key) *[]*Responder[T] {
	var route []*Responder[T]
	for _, k := range keys[:min(len(keys), MaxRoute)] {
		if r := s.responder(k); !slices.Contains(route, r) {
			r.certs++
			route = append(route, r)
		}
	}
	switch len(route) {
	case 0:
		return nil
	case 1:
		return &route[0].alone // shared by all certificates that name no other
	}
	return &route
}

// responder returns the one with a key, new if nobody has it yet.
func (s *Schedule[T]) responder(k Key) *Responder[T] {
	r := s.responders[k]
	if r == nil {
		r = &Responder[T]{Key: k, host: s.host(k.Host), limit: s.places.limits.First}
		r.host.responders++
		r.queue.place = func(t T) *int32 { return &t.item().at.slot }
		r.standing.place = func(t T) *int32 { it := t.item(); return &it.at.stands[it.place(r)] }
		r.alone = []*Responder[T]{r}
		s.responders[k] = r
	}
	return r
}

// host returns the one with a name, new if it has no responder yet.
func (s *Schedule[T]) host(name string) *host[T] {
	h := s.hosts[name]
	if h == nil {
		h = &host[T]{name: name, proven: true}
		h.due.place = func(r *Responder[T]) *int32 { return &r.due }
		for i := range h.ready {
			h.ready[i].place = func(r *Responder[T]) *int32 { return &r.slot }
		}
		s.hosts[name] = h
	}
	return h
}

// forget drops r, and its host with the last one, if it is not needed: nobody's
// certificate names it any more. A request that is out keeps it, or its places would be
// given away twice.
func (s *Schedule[T]) forget(r *Responder[T]) {
	if r.certs > 0 || r.used > 0 || s.responders[r.Key] != r {
		return
	}
	delete(s.responders, r.Key)
	h := r.host
	if r.failing {
		r.fails(false)
	}
	if h.responders--; h.responders == 0 {
		delete(s.hosts, h.name)
	}
}
