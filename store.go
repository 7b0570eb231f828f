package staple

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
)

const (
	// storeWait is how long a certificate waits for the store before the
	// responder is asked, and a handshake at the first sight of one.
	storeWait = 100 * time.Millisecond
	// storeRest is how long a store that was slow is left alone.
	storeRest = 5 * time.Second
	// storePut is how long a write may take, and a read that no handshake waits for.
	storePut = 5 * time.Second
	// maxWriters is how many writes are under way at once.
	maxWriters = 16
)

// A Store keeps responses beyond the life of a process, and may be shared by a
// fleet: see [WithStore]. It has the methods of autocert.Cache, so that every
// implementation of that is a Store, the manager's own included. Keys are
// lower-case letters, digits and hyphens, at most 80 bytes; a record is at most
// 256 KiB: a PEM block with the response, as it is stapled, and one with the
// issuer's certificate. People can read its headers, and openssl the rest:
//
//	openssl asn1parse -in record.pem -noout -out resp.der
//	openssl ocsp -respin resp.der -issuer record.pem -cert leaf.pem -CAfile ca.pem
//
// The header Expires says, in RFC 3339, from when on a record is of no use and
// may be dropped. A Stapler deletes those of certificates that it serves until
// they expire. Of those that were replaced before the records stay, 4 KB or so
// for each, in an autocert.DirCache say, until somebody drops them: [DirStore]
// does, and redisstore.
//
// Methods are called concurrently, off the handshake, with a context that ends
// after 100 ms for Get, and 5 s for the others and for a Get that no handshake
// waits for: for Prefetch and Refresh, and after one that was slow. Get returns
// an error, whichever, if there is nothing under key. data must not be kept or
// changed.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
	Delete(ctx context.Context, key string) error
}

// load takes what the store holds for a certificate, and reports whether that
// spares the request: another process, or an earlier one, made it. urls are those of
// the responders.
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || e.gone() {
		return false
	}
	first := !e.flags.loaded
	e.flags.loaded = true
	now := s.nanos()
	news := s.acceptLocked(e, got, err, now)
	if h := e.held.Load(); errors.Is(err, errUnread) && !h.current(now) {
		s.rereadLocked(e)
	} else if news && s.fresh(h, now) && !past {
		return true
	}
	if first {
		// The handshake that waited for the store goes on. Later reads leave the
		// gate alone: whoever waits there waits for a responder.
		s.settleLocked(e)
	}
	return false
}

// acceptLocked takes what was read for e, and reports whether that is news. What
// is not newer than what is held spares nothing: it is that which is due.
func (s *Stapler) acceptLocked(e *entry, a *answer, err error, now int64) (news bool) {
	had := e.held.Load()
	if a != nil && err == nil {
		err = s.installLocked(e, a, now)
	}
	if err != nil {
		s.log(slogDebug, "nothing usable in the store", "certificate", e, "error", err)
	}
	h := e.held.Load()
	if h != had {
		s.doLocked(s.sched.Hold(e, h.scheduled(), now))
	}
	return h != had
}

// errUnread says that a record was not read in time, or not at all: it may be
// there.
var errUnread = errors.New("store is slow, and rests")

// read returns the verified response that the store holds for e, if any.
func (s *Stapler) read(e *entry, urls []string, wait time.Duration) (*answer, error) {
	const what = "store Get"
	s.mu.Lock()
	sub, resting := e.subject(), s.storeRestsLocked(s.nanos())
	s.mu.Unlock()
	switch {
	case resting && wait == storeWait, s.calls.Full(what):
		return nil, errUnread // it was slow, and delays nothing
	}
	key := records.Key(e.DER)
	ctx, cancel := context.WithTimeout(s.ctx, wait)
	defer cancel()
	data, err := s.get(ctx, what, key)
	if err != nil {
		s.storeFailed("Get", ctx, err)
		if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) { // of another who shares the call
			err = fmt.Errorf("%w: %w", errUnread, err)
		}
		return nil, err
	}
	rec, err := records.Parse(data, s.nanos())
	if err != nil {
		return nil, err
	}
	if sub.Issuer == nil {
		if sub, err = s.adopt(e, rec); err != nil {
			return nil, err
		}
	}
	now := s.opts.now()
	p, err := ocspresp.Prove(rec.Response, &sub, now)
	if err != nil {
		return nil, err
	}
	a := &answer{Proof: p, stored: true, maxAge: rec.MaxAge, received: rec.Received, checked: rec.Checked}
	if !slices.Contains(urls, rec.Responder) {
		return a, nil // not one of ours: a name that anybody may have written
	}
	a.responder = rec.Responder
	if rec.ETag != "*" { // any response at all matches "*"
		a.validator = ocsphttp.NewValidator(rec.ETag, rec.LastModified)
	}
	return a, nil
}

// get calls the store. Who joined a call with less patience than its own makes
// another when that ends.
func (s *Stapler) get(ctx context.Context, what, key string) ([]byte, error) {
	for {
		var ran atomic.Bool
		data, err := s.shared(ctx, what, key, func() ([]byte, error) {
			ran.Store(true)
			return s.opts.store.Get(ctx, key)
		})
		if err == nil || ran.Load() || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return data, err
		}
	}
}

// patienceLocked returns how long the attempt for e waits for the store: a handshake
// may be waiting, or a caller, who can wait longer.
func (s *Stapler) patienceLocked(e *entry) time.Duration {
	return min(max(time.Duration(e.details().patience-s.nanos()), storeWait), storePut)
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
	if _, err := s.read(e, nil, wait); errors.Is(err, errUnread) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rereadLocked(e)
	}
}

// adopt takes the issuer of e from its record, so that a restart does without the
// responder and the issuer's URL. The record is not trusted: it counts only if the
// leaf's signature verifies with it.
func (s *Stapler) adopt(e *entry, rec *records.Record) (ocspresp.Subject, error) {
	leaf, is := e.leafOf(), s.issuers.Parse(rec.Issuer)
	if leaf == nil || is == nil || certinfo.SignedBy(is.Cert, leaf) != nil {
		return ocspresp.Subject{}, ErrNoIssuer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.foundLocked(is, false)
	return e.subject(), nil
}

// rereadLocked has the record of e, which holds nothing, read again when the
// store has rested: or one slow read would keep what is stored for all others
// from being served, for as long as no responder answers.
func (s *Stapler) rereadLocked(e *entry) {
	m := e.edit()
	if m.unread || s.closed {
		return
	}
	m.unread = true
	s.unread = append(s.unread, e)
	if !s.rereading {
		s.rereading = true
		s.calls.Go(s.reread)
	}
}

// reread reads the records that were not read in time. It has patience, as
// nobody waits for it; the store rests again, longer each time, where none of
// those that are read at once is answered.
func (s *Stapler) reread() {
	for pause := storeRest; s.sleep(int64(pause+pause/4) - s.random(int64(pause)/4)); {
		batch := s.unreadBatch()
		if batch == nil {
			return
		}
		var answered atomic.Bool
		var readers sync.WaitGroup
		for _, e := range batch {
			readers.Go(func() {
				if s.readAgain(e) {
					answered.Store(true)
				}
			})
		}
		readers.Wait()
		if answered.Load() {
			pause = 0
		} else {
			pause = min(max(2*pause, storeRest), time.Minute)
		}
	}
}

// sleep returns after d, or reports false when s is closed.
func (s *Stapler) sleep(d int64) bool {
	timer := time.NewTimer(time.Duration(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return s.ctx.Err() == nil
	case <-s.ctx.Done():
		return false
	}
}

// unreadBatch returns the entries to be read next; nil ends the reading.
func (s *Stapler) unreadBatch() []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.unread), maxWorkers)
	if n == 0 {
		s.unread, s.rereading = nil, false
		return nil
	}
	batch := s.unread[:n:n]
	s.unread = s.unread[n:]
	return batch
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
	a, err := s.read(e, s.routeOf(e), storePut)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nanos()
	switch {
	case s.closed || e.doneReadingLocked(now):
	case errors.Is(err, errUnread):
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
	return e.gone() || e.Need() == schedule.Off || e.Need() == schedule.None || hopeless || e.held.Load().current(now)
}

// storeRestsLocked reports whether the store is left alone, as it was slow.
func (s *Stapler) storeRestsLocked(now int64) bool {
	return now < s.storeUntil && s.storeUntil <= now+int64(storeRest) // else the clock was set back
}

// storeFailed leaves a store alone for a while after it was too slow. Other
// errors of Get are misses: the root can't name each store's own.
func (s *Stapler) storeFailed(op string, ctx context.Context, err error) {
	var re *ResponseError
	if ctx.Err() == nil && !errors.As(err, &re) || s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.nanos(); !s.storeRestsLocked(now) {
		s.storeUntil = now + int64(storeRest)
		s.log(s.storeLevelLocked(now), "store is slow or fails; responders are asked without it; check the store",
			"operation", op, "error", err)
	}
}

// storeLevelLocked returns how loudly to say that the store fails: once a day,
// whatever fails in it and for however many certificates.
func (s *Stapler) storeLevelLocked(now int64) slog.Level {
	if recent(s.storeWarned, now, warnEach) {
		return slogDebug
	}
	s.storeWarned = now
	return slogWarn
}

// storeLocked has what e holds written to the store, off this goroutine.
func (s *Stapler) storeLocked(e *entry) {
	if s.opts.store == nil || e.flags.dirty {
		return
	}
	e.flags.dirty = true
	s.writes = append(s.writes, e)
	if s.writers < maxWriters {
		s.writers++
		s.calls.Go(s.write)
	}
}

// discardLocked has the record of an expired certificate deleted.
func (s *Stapler) discardLocked(e *entry) {
	e.flags.discard = true
	s.storeLocked(e)
}

// write writes what is queued. Each entry is queued once at most, and what is
// written is what it holds then, so that an older response never overtakes a
// newer one.
func (s *Stapler) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.writes) > 0 {
		e := s.writes[0]
		s.writes[0], s.writes = nil, s.writes[1:]
		discard, h, is := e.flags.discard, e.held.Load(), e.issuer
		s.mu.Unlock()
		err := s.put(e, h, is, discard)
		s.mu.Lock()
		e.flags.dirty = false
		n := e.held.Load()
		if n.raw != nil && n.checked != h.checked || e.flags.discard && !discard {
			s.storeLocked(e)
		}
		if discard || h.raw != nil {
			s.storedLocked(e, err, discard)
		}
	}
	s.writers--
	s.writes = nil
}

func (s *Stapler) storedLocked(e *entry, err error, discard bool) {
	switch {
	case s.closed && err != nil:
	case err != nil:
		s.notifyLocked(&notice{kind: EventStoreFailed, e: e, err: err})
	case !discard:
		s.notifyLocked(&notice{kind: EventStored, e: e})
	}
}

func (s *Stapler) put(e *entry, h *held, is *ocspresp.Issuer, discard bool) error {
	key := records.Key(e.DER)
	ctx, cancel := context.WithTimeout(s.putCtx, storePut)
	defer cancel()
	if h.raw == nil && !discard {
		return nil
	}
	v := h.validator()
	rec := &records.Record{Response: h.raw, ETag: v.ETag, LastModified: v.LastModified(), MaxAge: time.Duration(h.maxAge) * time.Second,
		Received: h.received(), Checked: h.checked, Until: h.until, Responder: h.from}
	if is != nil {
		rec.Issuer = is.Cert.Raw
	}
	what := "store Put"
	if discard {
		what = "store Delete"
	}
	// An earlier write that did not return in its time may still be under way.
	// Its success is not ours: it has older data, and ours goes after it.
	var ran atomic.Bool
	for {
		_, err := s.shared(ctx, what, key, func() ([]byte, error) {
			ran.Store(true)
			if discard {
				return nil, s.opts.store.Delete(ctx, key)
			}
			return nil, s.opts.store.Put(ctx, key, rec.Encode())
		})
		if err == nil && ctx.Err() != nil && !ran.Load() {
			err = ctx.Err()
		}
		if ran.Load() || ctx.Err() != nil || s.calls.Full(what) {
			return err
		}
	}
}

const (
	// leaseWait is how long to wait for a lease.
	leaseWait = time.Second
	// leaseTTL is longer than an attempt and the write of what it brought.
	leaseTTL = 15 * time.Second
)

// A Leaser is a [Store] that lets one of the processes that share it ask a
// responder at a time. Lease reports whether the caller holds the lease on key
// for ttl from now: it was free, had ended, or was held by this same Leaser,
// which renews it. The others read what the holder stores; where nothing comes
// they ask without the lease, so that a holder that is cut off costs nobody a
// staple. An error counts as held: a store that fails must not keep anyone from
// asking. key is that of the record; the lease must not get in its way. ctx ends
// after 1 s.
type Leaser interface {
	Lease(ctx context.Context, key string, ttl time.Duration) (held bool, err error)
}

// leasedElsewhere reports whether another process has the lease on a certificate, and
// asks about it.
func (s *Stapler) leasedElsewhere(a action) bool {
	l, ok := s.opts.store.(Leaser)
	if !ok || a.Urgency == schedule.Unconditional {
		return false
	}
	s.mu.Lock()
	now := s.nanos()
	resting := s.storeRestsLocked(now)
	mine, pass := a.Item.turnLocked(now)
	s.mu.Unlock()
	return !resting && !mine && (pass || !s.take(a.Item, l))
}

// take asks for the lease on e.
func (s *Stapler) take(e *entry, l Leaser) bool {
	key := records.Key(e.DER)
	ctx, cancel := context.WithTimeout(s.ctx, leaseWait)
	defer cancel()
	got, err := s.shared(ctx, "store Lease", key, func() ([]byte, error) {
		held, err := l.Lease(ctx, key, leaseTTL)
		if held {
			return []byte{1}, err
		}
		return nil, err
	})
	if err != nil {
		s.storeFailed("Lease", ctx, err)
		return true
	}
	if got != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.edit().leased = s.nanos()
	}
	return got != nil
}

// turnLocked reports whether e has the lease still, and whether it is the turn
// of others: who fails does not renew it, and leaves it alone for as long as it
// lasted. It may be this process that is cut off.
func (e *entry) turnLocked(now int64) (mine, pass bool) {
	m := e.details()
	since := now - m.leased
	if e.Failures() == 0 || since < 0 {
		return false, false
	}
	return since < int64(leaseTTL), since >= int64(leaseTTL) && since < 2*int64(leaseTTL)
}
