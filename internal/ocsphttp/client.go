// Package ocsphttp makes one exchange with one OCSP responder by the rules of
// RFC 9919 and RFC 6960 appendix A: GET and POST, caches, redirects, limits. It
// knows HTTP and not OCSP: requests and responses are bytes to it.
package ocsphttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// MaxBody is the longest answer that is read.
	MaxBody = 128 << 10

	dialTimeout      = 4 * time.Second // package net divides it: 2 s for each of two addresses
	handshakeTimeout = 10 * time.Second
	// An HTTP/2 connection on which nothing came for pingAfter gets a ping, and is
	// closed if no answer comes within pingTimeout: that is half of an attempt.
	pingAfter   = 3 * time.Second
	pingTimeout = 2 * time.Second
	// dialGrace is how long a request that is given up while its connection is made
	// may take to go out. "openssl ocsp" waits for ever on a connection without a
	// byte (openssl#31129).
	dialGrace = time.Second

	maxIdle      = 32 // connections kept to a responder, which gets no more requests at once
	maxRedirects = 3
)

// A Client asks responders. It may be used concurrently.
type Client struct {
	HTTP     *http.Client     // as OwnRules returns it
	Default  bool             // HTTP is of DefaultClient
	Requests *atomic.Uint64   // counts each request, also those that a redirect leads to
	Now      func() time.Time // the clock for dates in headers
}

// DefaultClient returns a client that dials no address that is never a responder's.
func DefaultClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            newDialer().DialContext,
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxIdleConnsPerHost:    maxIdle, // no MaxConnsPerHost: all that is behind a proxy counts as one host
		MaxIdleConns:           8 * maxIdle,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
	}}
}

func newDialer() *net.Dialer { return &net.Dialer{Timeout: dialTimeout, Control: refuseDial} }

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
	own         bool // on a connection that no other request has
}

// fetch makes a request and follows redirects, to http and https alone, with the
// method and body that it had. It reads what comes in the end. The error is of
// the network alone: a response may be one that says no.
func (c *Client) fetch(ctx context.Context, r request) (*response, error) {
	var link contact
	ctx, cancel := link.follow(ctx)
	defer cancel()
	for redirects := 0; ; redirects++ {
		res, err := c.send(ctx, r, &link)
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
func (c *Client) send(ctx context.Context, r request, link *contact) (*http.Response, error) {
	req, err := http.NewRequestWithContext(link.trace(ctx), r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, transportError(err)
	}
	if c.Default {
		if err := refuseHost(req.URL); err != nil {
			return nil, &Error{Kind: Network, Err: err}
		}
	}
	req.URL.User = nil // net/http would make a password of it
	req.Header = r.header.Clone()
	client := c.HTTP
	if r.own {
		req.Close = true
		req.Header.Set("Connection", "close") // for a RoundTripper that does not look at Close
		if c.Default {
			client = unpooled(client)
		}
	}
	c.Requests.Add(1)
	res, err := client.Do(req)
	if err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() == context.DeadlineExceeded {
			err = ctx.Err() // a context derived from ctx says canceled
		}
		e := transportError(err)
		e.connected = link.made(err)
		return nil, e
	}
	return res, nil
}

// unpooled returns a client that uses no connection twice, and has c close those that
// are idle. HTTP/2 keeps a connection on which a request failed, and net/http sends
// one with "Connection: close" on it, too.
func unpooled(c *http.Client) *http.Client {
	c.CloseIdleConnections()
	own := *c
	if t, ok := c.Transport.(*http.Transport); ok {
		t = t.Clone()
		t.DisableKeepAlives = true
		own.Transport = t
	}
	return &own
}
