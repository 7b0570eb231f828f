package staple

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// recall is how long it is remembered what a responder wants.
const recall = 24 * time.Hour

// web returns what asks responders.
func (s *Stapler) web() *ocsphttp.Client {
	return &ocsphttp.Client{HTTP: s.opts.client, Requests: &s.stats.requests, Now: s.opts.now}
}

// inquiry is one exchange with one responder about one certificate.
type inquiry struct {
	s       *Stapler
	r       *responder
	e       *entry
	sub     subject
	held    *held
	last    bool // r confirmed what is held
	post    bool // GET is not used
	mayPost bool // POST may be tried where GET is refused
	fresh   bool // caches are told not to answer
}

// exchange asks r about e. Whoever asks about the same certificate at the same
// time shares the exchange: an entry that was dropped and learned anew while
// it was in flight. If ctx ends first, left ends with the exchange.
func (s *Stapler) exchange(ctx context.Context, e *entry, r *responder) (a *answer, left <-chan struct{}, err error) {
	key := string(e.der) + r.url
	if e.held.Load().raw == nil {
		key += " anew" // what a 304 confirms it does not hold
	}
	ch := s.flight.DoChan(key, func() (any, error) {
		return guard(s, clientCode, func() (*answer, error) {
			begun := time.Now()
			a, err := s.inquire(ctx, e, r)
			if err == nil && a.proof != nil {
				a.took = time.Since(begun) // here, as others may share a
			}
			return a, err
		})
	})
	select {
	case res := <-ch:
		return res.Val.(*answer), nil, res.Err
	case <-ctx.Done():
		s.flight.Forget(key) // the next attempt must not wait for a call that was lost
		done := make(chan struct{})
		go func() { <-ch; close(done) }()
		return nil, done, &ResponseError{Responder: r.url, Reason: ReasonTimeout, Err: ctx.Err()}
	}
}

// inquire asks with the CertID hash that r is known to take, and where that is
// refused, at most once an hour, with the other.
func (s *Stapler) inquire(ctx context.Context, e *entry, r *responder) (*answer, error) {
	s.mu.Lock()
	missing := e.issuer == nil
	s.mu.Unlock()
	if missing {
		if err := s.fetchIssuer(ctx, e); err != nil {
			return nil, err
		}
		s.judge(e)
	}
	s.mu.Lock()
	now := s.nanos()
	q := &inquiry{s: s, r: r, e: e, sub: e.subject(), held: e.held.Load(), last: e.best == r,
		post: recent(r.postTook, now, recall) && !r.postFails, mayPost: !recent(r.postTried, now, time.Hour)}
	first, second := s.opts.hash, crypto.SHA256
	if first != crypto.SHA1 {
		second = crypto.SHA1
	}
	swapped := now < r.otherUntil
	if swapped {
		first, second = second, first
	}
	again := !recent(e.rare().otherAt, now, time.Hour)
	s.mu.Unlock()

	a, err := q.ask(ctx, first)
	if err == nil || !(again || swapped) || !refusesHash(err) {
		return a, err
	}
	b, otherErr := q.ask(ctx, second)
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.nanos()
	e.also().otherAt = now
	if otherErr != nil {
		return nil, err
	}
	if !swapped { // else both are in use there, by CAs of two generations
		r.otherUntil = now + int64(recall)
	}
	return b, nil
}

// refusesHash reports whether err may be about the hash in the CertID.
func refusesHash(err error) bool {
	var re *ResponseError
	if !errors.As(err, &re) {
		return false
	}
	switch re.Reason {
	case ReasonUnauthorized, ReasonMalformedRequest, ReasonUnknown, ReasonSerial, ReasonIssuerName, ReasonIssuerKey, ReasonHashAlgorithm:
		return true
	}
	return false
}

// ask makes one request, and another where the first tells how to do better:
// POST where GET is refused, past all caches where the answer has expired.
func (q *inquiry) ask(ctx context.Context, h crypto.Hash) (*answer, error) {
	der, err := q.sub.issuer.request(h, q.sub.serial)
	if err != nil {
		return nil, err
	}
	_, fits := ocsphttp.GetURL(q.r.url, der)
	get := fits && !q.post
	a, err := q.send(ctx, der, get)
	if fits && q.post && !tookPost(err) {
		q.forgetPost() // the next attempt is a GET
	}
	if get && q.mayPost && refusesGet(err) {
		b, postErr := q.send(ctx, der, false)
		took := tookPost(postErr)
		q.remember(took)
		if took {
			a, err, get = b, postErr, false
		}
	}
	if errors.Is(err, ErrExpired) && !q.fresh {
		q.fresh = true
		a, err = q.send(ctx, der, get)
	}
	return a, err
}

// forgetPost has GET tried again, as it was before it was refused.
func (q *inquiry) forgetPost() {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	q.r.postFails = true
}

// remember notes whether POST did better than GET.
func (q *inquiry) remember(did bool) {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	q.mayPost = false
	if now := q.s.nanos(); did {
		q.post, q.r.postTook, q.r.postFails = true, now, false
	} else if !recent(q.r.postTook, now, recall) { // else it is POST that fails for the moment
		q.r.postTried = now
	}
}

// tookPost reports whether err, which came of a POST, shows that POST is the way
// to ask: it was answered, whatever the answer says of the certificate.
func tookPost(err error) bool {
	var re *ResponseError
	if err == nil || !errors.As(err, &re) {
		return err == nil
	}
	return re.Reason > ReasonMalformedRequest && re.Reason != ReasonMalformed
}

// refusesGet reports whether err may be about GET: caches and firewalls in
// front of responders refuse long or escaped paths in many ways.
func refusesGet(err error) bool {
	var re *ResponseError
	if !errors.As(err, &re) {
		return false
	}
	var he *ocsphttp.Error
	switch re.Reason {
	case ReasonHTTPStatus:
		return errors.As(err, &he) && (he.Status/100 == 4 && he.Status != http.StatusRequestTimeout &&
			he.Status != http.StatusTooManyRequests || he.Status == http.StatusNotImplemented)
	case ReasonContentType, ReasonMalformedRequest:
		return true
	}
	return false
}

// send makes one request, and judges what it brings.
func (q *inquiry) send(ctx context.Context, der []byte, get bool) (*answer, error) {
	got, err := q.s.web().Ask(ctx, &ocsphttp.Question{URL: q.r.url, Request: der, Post: !get, PastCaches: q.fresh, Held: q.validator()})
	if err != nil {
		return nil, unanswered(q.r.url, err)
	}
	now := q.s.opts.now()
	a := &answer{responder: q.r.url, received: now.UnixNano(), checked: now.UnixNano(), maxAge: got.MaxAge, validator: got.Validator}
	if got.NotModified {
		return a, nil
	}
	a.proof, err = verifyForClients(got.Body, &q.sub, now)
	if err != nil {
		return nil, at(q.r.url, err)
	}
	a.raw = bytes.Clone(got.Body) // without the spare capacity of reading
	return a, nil
}

// validator makes a request conditional on what is held being out of date. When
// that is about to expire it does not: a cache that goes on with 304 would be no
// help.
func (q *inquiry) validator() ocsphttp.Validator {
	now := q.s.nanos()
	_, length := q.held.span()
	if !q.last || !q.held.current(now) || q.held.until-now < length/8 {
		return ocsphttp.Validator{}
	}
	return q.held.validator()
}

// at names the responder in a ResponseError.
func at(responder string, err error) error {
	var re *ResponseError
	if errors.As(err, &re) {
		named := *re
		named.Responder = responder
		return &named
	}
	return err
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
