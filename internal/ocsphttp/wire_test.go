package ocsphttp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// A rawServer answers each request on a connection of its own, with whatever bytes
// it likes, and keeps count by method.
type rawServer struct {
	addr      string
	get, post atomic.Int32
}

// serve listens on loopback until the test ends; answer may close the connection,
// which is otherwise kept open until then.
func serve(t *testing.T, answer func(conn net.Conn, req *http.Request)) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{addr: l.Addr().String()}
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if req.Method == http.MethodGet {
					s.get.Add(1)
				} else {
					s.post.Add(1)
				}
				answer(conn, req)
				<-over
			})
		}
	})
	t.Cleanup(func() { l.Close(); close(over); wg.Wait() })
	return s
}

// overNet returns a client over real connections, none of which is kept.
func overNet(t *testing.T) *ocsphttp.Client {
	c := ocsphttp.DefaultClient()
	t.Cleanup(c.CloseIdleConnections)
	return &ocsphttp.Client{HTTP: ocsphttp.OwnRules(c), Default: true, Requests: new(atomic.Uint64), Now: time.Now}
}

// answerWith says a body with its length.
func answerWith(conn net.Conn, b []byte) {
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", ocspType, len(b), b)
}

// patience is a context whose time is over when the server says so.
type patience struct {
	context.Context
	over chan struct{}
}

func (p patience) Done() <-chan struct{} { return p.over }
func (p patience) Err() error {
	select {
	case <-p.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// REQ A6: of a GET that a real server hangs on, or closes or breaks off its
// connection for, it is known that a connection was made: POST is next.
func TestSilentServers(t *testing.T) {
	for name, mute := range map[string]func(conn net.Conn, over func()){
		"hangs":           func(_ net.Conn, over func()) { over() },
		"hangs in header": func(conn net.Conn, over func()) { io.WriteString(conn, "HTTP/1.1 200 OK\r\n"); over() },
		"closes":          func(conn net.Conn, _ func()) { conn.Close() },
		"resets":          func(conn net.Conn, _ func()) { conn.(*net.TCPConn).SetLinger(0); conn.Close() },
		"truncates": func(conn net.Conn, _ func()) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: 260\r\n\r\n%s", ocspType, body[:40])
			conn.Close()
		},
		"speaks no HTTP": func(conn net.Conn, _ func()) { conn.Write(body); conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := patience{t.Context(), make(chan struct{})}
			s := serve(t, func(conn net.Conn, req *http.Request) {
				if req.Method == http.MethodGet {
					mute(conn, func() { close(p.over) })
					return
				}
				answerWith(conn, body)
			})
			c := overNet(t)
			var m ocsphttp.Memory
			var tries ocsphttp.Tries
			q := question(0)
			q.URL = "http://" + s.addr
			q.First, q.May = m.Plan(&tries, false, 0)
			_, l, err := c.Ask(p, q)
			if err == nil || l.Reply != ocsphttp.Silent || s.get.Load() != 1 || s.post.Load() != 0 {
				t.Fatalf("reply %v, %v, %d GETs, %d POSTs; want silence on one GET", l.Reply, err, s.get.Load(), s.post.Load())
			}
			m.Learn(&tries, q.First, l, 0)
			q.First, q.May = m.Plan(&tries, false, 0)
			if _, _, err = c.Ask(t.Context(), q); err != nil || s.get.Load() != 1 || s.post.Load() != 1 {
				t.Errorf("then %v, %d GETs, %d POSTs; want one POST more", err, s.get.Load(), s.post.Load())
			}
		})
	}
}

// REQ A12: of headers 64 KiB are read, and not the 10 MB of net/http.
func TestHeadersAreBounded(t *testing.T) {
	for size, passes := range map[int]bool{60 << 10: true, 80 << 10: false} {
		s := serve(t, func(conn net.Conn, _ *http.Request) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nX: %s\r\nContent-Length: %d\r\n\r\n%s", ocspType, strings.Repeat("x", size), len(body), body)
		})
		q := question(0)
		q.URL = "http://" + s.addr
		if _, _, err := overNet(t).Ask(t.Context(), q); (err == nil) != passes {
			t.Errorf("headers of %d bytes: %v", size, err)
		}
	}
}

// REQ A11: a whole answer without a length is read, though a real server keeps its
// connection open.
func TestConnectionStaysOpen(t *testing.T) {
	for name, say := range map[string]string{
		"HTTP/1.0":               "HTTP/1.0 200 OK\r\nContent-Type: " + ocspType + "\r\n\r\n" + string(body),
		"HTTP/1.1, close":        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: " + ocspType + "\r\n\r\n" + string(body),
		"without the last chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: " + ocspType + "\r\n\r\n104\r\n" + string(body) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(conn net.Conn, _ *http.Request) { io.WriteString(conn, say) })
			q := question(0)
			q.URL = "http://" + s.addr
			var judged []byte
			q.Judge = func(b []byte) (ocsphttp.Way, error) { judged = b; return 0, nil }
			if _, _, err := overNet(t).Ask(t.Context(), q); err != nil || !bytes.Equal(judged, body) {
				t.Errorf("%v, judged %d bytes", err, len(judged))
			}
		})
	}
}

// A connection is used again after an answer of any form that has an end.
func TestConnectionIsKept(t *testing.T) {
	var conns atomic.Int32
	var chunked atomic.Bool
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocspType)
		if chunked.Load() {
			w.Header().Set("Transfer-Encoding", "chunked")
		}
		w.Write(body)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	c := overNet(t)
	for n := range 6 {
		chunked.Store(n > 2)
		q := question(ocsphttp.Way(n % 2)) // GET and POST
		q.URL = srv.URL
		if _, _, err := c.Ask(t.Context(), q); err != nil {
			t.Error(err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 6 answers, want 1", n)
	}
}

// POST is no help where no connection is made.
func TestNoConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	for name, u := range map[string]string{"a port that is closed": closed, "a certificate of nobody's": tls.URL} {
		q := question(0)
		q.URL, q.May = u, anyChange
		c := overNet(t)
		if _, l, err := c.Ask(t.Context(), q); kind(err) != ocsphttp.Network || l != (ocsphttp.Learned{Lost: true}) || c.Requests.Load() != 1 {
			t.Errorf("%s: %+v, %v, %d requests", name, l, err, c.Requests.Load())
		}
	}

	synctest.Test(t, func(t *testing.T) { // a host that drops packets
		over := make(chan struct{})
		defer close(over)
		q := question(0)
		c := &ocsphttp.Client{Requests: new(atomic.Uint64), Now: time.Now, HTTP: &http.Client{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { <-over; return nil, io.EOF }}}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, l, err := c.Ask(ctx, q); kind(err) != ocsphttp.Timeout || l != (ocsphttp.Learned{Lost: true}) {
			t.Errorf("%+v, %v", l, err)
		}
	})
}

// What is no answer is waited for a second, so that there is time for a POST.
func TestPageWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, mediaType := range []string{"text/html", ocspType} {
			f := &fake{answer: func(n int, r *http.Request) (*http.Response, error) {
				if n > 1 {
					return good(), nil
				}
				res := says(500, mediaType, nil)
				res.Body, res.ContentLength = &slow{r.Context(), strings.NewReader("<html>")}, -1
				return res, nil
			}}
			q := question(0)
			q.May = anyChange
			begun := time.Now()
			if _, _, err := f.client().Ask(t.Context(), q); err != nil || f.methods() != "GET POST" || time.Since(begun) > time.Second {
				t.Errorf("%s, %v after %v", f.methods(), err, time.Since(begun))
			}
		}
	})
}

// slow is a body that has no end, as that of a connection that stays open.
type slow struct {
	ctx context.Context
	r   io.Reader
}

func (s *slow) Close() error { return nil }
func (s *slow) Read(b []byte) (int, error) {
	if n, err := s.r.Read(b); err == nil {
		return n, nil
	}
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}
