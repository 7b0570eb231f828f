package staple

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
	"golang.org/x/crypto/ocsp"
)

const (
	// maxStaple is the longest response that is stapled. OpenSSL's clients take
	// a CertificateStatus message (RFC 6066 section 8) of one record, 2^14 bytes,
	// and crypto/tls can't write one of 2^16 in TLS 1.3. The response shares the
	// record with a handshake header of 4 bytes, the status type and a length of 3.
	maxStaple = 1<<14 - 4 - 1 - 3
	// maxStapleCerts is how many certificates may come with what is stapled:
	// Firefox takes a response with more for no response at all.
	maxStapleCerts = 8
)

// answer is a verified response on its way into an entry.
type answer struct {
	*proof
	raw       []byte
	responder string
	from      *responder // that gave what is in the store, if it is known
	received  int64      // Unix ns
	checked   int64      // Unix ns
	maxAge    time.Duration
	validator ocsphttp.Validator
	took      time.Duration
	stored    bool // from the store, which needs no telling
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
	kind, says := EventFetched, e.failedBefore()
	if a.status == ocsp.Revoked {
		n.state, n.staple, kind = StateRevoked, s.opts.stapleRevoked && a.oversized() == "", EventRevoked
		says = at(a.responder, a.err())
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

// failedBefore returns what came of the responders that were asked in vain in
// the attempt that is under way.
func (e *entry) failedBefore() error {
	if e.at == nil {
		return nil
	}
	return errors.Join(e.at.errs...)
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
		h.modified, h.etag = a.validator.Modified, a.validator.ETag
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
		s.notifyLocked(&notice{kind: EventUnchanged, e: e, answer: a, err: e.failedBefore()})
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
	p, err := verifyForClients(raw, &sub, now)
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
