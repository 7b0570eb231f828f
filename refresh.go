package staple

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// callGap is the shortest pause between the attempts that a Prefetch waits for.
const callGap = time.Second

// Prefetch asks for every certificate of certs that holds no valid response, now,
// whatever failed before, and returns when each is settled: it holds a valid
// response; it needs none; it can't get one (revoked, no issuer, Must-Staple
// without a responder, not parsable, not valid yet); or ctx or the Stapler
// ([ErrClosed]) ended.
//
// The first attempt is made at once. If ctx has a deadline, further ones follow
// as the schedule plans them, none sooner than 1 s, until then: the network may
// come seconds after the process. Without a deadline Prefetch returns after the
// first attempt over all responders, 10 s at most once it is under way. A record
// of the store is waited for, 5 s at most. Once a responder has failed for 5
// certificates of the call in a row, the first attempt does not ask it about the
// rest.
//
// The error joins one for each certificate that needs a response and has none,
// naming the certificate and the responder; retries for those go on in the
// background. [ErrNoStaple] says that [Stapler.Forget] dropped the certificate
// meanwhile. A nil or empty certificate is an error. A nil ctx is
// context.Background.
//
// Call it before serving to have the first handshake stapled, and once a day for
// certificates that a standby keeps ready: one that no config lists and nobody
// asks for is dropped after a week. It may be called concurrently, though not from an
// event function.
func (s *Stapler) Prefetch(ctx context.Context, certs ...*tls.Certificate) error {
	if ctx == nil {
		ctx = context.Background()
	}
	_, limited := ctx.Deadline()
	c := newCall(s.nanos())
	c.limited = limited
	return s.await(ctx, c, s.name(c, certs))
}

// Refresh asks now for certs, or for all known certificates if there are none,
// whatever they hold and however their responders fared. For each it waits for an
// attempt that is under way and then makes its own: unconditional, past caches
// (Cache-Control: no-cache), past the records of the store and past a lease of
// another process. Backoff and breakers don't hold it back; the limits of parallel
// requests do, and once a responder has failed for 5 certificates of the call in a
// row the rest get that error without a request. The function of [WithResponders]
// is asked at once.
//
// The error joins one for each certificate whose attempt failed, whatever it
// holds, naming the certificate and the responder. A certificate that turns out to
// be revoked is not one: see [Stapler.Status]. What is held stays when an attempt
// fails, and the retries that are planned stay, too. [ErrClosed] after Close;
// [ErrNoStaple] for what [Stapler.Forget] dropped meanwhile; a nil or empty
// certificate is an error. A nil ctx is context.Background; when ctx ends, the
// attempts go on in the background.
//
// Call it after the network was mended, a certificate was revoked or the switch of
// WithResponders was turned. It may be called concurrently, though not from an
// event function.
func (s *Stapler) Refresh(ctx context.Context, certs ...*tls.Certificate) error {
	if ctx == nil {
		ctx = context.Background()
	}
	c := newCall(s.nanos())
	c.refresh = true
	var errs []error
	if len(certs) > 0 {
		errs = s.name(c, certs)
	} else if err := s.nameAll(c); err != nil {
		return err
	}
	return s.await(ctx, c, errs)
}

// A call is a Prefetch or a Refresh. Neither backoff nor breakers hold back the
// attempts that are made for it. A nil call is the schedule.
type call struct {
	refresh bool            // else Prefetch
	limited bool            // its context has a deadline
	begun   int64           // Unix ns
	turns   []*turn         // one for each certificate
	named   map[*entry]bool // by the caller

	// The rest is guarded by Stapler.mu.
	failed map[*responder]int // for how many certificates in a row
	left   int                // turns that are not done, and one while the caller names certificates
	over   chan struct{}      // closed when left is 0
}

func newCall(now int64) *call { return &call{begun: now, left: 1, over: make(chan struct{})} }

func (c *call) refreshes() bool { return c != nil && c.refresh }

// since returns the time, in Unix ns, from which on failures count for c.
func (c *call) since() int64 {
	if c == nil {
		return 0
	}
	return c.begun
}

// countLocked notes what came of an exchange with r.
func (c *call) countLocked(r *responder, err error) {
	switch {
	case c == nil || errors.Is(err, ErrNoIssuer): // r was not asked
	case !blames(err):
		delete(c.failed, r)
	default:
		if c.failed == nil {
			c.failed = make(map[*responder]int)
		}
		c.failed[r]++
	}
}

// sparesLocked reports whether r has failed for so many certificates of c that it
// is not asked about the others.
func (c *call) sparesLocked(r *responder) bool {
	return c != nil && c.failed[r] >= breakAfter && r.err != nil
}

// lessLocked notes that one thing less is left to do.
func (c *call) lessLocked() {
	if c.left--; c.left == 0 {
		close(c.over)
	}
}

// A turn is the part of a call that is about one certificate. settleLocked makes
// its next step, whenever there is news of the certificate.
type turn struct {
	c      *call
	e      *entry
	at     *attempt // made for c; nil: not yet
	joined bool     // at was under way when c came to it
	done   bool
	err    error // what came of it; set with done
}

// name makes certs known to c, and says which are none.
func (s *Stapler) name(c *call, certs []*tls.Certificate) (errs []error) {
	for i, cert := range certs {
		if empty(cert) {
			errs = append(errs, fmt.Errorf("staple: certificate %d %w", i, errEmpty))
			continue
		}
		e := s.learn(cert, false, c)
		if e == nil {
			leaf, _ := x509.ParseCertificate(cert.Certificate[0])
			errs = append(errs, about(cert.Certificate[0], leaf, ErrClosed))
			continue
		}
		s.nominate(e, cert)
	}
	return errs
}

// nameLocked notes that the caller of c named e, which may have just been learned.
func (s *Stapler) nameLocked(c *call, e *entry) {
	e.known = minuteOf(s.nanos())
	if c.named[e] {
		return
	}
	if c.named == nil {
		c.named = make(map[*entry]bool)
	}
	c.named[e] = true
	s.beginLocked(c, e)
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
	for _, e := range all { // others have the lock now and then
		s.mu.Lock()
		if !e.flags.gone {
			s.beginLocked(c, e)
		}
		s.mu.Unlock()
	}
	return nil
}

// beginLocked makes the first step of a turn.
func (s *Stapler) beginLocked(c *call, e *entry) {
	t := &turn{c: c, e: e}
	if e.at != nil && e.at.call == c {
		t.at = e.at
	}
	c.turns = append(c.turns, t)
	c.left++
	if !s.stepLocked(t) {
		m := e.also()
		m.turns = append(m.turns, t)
	}
}

// stepLocked makes the next step of t, and reports whether it was the last.
func (s *Stapler) stepLocked(t *turn) (done bool) {
	if t.c.refresh {
		t.done, t.err = s.refreshedLocked(t)
	} else {
		t.done, t.err = s.prefetchedLocked(t)
	}
	if t.done {
		t.c.lessLocked()
	}
	return t.done
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
		e.more.turns = slices.DeleteFunc(e.more.turns, func(other *turn) bool { return other == t })
		s.cache.queueLocked(e)
		if e.at == nil && e.held.Load().current(now) {
			e.trimLocked(now)
		}
	}
}

// interruptedLocked says what is known of e when ctx ends.
func (e *entry) interruptedLocked(ctx context.Context) error {
	if last := e.rare().err; last != nil {
		return &causedError{fmt.Errorf("%w before a response came", context.Cause(ctx)), last}
	}
	return fmt.Errorf("%w before a response came from %q", context.Cause(ctx), e.urlLocked())
}

// refreshedLocked has an attempt made for a Refresh, and reports whether it is over.
func (s *Stapler) refreshedLocked(t *turn) (done bool, err error) {
	if t.at != nil && t.e.at != t.at {
		return true, t.at.err
	}
	if done, err := s.droppedLocked(t.e); done {
		return true, err
	}
	if t.at == nil {
		t.at = s.forceLocked(t.e, t.c)
	}
	return false, nil
}

// prefetchedLocked has an attempt made for a Prefetch if the certificate needs
// one, and reports whether it is settled.
func (s *Stapler) prefetchedLocked(t *turn) (done bool, err error) {
	e, now := t.e, s.nanos()
	if h := e.held.Load(); h.state == StateRevoked {
		return true, e.revokedLocked(h)
	} else if h.current(now) {
		return true, nil
	}
	if e.flags.none || e.flags.off || e.held.Load().state == StateNone {
		return true, e.rare().err
	}
	if done, err := s.droppedLocked(e); done {
		return true, err
	}
	switch {
	case t.at == nil:
		s.joinLocked(t)
	case e.at == t.at:
	case t.joined && e.rare().unread: // it had no patience with the store
		t.joined, t.at = false, s.forceLocked(e, t.c)
	case !t.c.limited, e.flags.final, now < e.validFrom():
		return true, e.failureLocked()
	}
	return false, nil
}

// joinLocked takes an attempt that is under way for that of t if it is as good as
// one that begins now, and else has one made.
func (s *Stapler) joinLocked(t *turn) {
	e := t.e
	if t.at = s.forceLocked(e, t.c); t.at != nil {
		return
	}
	if e.at.call == nil {
		e.at.call = t.c
	}
	if t.c.begun-e.at.begun < int64(callGap) {
		t.at, t.joined = e.at, true
	}
}

// forceLocked has an attempt made about e for c, and returns it; nil if another is
// under way.
func (s *Stapler) forceLocked(e *entry, c *call) *attempt {
	planned := e.due.Load()
	switch {
	case e.at == nil:
		s.startLocked(e, false)
		e.at.planned = planned
	case e.at.prepared:
		return nil
	case planned != never: // it waited for the holder of the lease
		s.startLocked(e, false)
	}
	if e.at.call == nil || c.refresh {
		e.at.call = c
	}
	s.moveLocked(e)
	return e.at
}

// skipLocked gives up the place that e has at r, where there is no need to ask.
func (s *Stapler) skipLocked(e *entry, r *responder, probe bool) {
	now := s.nanos()
	r.inflight--
	if probe {
		r.probing, r.probeAt = false, min(r.probeAt, now)
		s.moveLocked(r)
	}
	if !e.flags.gone {
		e.at.rest = append([]*responder{r}, e.at.rest...)
		s.routeLocked(e, now)
	}
	s.dispatchLocked(r)
}

// droppedLocked reports whether nothing more comes of e, and why.
func (s *Stapler) droppedLocked(e *entry) (bool, error) {
	switch {
	case s.closed:
		return true, ErrClosed
	case !e.flags.gone:
		return false, nil
	case e.notAfter != 0 && s.nanos() > wall(e.notAfter):
		return true, errLeafExpired
	}
	return true, fmt.Errorf("%w: the certificate was forgotten", ErrNoStaple)
}

// failureLocked returns why e holds no valid response after an attempt.
func (e *entry) failureLocked() error {
	err := e.rare().err
	if h := e.held.Load(); h.raw != nil {
		return &lapsedError{unixNano(h.until), err}
	}
	if err == nil {
		err = errPending
	}
	return err
}

// validFrom returns from when on a responder may know e, in Unix ns.
func (e *entry) validFrom() int64 { return wall(e.notBefore) - int64(ocspresp.ClockSkew) }

// earlyLocked ends the attempt for a certificate that is not valid before from:
// what a responder said of it now would say nothing about the responder.
func (s *Stapler) earlyLocked(e *entry, from, now int64) {
	err := fmt.Errorf("staple: certificate is not valid before %s", unix(e.notBefore).UTC().Format(time.RFC3339))
	e.at.err, e.also().err = err, err
	s.overLocked(e, now)
	e.dueAt(from)
	s.endLocked(e, now)
	s.moveLocked(e)
}
