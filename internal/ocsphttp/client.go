// Package ocsphttp puts one question to one OCSP responder by the rules of
// RFC 9919 and RFC 6960 appendix A: GET and POST, caches, redirects, limits. It
// knows HTTP and no OCSP: a question and its answer are bytes to it.
package ocsphttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// MaxBody is the longest answer that is read.
	MaxBody = 128 << 10

	dialTimeout  = 10 * time.Second
	maxIdle      = 32 // connections kept to a responder, which gets no more requests at once
	maxRedirects = 3
)

// A Client asks responders. It may be used concurrently.
type Client struct {
	HTTP     *http.Client     // as OwnRules returns it
	Requests *atomic.Uint64   // counts each request, also those that a redirect leads to
	Now      func() time.Time // the clock for dates in headers
}

// DefaultClient returns a client for URLs that come out of certificates. It
// refuses to dial what is never a responder on any network.
func DefaultClient() *http.Client {
	d := &net.Dialer{Timeout: dialTimeout, Control: refuseDial}
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            d.DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    maxIdle, // no MaxConnsPerHost: all that is behind a proxy counts as one host
		MaxIdleConns:           8 * maxIdle,
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

// OwnRules returns a shallow copy of c that leaves redirects to this package:
// net/http would repeat a redirected POST as a GET without a body.
func OwnRules(c *http.Client) *http.Client {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// Get returns what is at u: the certificate of an issuer, say.
func (c *Client) Get(ctx context.Context, u string) ([]byte, error) {
	res, err := c.fetch(ctx, request{method: http.MethodGet, url: u})
	if err != nil {
		return nil, err
	}
	if err := res.problem(); err != nil {
		return nil, err
	}
	return res.body, nil
}

// A request is what fetch sends, to one URL after the other.
type request struct {
	method, url string
	header      http.Header
	body        []byte
	ocsp        bool // an OCSP response is wanted
}

// fetch makes a request and follows redirects, to http and https alone, with the
// method and body that it had. It reads what comes in the end. The error is of
// the network alone: a response may be one that says no.
func (c *Client) fetch(ctx context.Context, r request) (*response, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for redirects := 0; ; redirects++ {
		res, err := c.send(ctx, r)
		if err != nil {
			return nil, err
		}
		next, err := res.Location()
		if err != nil || res.StatusCode/100 != 3 || res.StatusCode == http.StatusNotModified {
			return c.read(ctx, cancel, res, r.ocsp), nil
		}
		res.Body.Close()
		if next.Scheme != "http" && next.Scheme != "https" || redirects == maxRedirects {
			return nil, &Error{Kind: Redirect, Status: res.StatusCode, Err: fmt.Errorf("redirect %d, to %.100q", redirects+1, next), answered: true}
		}
		r.url = next.String()
	}
}

// send sends a request to its URL.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	var link contact
	req, err := http.NewRequestWithContext(link.trace(ctx), r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, &Error{Kind: Network, Err: err}
	}
	req.Header = r.header.Clone()
	c.Requests.Add(1)
	res, err := c.HTTP.Do(req)
	if err != nil {
		e := transportError(err)
		e.connected = link.made(err)
		return nil, e
	}
	return res, nil
}

// A contact is whether a request got a connection. Only a Transport of net/http
// tells; another RoundTripper's errors have to do.
type contact struct{ sought, got atomic.Bool }

func (c *contact) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { c.sought.Store(true); c.got.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { c.got.Store(true) },
	})
}

// made reports whether there was a connection before err.
func (c *contact) made(err error) bool {
	if c.sought.Load() {
		return c.got.Load()
	}
	var op *net.OpError
	var dns *net.DNSError
	return !errors.As(err, &dns) && !(errors.As(err, &op) && op.Op == "dial")
}
