package staple

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/directions"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
)

// joinWithin is how young an attempt is that is as good for a Prefetch as one that
// begins now.
const joinWithin = time.Second

// Prefetch makes an attempt now for every certificate of certs without a valid
// response, whatever failed before. It returns when each certificate has a valid
// response, needs none, or can't get one (revoked, no issuer, Must-Staple without a
// responder, not parsable, not valid yet), or when ctx or the Stapler ([ErrClosed])
// ends.
//
// If ctx has a deadline, Prefetch retries until then, at the times of the schedule
// and at least 1 s apart: the network may come seconds after the process. Without a
// deadline it returns after the first attempt over all responders, which takes 10 s
// at most. It waits up to 5 s for a record of the store. Once a responder has failed
// for 5 certificates of the call in a row, the first attempts for the rest make no
// request to it.
//
// The error joins one for each certificate that needs a response and has none,
// naming the certificate and the responder; retries for those go on in the
// background. [ErrNoStaple] says that [Stapler.Forget] dropped the certificate
// meanwhile. A nil or empty certificate is an error. A nil ctx is
// context.Background.
//
// Call it before serving to have the first handshake stapled, and once a day for
// certificates that a standby keeps ready: one that no config lists is dropped
// after a week without a handshake. It may be called concurrently, though not from an
// event function.
func (s *Stapler) Prefetch(ctx context.Context, certs ...*tls.Certificate) error {
	if ctx == nil {
		ctx = context.Background()
	}
	_, limited := ctx.Deadline()
	c := s.newCall()
	c.limited = limited
	return s.await(ctx, c, s.name(c, certs))
}

// Refresh makes an attempt now for each of certs, or for all known certificates if
// certs is empty, also where a response is valid or the responder failed before. If
// an attempt is under way it waits for its end first. Its own attempt is
// unconditional and bypasses caches (Cache-Control: no-cache), the records of the
// store, and a lease of another process. Pauses after failures don't apply; the
// limits of parallel requests do, and once a responder has failed for 5 certificates
// of the call in a row the rest get that error without a request. The function of
// [WithResponders] is called at once.
//
// The error joins one for each certificate whose attempt failed, whatever it
// holds, naming the certificate and the responder. A certificate that turns out to
// be revoked is no error: see [Stapler.Status]. If an attempt fails, the response in
// memory and the planned retries stay. [ErrClosed] after Close;
// [ErrNoStaple] for what [Stapler.Forget] dropped meanwhile; a nil or empty
// certificate is an error. A nil ctx is context.Background; when ctx ends, the
// attempts go on in the background.
//
// Call it after you repaired the network, revoked a certificate, or made the function
// of WithResponders return something else. It may be called concurrently, though not from an
// event function.
func (s *Stapler) Refresh(ctx context.Context, certs ...*tls.Certificate) error {
	if ctx == nil {
		ctx = context.Background()
	}
	c := s.newCall()
	c.refresh = true
	var errs []error
	if len(certs) > 0 {
		errs = s.name(c, certs)
	} else if err := s.nameAll(c); err != nil {
		return err
	}
	return s.await(ctx, c, errs)
}

// A call is a Prefetch or a Refresh.
type call struct {
	s       *Stapler
	refresh bool            // else Prefetch
	limited bool            // its context has a deadline
	begun   int64           // Unix ns
	turns   []*turn         // one for each certificate
	named   map[*entry]bool // by the caller

	// The rest is guarded by Stapler.mu.
	left int           // turns that are not done, and one while the caller names certificates
	over chan struct{} // closed when left is 0
}

func (s *Stapler) newCall() *call {
	return &call{s: s, begun: s.nanos(), left: 1, over: make(chan struct{})}
}

// urgency returns that of the attempts made for c.
func (c *call) urgency() schedule.Urgency {
	if c.refresh {
		return schedule.Unconditional
	}
	return schedule.Forced
}

// lessLocked notes that one thing less is left to do.
func (c *call) lessLocked() {
	if c.left--; c.left == 0 {
		close(c.over)
	}
}

// A turn is the part of a call that is about one certificate. settleLocked makes
// its next step, whenever there is news of the certificate. It has no goroutine,
// as a Refresh without arguments has a turn for each certificate that is known.
type turn struct {
	c      *call
	e      *entry
	begun  bool // an attempt was started for it
	ends   int  // attempts that have to end first
	joined bool // the attempt was under way when c came to it
	done   bool
	err    error // what came of the attempt and then, with done, of the turn
}

// endedLocked notes that an attempt ended.
func (t *turn) endedLocked(err error) {
	t.ends = max(t.ends-1, 0)
	t.err = err
}

// name makes certs known to c, and says which are none.
func (s *Stapler) name(c *call, certs []*tls.Certificate) (errs []error) {
	ids := s.idsOf(certs)
	s.mu.Lock() // once, so that a responder which fails meanwhile fails for all
	defer s.mu.Unlock()
	for i, cert := range certs {
		if empty(cert) {
			errs = append(errs, fmt.Errorf("staple: certificate %d %w", i, errEmpty))
			continue
		}
		e, made := s.learnLocked(cert, ids[i], c.urgency())
		if e == nil {
			leaf, _ := x509.ParseCertificate(cert.Certificate[0])
			errs = append(errs, errtext.About(cert.Certificate[0], leaf, ErrClosed))
			continue
		}
		s.nameLocked(c, e, made)
		s.nominateLocked(e, cert)
	}
	return errs
}

// nameLocked notes that the caller of c named e, which may have just been made for it.
func (s *Stapler) nameLocked(c *call, e *entry, made bool) {
	e.known = minuteOf(s.nanos())
	if c.named[e] {
		return
	}
	if c.named == nil {
		c.named = make(map[*entry]bool)
	}
	c.named[e] = true
	s.beginLocked(c, e, made)
}

// nameAll makes all certificates known to c that s knows.
func (s *Stapler) nameAll(c *call) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	all := make([]*entry, 0, s.cache.leaves.LenLocked())
	for e := range s.cache.leaves.AllLocked {
		all = append(all, e)
	}
	s.mu.Unlock()
	for batch := range slices.Chunk(all, 1000) { // others have the lock now and then
		s.mu.Lock()
		for _, e := range batch {
			if !e.gone() {
				s.beginLocked(c, e, false)
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// beginLocked makes the first step of a turn. made: its attempt has begun.
func (s *Stapler) beginLocked(c *call, e *entry, made bool) {
	t := &turn{c: c, e: e}
	c.turns = append(c.turns, t)
	c.left++
	if made {
		t.begun, t.ends = true, 1
		e.more.patience = c.begun + int64(records.Patience)
	} else if done, err := t.settledLocked(); done {
		t.done, t.err = true, err
		c.lessLocked()
		return
	} else {
		s.startTurnLocked(t)
	}
	m := e.edit()
	m.turns = append(m.turns, t)
	s.cache.sortLocked(e)
}

// startTurnLocked has an attempt made for t. A Refresh wants one that begins now,
// a Prefetch goes along with one that is under way.
func (s *Stapler) startTurnLocked(t *turn) {
	e, u, now := t.e, t.c.urgency(), s.nanos()
	t.begun, t.ends = true, 1
	e.edit().patience = max(e.edit().patience, now+int64(records.Patience))
	if e.Phase().UnderWay() && e.Phase() != schedule.Deferred {
		if t.c.refresh {
			t.ends = 2
		} else {
			old := t.c.begun-e.details().begun >= int64(joinWithin)
			t.joined, u = old || s.opts.store != nil, schedule.Urgent // it may have no patience with the store
		}
	}
	s.doLocked(s.sched.Start(e, u, now))
}

// deferredLocked reports whether t, a Refresh, does not wait for another process's
// lease, and then has the attempt that follows be its own.
func (t *turn) deferredLocked() bool {
	if t.c.refresh {
		t.ends = 1
	}
	return t.c.refresh
}

// stepLocked makes the next step of t, and reports whether it was the last.
func (t *turn) stepLocked() (done bool) {
	done, err := t.settledLocked()
	switch {
	case done:
		t.done, t.err = true, err
		t.c.lessLocked()
	case t.ends == 0:
		t.joined = false
		t.c.s.startTurnLocked(t)
	}
	return done
}

// await waits for the turns of c, or the end of ctx, and returns what came of them,
// joined with errs.
func (s *Stapler) await(ctx context.Context, c *call, errs []error) error {
	s.mu.Lock()
	c.lessLocked()
	s.mu.Unlock()
	select {
	case <-c.over:
	case <-ctx.Done():
		s.abandon(ctx, c)
	}
	for _, t := range c.turns {
		if t.err != nil {
			errs = append(errs, t.e.named(t.err))
		}
	}
	return errors.Join(errs...)
}

// abandon ends what is left of c when ctx has ended.
func (s *Stapler) abandon(ctx context.Context, c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nanos()
	for _, t := range c.turns {
		if t.done {
			continue
		}
		e := t.e
		t.done, t.err = true, e.interruptedLocked(ctx)
		e.more.turns = slices.DeleteFunc(e.more.turns, func(w waiter) bool { return w == t })
		s.cache.sortLocked(e)
		e.trimLocked(now)
	}
}

// interruptedLocked says what is known of e when ctx ends.
func (e *entry) interruptedLocked(ctx context.Context) error {
	if last := e.details().err; last != nil {
		return errtext.Caused(fmt.Errorf("%w before a response came", context.Cause(ctx)), last)
	}
	return fmt.Errorf("%w before a response came from %q", context.Cause(ctx), e.url())
}

// settledLocked reports whether there is nothing more to wait for, and what came of it.
func (t *turn) settledLocked() (done bool, err error) {
	s, e := t.c.s, t.e
	now := s.nanos()
	if t.c.refresh {
		if done, err := s.droppedLocked(e); done {
			return true, err
		}
		return t.begun && t.ends == 0, t.err
	}
	h := e.held.Load()
	switch {
	case h.State == held.Revoked:
		return true, e.revokedLocked(h)
	case h.Current(now):
		return true, nil
	case e.Need() == schedule.None, e.Need() == schedule.Off, h.State == held.None:
		return true, e.details().err
	}
	if done, err := s.droppedLocked(e); done {
		return true, err
	}
	if !t.begun || t.ends > 0 || t.joined {
		return false, nil
	}
	if t.c.limited && e.Need() != schedule.Hopeless && now >= e.validFrom() {
		t.ends = 1 // the next one that the schedule plans
		return false, nil
	}
	return true, e.failureLocked()
}

// droppedLocked reports whether nothing more comes of e, and why.
func (s *Stapler) droppedLocked(e *entry) (bool, error) {
	switch {
	case s.closed:
		return true, ErrClosed
	case !e.gone():
		return false, nil
	case e.notAfter != 0 && s.nanos() > held.Nanos(e.notAfter):
		return true, directions.ErrLeafExpired
	}
	return true, fmt.Errorf("%w: the certificate was forgotten", ErrNoStaple)
}

// failureLocked returns why e holds no valid response after an attempt.
func (e *entry) failureLocked() error {
	err := e.details().err
	if h := e.held.Load(); h.Raw != nil {
		return h.Lapsed(err)
	}
	if err == nil {
		err = errPending
	}
	return err
}

// Forget drops certs: nothing is asked about them any more, and they are not in
// [Stapler.Status], [Stapler.Ready], metrics or the status page. A certificate
// that no live config lists is evicted; one that is listed is silent until its
// next handshake, and stays listed. A certificate that is served again is learned
// again, as if for the first time. A [Stapler.Prefetch] or [Stapler.Refresh] that
// waits for one returns [ErrNoStaple]. Its record stays in the store, so that a
// revocation is not forgotten.
//
// Call it for a certificate that was replaced: without it Ready and alerts cover
// that for a day. nil, empty and unknown certificates are ignored. It waits for
// nothing and may be called concurrently, from an event function, too.
func (s *Stapler) Forget(certs ...*tls.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.forgotten, func(_ uint64, listings *atomic.Int32) bool { return listings.Load() == 0 })
	for _, cert := range certs {
		if empty(cert) {
			continue
		}
		der := cert.Certificate[0]
		e := s.cache.leaves.FindBytesLocked(s.cache.leaves.ID(der), der)
		if e == nil {
			continue
		}
		if e.listedLocked() {
			if s.forgotten == nil {
				s.forgotten = make(map[uint64]*atomic.Int32)
			}
			s.forgotten[e.id] = e.listings
		}
		s.dropLocked(e)
	}
}
