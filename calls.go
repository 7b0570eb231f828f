package staple

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/waiting"
)

// A call is a Prefetch or a Refresh.
type call = waiting.Call[*entry]

// Prefetch makes an attempt now for every certificate of certs without a valid
// response, whatever failed before. It returns when each certificate has got a valid
// response, needs none, or can't get one (revoked, no issuer, Must-Staple without a
// responder, not parsable, not valid yet), or when ctx or the Stapler ([ErrClosed]) ends.
//
// If ctx has a deadline, Prefetch retries until then, at the times of the schedule
// and at least 1 s apart: the network may come seconds after the process. Without a
// deadline it returns after the first attempt over all responders, 10 s after its first
// request at most; requests that hang keep others waiting. It waits up to 5 s for a record
// of the store, and half a minute for the lease ([Leaser]). Once a responder has failed for
// 5 certificates of the call in a row, the first attempts for the rest make no request to it.
//
// The error joins one for each certificate that needs a response and has none,
// naming the certificate and the responder; retries for those go on in the
// background. [ErrNoStaple] says that [Stapler.Forget] dropped the certificate
// meanwhile. A nil or empty certificate is an error. A nil ctx is context.Background.
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
	c := &call{Retry: limited, Begun: s.nanos()}
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
	c := &call{Refresh: true, Begun: s.nanos()}
	var errs []error
	if len(certs) > 0 {
		errs = s.name(c, certs)
	} else if err := s.nameAll(c); err != nil {
		return err
	}
	return s.await(ctx, c, errs)
}

// name makes certs known to c, and says which are none.
func (s *Stapler) name(c *call, certs []*tls.Certificate) (errs []error) {
	ids, named := s.idsOf(certs), make(map[*entry]bool)
	s.tick()    // the clock may have been set
	s.mu.Lock() // once, so that a responder which fails meanwhile fails for all
	defer s.mu.Unlock()
	for i, cert := range certs {
		if empty(cert) {
			errs = append(errs, fmt.Errorf("staple: certificate %d is nil or empty", i))
			continue
		}
		e, made := s.learnLocked(cert, ids[i], c.Urgency())
		if e == nil {
			errs = append(errs, errtext.About(cert.Certificate[0], nil, ErrClosed))
			continue
		}
		e.known = minuteOf(s.nanos())
		if !named[e] {
			named[e] = true
			s.beginLocked(c, e, made)
		}
		s.nominateLocked(e, cert)
	}
	return errs
}

// nameAll makes all certificates known to c that s knows.
func (s *Stapler) nameAll(c *call) error {
	s.tick() // the clock may have been set
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

// beginLocked has c wait for e, unless there is nothing to wait for. made: e was made for
// c, and its first attempt has begun.
func (s *Stapler) beginLocked(c *call, e *entry, made bool) {
	t := c.Add(e, made)
	start, done := t.Step(s.newsLocked(e))
	if done {
		return
	}
	e.edit().waiters.Add(t)
	s.startLocked(e, start)
	s.cache.sortLocked(e)
}

// await waits for the turns of c, or the end of ctx, and returns what came of them,
// joined with errs.
func (s *Stapler) await(ctx context.Context, c *call, errs []error) error {
	s.mu.Lock()
	over := c.Over()
	s.mu.Unlock()
	select {
	case <-over:
	case <-ctx.Done():
		s.abandon(ctx, c)
	}
	for _, t := range c.Turns {
		if t.Err != nil {
			errs = append(errs, errtext.About(t.Of.DER, nil, t.Err))
		}
	}
	return errors.Join(errs...)
}

// abandon ends what is left of c when ctx has ended.
func (s *Stapler) abandon(ctx context.Context, c *call) {
	over := fmt.Errorf("%w before a response came", context.Cause(ctx)) // calls the user's code, so without the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nanos()
	for _, t := range c.Turns {
		if e := t.Of; !t.Done {
			err := fmt.Errorf("%w from %q", over, e.url())
			if last := e.details().err; last != nil {
				err = errtext.Caused(over, last)
			}
			e.more.waiters.Leave(t, err)
			s.cache.sortLocked(e)
			e.trimLocked(now)
		}
	}
}

// Forget drops certs: no exchange about them begins any more, and they are not in
// [Stapler.Status], [Stapler.Ready], metrics or the status page. A certificate
// that no live config lists is evicted; one that is listed is silent until its
// next handshake, and stays listed. A certificate that is served again is learned
// again, as if for the first time. A [Stapler.Prefetch] or [Stapler.Refresh] that
// waits for one returns [ErrNoStaple]. Its record stays in the store, so that a
// revocation is not forgotten.
//
// Call it for a certificate that was replaced, and not for one that is loaded again: its
// response goes, too. Without it Ready and alerts cover the old one for a day. nil, empty
// and unknown certificates are ignored. It waits for nothing and may be called
// concurrently, from an event function, too.
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
