package staple

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/ocsp"
)

const (
	// maxAttempt bounds an attempt over all responders: a CA answers within
	// 10 s (CA/B Forum baseline requirements, 4.10.2).
	maxAttempt = 10 * time.Second
	// maxWorkers is how many certificates are prepared at once: that waits for
	// a store at most, so it may be more than there are processors.
	maxWorkers = 32
	// maxStaple is the longest response that is stapled. OpenSSL's clients take
	// a CertificateStatus message (RFC 6066 section 8) of one record, 2^14 bytes,
	// and crypto/tls can't write one of 2^16 in TLS 1.3. The response shares the
	// record with a handshake header of 4 bytes, the status type and a length of 3.
	maxStaple = 1<<14 - 4 - 1 - 3
	// maxStapleCerts is how many certificates may come with what is stapled:
	// Firefox takes a response with more for no response at all.
	maxStapleCerts = 8
	// grace is how long after its first sight a certificate may be unknown to
	// its responder without anyone being told: CAs publish with a delay.
	grace = 15 * time.Minute
)

// The way of a certificate: learn makes its entry and queues it; a worker
// prepares the attempt (who issued it, who is asked, what the store has); it
// waits in the queue of a responder; ask makes the exchange; finish or fail
// ends the attempt and says when the next is due, which queues it again.

// attempt is one pass over the responders of a certificate.
type attempt struct {
	prepared bool         // a worker has it, or had
	vain     bool         // a responder was asked, and failed
	probe    *responder   // whose breaker lets this attempt through
	rest     []*responder // to be asked still
	errs     []error      // of those that were
	left     time.Duration
	deferred int64 // Unix ns: when another process was first found to have the lease
	polls    uint8 // how often it was
}

// answer is a verified response on its way into an entry.
type answer struct {
	*proof
	raw       []byte
	responder string
	from      *responder // that gave what is in the store, if it is known
	received  int64      // Unix ns
	checked   int64      // Unix ns
	maxAge    time.Duration
	validator validator
	took      time.Duration
	stored    bool // from the store, which needs no telling
}

// jobs is a queue of entries for the workers.
type jobs struct{ urgent, routine []*entry }

func (j *jobs) pop() *entry {
	q := &j.urgent
	if len(*q) == 0 {
		q = &j.routine
	}
	if len(*q) == 0 {
		*j = jobs{}
		return nil
	}
	e := (*q)[0]
	(*q)[0], *q = nil, (*q)[1:]
	return e
}

// learn returns the entry of a certificate that find does not know, making it
// if need be. It returns nil when there is no room, and after Close. The bytes
// are compared in full, so a renewed certificate never finds its predecessor.
func (s *Stapler) learn(cert *tls.Certificate, listed bool) *entry {
	der := cert.Certificate[0]
	id := s.cache.hash(der)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.cache.findLocked(id, der); e != nil {
		s.cache.aliasLocked(e, der)
		s.rechainLocked(e, cert.Certificate[1:])
		if listed {
			e.lists.Add(1)
			s.cache.queueLocked(e)
		}
		return e
	}
	if s.closed || !listed && !s.makeRoomLocked(der) {
		return nil
	}
	now := s.nanos()
	e := &entry{ref: ref{der: der}, id: id, alarm: never}
	e.more = &rare{learned: now, chain: cert.Certificate[1:]}
	e.held.Store(&held{state: StatePending})
	e.cold.Store(true)
	e.seen.Store(hourOf(now))
	e.die = now + int64(idleLife)
	if listed {
		e.lists.Add(1)
	}
	s.cache.addLocked(e)
	s.cache.queueLocked(e)
	s.startLocked(e, !listed) // a handshake may wait for it
	s.moveLocked(e)
	return e
}

// makeRoomLocked makes room for an entry for der. Without a responder it is not
// worth another's place: of these there may be many more than places.
func (s *Stapler) makeRoomLocked(der []byte) bool {
	evict, ok := s.cache.roomLocked()
	if evict != nil {
		if s.opts.responders == nil && !mayNameResponder(der) && !mayMustStaple(der) {
			return false
		}
		s.dropLocked(evict)
	}
	return ok
}

// startLocked queues e for a new attempt.
func (s *Stapler) startLocked(e *entry, urgent bool) {
	e.dueAt(never)
	e.unqueue()
	if e.at == nil {
		e.at = &attempt{left: maxAttempt}
	}
	s.workLocked(e, urgent)
}

// workLocked hands e to a worker.
func (s *Stapler) workLocked(e *entry, urgent bool) {
	if s.closed {
		return
	}
	if urgent {
		s.jobs.urgent = append(s.jobs.urgent, e)
	} else {
		s.jobs.routine = append(s.jobs.routine, e)
	}
	if s.workers < maxWorkers {
		s.workers++
		s.goLocked(s.work)
	}
}

func (s *Stapler) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		e := s.jobs.pop()
		if e == nil || s.closed {
			s.workers--
			return
		}
		prepare := e.at != nil && !e.at.prepared
		if prepare {
			e.at.prepared = true
		}
		s.mu.Unlock()
		s.process(e, prepare)
		s.mu.Lock()
	}
}

// process finds out what there is to know of e without asking a responder, and
// sends it on to one if prepare is set and there is need.
func (s *Stapler) process(e *entry, prepare bool) {
	leaf := s.resolve(e)
	err := s.decide(e, leaf)
	if err == nil { // else it may be switched off
		s.judge(e)
	}
	if !prepare {
		return
	}
	if s.ready(e, err) && !s.load(e) && s.lease(e) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.at == nil || e.flags.gone {
			return
		}
		e.at.rest = append(e.at.rest[:0:0], e.route.responders...)
		for i, r := range e.at.rest { // the one that worked last first
			if r == e.best {
				copy(e.at.rest[1:i+1], e.at.rest[:i])
				e.at.rest[0] = r
			}
		}
		s.routeLocked(e, s.nanos())
	}
}

// ready reports whether there is something to be asked about e, and ends the
// attempt if not. err says why it is not known who is to be asked.
func (s *Stapler) ready(e *entry, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.at == nil || e.flags.gone {
		return false
	}
	now := s.nanos()
	if e.notAfter != 0 && now > wall(e.notAfter) { // RFC 9919 §4.2
		e.flags.expired, e.flags.none = true, true
		e.also().err = errLeafExpired
	}
	if !e.flags.none && !e.flags.off && !e.flags.final {
		if err != nil && !s.closed {
			s.failLocked(e, err, now)
		}
		return err == nil
	}
	if h := e.held.Load(); e.flags.off || e.flags.none && h.stapleAt(now) == nil {
		s.setLocked(e, StateNone)
	}
	s.overLocked(e, now)
	if s.opts.responders != nil && !e.flags.expired {
		e.dueAt(now + jitter(int64(s.opts.ttl), 0.25)) // the switch may be turned
	}
	s.endLocked(e, now)
	s.moveLocked(e)
	return false
}

// setLocked drops what e holds and puts it into a state without a response.
func (s *Stapler) setLocked(e *entry, state State) {
	if h := e.held.Load(); h.state != state || h.raw != nil {
		e.held.Store(&held{state: state})
		e.alarm = never
	}
}

// ask makes one exchange with r about e.
func (s *Stapler) ask(e *entry, r *responder, probe bool) {
	s.mu.Lock()
	at := e.at
	timeout := at.left / time.Duration(1+len(at.rest))
	if wait := s.opts.mustWait(e.must); wait > 0 && len(at.rest) > 0 && !e.held.Load().current(s.nanos()) {
		timeout = min(timeout, wait/time.Duration(2+len(at.rest))) // handshakes wait, and are to see the next one's answer
	}
	s.mu.Unlock()

	begun := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	a, left, err := s.exchange(ctx, e, r)
	took := time.Since(begun)
	if err == nil && a.proof != nil {
		a.took = took
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nanos()
	at.left -= took
	release := func() {
		r.inflight--
		s.dispatchLocked(r, now)
	}
	if left != nil { // a RoundTripper that outlives its context keeps its place for a while
		s.goLocked(func() {
			timer := time.NewTimer(maxAttempt)
			defer timer.Stop()
			select {
			case <-left:
			case <-timer.C:
				if s.track.count(clientCode) >= maxHung { // they must not pile up
					<-left
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			release()
		})
	} else {
		defer release()
	}
	if err == nil && !e.flags.gone {
		err = s.installLocked(e, a, now)
	}
	if s.closed {
		return
	}
	s.verdictLocked(r, e, err, probe, now)
	if e.flags.gone {
		return
	}
	if err == nil {
		e.best = r
		s.finishLocked(e, now)
		return
	}
	at.errs = append(at.errs, err)
	s.routeLocked(e, now)
	if e.at == nil && e.queue == nil && r.open && !errors.Is(err, ErrNoIssuer) { // it stands by, too
		r.pushLocked(e, now)
		s.moveLocked(r)
	}
}

// installLocked takes a for the response of e, unless what e holds is newer, or
// clients would not take it. The same bytes again, what was signed the same but
// is no better, or a 304 (no proof) renew what is held.
func (s *Stapler) installLocked(e *entry, a *answer, now int64) error {
	h := e.held.Load()
	if a.proof == nil || bytes.Equal(a.raw, h.raw) || a.repeats(h) {
		s.renewLocked(e, h, a, now)
		return nil
	}
	if h.raw != nil && older(a, h) {
		return &ResponseError{Responder: a.responder, Reason: ReasonReplay,
			Err: errors.New("thisUpdate " + a.thisUpdate.UTC().Format(time.RFC3339) + " is before " + time.Unix(h.thisUpdate, 0).UTC().Format(time.RFC3339))}
	}
	if err := a.unfit(); err != nil {
		return err
	}
	n := &held{state: StateGood, staple: true, open: a.nextUpdate.IsZero(), produced: a.produced(), raw: a.raw,
		until: wall(a.limit.Unix()), thisUpdate: a.thisUpdate.Unix(), lasts: inSeconds(a.nextUpdate.Unix() - a.thisUpdate.Unix())}
	if n.open {
		n.lasts = inSeconds(a.limit.Unix() - n.thisUpdate)
	}
	n.confirm(a, s.opts.ttl)
	kind, says := EventFetched, error(nil)
	if a.status == ocsp.Revoked {
		n.state, n.staple, kind = StateRevoked, s.opts.stapleRevoked && a.oversized() == "", EventRevoked
		says = at(a.responder, a.err())
		e.die = now // it lives shorter now
	}
	e.held.Store(n)
	e.flags.tried, e.flags.announced = false, false
	e.alarm = never
	if n.state == StateGood {
		e.alarm = n.until
	}
	s.notifyLocked(&notice{kind: kind, e: e, answer: a, err: says})
	if !a.stored {
		s.storeLocked(e)
	}
	return nil
}

// repeats reports whether a is what is held, signed the same, in unsigned bytes
// that are no improvement: anyone on the path may add to those. What lives longer,
// by another certificate of the same delegate, or is shorter, is one.
func (a *answer) repeats(h *held) bool {
	if h.raw == nil || !bytes.Equal(a.basic.tbs, signedPart(h.raw)) {
		return false
	}
	limit := h.until
	if h.open {
		limit = wall(h.end())
	}
	if ends := wall(a.limit.Unix()); ends != limit {
		return ends < limit
	}
	return len(a.raw) >= len(h.raw)
}

// unfit reports why clients would not take a as a staple. A revocation counts
// all the same.
func (a *answer) unfit() error {
	what := a.oversized()
	if what == "" || a.status == ocsp.Revoked {
		return nil
	}
	return at(a.responder, refuse(ReasonTooLarge, what, nil))
}

// oversized says what of a is more than clients take; nothing if it isn't.
func (a *answer) oversized() string {
	switch {
	case len(a.raw) > maxStaple:
		return fmt.Sprintf("%d bytes, where TLS clients take %d", len(a.raw), maxStaple)
	case a.basic.embeds > maxStapleCerts:
		return fmt.Sprintf("%d certificates, where TLS clients take %d", a.basic.embeds, maxStapleCerts)
	}
	return ""
}

// confirm notes in h, which nobody has seen yet, that a brought or confirmed it.
// Without nextUpdate it may be served for a TTL from now on.
func (h *held) confirm(a *answer, ttl time.Duration) {
	received := a.received
	if h.checked != 0 {
		received = h.received()
	}
	h.checked = a.checked
	h.age = inSeconds((a.checked - received) / int64(time.Second))
	h.maxAge = inSeconds(int64(a.maxAge / time.Second))
	if a.proof != nil && a.responder != "" {
		h.modified, h.etag = a.validator.modified, a.validator.etag
	}
	if h.open {
		h.until = min(wall(h.end()), h.checked+int64(ttl))
	}
}

// end returns nextUpdate, or if h is open the end of the first thing that it
// rests on, in Unix s.
func (h *held) end() int64 { return h.thisUpdate + int64(h.lasts) }

// received returns when h came, in Unix ns.
func (h *held) received() int64 { return h.checked - int64(h.age)*int64(time.Second) }

// produced returns how long after thisUpdate the response was signed, in seconds.
func (a *answer) produced() int32 {
	return int32(min(max(a.producedAt.Unix()-a.thisUpdate.Unix(), math.MinInt32), math.MaxInt32))
}

// renewLocked notes that what e holds was confirmed.
func (s *Stapler) renewLocked(e *entry, h *held, a *answer, now int64) {
	if a.checked <= h.checked && h.checked <= now { // else the clock was set back
		return
	}
	n := h.with(h.state)
	n.confirm(a, s.opts.ttl)
	n.copy.Store(h.copy.Load())
	e.held.Store(n)
	e.flags.announced = false
	if n.state == StateGood {
		e.alarm = n.until
	}
	if !a.stored {
		s.notifyLocked(&notice{kind: EventUnchanged, e: e, answer: a})
		s.storeLocked(e)
	}
}

// older reports whether a was signed before what is held, so that a replay
// never replaces it. Of two made at one time the worse is kept.
func older(a *answer, h *held) bool {
	switch this, produced := a.thisUpdate.Unix(), a.produced(); {
	case this != h.thisUpdate:
		return this < h.thisUpdate
	case produced != h.produced:
		return produced < h.produced
	}
	return h.state == StateRevoked && a.status == ocsp.Good
}

// recovered forgets what failed.
func (e *entry) recovered() {
	if e.more != nil {
		e.more.err, e.more.failures = nil, 0
	}
}

// finishLocked ends an attempt that brought a response, or confirmed one.
func (s *Stapler) finishLocked(e *entry, now int64) {
	s.overLocked(e, now)
	e.recovered()
	e.backoff, e.flags.vain = 0, false
	e.cold.Store(false)
	h := e.held.Load()
	e.dueAt(h.byExpiry(max(h.refreshAt(s.opts.ttl, e.evenLocked()), now+int64(minGap)), now))
	s.cache.queueLocked(e)
	e.trimLocked(now)
	s.settleLocked(e)
	s.moveLocked(e)
}

// failLocked ends an attempt that brought nothing. What e holds stays.
func (s *Stapler) failLocked(e *entry, err error, now int64) {
	e.flags.vain = e.flags.vain || e.at.vain
	s.overLocked(e, now)
	m := e.also()
	m.err = err
	m.failures++
	s.stats.failures.Add(1)
	h := e.held.Load()
	if !h.current(now) && h.state != StateRevoked && h.state != StateNone {
		state := StatePending
		if errors.Is(err, ErrUnknown) {
			state = StateUnknown
		} else if h.raw != nil {
			state = StateGood // that is to say expired
		}
		if state != h.state {
			h = h.with(state)
			e.held.Store(h)
		}
	}
	e.dueAt(h.byExpiry(now+h.retryAfter(now, e.backoff, retryHint(err)), now))
	e.backoff = min(e.backoff+1, 60)
	s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
	s.endLocked(e, now)
	s.moveLocked(e)
}

// endLocked tells those who wait that there is no news to wait for.
func (s *Stapler) endLocked(e *entry, now int64) {
	h := e.held.Load()
	if !h.current(now) {
		e.flags.tried = true
	} else if h.state == StateGood && !e.flags.announced && e.rare().err != nil {
		e.flags.announced = true
		e.alarm = now + (h.until-now)/2
	}
	e.cold.Store(false)
	s.cache.queueLocked(e)
	s.settleLocked(e)
}

// judge takes the staple that the source had set for a candidate.
func (s *Stapler) judge(e *entry) {
	s.mu.Lock()
	raw, sub := e.rare().candidate, e.subject()
	if raw == nil || sub.issuer == nil || e.flags.off {
		s.mu.Unlock()
		return // without an issuer it waits until there is one
	}
	e.more.candidate = nil
	s.mu.Unlock()
	raw = bytes.Clone(raw) // the source's buffer may be used for another
	now := s.opts.now()
	p, err := verify(raw, &sub, now, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !e.flags.gone {
		n := now.UnixNano()
		err = s.installLocked(e, &answer{proof: p, raw: raw, received: n, checked: min(n, wall(p.thisUpdate.Unix()))}, n)
		s.settleLocked(e)
		s.cache.queueLocked(e)
		s.moveLocked(e)
	}
	if err != nil {
		s.log(slogDebug, "staple that the source had set is not used", "certificate", e, "error", err)
	}
}

// leafOf returns the certificate of e, parsed if the source did not set it.
func (e *entry) leafOf() *x509.Certificate {
	if c := e.held.Load().copy.Load(); c != nil && c.Leaf != nil && bytes.Equal(c.Leaf.Raw, e.der) {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(e.der)
	if err != nil {
		return nil
	}
	return leaf
}
