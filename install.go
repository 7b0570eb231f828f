package staple

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
	"golang.org/x/crypto/ocsp"
)

// idsOf returns the IDs of the leafs of certs. Hashing takes no lock.
func (s *Stapler) idsOf(certs []*tls.Certificate) []uint64 {
	ids := make([]uint64, len(certs))
	for i, cert := range certs {
		if !empty(cert) {
			ids[i] = s.cache.leaves.ID(cert.Certificate[0])
		}
	}
	return ids
}

// learnLocked returns the entry of a certificate whose leaf has the ID id, making it
// if need be, with a first attempt of the given urgency. It returns nil when there is
// no room for what only a handshake brings (Urgent), and after Close. The bytes are
// compared in full, so a renewed certificate never finds its predecessor.
func (s *Stapler) learnLocked(cert *tls.Certificate, id uint64, u schedule.Urgency) (e *entry, made bool) {
	der := cert.Certificate[0]
	if e := s.cache.leaves.FindBytesLocked(id, der); e != nil {
		s.cache.aliasLocked(e, der)
		s.rechainLocked(e, cert.Certificate[1:])
		return e, false
	}
	listings := s.forgotten[id]
	if s.closed || u == schedule.Urgent && listings == nil && !s.makeRoomLocked(der) {
		return nil, false
	}
	delete(s.forgotten, id)
	now := s.nanos()
	e = &entry{ref: ref{DER: der}, id: id, known: minuteOf(now), listings: listings}
	e.more = &details{learned: now, begun: now, chain: cert.Certificate[1:]}
	s.cache.nominateLocked(e, cert.OCSPStaple) // to be judged before anyone is asked
	e.held.Store(&held{state: StatePending})
	e.cold.Store(true)
	s.cache.addLocked(e)
	s.cache.sortLocked(e)
	s.doLocked(s.sched.Start(e, u, now))
	s.reviewLocked(e, false)
	return e, true
}

// listLocked notes that a config lists e.
func (s *Stapler) listLocked(e *entry) {
	if e.listings == nil {
		e.listings = new(atomic.Int32)
	}
	e.listings.Add(1)
	s.cache.sortLocked(e)
}

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

// reviewLocked drops e if its certificate expired or was not used for a week, and
// else says when to look again. Where the timer overslept it may be used any moment.
func (s *Stapler) reviewLocked(e *entry, overslept bool) {
	now := s.nanos()
	if next := s.lifeLocked(e, overslept, now); next > now {
		s.cache.sortLocked(e) // its config may be gone
		s.doLocked(s.sched.Reviewed(e, next, e.inUseLocked(now), now))
		return
	}
	s.dropLocked(e)
	if e.notAfter != 0 && now > wall(e.notAfter) && s.opts.store != nil {
		s.discardLocked(e)
	}
}

// lifeLocked returns until when e is kept, as it is used now.
func (s *Stapler) lifeLocked(e *entry, overslept bool, now int64) int64 {
	life, end := int64(idleLife), schedule.Never
	switch {
	case e.Need() == schedule.LeafExpired:
		life = int64(time.Hour) // it is served all the same, and would be learned each time
	case e.notAfter != 0:
		end = wall(e.notAfter + 1)
	}
	idle := e.usedUntil() + life
	if e.keptLocked() || overslept {
		idle = max(idle, now+int64(24*time.Hour))
	}
	return min(end, idle)
}

// dropLocked removes e. The result of an attempt under way is discarded.
func (s *Stapler) dropLocked(e *entry) {
	s.doLocked(s.sched.Remove(e, s.nanos()))
	s.cache.removeLocked(e)
	s.settleLocked(e)
}

// fresh reports whether h need not be asked for yet.
func (s *Stapler) fresh(h *held, now int64) bool {
	_, to := h.scheduled().Window(int64(s.opts.ttl), s.opts.fixedTTL)
	return to > now
}

// setLocked drops what e holds and puts it into a state without a response.
func (s *Stapler) setLocked(e *entry, state State) {
	if h := e.held.Load(); h.state != state || h.raw != nil {
		e.held.Store(&held{state: state})
		s.doLocked(s.sched.Hold(e, schedule.Held{}, s.nanos()))
	}
}

// installLocked takes a for the response of e, unless what e holds is newer, or
// clients would not take it. Three answers only renew the response that e holds: a 304
// (no proof), the same signed bytes that last no longer, and a response that an older
// certificate of its delegate cuts short.
func (s *Stapler) installLocked(e *entry, a *answer, now int64) error {
	h := e.held.Load()
	if a.Proof == nil || a.repeats(h) || a.cutShort(h, now) {
		s.renewLocked(e, h, a, now)
		return nil
	}
	if err := replay(a, h); err != nil {
		return err
	}
	if err := a.unfit(); err != nil {
		return err
	}
	n := &held{state: StateGood, staple: true, open: a.NextUpdate.IsZero(), produced: a.produced(), raw: a.Raw,
		until: wall(a.Limit.Unix()), thisUpdate: a.ThisUpdate.Unix(), lasts: inSeconds(a.NextUpdate.Unix() - a.ThisUpdate.Unix())}
	if n.open {
		n.lasts = inSeconds(a.Limit.Unix() - n.thisUpdate)
	}
	n.confirm(a, s.opts.ttl)
	kind, says := EventFetched, e.failedBefore()
	if a.Status == ocsp.Revoked {
		n.state, n.staple, kind = StateRevoked, s.opts.stapleRevoked && !a.oversized(), EventUnchanged
		if h.state != StateRevoked {
			kind, says = EventRevoked, responseError(a.responder, a.Err())
		}
	}
	e.held.Store(n)
	e.flags.tried = false
	s.notifyLocked(&notice{kind: kind, e: e, answer: a, err: says})
	if !a.stored {
		s.storeLocked(e)
	}
	return nil
}

// failedBefore returns why responders failed in the attempt under way.
func (e *entry) failedBefore() error {
	if !e.Phase().UnderWay() {
		return nil
	}
	return errors.Join(e.details().errs...)
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
	if !a.stored {
		s.notifyLocked(&notice{kind: EventUnchanged, e: e, answer: a, err: e.failedBefore()})
		s.storeLocked(e)
	}
}

// judge takes the staple that the source had set for a candidate.
func (s *Stapler) judge(e *entry) {
	s.mu.Lock()
	raw, sub := e.details().candidate, e.subject()
	if raw == nil || sub.Issuer == nil || e.Need() == schedule.Off {
		s.mu.Unlock()
		return // without an issuer it waits until there is one
	}
	e.more.candidate = nil
	s.mu.Unlock()
	now := s.opts.now()
	p, err := ocspresp.Prove(raw, &sub, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if err == nil && !e.gone() {
		n := now.UnixNano()
		err = s.installLocked(e, &answer{Proof: p, received: n, checked: min(n, wall(p.ThisUpdate.Unix()))}, n)
		s.doLocked(s.sched.Hold(e, e.held.Load().scheduled(), n))
		s.cache.sortLocked(e)
		s.settleLocked(e)
	}
	if err != nil {
		s.log(slogDebug, "staple that the source had set is not used", "certificate", e, "error", err)
	}
}

// startOverLocked has handshakes wait for e as for one that was not known before.
func (s *Stapler) startOverLocked(e *entry) {
	e.flags.tried = false
	e.cold.Store(true)
	s.cache.sortLocked(e)
}

// maxStaple is the longest response that is stapled. OpenSSL's clients take a
// CertificateStatus message (RFC 6066 §8) of one record, 2^14 bytes, and
// crypto/tls can't write one of 2^16 in TLS 1.3. The response shares the record
// with a handshake header of 4 bytes, the status type and a length of 3.
const maxStaple = 1<<14 - 4 - 1 - 3

// repeats reports whether a has the same signed bytes as h. Another
// certificate of the same delegate that ends later is an improvement; one that
// ends sooner, which anyone on the path may have put there, is not.
func (a *answer) repeats(h *held) bool {
	if h.raw == nil || !a.SameSigned(h.raw) {
		return false
	}
	limit := h.until
	if h.open {
		limit = wall(h.end())
	}
	return wall(a.Limit.Unix()) <= limit
}

// cutShort reports whether a is newer and good, and ends before h only because its
// delegate's certificate does. That may be an older certificate of the delegate, which
// anyone on the path may have put there; h is still good.
func (a *answer) cutShort(h *held, now int64) bool {
	return a.Status == ocsp.Good && h.state == StateGood && !h.open && h.current(now) &&
		wall(a.Limit.Unix()) < h.until && wall(a.NextUpdate.Unix()) >= h.until && !older(a, h)
}

// unfit reports why clients would not take a as a staple. A revocation counts
// all the same.
func (a *answer) unfit() error {
	if !a.oversized() || a.Status == ocsp.Revoked {
		return nil
	}
	return &ResponseError{Responder: a.responder, Reason: ReasonTooLarge,
		Err: fmt.Errorf("%d bytes, where TLS clients take %d", len(a.Raw), maxStaple)}
}

func (a *answer) oversized() bool { return len(a.Raw) > maxStaple }

// confirm notes in h, which is not published yet, that a brought or confirmed it.
// Without nextUpdate it may be served for a TTL from now on.
func (h *held) confirm(a *answer, ttl time.Duration) {
	received := a.received
	if h.checked != 0 {
		received = h.received()
	}
	h.checked = a.checked
	h.age = inSeconds((a.checked - received) / int64(time.Second))
	h.maxAge = inSeconds(int64(a.maxAge / time.Second))
	if a.Proof != nil && a.responder != "" {
		h.modified, h.etag = a.validator.Modified, a.validator.ETag
	}
	if h.open {
		h.until = min(wall(h.end()), h.checked+int64(ttl))
	}
}

// produced returns how long after thisUpdate the response was signed, in seconds.
func (a *answer) produced() int32 {
	return int32(min(max(a.ProducedAt.Unix()-a.ThisUpdate.Unix(), math.MinInt32), math.MaxInt32))
}

// replay returns an error if a is older than h.
func replay(a *answer, h *held) error {
	if h.raw == nil || !older(a, h) {
		return nil
	}
	return &ResponseError{Responder: a.responder, Reason: ReasonReplay,
		Err: errors.New("thisUpdate " + a.ThisUpdate.UTC().Format(time.RFC3339) + " is before " + time.Unix(h.thisUpdate, 0).UTC().Format(time.RFC3339))}
}

// older reports whether a was signed before h, so that a replay
// never replaces it. Of two made at one time the worse is kept.
func older(a *answer, h *held) bool {
	switch this, produced := a.ThisUpdate.Unix(), a.produced(); {
	case this != h.thisUpdate:
		return this < h.thisUpdate
	case produced != h.produced:
		return produced < h.produced
	}
	return h.state == StateRevoked && a.Status == ocsp.Good
}

// rechainLocked looks for the issuer of e in chain, if it was not found yet and
// chain is not the one that was looked at: the owner has mended it.
func (s *Stapler) rechainLocked(e *entry, chain [][]byte) {
	if len(chain) == 0 || e.issuer != nil || e.gone() || s.closed || slices.EqualFunc(chain, e.details().chain, bytes.Equal) {
		return
	}
	m := e.edit()
	m.chain, m.scanned = chain, false
	switch e.Need() {
	case schedule.NoIssuer, schedule.Hopeless:
		e.flags.logged = false
		s.startOverLocked(e)
		s.doLocked(s.sched.Start(e, schedule.Urgent, s.nanos()))
	}
}
