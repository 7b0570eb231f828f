package staple

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

const (
	maxGetURL    = 255            // RFC 9919 §6
	maxRedirects = 3              //
	recall       = 24 * time.Hour // how long it is remembered what a responder wants
	ocspType     = "application/ocsp-response"
	maxHint      = 30 * 24 * time.Hour
)

// defaultClient returns a client for URLs that come out of certificates: it
// does not let them reach for what is never a responder on any network.
func defaultClient() *http.Client {
	d := &net.Dialer{Timeout: maxAttempt, Control: refuseDial}
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            d.DialContext,
		TLSHandshakeTimeout:    maxAttempt,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    maxInFlight, // no MaxConnsPerHost: all that is behind a proxy counts as one host
		MaxIdleConns:           8 * maxInFlight,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
	}}
}

// refuseDial refuses link-local addresses (where clouds keep credentials),
// multicast and unspecified ones. Private ones are where private CAs live.
func refuseDial(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := ap.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("refusing to dial %v: not the address of a responder", ip)
	}
	return nil
}

// ownRules returns a shallow copy of c that leaves redirects to roundTrip:
// net/http would repeat a redirected POST as a GET without a body.
func ownRules(c *http.Client) *http.Client {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// inquiry is one exchange with one responder about one certificate.
type inquiry struct {
	s       *Stapler
	r       *responder
	e       *entry
	sub     ocspresp.Subject
	held    *held
	last    bool // r confirmed what is held
	post    bool // GET is not used
	mayPost bool // POST may be tried where GET is refused
	fresh   bool // caches are told not to answer
}

// exchange asks r about e. Whoever asks about the same certificate at the same
// time shares the exchange: an entry that was dropped and learned anew while
// it was in flight. If ctx ends first, left ends with the exchange.
func (s *Stapler) exchange(ctx context.Context, e *entry, r *responder, c *call) (a *answer, left <-chan struct{}, err error) {
	key := string(e.der) + r.url
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
		s.flight.Forget(key) // the next attempt must not wait for a call that was lost
		done := make(chan struct{})
		go func() { <-ch; close(done) }()
		return nil, done, &ResponseError{Responder: r.url, Reason: ReasonTimeout, Err: ctx.Err()}
	}
}

// inquire asks with the CertID hash that r is known to take, and where that is
// refused, at most once an hour, with the other.
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
	s.mu.Lock()
	now := s.nanos()
	q := &inquiry{s: s, r: r, e: e, fresh: c.refreshes(), sub: e.subject(), held: e.held.Load(), last: e.best == r,
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
	der, err := q.sub.Issuer.Request(h, q.sub.Serial)
	if err != nil {
		return nil, err
	}
	u, fits := getURL(q.r.url, der)
	get := fits && !q.post
	a, err := q.send(ctx, u, der, get)
	if fits && q.post && !tookPost(err) {
		q.forgetPost() // the next attempt is a GET
	}
	if get && q.mayPost && refusesGet(err) {
		b, postErr := q.send(ctx, u, der, false)
		took := tookPost(postErr)
		q.remember(took)
		if took {
			a, err, get = b, postErr, false
		}
	}
	if errors.Is(err, ErrExpired) && !q.fresh {
		q.fresh = true
		a, err = q.send(ctx, u, der, get)
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
	var he *httpError
	switch re.Reason {
	case ReasonHTTPStatus:
		return errors.As(err, &he) && (he.status/100 == 4 && he.status != http.StatusRequestTimeout &&
			he.status != http.StatusTooManyRequests || he.status == http.StatusNotImplemented)
	case ReasonContentType, ReasonMalformedRequest:
		return true
	}
	return false
}

// getURL returns the URL of a GET request (RFC 6960 A.1), and whether it may be
// used. An https responder's URL may have a path of its own, never a query.
func getURL(responder string, der []byte) (string, bool) {
	u := strings.TrimRight(responder, "/") + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(der))
	return u, len(u) <= maxGetURL && !strings.ContainsAny(responder, "?#")
}

// send makes one request, and verifies what it brings.
func (q *inquiry) send(ctx context.Context, getURL string, der []byte, get bool) (*answer, error) {
	header := http.Header{"Accept": {ocspType}}
	method, u, conditional := http.MethodPost, q.r.url, false
	if get {
		method, u, der = http.MethodGet, getURL, nil
		conditional = q.conditions(header)
	} else {
		header.Set("Content-Type", "application/ocsp-request")
	}
	if q.fresh {
		header.Set("Cache-Control", "no-cache")
	}
	res, err := q.s.roundTrip(ctx, q.r.url, method, u, der, header)
	if err != nil {
		return nil, err
	}
	now := q.s.opts.now()
	a := &answer{responder: q.r.url, received: now.UnixNano(), checked: now.UnixNano(), maxAge: res.maxAge(now)}
	if res.status == http.StatusNotModified && conditional {
		return a, nil
	}
	if err := res.check(); err != nil {
		err.Responder = q.r.url
		return nil, err
	}
	p, err := ocspresp.Prove(res.body, &q.sub, now)
	if err != nil {
		return nil, responseError(q.r.url, err)
	}
	a.Proof = p
	if get {
		a.validator = newValidator(res.header)
	}
	return a, nil
}

// conditions makes a request conditional on what is held being out of date.
// When that is about to expire it is not: a cache that goes on with 304 would
// be no help.
func (q *inquiry) conditions(header http.Header) bool {
	v, now := q.held.validator(), q.s.nanos()
	_, length := q.held.span()
	if !q.last || v == (validator{}) || q.fresh || !q.held.current(now) || q.held.until-now < length/8 {
		return false
	}
	if v.etag != "" {
		header.Set("If-None-Match", v.etag)
	}
	if since := v.lastModified(); since != "" {
		header.Set("If-Modified-Since", since)
	}
	return true
}

// result is an HTTP response, read whole.
type result struct {
	status int
	header http.Header
	body   []byte
}

// httpError is an answer that is not the one wanted.
type httpError struct {
	status int
	what   string
	wait   time.Duration // Retry-After
}

func (e *httpError) Error() string { return e.what }

// unexpected says what came instead of a response, cut and sanitised.
func (r *result) unexpected() *httpError {
	what := strings.TrimSpace(fmt.Sprint(r.status, " ", http.StatusText(r.status)))
	if t := certinfo.Clip(r.header.Get("Content-Type")); t != "" || len(r.body) > 0 {
		what += fmt.Sprintf(", %q", t)
	}
	if len(r.body) > 0 {
		what += fmt.Sprintf(", %d bytes that begin %+q", len(r.body), r.body[:min(len(r.body), 64)])
	}
	return &httpError{status: r.status, what: what, wait: r.retryAfter()}
}

// check applies the HTTP rules of RFC 6960 A.2.
func (r *result) check() *ResponseError {
	if r.status != http.StatusOK {
		return &ResponseError{Reason: ReasonHTTPStatus, Err: r.unexpected()}
	}
	// Package mime would refuse the type for parameters that it can't read.
	t, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(t), ocspType) {
		return &ResponseError{Reason: ReasonContentType, Err: r.unexpected()}
	}
	if enc := r.header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &ResponseError{Reason: ReasonContentType, Err: fmt.Errorf("content encoding %q, none was asked for", certinfo.Clip(enc))}
	}
	if len(r.body) == 0 {
		return &ResponseError{Reason: ReasonEmpty}
	}
	return nil
}

// maxAge returns how long caches may keep the answer (RFC 9111 §4.2), a hint
// for when there will be news (RFC 9919 §7); 0 for no hint.
func (r *result) maxAge(now time.Time) time.Duration {
	for _, d := range strings.Split(strings.Join(r.header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(name) {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			return max(seconds(value)-seconds(r.header.Get("Age")), 0)
		}
	}
	if t, err := http.ParseTime(r.header.Get("Expires")); err == nil {
		return min(max(t.Sub(now), 0), maxHint)
	}
	return 0
}

func seconds(v string) time.Duration {
	n, err := strconv.ParseInt(strings.Trim(v, `" `), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, int64(maxHint/time.Second))) * time.Second
}

func (r *result) retryAfter() time.Duration {
	v := r.header.Get("Retry-After")
	if t, err := http.ParseTime(v); err == nil {
		return min(max(time.Until(t), 0), maxHint)
	}
	return seconds(v)
}

// retryHint returns the Retry-After in err, of several errors the least: a
// responder has no say in when others are asked.
func retryHint(err error) time.Duration {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		least := maxHint
		for _, err := range joined.Unwrap() {
			least = min(least, retryHint(err))
		}
		return least
	}
	var he *httpError
	if errors.As(err, &he) {
		return he.wait
	}
	return 0
}

// roundTrip makes a request and follows redirects, to http and https alone,
// with the method and body that it had.
func (s *Stapler) roundTrip(ctx context.Context, responder, method, u string, body []byte, header http.Header) (*result, error) {
	for redirects := 0; ; redirects++ {
		req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
		if err != nil {
			return nil, &ResponseError{Responder: responder, Reason: ReasonNetwork, Err: err}
		}
		req.Header = header.Clone()
		s.stats.requests.Add(1)
		res, err := s.opts.client.Do(req)
		if err != nil {
			return nil, transportError(responder, err)
		}
		next, err := res.Location()
		if err != nil || res.StatusCode/100 != 3 || res.StatusCode == http.StatusNotModified {
			return readResult(ctx, responder, res)
		}
		res.Body.Close()
		if next.Scheme != "http" && next.Scheme != "https" || redirects == maxRedirects {
			return nil, &ResponseError{Responder: responder, Reason: ReasonRedirect,
				Err: fmt.Errorf("redirect %d, to %.100q", redirects+1, next)}
		}
		u = next.String()
	}
}

// patient reads until ctx ends: the body of a RoundTripper of the user's may go
// on for ever.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

func readResult(ctx context.Context, responder string, res *http.Response) (*result, error) {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(patient{ctx, res.Body}, ocspresp.MaxResponse+1))
	switch {
	case err != nil:
		return nil, transportError(responder, err)
	case len(body) > ocspresp.MaxResponse:
		return nil, &ResponseError{Responder: responder, Reason: ReasonTooLarge, Err: fmt.Errorf("more than %d bytes", ocspresp.MaxResponse)}
	case res.ContentLength > int64(len(body)) && res.StatusCode != http.StatusNotModified:
		return nil, transportError(responder, io.ErrUnexpectedEOF)
	}
	return &result{status: res.StatusCode, header: res.Header, body: body}, nil
}

// transportError types what a client says, without the URL that it repeats.
func transportError(responder string, err error) *ResponseError {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	reason := ReasonNetwork
	var ne net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		reason = ReasonTimeout
	case errors.Is(err, io.ErrUnexpectedEOF):
		reason = ReasonTruncated
	}
	if what := err.Error(); len(what) > 1024 { // it quotes what came, and is kept
		err = errors.New(certinfo.Clip(what))
	}
	return &ResponseError{Responder: responder, Reason: reason, Err: err}
}
