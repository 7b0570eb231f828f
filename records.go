package staple

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
)

// maxWriters is how many writes to the store are under way at once.
const maxWriters = 16

// load takes what the store holds for a certificate, and reports whether that
// spares the request: another process, or an earlier one, made it. urls are those of
// the responders. It waits for the store, 5 s at most, without the lock. The record is
// read before each attempt, as in a fleet another process may have made the request.
func (s *Stapler) load(a action, urls []string) (fresh bool) {
	if s.opts.store == nil {
		return false
	}
	e, past := a.Item, a.Urgency == schedule.Unconditional
	s.mu.Lock()
	needless := past && e.flags.loaded // what was never read may say that it is revoked
	wait := s.patienceLocked(e)
	s.mu.Unlock()
	if needless {
		return false
	}
	got, err := s.read(e, urls, wait)
	unread := err == records.ErrUnread
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || e.gone() {
		return false
	}
	first, now := !e.flags.loaded, s.nanos()
	e.flags.loaded = true
	had := e.held.Load()
	news := s.acceptLocked(e, got, err, now)
	if first && !unread && !news && had.Raw != nil { // the source had set it, and the record has no newer one
		s.storeLocked(e)
	}
	if h := e.held.Load(); unread && !h.Current(now) {
		s.rereadLocked(e)
	} else if news && s.fresh(h, now) && !past && h.Spares(had, e.flags.spared, now) {
		if h.SignedWith(had) {
			e.flags.spared++
		}
		return true
	}
	if first { // later reads leave the gate closed: handshakes wait for a responder then
		s.settleLocked(e)
	}
	return false
}

// acceptLocked takes what was read for e, and reports whether that is news. A record that
// is not newer than the response in memory saves no request, as a newer one is due.
func (s *Stapler) acceptLocked(e *entry, a *held.Answer, err error, now int64) (news bool) {
	had := e.held.Load()
	if a != nil && err == nil {
		err = s.installLocked(e, a, now)
	}
	if err != nil {
		s.log(slog.LevelDebug, "nothing usable in the store", "certificate", e, "error", err)
	}
	h := e.held.Load()
	if h != had {
		s.doLocked(s.sched.Hold(e, h.Scheduled(), now))
	}
	return h != had
}

// read returns the verified response that the store holds for e, if any. A record is
// verified like an answer from the network: others may write to the store.
func (s *Stapler) read(e *entry, urls []string, wait time.Duration) (*held.Answer, error) {
	s.mu.Lock()
	sub, best := e.subject(), e.url()
	s.mu.Unlock()
	rec, err := s.records.Read(records.Key(e.DER), wait)
	if err != nil {
		return nil, fault(err)
	}
	if sub.Issuer == nil {
		if sub, err = s.adopt(e, rec); err != nil {
			return nil, err
		}
	}
	p, err := ocspresp.Prove(rec.Response, &sub, s.now())
	if err != nil {
		return nil, err
	}
	return held.Restore(rec, p, urls, best), nil
}

// patienceLocked returns how long the attempt for e waits for the store: a handshake
// may be waiting, or a caller, who can wait longer.
func (s *Stapler) patienceLocked(e *entry) time.Duration {
	return min(max(time.Duration(e.details().patience-s.nanos()), records.Soon), records.Patience)
}

// issuerFromStore looks for the issuer of e, which its chain lacks, in its record.
func (s *Stapler) issuerFromStore(e *entry) {
	s.mu.Lock()
	wanted := e.issuer == nil && e.details().scanned && !e.flags.loaded && s.opts.store != nil
	wait := s.patienceLocked(e)
	s.mu.Unlock()
	if !wanted {
		return
	}
	if _, err := s.read(e, nil, wait); err == records.ErrUnread {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rereadLocked(e)
	}
}

// adopt takes the issuer of e from its record, so that a restart does without the
// responder and the issuer's URL. The record is not trusted: it counts only if the
// leaf's signature verifies with it.
func (s *Stapler) adopt(e *entry, rec *records.Record) (ocspresp.Subject, error) {
	leaf, err := x509.ParseCertificate(e.DER)
	is := s.issuers.Parse(rec.Issuer)
	if err != nil || is == nil || certinfo.SignedBy(is.Cert, leaf) != nil {
		return ocspresp.Subject{}, ErrNoIssuer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.foundUnprovenLocked(is)
	return e.subject(), nil
}

// rereadLocked has the record of e, which holds nothing, read again after a rest.
func (s *Stapler) rereadLocked(e *entry) {
	m := e.edit()
	if m.unread || s.closed {
		return
	}
	m.unread = true
	s.unread.Add(e)
}

// readAgain reads the record of e, and reports whether the store answered. An
// attempt that is under way goes on, and ends by itself.
func (s *Stapler) readAgain(e *entry) (answered bool) {
	s.mu.Lock()
	if e.more != nil {
		e.more.unread = false
	}
	needless := e.doneReadingLocked(s.nanos())
	s.mu.Unlock()
	if needless {
		return true
	}
	a, err := s.read(e, s.routeOf(e), records.Patience)
	unread := err == records.ErrUnread
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nanos()
	switch {
	case s.closed || e.doneReadingLocked(now):
	case unread:
		s.rereadLocked(e)
		return false
	case !s.acceptLocked(e, a, err, now):
	default:
		h := e.held.Load()
		e.edit().restored = s.fresh(h, now)
		s.cache.sortLocked(e)
		s.settleLocked(e)
		if !e.Phase().UnderWay() {
			s.doLocked(s.sched.Start(e, schedule.Routine, now)) // which ends at once where restored is set
		}
	}
	return true
}

// doneReadingLocked reports whether there is no more use in what is stored for e: a
// record may have the issuer that the chain lacks.
func (e *entry) doneReadingLocked(now int64) bool {
	hopeless := e.Need() == schedule.Hopeless && !errors.Is(e.details().err, ErrNoIssuer)
	return e.gone() || e.Need() == schedule.Off || e.Need() == schedule.None || hopeless || e.held.Load().Current(now)
}

// storeLocked has what e holds written to the store, off this goroutine.
func (s *Stapler) storeLocked(e *entry) {
	if s.opts.store == nil || e.flags.dirty {
		return
	}
	e.flags.dirty = true
	s.writes.Add(func() { s.write(e) })
}

// discardLocked has the record of an expired certificate deleted.
func (s *Stapler) discardLocked(e *entry) {
	e.flags.discard = true
	s.storeLocked(e)
}

// write writes what e holds by now as its record, or deletes that. It waits for the store.
// Each entry is queued once at most, so that an older response never overtakes a newer one.
// A failure costs no staple: the response is in memory, and the next refresh writes again.
func (s *Stapler) write(e *entry) {
	s.mu.Lock()
	discard, h, from, is := e.flags.discard, e.held.Load(), e.url(), e.issuer
	s.mu.Unlock()
	var rec *records.Record // nil deletes
	if !discard && h.Raw != nil {
		rec = h.Record(from, is)
	}
	wrote, err := discard || rec != nil, error(nil)
	if wrote {
		err = fault(s.records.Write(records.Key(e.DER), rec))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.flags.dirty = false
	n, heir := e.held.Load(), s.cache.leaves.FindBytesLocked(e.id, e.DER)
	if n.Raw != nil && (n.Checked != h.Checked || !n.SignedWith(h)) || e.flags.discard && !discard {
		s.storeLocked(e)
	} else if heir != nil && heir != e { // e was forgotten and learned again: the newer is written last
		if g := heir.held.Load(); g.Raw != nil && !g.OlderThan(n) {
			s.storeLocked(heir)
		} else if rec != nil && err == nil && !s.closed {
			s.doLocked(s.sched.Start(heir, schedule.Routine, s.nanos())) // it reads what was written
		}
	}
	switch {
	case !wrote || s.closed && err != nil:
	case err != nil:
		s.notifyLocked(&notice{kind: EventStoreFailed, e: e, err: err})
	case !discard:
		s.notifyLocked(&notice{kind: EventStored, e: e})
	}
}

// leasedElsewhere reports whether another process has the lease on a certificate, and
// asks about it. A Refresh waits for none. It may wait for the store, up to 1 s.
func (s *Stapler) leasedElsewhere(a action) bool {
	if s.opts.store == nil || a.Urgency == schedule.Unconditional {
		return false
	}
	e := a.Item
	s.mu.Lock()
	failing, leased := e.Failures() > 0, e.details().leased
	s.mu.Unlock()
	mine, at := s.records.MayAsk(records.Key(e.DER), failing, leased)
	if at != leased {
		s.mu.Lock()
		e.edit().leased = at
		s.mu.Unlock()
	}
	return !mine
}

// storeSlow logs that the store is not used for a while.
func (s *Stapler) storeSlow(op records.Op, err error) {
	s.log(notices.Once(slog.LevelWarn, s.records.News(op)), "store is slow or fails; responders are asked without it; check the store", "operation", string(op), "error", fault(err))
}

// routeOf returns the URLs that are asked about e.
func (s *Stapler) routeOf(e *entry) (urls []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range e.Route() {
		urls = append(urls, k.URL)
	}
	return urls
}
