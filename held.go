package staple

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
	"golang.org/x/crypto/ocsp"
)

// maxStaple is the longest response that is stapled. OpenSSL's clients take a
// CertificateStatus message (RFC 6066 §8) of one record, 2^14 bytes, and
// crypto/tls can't write one of 2^16 in TLS 1.3. The response shares the record
// with a handshake header of 4 bytes, the status type and a length of 3.
const maxStaple = 1<<14 - 4 - 1 - 3

// A held is an immutable snapshot of the newest verified response.
type held struct {
	state      State  // Good stays Good past until: see at
	staple     bool   // raw may be stapled while it is current
	open       bool   // it has no nextUpdate
	maxAge     uint32 // s: what the responder's cache headers ask for
	produced   int32  // s from thisUpdate to producedAt
	age        uint32 // s from its receipt to checked
	lasts      uint32 // s from thisUpdate to nextUpdate, or if open to the end of what it rests on
	modified   uint32 // of the validator, as is etag
	etag       string
	from       string                          // URL of the responder that gave the validator; empty: it is not known
	raw        []byte                          // nil: none
	until      int64                           // Unix ns: not served from then on
	checked    int64                           // Unix ns: when a responder last confirmed it
	thisUpdate int64                           // Unix s
	copy       atomic.Pointer[tls.Certificate] // the last certificate served, stapled
}

func (h *held) validator() ocsphttp.Validator {
	return ocsphttp.Validator{ETag: h.etag, Modified: h.modified}
}

// inSeconds returns n within what a uint32 holds.
func inSeconds(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// current reports whether the response may be served at now.
func (h *held) current(now int64) bool {
	if h.raw == nil || now >= h.until {
		return false
	}
	// What is counted from its receipt was not received in the future: the clock was set back.
	return !h.open || now >= h.checked-int64(ocspresp.ClockSkew)
}

// at returns the state of what is served at now.
func (h *held) at(now int64) State {
	if h.state == StateGood && !h.current(now) {
		return StateExpired
	}
	return h.state
}

// stapleAt returns what to staple at now: nil for nothing.
func (h *held) stapleAt(now int64) []byte {
	if h.staple && h.current(now) {
		return h.raw
	}
	return nil
}

// with returns a copy of h in another state.
func (h *held) with(s State) *held {
	return &held{state: s, staple: h.staple, open: h.open, maxAge: h.maxAge, produced: h.produced, age: h.age, lasts: h.lasts,
		modified: h.modified, etag: h.etag, from: h.from, raw: h.raw, until: h.until, checked: h.checked, thisUpdate: h.thisUpdate}
}

// span returns the time in which h is proof, and its length.
func (h *held) span() (start, length int64) {
	start = wall(h.thisUpdate)
	if h.open { // counted from its receipt: WithTTL
		start = h.checked
	}
	return start, h.until - start
}

// scheduled returns what the schedule has to know of h.
func (h *held) scheduled() schedule.Held {
	if h.raw == nil {
		return schedule.Held{}
	}
	from, _ := h.span()
	return schedule.Held{From: from, Until: h.until, Checked: h.checked, MaxAge: int64(h.maxAge) * int64(time.Second), Silent: h.state != StateGood}
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

// answer is a verified response on its way into an entry.
type answer struct {
	*ocspresp.Proof        // nil: a 304
	responder       string // its URL; of a record it may be unknown
	received        int64  // Unix ns
	checked         int64  // Unix ns
	maxAge          time.Duration
	validator       ocsphttp.Validator
	took            time.Duration
	stored          bool // from the store, which needs no telling
}

// installLocked takes a for the response of e, unless what e holds is newer, or
// clients would not take it. What was signed the same but lasts no longer, what its
// delegate's certificate cuts short, and a 304 (no proof), renew what is held.
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

// repeats reports whether a is what is held: the same signed bytes. Another
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

// cutShort reports whether a is newer and good, and ends before what is held only
// as its delegate's certificate does. That may be an older one of the delegate's,
// which anyone on the path may have put there; what is held is good still.
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
	if a.Proof != nil && a.responder != "" {
		h.modified, h.etag, h.from = a.validator.Modified, a.validator.ETag, a.responder
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
	return int32(min(max(a.ProducedAt.Unix()-a.ThisUpdate.Unix(), math.MinInt32), math.MaxInt32))
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

// replay returns an error if a is older than what is held.
func replay(a *answer, h *held) error {
	if h.raw == nil || !older(a, h) {
		return nil
	}
	return &ResponseError{Responder: a.responder, Reason: ReasonReplay,
		Err: errors.New("thisUpdate " + a.ThisUpdate.UTC().Format(time.RFC3339) + " is before " + time.Unix(h.thisUpdate, 0).UTC().Format(time.RFC3339))}
}

// older reports whether a was signed before what is held, so that a replay
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
