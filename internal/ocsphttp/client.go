// Package ocsphttp makes one exchange with one OCSP responder by the rules of
// RFC 9919 and RFC 6960 appendix A: GET and POST, caches, redirects, limits. It
// knows HTTP and not OCSP: requests and responses are bytes to it.
//
// The driver in the root asks responders with [Client.Ask] and keeps a [Memory] for
// each. Downloads of issuers use [Client.Get]. The caller judges each body by
// [Question.Judge], so a responder's signature, dates and statuses are its
// concern. The package never decides when to ask again: it reports what HTTP said of
// that (MaxAge, RetryAfter), and internal/schedule decides. It imports nothing of
// this module.
//
// # Bounds
//
// An exchange makes at most four requests: the first, and one for each change of
// the way. Each follows at most three redirects. The default client tries eight addresses
// of a host, of each family. At most [MaxBody] bytes of an answer are read. The context
// bounds the time of the whole exchange. Text from the network is cut before it gets
// into an error.
//
// # State
//
// A [Client] has no state of its own but the counter and may be used
// concurrently. A Memory and its [Tries] are plain values without a lock or a
// clock. Nothing here starts a goroutine that outlives its exchange, but for those
// that net/http and package context start.
//
// # Reading order
//
// ask.go has the exchange, and memory.go what is remembered from one to the next.
// client.go sends a request and follows redirects, response.go reads the answer.
// headers.go has caching, errors.go what may go wrong. contact.go tells a failed
// dial from a silent connection. egress.go refuses addresses.
package ocsphttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// MaxBody is the longest answer that is read, in bytes (REQ A11). It is more than
	// is ever stapled: a long response with an answer about a revocation counts.
	MaxBody = 128 << 10

	// dialTimeout is for all addresses of a host. Package net divides it: each of
	// two addresses gets 2 s, so a silent first one leaves time for the second.
	dialTimeout = 4 * time.Second
	// maxAddresses is how many addresses of a host are tried, of each family. A name may be
	// anybody's and have 4,000.
	maxAddresses     = 8
	handshakeTimeout = 10 * time.Second // of TLS; as long as a whole attempt may take
	// An HTTP/2 connection on which nothing came for pingAfter gets a ping, and is
	// closed if no answer comes within pingTimeout: that is half of an attempt. A
	// connection that the network has forgotten would otherwise fail each attempt.
	pingAfter   = 3 * time.Second
	pingTimeout = 2 * time.Second
	// dialGrace is how long a request that is given up while its connection is made
	// may take to go out. "openssl ocsp" waits for ever on a connection without a
	// byte (openssl#31129).
	dialGrace = time.Second

	maxIdle = 32 // connections kept to a responder, which gets no more requests at once
	// maxRedirects is per request, so an exchange sends 16 HTTP requests at most.
	maxRedirects = 3
)

// A Client asks responders. It may be used concurrently. Its fields are set before
// its first use and not changed.
type Client struct {
	HTTP     *http.Client     // as OwnRules returns it
	Default  bool             // HTTP is of DefaultClient
	Requests *atomic.Uint64   // counts each request, also those that a redirect leads to
	Now      func() time.Time // the clock for dates in headers
}

// DefaultClient returns a client that dials no address that is never a responder's.
// Its proxy comes from the environment. It has no Timeout: the context of each
// request bounds it. It asks for no compression: an answer with an encoding is
// refused.
func DefaultClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, MaxReceiveBufferPerStream: 2 * MaxBody},
		MaxIdleConnsPerHost:    maxIdle, // no MaxConnsPerHost: all that is behind a proxy counts as one host
		MaxIdleConns:           8 * maxIdle,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
	}}
}

// dial makes a connection of the default client.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	return newDialer().DialContext(ctx, network, address)
}

// newDialer returns the dialer for one connection of the default client. Its Control runs
// after names are resolved, so a name that points at a refused address is refused, too. It
// counts addresses there, which leaves their order, and the race of IPv6 with IPv4, to
// package net; by family, so that one does not take the tries of the other.
func newDialer() *net.Dialer {
	var tried4, tried6 atomic.Int32
	return &net.Dialer{Timeout: dialTimeout, Control: func(network, address string, _ syscall.RawConn) error {
		tried := &tried4
		if network == "tcp6" {
			tried = &tried6
		}
		if err := refuseDial(address); err != nil {
			return err
		}
		if tried.Add(1) > maxAddresses {
			return errors.New("enough addresses of the host were tried")
		}
		return nil
	}}
}

// OwnRules returns a shallow copy of c that leaves redirects to this package:
// net/http would repeat a redirected POST as a GET without a body. The user's client
// is not written; its Transport and Jar are shared.
func OwnRules(c *http.Client) *http.Client {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// Get returns what is at u: the certificate of an issuer, say. It sends one GET
// without conditions and checks no media type. The error is an [*Error].
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

// A request is what fetch sends, to one URL after the other. fetch has a copy, and
// only changes its url. The header is cloned for each, as a RoundTripper may keep
// its own.
type request struct {
	method, url string
	header      http.Header
	body        []byte
	ocsp        bool // an OCSP response is wanted
	own         bool // on a connection that no other request has
}

// fetch makes a request and follows redirects, to http and https alone, with the
// method and body that it had. It reads what comes in the end. The error is of
// the network alone: a response may be one that says no. The rules of the default
// client hold for each URL, so a redirect reaches no address that a certificate may
// not name.
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
			to := &url.URL{Scheme: next.Scheme, Host: next.Host} // the rest may be a secret
			return nil, &Error{Kind: Redirect, Status: res.StatusCode, Err: fmt.Errorf("redirect %d, to %.100q", redirects+1, to), answered: true}
		}
		r.url = next.String()
	}
}

// send sends a request to its URL, and counts it. The caller closes the body of the
// response. The error is an [*Error] that says whether there was a connection:
// without one a POST would meet the same failure.
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
// one with "Connection: close" on it, too. A user's client is not treated so: its
// Transport may be shared with other code, whose idle connections stay.
func unpooled(c *http.Client) *http.Client {
	c.CloseIdleConnections()
	own := *c
	if t, ok := c.Transport.(*http.Transport); ok {
		t = t.Clone()
		t.DisableKeepAlives = true
		t.IdleConnTimeout = time.Second // of HTTP/2 made after the request was given up: nobody has it, or would close it
		own.Transport = t
	}
	return &own
}
