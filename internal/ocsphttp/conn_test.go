package ocsphttp_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// REQ E15: after a failure requests ask for a connection of their own, with any
// client, until one succeeds; the POST that follows a GET does so, too.
func TestOwnConnectionAfterFailure(t *testing.T) {
	for name, fails := range map[string]conduct{"500": useless, "closed": silent, "refused": away} {
		s := newStory()
		var closes []bool
		ask := func(get conduct) {
			f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
				closes = append(closes, r.Close && r.Header.Get("Connection") == "close")
				return get.answer()
			}}
			q := question(0)
			q.First, q.May = s.m.Plan(&s.tries, true, s.now.UnixNano())
			_, l, _ := f.client().Ask(t.Context(), q)
			s.m.Learn(&s.tries, q.First, l, s.now.UnixNano())
			s.now = s.now.Add(time.Minute)
		}
		ask(answers)
		ask(fails)
		n := len(closes) // a POST may have followed
		ask(fails)
		m := len(closes)
		ask(answers)
		ask(answers)
		for i, got := range closes {
			if want := i > 1 && i <= m; got != want {
				t.Errorf("%s, request %d of %d, %d of the first two attempts: close %v, want %v", name, i+1, len(closes), n, got, want)
			}
		}
	}
}

// REQ E15: a connection that failed gets no other request, of HTTP/1 or HTTP/2.
func TestFailedConnectionIsNotUsedAgain(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			conns := make(map[string]int) // requests by connection
			var first string
			var hang, closed atomic.Bool
			var over func()
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				conns[r.RemoteAddr]++
				if first == "" {
					first = r.RemoteAddr
				}
				mu.Unlock()
				if hang.Load() {
					over()
					<-r.Context().Done()
					return
				}
				w.Header().Set("Content-Type", ocspType)
				w.Write(body)
			}))
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.EnableHTTP2 = h2
			srv.Config.ConnState = func(conn net.Conn, state http.ConnState) {
				mu.Lock()
				defer mu.Unlock()
				if state == http.StateClosed && conn.RemoteAddr().String() == first {
					closed.Store(true)
				}
			}
			srv.StartTLS()
			defer srv.Close()
			c := overNet(t)
			trusting := c.HTTP.Transport.(*http.Transport)
			trusting.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
			s := newStory()
			ask := func() error {
				p := patience{t.Context(), make(chan struct{})}
				over = func() { close(p.over) }
				q := question(0)
				q.URL = srv.URL
				q.First, _ = s.m.Plan(&s.tries, true, s.now.UnixNano())
				q.First &^= ocsphttp.Post
				_, l, err := c.Ask(p, q)
				s.m.Learn(&s.tries, q.First, l, s.now.UnixNano())
				return err
			}
			// The first three share one. A request after a failure has one of its own, and
			// has the first closed, once net/http is done with what failed there.
			for _, hangs := range []bool{false, false, true, true} {
				hang.Store(hangs)
				if err := ask(); (err != nil) != hangs {
					t.Fatalf("hangs %v: %v", hangs, err)
				}
			}
			hang.Store(false)
			failed := *s
			for n := 0; !closed.Load() && n < 1000; n++ {
				*s = failed
				if err := ask(); err != nil {
					t.Fatal(err)
				}
			}
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for addr, n := range conns {
				if addr == first && n != 3 || addr != first && n != 1 {
					t.Errorf("%d requests on a connection: %v", n, conns)
				}
			}
		})
	}
}

// A request that is given up while its connection is made goes out: openssl#31129.
func TestNoConnectionWithoutAByte(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	tr := ocsphttp.DefaultClient().Transport.(*http.Transport)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		cancel() // Close comes while the connection is made
		conn, err := dial(ctx, network, addr)
		return conn, err
	}
	c := &ocsphttp.Client{HTTP: &http.Client{Transport: tr}, Requests: new(atomic.Uint64), Now: time.Now}
	defer c.HTTP.CloseIdleConnections()
	got := make(chan int, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer conn.Close()
		b := make([]byte, 1<<10)
		n, _ := conn.Read(b)
		got <- n
		answerWith(conn, body)
	}()
	q := question(0)
	q.URL = "http://" + l.Addr().String()
	if _, _, err := c.Ask(ctx, q); err != nil {
		t.Errorf("%v, want the answer that came", err)
	}
	tr.CloseIdleConnections()
	if n := <-got; n <= 0 {
		t.Errorf("the responder got %d bytes before the connection was closed", n)
	}
}

// A connection that is there only after its request was given up is closed soon. With a
// Transport for each request nobody else would use it.
func TestLateConnectionIsClosed(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn)}
		var mu sync.Mutex // guards the rest
		made, open := 0, make(map[net.Conn]bool)
		srv := &http.Server{TLSConfig: &tls.Config{Certificates: cert.TLS.Certificates}, ErrorLog: log.New(io.Discard, "", 0),
			ConnState: func(conn net.Conn, state http.ConnState) {
				mu.Lock()
				defer mu.Unlock()
				switch state {
				case http.StateNew:
					made++
					open[conn] = true
				case http.StateClosed:
					delete(open, conn)
				}
			}}
		go srv.ServeTLS(l, "", "")
		defer srv.Close()
		tr := l.transport(cert, 2*time.Second) // the handshake waits for that
		c := &ocsphttp.Client{HTTP: &http.Client{Transport: tr}, Default: true, Requests: new(atomic.Uint64), Now: time.Now}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			q := question(ocsphttp.OwnConn)
			q.URL = "https://example.com/"
			if _, _, err := c.Ask(ctx, q); err == nil {
				t.Error("no error, though the handshake takes longer")
			}
			cancel()
		}
		time.Sleep(5 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if made != 3 || len(open) > 0 {
			t.Errorf("%d connections of %d are open that no request uses, nor will", len(open), made)
		}
	})
}

// REQ A12: of an answer that nobody has read yet 256 KiB are kept over HTTP/2, and not the
// 4 MiB of net/http.
func TestUnreadAnswerIsBounded(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn)}
		var sent atomic.Int64
		srv := &http.Server{TLSConfig: &tls.Config{Certificates: cert.TLS.Certificates}, ErrorLog: log.New(io.Discard, "", 0),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for chunk := make([]byte, 16<<10); ; sent.Add(int64(len(chunk))) {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			})}
		go srv.ServeTLS(l, "", "")
		defer srv.Close()
		tr := l.transport(cert, 0)
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://example.com/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		synctest.Wait()
		if n := sent.Load(); resp.ProtoMajor != 2 || n < 128<<10 || n > 320<<10 {
			t.Errorf("%s: the server has sent %d KiB, want about 256", resp.Proto, n>>10)
		}
	})
}

// pipes is a listener for ends of pipes.
type pipes struct {
	conns chan net.Conn
	close sync.Once
}

// transport returns that of the default client, which trusts cert's certificate and dials p. The
// other end is accepted after late.
func (p *pipes) transport(cert *httptest.Server, late time.Duration) *http.Transport {
	tr := ocsphttp.DefaultClient().Transport.(*http.Transport)
	tr.TLSClientConfig = cert.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		time.AfterFunc(late, func() { p.conns <- far })
		return near, nil
	}
	return tr
}

func (p *pipes) Accept() (net.Conn, error) {
	conn, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p *pipes) Close() error   { p.close.Do(func() { close(p.conns) }); return nil }
func (p *pipes) Addr() net.Addr { return new(net.TCPAddr) }

// What is given up does not wait for a connection for longer than a second, and for
// an answer not at all.
func TestGivenUp(t *testing.T) {
	for name, want := range map[string]time.Duration{"dial": time.Second, "answer": 0, "no Transport of net/http": 0} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan struct{})
			var rt http.RoundTripper = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				if name == "dial" {
					<-over
					return nil, io.EOF
				}
				near, far := net.Pipe()
				go io.Copy(io.Discard, far)
				return near, nil
			}}
			if name == "no Transport of net/http" {
				rt = roundTripper(func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() })
			}
			time.AfterFunc(time.Minute, cancel)
			c := &ocsphttp.Client{HTTP: &http.Client{Transport: rt}, Requests: new(atomic.Uint64), Now: time.Now}
			begun := time.Now()
			_, _, err := c.Ask(ctx, question(0))
			if got := time.Since(begun) - time.Minute; got != want || kind(err) != ocsphttp.Network {
				t.Errorf("%s: %v after %v, want %v", name, err, got, want)
			}
			close(over)
		})
	}
}
