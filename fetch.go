package staple

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
)

const (
	// maxAttempt bounds an attempt over all responders: a CA answers within
	// 10 s (CA/B Forum baseline requirements, 4.10.2).
	maxAttempt = 10 * time.Second
	// maxWorkers is how many certificates are prepared at once: that waits for
	// a store at most, so it may be more than there are processors.
	maxWorkers = 32
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
	begun    int64        // Unix ns
	prepared bool         // a worker has it, or had
	call     *call        // that it was made for; nil: the schedule
	planned  int64        // Unix ns: when it would have been due without the call
	err      error        // what it ended with
	vain     vain         // a responder was asked, and failed
	probe    *responder   // whose breaker lets this attempt through
	rest     []*responder // to be asked still
	errs     []error      // of those that were
	left     time.Duration
	deferred int64 // Unix ns: when another process was first found to have the lease
	polls    uint8 // how often it was
	restored bool  // a record was read meanwhile that needs no refresh
}

// spared reports whether nothing is lost where at fails, nor has to be tried again
// soon.
func (at *attempt) spared() bool { return at.restored && at.call == nil }

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
// if need be, for a config that lists it, a call, or a handshake. It returns nil
// when there is no room, and after Close. The bytes are compared in full, so a
// renewed certificate never finds its predecessor.
func (s *Stapler) learn(cert *tls.Certificate, listed bool, c *call) *entry {
	der := cert.Certificate[0]
	id := s.cache.leaves.ID(der)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.cache.leaves.FindBytesLocked(id, der); e != nil {
		s.cache.aliasLocked(e, der)
		s.rechainLocked(e, cert.Certificate[1:])
		s.keepLocked(e, listed, c)
		return e
	}
	lists := s.forgotten[id]
	if s.closed || !listed && c == nil && lists == nil && !s.makeRoomLocked(der) {
		return nil
	}
	delete(s.forgotten, id)
	now := s.nanos()
	e := &entry{ref: ref{DER: der}, id: id, alarm: never, known: minuteOf(now), lists: lists}
	e.more = &rare{learned: now, chain: cert.Certificate[1:]}
	s.cache.nominateLocked(e, cert.OCSPStaple) // to be judged before anyone is asked
	e.held.Store(&held{state: StatePending})
	e.cold.Store(true)
	e.die = now + int64(idleLife)
	s.cache.addLocked(e)
	s.startLocked(e, !listed && c == nil) // a handshake may wait for it
	e.at.call = c
	s.keepLocked(e, listed, c)
	s.moveLocked(e)
	return e
}

// keepLocked notes who has an interest in e: a config that lists it, a call.
func (s *Stapler) keepLocked(e *entry, listed bool, c *call) {
	if listed {
		if e.lists == nil {
			e.lists = new(atomic.Int32)
		}
		e.lists.Add(1)
	}
	if c != nil {
		s.nameLocked(c, e)
	}
	s.cache.queueLocked(e)
}

// listedLocked reports whether a live config lists e.
func (e *entry) listedLocked() bool { return e.lists != nil && e.lists.Load() > 0 }

// keptLocked reports whether e must not be evicted.
func (e *entry) keptLocked() bool { return e.listedLocked() || len(e.rare().turns) > 0 }

// makeRoomLocked makes room for an entry for der. Without a responder it is not
// worth another's place: of these there may be many more than places.
func (s *Stapler) makeRoomLocked(der []byte) bool {
	evict, ok := s.cache.roomLocked()
	if evict != nil {
		if s.opts.responders == nil && !certinfo.MayNameResponder(der) && !certinfo.MayMustStaple(der) {
			return false
		}
		s.dropLocked(evict)
	}
	return ok
}

// startLocked queues e for a new attempt, or for the rest of one that was put off.
func (s *Stapler) startLocked(e *entry, urgent bool) {
	e.dueAt(never)
	if e.at != nil && e.at.prepared {
		return // a candidate or a chain had it go on before it was due
	}
	e.unqueue()
	if e.at == nil {
		e.at = &attempt{left: maxAttempt, begun: s.nanos(), planned: never}
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
		s.calls.Go(s.work)
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
	s.issuerFromStore(e)
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
		e.die = min(e.die, now+int64(time.Hour)) // see dieLocked
	}
	if !e.flags.none && !e.flags.off && !e.flags.final {
		if from := e.validFrom(); err == nil && now < from {
			s.earlyLocked(e, from, now)
			return false
		}
		if err != nil && !s.closed {
			s.failLocked(e, err, now)
		}
		return err == nil
	}
	if h := e.held.Load(); e.flags.off || e.flags.none && h.stapleAt(now) == nil {
		s.setLocked(e, StateNone)
	}
	e.at.err = e.rare().err
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
	c := at.call
	if e.flags.gone || c.sparesLocked(r) {
		s.skipLocked(e, r, probe)
		s.mu.Unlock()
		return
	}
	timeout := at.left / time.Duration(1+len(at.rest))
	if wait := s.opts.mustWait(e.must); wait > 0 && len(at.rest) > 0 && !e.held.Load().current(s.nanos()) {
		timeout = min(timeout, wait/time.Duration(2+len(at.rest))) // handshakes wait, and are to see the next one's answer
	}
	s.mu.Unlock()

	begun := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	a, left, err := s.exchange(ctx, e, r, c)
	took := time.Since(begun)

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nanos()
	at.left -= took
	release := func() {
		r.inflight--
		s.dispatchLocked(r)
	}
	if left != nil { // a RoundTripper that outlives its context keeps its place for a while
		s.calls.Go(func() {
			timer := time.NewTimer(maxAttempt)
			defer timer.Stop()
			select {
			case <-left:
			case <-timer.C:
				if s.calls.Full(clientCode) { // they must not pile up
					s.mu.Lock()
					s.unstickLocked(r, s.nanos())
					s.mu.Unlock()
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
	c.countLocked(r, err)
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
	if e.at == nil && e.queue == nil && r.open && !at.restored && !errors.Is(err, ErrNoIssuer) { // it stands by, too
		r.pushLocked(e, now)
		s.moveLocked(r)
	}
}

// recovered forgets what failed.
func (e *entry) recovered() {
	if e.more != nil {
		e.more.err, e.more.failures, e.more.stoodBy = nil, 0, 0
	}
}

// finishLocked ends an attempt that brought a response, or confirmed one.
func (s *Stapler) finishLocked(e *entry, now int64) {
	s.overLocked(e, now)
	e.recovered()
	e.backoff, e.flags.vain = 0, 0
	e.cold.Store(false)
	h := e.held.Load()
	from, to := h.refreshBetween(s.opts.ttl)
	from = max(from, now+int64(minGap))
	e.dueAt(h.byExpiry(e.planLocked(from, max(to, from), now), now))
	s.cache.queueLocked(e)
	s.settleLocked(e)
	e.trimLocked(now)
	s.moveLocked(e)
}

// failLocked ends an attempt that brought nothing. What e holds stays.
func (s *Stapler) failLocked(e *entry, err error, now int64) {
	at := e.at
	if at.spared() {
		s.finishLocked(e, now)
		return
	}
	at.err = err
	e.flags.vain = max(e.flags.vain, at.vain)
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
	e.dueAt(e.retryAtLocked(at, err, now))
	if at.call == nil || e.backoff == 0 { // else it was out of turn
		e.backoff = min(e.backoff+1, 60)
	}
	s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
	s.endLocked(e, now)
	s.moveLocked(e)
}

// retryAtLocked returns when to try again after at failed. One that a call made
// out of turn puts off nothing.
func (e *entry) retryAtLocked(at *attempt, err error, now int64) int64 {
	h := e.held.Load()
	due := h.byExpiry(now+h.retryAfter(now, e.backoff, retryHint(err)), now)
	if len(e.rare().turns) > 0 && !h.current(now) {
		due = max(due, now+int64(callGap))
	}
	return min(due, max(at.planned, now+int64(callGap)))
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

// leafOf returns the certificate of e, parsed if the source did not set it.
func (e *entry) leafOf() *x509.Certificate {
	if c := e.held.Load().copy.Load(); c != nil && c.Leaf != nil && bytes.Equal(c.Leaf.Raw, e.DER) {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(e.DER)
	if err != nil {
		return nil
	}
	return leaf
}
