package ocsptest

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Client returns a client that reaches the responder in memory, whatever the host in the URL.
// It can be used before and after [Responder.Start] alike.
func (r *Responder) Client() *http.Client { return &http.Client{Transport: r} }

// Network returns a client for which the given responders, in memory, are the whole network.
// Each is reached by the host and port of its URL, at the time of the request; every other host
// does not exist, as with [FaultNoHost].
func Network(responders ...*Responder) *http.Client {
	return &http.Client{Transport: network(responders)}
}

// A network routes requests by host.
type network []*Responder

// RoundTrip implements http.RoundTripper.
func (n network) RoundTrip(req *http.Request) (*http.Response, error) {
	for _, r := range n {
		if u, err := url.Parse(r.URL()); err == nil && address(u) == address(req.URL) {
			return r.RoundTrip(req)
		}
	}
	closeBody(req)
	return nil, noSuchHost(req.URL.Hostname())
}

// address returns what a client would dial.
func address(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}

// RoundTrip implements [http.RoundTripper]: it answers in memory, in the caller's goroutine. As
// with http.Transport, the request's context ends the wait for the header and for the body. The
// differences are that a body is never decompressed, that nothing is repeated, and that of a [Hook]
// the first status that it writes is the final one, no content type is guessed, and a body is not
// cut to its Content-Length.
func (r *Responder) RoundTrip(req *http.Request) (*http.Response, error) {
	defer closeBody(req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		return nil, dialError(syscall.ECONNREFUSED)
	default:
	}
	in, err := arrived(req)
	if err != nil {
		return nil, err
	}
	var rec recorder
	p := r.answer(&rec, in)
	if p == nil {
		p = rec.reply()
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.response(req, r.done), nil
}

// arrived returns a request as a server sees it: with the path as it is on the wire, a host and
// a body.
func arrived(req *http.Request) (*http.Request, error) {
	u, err := url.ParseRequestURI(req.URL.RequestURI())
	if err != nil {
		return nil, err
	}
	in := req.WithContext(req.Context()) // a shallow copy
	in.URL, in.RequestURI = u, req.URL.RequestURI()
	in.Header = req.Header.Clone()
	if in.Header == nil {
		in.Header = make(http.Header)
	}
	in.RemoteAddr = "memory"
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	if req.URL.Scheme == "https" {
		in.TLS = new(tls.ConnectionState)
	}
	return in, nil
}

// closeBody does what every RoundTripper must.
func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// response turns a reply into what http.Transport would make of it.
func (p *reply) response(req *http.Request, done <-chan struct{}) *http.Response {
	resp := &http.Response{
		Status:     strconv.Itoa(p.status) + " " + http.StatusText(p.status),
		StatusCode: p.status,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     make(http.Header),
		Request:    req,
	}
	resp.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	for name, values := range p.header {
		if len(values) > 0 {
			resp.Header[name] = values
		} else {
			resp.Header.Del(name)
		}
	}
	if p.status == http.StatusNotModified || p.status == http.StatusNoContent {
		resp.Body = http.NoBody
		return resp
	}
	resp.ContentLength = -1
	if !p.endless {
		resp.ContentLength = int64(len(p.body) + p.missing)
		resp.Header.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	resp.Body = &body{reply: p, req: req, done: done, closed: make(chan struct{})}
	return resp
}

// A body arrives as its reply says.
type body struct {
	reply  *reply
	req    *http.Request
	done   <-chan struct{} // the responder's
	pos    int             // used by Read alone
	once   sync.Once
	closed chan struct{}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	if err := b.req.Context().Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	rest := b.reply.body[b.pos:]
	if len(rest) == 0 {
		return b.end(p)
	}
	if b.reply.pace > 0 {
		if err := wait(b.req, b.reply.pace, b.done, b.closed); err != nil {
			return 0, err
		}
		rest = rest[:1]
	}
	n := copy(p, rest)
	b.pos += n
	return n, nil
}

// end is what comes after the last byte.
func (b *body) end(p []byte) (int, error) {
	switch {
	case b.reply.endless:
		clear(p)
		return len(p), nil
	case b.reply.missing > 0:
		return 0, io.ErrUnexpectedEOF
	}
	return 0, io.EOF
}

// Close implements io.Closer, and ends a Read that waits.
func (b *body) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// A recorder collects what a Hook answers in memory.
type recorder struct {
	header  http.Header // as the Hook sees it
	sent    http.Header // a copy from the moment of WriteHeader
	status  int
	content bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status, r.sent = status, r.Header().Clone()
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.content.Write(p)
}

// reply returns what was collected. A Content-Length of more than that is a promise broken, as
// it is on loopback.
func (r *recorder) reply() *reply {
	r.WriteHeader(http.StatusOK)
	p := &reply{status: r.status, header: r.sent, body: r.content.Bytes()}
	if n, err := strconv.Atoi(r.sent.Get("Content-Length")); err == nil {
		p.missing = max(0, n-len(p.body))
	}
	return p
}
