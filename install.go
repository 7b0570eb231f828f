package staple

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/directions"
	"github.com/ocspstaple/staple/internal/exchange"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/waiting"
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
		s.rechainLocked(e, cert.Certificate[1:], u)
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
	e.held.Store(new(held.Response))
	e.cold.Store(true)
	s.cache.addLocked(e)
	s.cache.sortLocked(e)
	s.doLocked(s.sched.Start(e, u, now))
	s.reviewLocked(e, false)
	return e, true
}

// makeRoomLocked makes room for an entry for der, and reports whether there is any: a
// source may make a certificate for any name that a client sends. One without a
// responder gets no place of another: of these there may be many more than places.
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
// else says when to look again. If the timer overslept, e is kept for a day more:
// handshakes may come again.
func (s *Stapler) reviewLocked(e *entry, overslept bool) {
	now := s.nanos()
	next := s.lifeLocked(e, overslept, now)
	if next <= now {
		s.dropLocked(e)
		if e.outlivedLocked(now) {
			s.discardLocked(e)
		}
		return
	}
	s.cache.sortLocked(e) // its config may be gone
	s.doLocked(s.sched.Reviewed(e, next, e.inUseLocked(now), now))
	if e.outlivedLocked(now) && e.Need().Open() && !e.Phase().UnderWay() {
		s.doLocked(s.sched.Start(e, schedule.Routine, now)) // it finds that out
	}
}

// lifeLocked returns until when e is kept, as it is used now. One that a config lists
// outlives its certificate: the clock may be ahead for a moment.
func (s *Stapler) lifeLocked(e *entry, overslept bool, now int64) int64 {
	life, end := int64(idleLife), schedule.Never
	switch {
	case e.outlivedLocked(now) && !e.Need().Open():
		life = int64(time.Hour) // it is served all the same, and would be learned each time
	case e.notAfter != 0 && !(e.listedLocked() && e.outlivedLocked(now)):
		end = held.Nanos(e.notAfter + 1)
	}
	idle := e.usedUntil() + life
	if e.keptLocked() || overslept {
		idle = max(idle, now+int64(24*time.Hour))
	}
	return min(end, idle)
}

// outlivedLocked reports whether the certificate of e, which was read, has expired.
func (e *entry) outlivedLocked(now int64) bool {
	return e.notAfter != 0 && now > held.Nanos(e.notAfter)
}

// dropLocked removes e. The result of an attempt under way is discarded. Those that wait
// for e are released; its record in the store stays.
func (s *Stapler) dropLocked(e *entry) {
	s.doLocked(s.sched.Remove(e, s.nanos()))
	s.cache.removeLocked(e)
	s.settleLocked(e)
}

// settleLocked tells all that wait for e, handshakes and calls, that there is news.
func (s *Stapler) settleLocked(e *entry) {
	m := e.more
	if m == nil || m.waiters.Empty() {
		return
	}
	if start := m.waiters.News(s.newsLocked(e)); start > schedule.Routine {
		s.startLocked(e, start)
	}
	s.cache.sortLocked(e)
}

// startLocked has an attempt made for calls that wait for e, unless u is Routine. The
// attempt that they wait for has their patience with the store.
func (s *Stapler) startLocked(e *entry, u schedule.Urgency) {
	m := e.edit()
	m.patience = max(m.patience, s.nanos()+int64(records.Patience))
	if u > schedule.Routine {
		s.hastenLocked(e, u)
	}
}

// newsLocked returns the facts of e for those who wait for it.
func (s *Stapler) newsLocked(e *entry) waiting.Facts {
	now, h, need := s.nanos(), e.held.Load(), e.Need()
	f := waiting.Facts{
		Settled:   !h.Unneeded && (h.State == held.Revoked || h.Current(now)),
		Problem:   e.problemLocked(now),
		Final:     need == schedule.Hopeless || now < e.validFrom(),
		Dropped:   s.droppedLocked(e, now),
		UnderWay:  e.Phase().UnderWay() && e.Phase() != schedule.Deferred,
		Began:     e.details().begun,
		Impatient: s.opts.store != nil,
	}
	if !f.Settled && (need == schedule.None || h.Unneeded) {
		f.Settled, f.Problem = !f.UnderWay, e.details().err // one that does not parse needs none, too
	}
	return f
}

// droppedLocked returns why nothing more comes of e, nil while it is kept.
func (s *Stapler) droppedLocked(e *entry, now int64) error {
	switch {
	case s.closed:
		return ErrClosed
	case !e.gone():
		return nil
	case e.outlivedLocked(now):
		return directions.ErrLeafExpired
	}
	return fmt.Errorf("%w: the certificate was forgotten", ErrNoStaple)
}

// fresh reports whether the refresh of h is not due yet.
func (s *Stapler) fresh(h *held.Response, now int64) bool {
	_, to := h.Scheduled().Window(int64(s.opts.ttl), s.opts.fixedTTL)
	return to > now
}

// neededLocked has what e holds served, or nothing, as no response is needed.
func (s *Stapler) neededLocked(e *entry, needed bool) {
	if h := e.held.Load(); h.Unneeded == needed {
		n := h.Needed(needed)
		e.held.Store(n)
		s.doLocked(s.sched.Hold(e, n.Scheduled(), s.nanos()))
		if needed {
			s.startOverLocked(e)
		}
	}
}

// installLocked takes a for the response of e, unless what e holds is newer or clients
// would not take it. No other function publishes a new response. Three answers only
// renew what e holds: a 304 (no proof), the same signed bytes that last no longer, and
// a response that an older certificate of its delegate cuts short.
func (s *Stapler) installLocked(e *entry, a *held.Answer, now int64) error {
	h := e.held.Load()
	n, news, err := h.Take(a, held.Rules{TTL: s.opts.ttl, StapleRevoked: s.opts.stapleRevoked}, now)
	if err != nil || n == h {
		return refused(a.Responder, err)
	}
	if a.Proof != nil && (e.issuer != a.Issuer() || e.flags.issuerUnproven || h.Raw == nil) {
		if e.issuer != a.Issuer() { // it was looked for anew meanwhile, or another entry made the request
			e.foundLocked(a.Issuer(), false)
		}
		e.flags.issuerUnproven = false
		s.issuers.Share(e.issuer)
	}
	kind, says := EventUnchanged, error(nil)
	if e.Phase().UnderWay() { // other responders have failed
		says = errors.Join(e.details().errs...)
	}
	switch {
	case news && n.State == held.Good:
		kind = EventFetched
	case news && h.State != held.Revoked:
		kind, says = EventRevoked, refused(a.Responder, a.Err())
	}
	e.held.Store(n)
	if news || !a.Stored {
		s.notifyLocked(&notice{kind: kind, e: e, answer: a, err: says})
	}
	if !a.Stored {
		s.storeLocked(e)
	}
	return nil
}

// judge verifies the staple that the source had set, and installs it if it is newer. It
// runs off the handshake, and once for the same bytes. said is the Need of the route that
// was found just now, which e does not have yet; Unread if none was looked for.
func (s *Stapler) judge(e *entry, said schedule.Need) {
	s.mu.Lock()
	raw, sub := e.details().candidate, e.subject()
	if raw == nil || sub.Issuer == nil || cmp.Or(said, e.Need()) == schedule.Off {
		s.mu.Unlock()
		return // without an issuer it waits until there is one
	}
	e.more.candidate = nil
	s.mu.Unlock()
	p, err := ocspresp.Prove(raw, &sub, s.now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now, had, need := s.nanos(), e.held.Load(), cmp.Or(said, e.Need())
	if err == nil && !e.gone() && need != schedule.Off {
		// A good one is written once the record was read: that may say that it is revoked since.
		err = s.installLocked(e, &held.Answer{Proof: p, Stored: p.Status == ocsp.Good, Received: now, Checked: min(now, held.Nanos(p.ThisUpdate.Unix()))}, now)
		if h := e.held.Load(); h != had {
			s.doLocked(s.sched.Hold(e, h.Scheduled(), now))
			s.cache.sortLocked(e)
			s.settleLocked(e)
		}
	}
	if err != nil {
		if exchange.OfTheClock(ocspresp.Reason(reasonOf(refused("", err)))) && need != schedule.None && !had.Current(now) && !e.gone() && e.edit().candidate == nil {
			e.more.candidate = raw // the clock may be wrong: it is judged again with the next attempt
		}
		s.log(slog.LevelDebug, "staple that the source had set is not used", "certificate", e, "error", err)
	}
}

// startOverLocked has handshakes wait for e as for one that was not known before: its
// response has expired, or its chain was mended.
func (s *Stapler) startOverLocked(e *entry) {
	e.flags.tried = false
	e.cold.Store(true)
	s.cache.sortLocked(e)
}

// rechainGap is how often another chain of a certificate is looked at for a handshake. A
// tenant may have the same leaf served with several, each time another than the last.
const rechainGap = time.Minute

// rechainLocked looks for the issuer of e in chain, if it was not found yet and
// chain is not the one that was looked at: the owner has mended it.
func (s *Stapler) rechainLocked(e *entry, chain [][]byte, u schedule.Urgency) {
	needless := e.issuer != nil || e.Need() == schedule.None && e.details().candidate == nil
	if needless || len(chain) == 0 || e.gone() || s.closed || slices.EqualFunc(chain, e.details().chain, bytes.Equal) {
		return
	}
	m, now := e.edit(), s.nanos()
	if u == schedule.Urgent && m.rechained <= now && now-m.rechained < int64(rechainGap) {
		return
	}
	m.rechained, m.chain, m.scanned = now, chain, false
	switch e.Need() {
	case schedule.NoIssuer, schedule.Hopeless:
		e.flags.logged = false
		s.startOverLocked(e)
		s.doLocked(s.sched.Start(e, schedule.Urgent, now))
	case schedule.None: // no attempt has the source's staple judged
		s.judgeLocked(e)
	}
}
