package ocsptest

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// A loopback is the part of a responder that has a port.
type loopback struct {
	server *http.Server
	served chan struct{} // closed when the server's own goroutine is gone
}

// Start makes the responder listen on a free port of 127.0.0.1, until [Responder.Close]. From
// now on URL is "http://127.0.0.1:port" with the path and the query that it had before:
// certificates that are already issued keep the old one. It panics if there is no port, or the
// responder was started or closed already. Each request has a connection of its own.
func (r *Responder) Start() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	l := &loopback{
		server: &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0)},
		served: make(chan struct{}),
	}
	l.server.SetKeepAlivesEnabled(false) // or http.Transport repeats a GET whose connection a fault ends
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil || r.closed {
		listener.Close()
		panic("ocsptest: Start after Start or Close")
	}
	r.server = l
	r.url = "http://" + listener.Addr().String() + pathAndQuery(r.url)
	go func() {
		defer close(l.served)
		l.server.Serve(listener) // returns when Close closes it
	}()
}

// Close ends requests that wait (in memory not a [Hook]), refuses all others from now on, in
// memory too, and returns when the port is closed and every goroutine of the server is gone.
// More calls do nothing. A responder that was not started need not be closed.
func (r *Responder) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	l := r.server
	close(r.done)
	r.mu.Unlock()
	if l != nil {
		l.server.Close()
		<-l.served
	}
	r.handlers.Wait()
}

// ServeHTTP implements [http.Handler], for a server of one's own, such as one of net/http/httptest
// or one with TLS. Certificates have to name its URL then: see [Leaf].URLs. If it keeps connections,
// http.Transport may repeat a GET whose connection a fault ends: the fault goes unnoticed, and
// counts as one more request.
func (r *Responder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.enter() {
		panic(http.ErrAbortHandler) // closes the connection
	}
	defer r.handlers.Done()
	p := r.answer(w, req)
	switch {
	case p == nil: // a Hook answered
	case p.err != nil:
		breakOff(w, p.err)
	default:
		p.write(w, req, r.done)
	}
}

// enter announces a handler to Close, and reports whether it may run.
func (r *Responder) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.handlers.Add(1)
	}
	return !r.closed
}

// write sends a reply that is an answer.
func (p *reply) write(w http.ResponseWriter, req *http.Request, done <-chan struct{}) {
	header := w.Header()
	for name, values := range p.header {
		header[name] = values // without values, net/http leaves even its own headers out
	}
	if !p.endless && p.status != http.StatusNotModified {
		// If less is written than this, net/http closes the connection.
		header.Set("Content-Length", strconv.Itoa(len(p.body)+p.missing))
	}
	w.WriteHeader(p.status)
	if p.pace > 0 {
		p.writeSlowly(w, req, done)
		return
	}
	w.Write(p.body)
	zeros := make([]byte, 4096)
	for p.endless && wait(req, 0, done, nil) == nil {
		if _, err := w.Write(zeros); err != nil {
			return
		}
	}
}

// writeSlowly sends one byte at a time.
func (p *reply) writeSlowly(w http.ResponseWriter, req *http.Request, done <-chan struct{}) {
	control := http.NewResponseController(w)
	control.Flush() // the header is not slow
	for i := range p.body {
		if wait(req, p.pace, done, nil) != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(p.body[i : i+1])
		control.Flush()
	}
}

// breakOff ends a connection without an answer: in the middle of a header, or by a reset. Where
// the connection cannot be had, as with HTTP/2, net/http is told to end it.
func breakOff(w http.ResponseWriter, err error) {
	conn, _, hijackErr := http.NewResponseController(w).Hijack()
	if hijackErr != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	if err == errCut {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/oc")
		return
	}
	raw := conn
	if c, ok := conn.(*tls.Conn); ok {
		raw = c.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		tcp.SetLinger(0) // a reset instead of an orderly end
		tcp.Close()
	}
}

// pathAndQuery returns what follows the host in a URL.
func pathAndQuery(rawURL string) string {
	u, err := url.Parse(rawURL)
	must(err)
	rest := u.EscapedPath()
	if u.RawQuery != "" {
		rest += "?" + u.RawQuery
	}
	return rest
}
