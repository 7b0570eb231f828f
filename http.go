package staple

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// exchangeGrace is how long an exchange may go on after its context ended: a
// RoundTripper that heeds it is done by then, and what came of it is learned
// before the next attempt.
const exchangeGrace = 50 * time.Millisecond

// web returns what asks responders.
func (s *Stapler) web() *ocsphttp.Client {
	return &ocsphttp.Client{HTTP: s.opts.client, Requests: &s.stats.requests, Now: s.opts.now}
}

// exchange asks r about e. Whoever asks about the same certificate at the same
// time shares the exchange: an entry that was dropped and learned anew while
// it was in flight. If ctx ends first, left ends with the exchange.
func (s *Stapler) exchange(ctx context.Context, e *entry, r *responder, c *call) (a *answer, left <-chan struct{}, err error) {
	key := string(e.DER) + r.url
	if c.refreshes() {
		key += " past caches"
	}
	if e.held.Load().raw == nil {
		key += " anew" // what a 304 confirms it does not hold
	}
	ch := s.flight.DoChan(key, func() (any, error) {
		return guard(s, clientCode, func() (*answer, error) {
			begun := time.Now()
			a, err := s.inquire(ctx, e, r, c)
			if err == nil && a.Proof != nil {
				a.took = time.Since(begun) // here, as others may share a
			}
			return a, err
		})
	})
	select {
	case res := <-ch:
		return res.Val.(*answer), nil, res.Err
	case <-ctx.Done():
	}
	timer := time.NewTimer(exchangeGrace)
	defer timer.Stop()
	select {
	case res := <-ch:
		return res.Val.(*answer), nil, res.Err
	case <-timer.C:
		s.flight.Forget(key) // the next attempt must not wait for a call that was lost
		done := make(chan struct{})
		go func() { <-ch; close(done) }()
		return nil, done, &ResponseError{Responder: r.url, Reason: ReasonTimeout, Err: ctx.Err()}
	}
}

// inquire puts the question about e to r, and notes what it learned of how to ask.
func (s *Stapler) inquire(ctx context.Context, e *entry, r *responder, c *call) (*answer, error) {
	s.mu.Lock()
	missing := e.issuer == nil
	s.mu.Unlock()
	if missing {
		if err := s.fetchIssuer(ctx, e, c.since()); err != nil {
			return nil, err
		}
		s.judge(e)
	}
	q, a := &ocsphttp.Question{URL: r.url}, &answer{responder: r.url}
	s.mu.Lock()
	now, h, sub, tries := s.nanos(), e.held.Load(), e.subject(), e.rare().tries
	q.First, q.May = r.memory.Plan(&tries, h.current(now), now)
	if c.refreshes() {
		q.First |= ocsphttp.PastCaches
	}
	if e.best == r {
		q.Held = h.condition(now)
	}
	s.mu.Unlock()
	q.Request = func(otherHash bool) ([]byte, error) {
		return sub.Issuer.Request(s.opts.certIDHash(otherHash), sub.Serial)
	}
	q.Judge = func(body []byte) (ocsphttp.Way, error) {
		err := a.prove(body, &sub, s.opts.now())
		return betterWays(err), err
	}

	got, learned, err := s.web().Ask(ctx, q)

	now = s.nanos()
	s.mu.Lock()
	r.memory.Learn(&tries, q.First, learned, now)
	if tries != e.rare().tries {
		e.also().tries = tries
	}
	s.mu.Unlock()
	if err != nil {
		return nil, unanswered(r.url, err)
	}
	a.received, a.checked, a.maxAge, a.validator = now, now, got.MaxAge, got.Validator
	return a, nil
}

// prove takes body for the answer if it proves something about sub now.
func (a *answer) prove(body []byte, sub *ocspresp.Subject, now time.Time) (err error) {
	a.Proof, err = ocspresp.Prove(body, sub, now)
	return responseError(a.responder, err)
}

// betterWays returns the other ways of asking that may get a better answer than
// one refused by err: by the other method where it is none, past caches where it
// has expired, with the other hash where it is not about this certificate.
func betterWays(err error) (w ocsphttp.Way) {
	if errors.Is(err, ErrExpired) {
		w = ocsphttp.PastCaches
	}
	var re *ResponseError
	if !errors.As(err, &re) {
		return w
	}
	switch re.Reason {
	case ReasonMalformed, ReasonInternalError:
		w |= ocsphttp.Post
	case ReasonMalformedRequest:
		w |= ocsphttp.Post | ocsphttp.OtherHash
	case ReasonUnauthorized, ReasonUnknown, ReasonSerial, ReasonIssuerName, ReasonIssuerKey, ReasonHashAlgorithm:
		w |= ocsphttp.OtherHash
	}
	return w
}

// condition makes a request conditional on h being out of date. When h is about to
// expire it does not: a cache that goes on with 304 would be no help.
func (h *held) condition(now int64) ocsphttp.Validator {
	_, length := h.span()
	if !h.current(now) || h.until-now < length/8 {
		return ocsphttp.Validator{}
	}
	return h.validator()
}

// unansweredReasons is what each way of HTTP to bring no answer is to a caller.
var unansweredReasons = [...]Reason{
	ocsphttp.Network:     ReasonNetwork,
	ocsphttp.Timeout:     ReasonTimeout,
	ocsphttp.Redirect:    ReasonRedirect,
	ocsphttp.Status:      ReasonHTTPStatus,
	ocsphttp.ContentType: ReasonContentType,
	ocsphttp.TooLarge:    ReasonTooLarge,
	ocsphttp.Truncated:   ReasonTruncated,
	ocsphttp.Empty:       ReasonEmpty,
}

// unanswered makes a ResponseError of what HTTP brought from a URL.
func unanswered(u string, err error) error {
	var he *ocsphttp.Error
	if !errors.As(err, &he) {
		return err
	}
	re := &ResponseError{Responder: u, Reason: unansweredReasons[he.Kind]}
	if he.Err != nil {
		re.Err = he
	}
	return re
}

// retryHint returns the Retry-After in err, of several errors the least: a
// responder has no say in when others are asked.
func retryHint(err error) time.Duration {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		least := time.Duration(math.MaxInt64)
		for _, err := range joined.Unwrap() {
			least = min(least, retryHint(err))
		}
		return least
	}
	var he *ocsphttp.Error
	if errors.As(err, &he) {
		return he.RetryAfter
	}
	return 0
}
