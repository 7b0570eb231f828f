package staple

import (
	"container/heap"
	"errors"
	"time"
)

const (
	// maxInFlight is how many requests a responder gets at once.
	maxInFlight = 32
	// breakAfter is how many failures in a row, for two certificates or more,
	// open a responder's breaker.
	breakAfter = 5
)

// responder is one OCSP responder, known by its URL. Everything but url is
// guarded by Stapler.mu. It has a queue and a breaker of its own, so that none
// delays another's certificates, and a dead one costs a bounded number of
// requests whatever the number of certificates.
type responder struct {
	url      string
	inflight int
	held     urgency // certificates that have something to lose, soonest first
	cold     urgency // the others, longest waiting first

	fails   int    // in a row
	firstID uint64 // the certificate of the first of them
	err     error  // the last of them
	open    bool   // breaker: failures until a probe succeeds
	probeAt int64  // Unix ns; when open
	gap     int64  // between probes
	pos     int    // in Stapler.timers

	postUntil  int64 // Unix ns: GET was refused and POST answered
	postTried  int64 // Unix ns: GET was refused, and POST too
	otherUntil int64 // Unix ns: the other CertID hash was answered, the first not
}

// route is an ordered set of responders, shared by certificates.
type route struct{ responders []*responder }

// urgency is a heap of waiting entries by deadline.
type urgency []waiting

type waiting struct {
	e        *entry
	deadline int64
}

func (u urgency) Len() int           { return len(u) }
func (u urgency) Less(i, j int) bool { return u[i].deadline < u[j].deadline }
func (u urgency) Swap(i, j int)      { u[i], u[j] = u[j], u[i] }
func (u *urgency) Push(x any)        { *u = append(*u, x.(waiting)) }
func (u *urgency) Pop() any {
	last := len(*u) - 1
	x := (*u)[last]
	(*u)[last], *u = waiting{}, (*u)[:last]
	return x
}

func (r *responder) queued() int { return len(r.held) + len(r.cold) }

// probing reports whether the breaker lets one request through now.
func (r *responder) probing(now int64) bool { return r.inflight == 0 && now >= r.probeAt }

func (r *responder) when() int64 {
	if r.open && r.inflight == 0 && r.queued() > 0 {
		return r.probeAt
	}
	return never
}
func (r *responder) place() *int   { return &r.pos }
func (r *responder) shift(d int64) { r.probeAt += d }
func (r *responder) fireLocked(s *Stapler, now int64) {
	s.dispatchLocked(r, now)
	s.moveLocked(r) // off the heap: a probe is in flight, or nothing is queued
}

// popLocked returns the most urgent entry. Earliest deadline first: what is
// held lasts until it expires, and who has nothing has waited long enough
// after the time that a client waits. A probe is for who has most to lose.
func (r *responder) popLocked(now int64) *entry {
	for r.queued() > 0 {
		from := &r.held
		switch {
		case len(r.held) == 0, len(r.cold) > 0 && r.held[0].deadline <= now:
			from = &r.cold
		case len(r.cold) > 0 && !r.open && r.cold[0].deadline < r.held[0].deadline:
			from = &r.cold
		}
		if e := heap.Pop(from).(waiting).e; !e.flags.gone {
			return e
		}
	}
	return nil
}

// routeLocked sends the attempt for e on to the next responder, or ends it.
func (s *Stapler) routeLocked(e *entry, now int64) {
	at := e.at
	next := -1
	for i, r := range at.rest {
		if !r.open || r.probing(now) && r.queued() == 0 {
			next = i
			break
		}
	}
	if next < 0 && (len(at.rest) == 0 || len(at.errs) > 0) || at.left <= 0 {
		s.failLocked(e, errors.Join(at.errs...), now)
		return
	}
	next = max(next, 0)
	r := at.rest[next]
	at.rest = append(append([]*responder(nil), at.rest[:next]...), at.rest[next+1:]...)
	s.enqueueLocked(e, r, now)
}

func (s *Stapler) enqueueLocked(e *entry, r *responder, now int64) {
	if h := e.held.Load(); h.current(now) {
		heap.Push(&r.held, waiting{e, h.until})
	} else {
		heap.Push(&r.cold, waiting{e, now + int64(defaultColdWait)})
	}
	s.dispatchLocked(r, now)
	if r.open && !e.at.asking && !e.at.waits {
		s.unavailableLocked(e, r, now)
	}
}

// dispatchLocked starts as many requests as r may have.
func (s *Stapler) dispatchLocked(r *responder, now int64) {
	for !s.closed && r.inflight < maxInFlight && (!r.open || r.probing(now)) {
		e := r.popLocked(now)
		if e == nil {
			break
		}
		if e.at != nil {
			e.at.asking = true
		}
		r.inflight++
		s.goLocked(func() { s.ask(e, r) })
	}
	s.moveLocked(r)
}

// unavailableLocked tells those who wait for e that its responder is not asked
// for the time being. e stays in the queue.
func (s *Stapler) unavailableLocked(e *entry, r *responder, now int64) {
	e.at.waits = true
	e.err = &ResponseError{Responder: r.url, Reason: ReasonUnavailable, Err: r.err}
	s.endLocked(e, now)
	s.moveLocked(e)
}

// verdictLocked counts what r did for e.
func (s *Stapler) verdictLocked(r *responder, e *entry, err error, now int64) {
	if !blames(err) {
		r.fails, r.open, r.gap, r.err = 0, false, 0, nil
		return
	}
	if r.fails == 0 {
		r.firstID = e.id
	}
	r.fails++
	r.err = err
	if !r.open {
		if r.fails < breakAfter || r.firstID == e.id {
			return
		}
		s.openLocked(r, now)
	}
	r.probeLocked(now)
}

// probeLocked sets when r is asked next: in proportion to what can still be
// lost, and more and more rarely when that is nothing.
func (r *responder) probeLocked(now int64) {
	if len(r.held) > 0 && r.held[0].deadline > now {
		r.gap = clamp(time.Duration(r.held[0].deadline-now)/16, 250*time.Millisecond, time.Minute)
	} else {
		r.gap = clamp(2*time.Duration(r.gap), time.Second, maxRetry)
	}
	r.probeAt = now + jitter(r.gap, 0.1)
}

// openLocked opens the breaker. Entries that can be asked about elsewhere go there.
func (s *Stapler) openLocked(r *responder, now int64) {
	r.open = true
	s.log(slogWarn, "OCSP responder fails, it is asked rarely until it recovers", "responder", r.url,
		"failures", r.fails, "certificates_waiting", r.queued(), "error", r.err)
	queues := []urgency{r.held, r.cold}
	r.held, r.cold = nil, nil
	r.probeAt = now + 1 // nothing is sent while the queue is sorted out
	var stay []*entry
	for _, q := range queues {
		for _, w := range q {
			switch {
			case w.e.flags.gone || w.e.at == nil:
			case len(w.e.at.rest) > 0:
				w.e.at.errs = append(w.e.at.errs, &ResponseError{Responder: r.url, Reason: ReasonUnavailable, Err: r.err})
				s.routeLocked(w.e, now)
			default:
				stay = append(stay, w.e)
			}
		}
	}
	for _, e := range stay {
		s.enqueueLocked(e, r, now)
	}
}

// blames reports whether err speaks against the responder, not the certificate:
// what is signed, or says that the certificate is not known, shows it at work.
func blames(err error) bool {
	var re *ResponseError
	if err == nil || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNoIssuer) {
		return false
	}
	if errors.As(err, &re) {
		switch re.Reason {
		case ReasonUnauthorized, ReasonMalformedRequest, ReasonReplay, ReasonUnknown, ReasonIssuer:
			return false
		}
	}
	return true
}
