package staple

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

const (
	// maxInFlight is how many requests a responder gets at once.
	maxInFlight = 32
	// breakAfter is for how many certificates a responder must fail in a row for
	// its breaker to open: a few that nobody can get a response for, in the
	// midst of others, say nothing about it. One that fails again does not count.
	breakAfter = 5
	// maxPlanned is how many planned requests are kept apart.
	maxPlanned = 64
)

// responder is one OCSP responder, known by its URL. Everything but url is
// guarded by Stapler.mu. It has a queue and a breaker of its own, so that none
// delays another's certificates, and a dead one costs a bounded number of
// requests whatever the number of certificates.
//
// While the breaker is closed, the queue is of attempts that wait for one of
// the places. While it is open these are failed attempts, whose certificates
// stand by: one of them is tried from time to time, all when that succeeds, and
// each goes its own way when its own retry is due.
type responder struct {
	timing   // of the next probe
	url      string
	inflight int
	held     urgency  // certificates that have something to lose, soonest first
	cold     urgency  // the others, longest waiting first
	forced   []*entry // attempts of calls, which an open breaker does not hold back

	failed  []uint64 // distinct certificates that failed since the last success, up to breakAfter
	err     error    // the last failure
	open    bool     // breaker: failures until a probe succeeds
	probing bool     // a probe is in flight
	shared  bool     // some certificates have another one besides
	probeAt int64    // Unix ns; when open
	gap     int64    // between probes
	warned  int64    // Unix ns

	memory ocsphttp.Memory // of how to ask it

	planned []int64 // Unix ns: the last times that planLocked chose, a ring
	oldest  int     // in planned
}

// route is an ordered set of responders, shared by certificates.
type route struct{ responders []*responder }

// planLocked chooses when in a span to ask r, as far from what it chose last, and
// is ahead, as a few random times allow. Random alone clumps: of 33 certificates
// whose responses were signed together, and that spread over four hours, twice as
// many as in the mean fall into one hour now and then. So does a sequence that is
// even by itself, once it is added to the times that it led to the last time.
func (r *responder) planLocked(from, to, now int64) int64 {
	at, apart := from, int64(-1)
	for range 8 {
		t, nearest := from+rand.Int64N(to-from+1), int64(never)
		for _, other := range r.planned {
			if other > now {
				nearest = min(nearest, max(t-other, other-t))
			}
		}
		if nearest > apart {
			at, apart = t, nearest
		}
	}
	if len(r.planned) < maxPlanned {
		r.planned = append(r.planned, at)
	} else {
		r.planned[r.oldest] = at
		r.oldest = (r.oldest + 1) % maxPlanned
	}
	return at
}

// planLocked chooses when in a span to ask about e.
func (e *entry) planLocked(from, to, now int64) int64 {
	switch {
	case e.best != nil:
		return e.best.planLocked(from, to, now)
	case e.route != nil && len(e.route.responders) > 0:
		return e.route.responders[0].planLocked(from, to, now)
	}
	return to
}

// urgency is a heap of entries by deadline. An entry is in one at most.
type urgency []*entry

func (u urgency) Len() int           { return len(u) }
func (u urgency) Less(i, j int) bool { return u[i].deadline < u[j].deadline }
func (u urgency) Swap(i, j int)      { u[i], u[j] = u[j], u[i]; u[i].slot, u[j].slot = int32(i), int32(j) }
func (u *urgency) Push(x any) {
	e := x.(*entry)
	e.queue, e.slot = u, int32(len(*u))
	*u = append(*u, e)
}
func (u *urgency) Pop() any {
	last := len(*u) - 1
	e := (*u)[last]
	(*u)[last], *u = nil, (*u)[:last]
	e.queue = nil
	return e
}

// unqueue takes e out of the queue that it is in.
func (e *entry) unqueue() {
	if e.queue != nil {
		heap.Remove(e.queue, int(e.slot))
	}
}

func (r *responder) queued() int { return len(r.held) + len(r.cold) }

// probeDue reports whether the breaker lets one request through now.
func (r *responder) probeDue(now int64) bool { return r.open && !r.probing && now >= r.probeAt }

func (r *responder) when() int64 {
	if r.open && !r.probing && r.queued() > 0 {
		return r.probeAt
	}
	return never
}

// fireLocked has the certificate that has most to lose tried.
func (r *responder) fireLocked(s *Stapler, now int64) {
	if r.probeDue(now) && r.inflight >= maxInFlight { // calls that never return must not pile up
		r.probeAt = now + max(r.gap, int64(time.Second))
	}
	if r.probeDue(now) {
		if e := r.popLocked(); e != nil {
			r.probeAt = now + max(r.gap, int64(time.Second)) // in case that nothing comes of it
			s.startLocked(e, true)
			e.at.probe = r
			s.moveLocked(e)
		}
	}
	s.moveLocked(r)
}

// pushLocked queues e. Earliest deadline first: what is held lasts until it
// expires, and who has nothing has waited long enough after the time that a
// client waits.
func (r *responder) pushLocked(e *entry, now int64) {
	e.unqueue()
	if h := e.held.Load(); h.current(now) {
		e.deadline = h.until
		heap.Push(&r.held, e)
	} else {
		e.deadline = now + int64(defaultColdWait)
		heap.Push(&r.cold, e)
	}
}

// expireLocked moves e to those that have nothing to lose.
func (r *responder) expireLocked(e *entry) {
	if e.queue == &r.held {
		heap.Remove(&r.held, int(e.slot))
		heap.Push(&r.cold, e)
	}
}

// popLocked returns who is asked about next: mostly the most urgent, and of a
// probe who has most to lose. But some are drawn by lot: a quarter, half of the
// probes, and all of them where nothing is to lose. Certificates that nobody
// can get a response for become the most urgent of all, and would keep the
// others waiting.
func (r *responder) popLocked() *entry {
	switch {
	case r.queued() == 0:
		return nil
	case !r.open && rand.IntN(4) == 0, r.open && (len(r.held) == 0 || rand.IntN(2) == 0):
		return r.drawLocked()
	case len(r.held) == 0 || !r.open && len(r.cold) > 0 && r.cold[0].deadline < r.held[0].deadline:
		return heap.Pop(&r.cold).(*entry)
	}
	return heap.Pop(&r.held).(*entry)
}

// drawLocked returns one by lot, of those that were not asked about in vain
// before if there are any: for a probe, which is rare, however few they are.
func (r *responder) drawLocked() *entry {
	n, tries := r.queued(), 32
	if r.open {
		tries = n
	}
	from := rand.IntN(n)
	e := r.atLocked(from)
	for i := range min(tries, n) {
		if other := r.atLocked((from + i) % n); other.flags.vain == 0 {
			e = other
			break
		}
	}
	e.unqueue()
	return e
}

// atLocked returns one of those in the queue.
func (r *responder) atLocked(i int) *entry {
	if i < len(r.held) {
		return r.held[i]
	}
	return r.cold[i-len(r.held)]
}

// routeLocked sends the attempt for e on to the next responder, or ends it.
func (s *Stapler) routeLocked(e *entry, now int64) {
	at := e.at
	if len(at.rest) == 0 || at.left <= 0 {
		s.failLocked(e, errors.Join(at.errs...), now)
		return
	}
	i := slices.IndexFunc(at.rest, func(r *responder) bool { return !r.open && !at.call.sparesLocked(r) })
	if i < 0 { // else nobody has to wait for a probe
		i = slices.IndexFunc(at.rest, func(r *responder) bool {
			if at.call != nil {
				return !at.call.sparesLocked(r) && !s.stuckLocked(r)
			}
			return !r.probing && (at.probe == r || r.probeDue(now) && r.queued() == 0)
		})
	}
	if i < 0 {
		s.standByLocked(e, at.rest[0], now)
		return
	}
	r := at.rest[i]
	at.rest = append(append([]*responder(nil), at.rest[:i]...), at.rest[i+1:]...)
	switch {
	case !r.open:
		r.pushLocked(e, now)
	case at.call != nil:
		at.probe = nil // it is as good as one
		r.forced = append(r.forced, e)
	default:
		r.probing, at.probe = true, nil
		s.sendLocked(e, r, true)
		s.moveLocked(r)
		return
	}
	s.dispatchLocked(r)
}

// stuckLocked reports whether r has no place and will not have one: its calls do
// not return, and others may not be made.
func (s *Stapler) stuckLocked(r *responder) bool {
	return r.inflight >= maxInFlight && s.calls.Full(clientCode)
}

// unstickLocked has who waits for a place at r, as a caller asked for it, go on
// without.
func (s *Stapler) unstickLocked(r *responder, now int64) {
	if !s.stuckLocked(r) {
		return
	}
	waiting := r.forced
	r.forced = nil
	for _, e := range waiting {
		e.at.rest = append(e.at.rest, r)
		s.routeLocked(e, now)
	}
}

// overLocked ends the attempt for e. Where it was to be a probe and came to no
// request (the certificate expired, the store had a response), the next in line
// is tried instead, and not only when the next probe is due.
func (s *Stapler) overLocked(e *entry, now int64) {
	at := e.at
	e.at = nil
	if at == nil || at.probe == nil {
		return
	}
	if r := at.probe; r.open && !r.probing {
		r.probeAt = min(r.probeAt, now)
		s.moveLocked(r)
	}
}

// standByLocked ends the attempt for e, as r is not asked for the time being.
// If r, or another that e may be asked about at, recovers before the next one
// is due, e is next.
func (s *Stapler) standByLocked(e *entry, r *responder, now int64) {
	if e.at.spared() {
		s.finishLocked(e, now)
		return
	}
	err := error(&ResponseError{Responder: r.url, Reason: ReasonUnavailable, Err: r.err})
	if r.open { // else it failed for a call alone
		r.pushLocked(e, now)
	}
	h := e.held.Load()
	// Probes may have become rare, as there was nothing to lose.
	if soon := probeGap(h, now); soon < r.gap && (h.current(now) || e.rare().failures == 0) {
		r.gap, r.probeAt = soon, min(r.probeAt, now+soon)
	}
	s.moveLocked(r)
	if len(e.at.errs) == 0 {
		m := e.also()
		m.stoodBy = min(m.stoodBy+1, 60)
	}
	s.failLocked(e, errors.Join(append(e.at.errs, err)...), now)
}

// dispatchLocked starts as many requests as r may have.
func (s *Stapler) dispatchLocked(r *responder) {
	for !s.closed && r.inflight < maxInFlight {
		e := r.nextLocked()
		if e == nil {
			return
		}
		s.sendLocked(e, r, false)
	}
}

// nextLocked returns who is asked about next, other than by a probe.
func (r *responder) nextLocked() *entry {
	switch {
	case len(r.forced) > 0:
		e := r.forced[0]
		r.forced[0], r.forced = nil, r.forced[1:]
		return e
	case r.open:
		return nil
	}
	return r.popLocked()
}

func (s *Stapler) sendLocked(e *entry, r *responder, probe bool) {
	r.inflight++
	s.calls.Go(func() { s.ask(e, r, probe) })
}

// verdictLocked counts what r did for e.
func (s *Stapler) verdictLocked(r *responder, e *entry, err error, probe bool, now int64) {
	if probe {
		r.probing = false
	}
	unasked := errors.Is(err, ErrNoIssuer)
	switch {
	case e.at == nil || !unasked && !blames(err):
	case probe && !unasked:
		e.at.vain = max(e.at.vain, vainProbe)
	default:
		e.at.vain = vainItself
	}
	switch {
	case unasked:
		if probe { // let another be one
			r.probeAt = min(r.probeAt, now)
			s.moveLocked(r)
		}
		return
	case !blames(err):
		r.failed, r.err = r.failed[:0], nil
		s.reopenLocked(r, now)
		return
	case e.flags.vain == vainItself: // known for that
	case len(r.failed) < breakAfter && !slices.Contains(r.failed, e.id):
		r.failed = append(r.failed, e.id)
	}
	r.err = err
	switch {
	case !r.open && len(r.failed) == breakAfter:
		s.openLocked(r, e, now)
	case probe:
		r.probeLocked(e, retryHint(err), now)
		s.moveLocked(r)
	}
}

// probeGap returns when a responder is to be tried again for the sake of h.
func probeGap(h *held, now int64) int64 {
	if !h.current(now) {
		return int64(time.Minute)
	}
	return clamp(time.Duration(h.until-now)/16, 250*time.Millisecond, time.Minute)
}

// probeLocked sets when r is asked next after a failure for e: in proportion to
// what can still be lost, and more and more rarely when that is nothing. hint
// is a Retry-After.
func (r *responder) probeLocked(e *entry, hint time.Duration, now int64) {
	most := int64(maxRetry)
	h := e.held.Load()
	if len(r.held) > 0 {
		if first := r.held[0].held.Load(); !h.current(now) || first.until < h.until {
			h = first
		}
	}
	if h.current(now) {
		r.gap = probeGap(h, now)
		most = max((h.until-now)/8, r.gap)
	} else {
		r.gap = clamp(2*time.Duration(r.gap), time.Second, maxRetry)
	}
	r.probeAt = now + jitter(max(r.gap, min(int64(hint), most, int64(time.Hour))), 0.1)
}

// openLocked opens the breaker after r failed for e. Entries that can be asked
// about elsewhere go there.
func (s *Stapler) openLocked(r *responder, e *entry, now int64) {
	r.open, r.gap = true, 0
	r.probeLocked(e, retryHint(r.err), now)
	level := slogDebug
	if !recent(r.warned, now, warnEach) {
		level, r.warned = slogWarn, now
	}
	s.log(level, "OCSP responder fails and is asked rarely until it recovers; what is held is served until it expires; check the responder and the way to it", "responder", r.url,
		"failures", len(r.failed), "certificates_waiting", r.queued(), "error", r.err)
	for _, e := range r.takeLocked() {
		e.at.rest = append([]*responder{r}, e.at.rest...)
		s.routeLocked(e, now)
	}
	s.moveLocked(r)
}

// reopenLocked closes the breaker, in full: all who stand by are tried again.
func (s *Stapler) reopenLocked(r *responder, now int64) {
	if !r.open {
		return
	}
	r.open, r.gap = false, 0
	waiting := r.takeLocked()
	for other := range s.responders.All {
		if !r.shared {
			break // nobody waits elsewhere who could ask here
		}
		if other.open {
			waiting = append(waiting, other.alsoAskLocked(r)...)
		}
	}
	for _, e := range waiting {
		if e.flags.vain == vainProbe {
			e.flags.vain = 0
		}
		if e.more != nil { // it grew while nobody was asked
			e.backoff -= min(e.backoff, e.more.stoodBy)
			e.more.stoodBy = 0
		}
		s.startLocked(e, false)
		s.moveLocked(e)
	}
	s.moveLocked(r)
}

// alsoAskLocked returns those that stand by at r and may be asked about at
// another.
func (r *responder) alsoAskLocked(another *responder) (all []*entry) {
	for _, q := range []urgency{r.held, r.cold} {
		for _, e := range q {
			if slices.Contains(e.route.responders, another) {
				all = append(all, e)
			}
		}
	}
	return all
}

// takeLocked empties the queue of r.
func (r *responder) takeLocked() []*entry {
	var all []*entry
	for e := r.popLocked(); e != nil; e = r.popLocked() {
		all = append(all, e)
	}
	return all
}

// blames reports whether err speaks against the responder, not the certificate:
// what is signed, or says that the certificate is not known, shows it at work.
func blames(err error) bool {
	var re *ResponseError
	if err == nil || errors.Is(err, ErrUnknown) {
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
