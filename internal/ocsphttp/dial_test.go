package ocsphttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// REQ E15: of two addresses none takes more than 2 s before the next one is tried.
func TestSilentAddress(t *testing.T) {
	lookup := func() []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4")}
	}
	names.Store(&lookup)
	d := ocsphttp.NewDialer()
	var asked []string
	var left []time.Duration
	d.ControlContext = func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		deadline, _ := ctx.Deadline()
		asked, left = append(asked, address), append(left, time.Until(deadline))
		return errors.New("silent")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if conn, err := d.DialContext(ctx, "tcp", "two.example:80"); err == nil {
		conn.Close()
		t.Fatal("connected")
	}
	if len(asked) != 2 || left[0] > 2*time.Second || left[1] > 4*time.Second {
		t.Errorf("asked %v, which may take %v", asked, left)
	}
}

// REQ E15: an HTTP/2 connection of which a firewall on the way has forgotten is found out
// by pings, long before the request ends by itself.
func TestForgottenConnection(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocspType)
		w.Write(body)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	way := newFirewall(t, srv.Listener.Addr().String())
	c := overNet(t)
	c.HTTP.Transport.(*http.Transport).TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // without pings it lasts as long
		defer cancel()
		q := question(0)
		q.URL = "https://" + way.Addr().String()
		_, _, err := c.Ask(ctx, q)
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	way.forget()
	if err := ask(); kind(err) != ocsphttp.Network || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("on a forgotten connection: %v", err)
	}
	if err := ask(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// A firewall forwards connections until it forgets of those that there are.
type firewall struct {
	net.Listener
	mu    sync.Mutex // guards conns
	conns []*forwarded
}

func newFirewall(t *testing.T, to string) *firewall {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &firewall{Listener: l}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				near.Close()
				return
			}
			c := &forwarded{near: near, far: far}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			all.Go(func() { c.copy(far, near) })
			all.Go(func() { c.copy(near, far) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		for _, c := range f.conns {
			c.near.Close()
			c.far.Close()
		}
		f.mu.Unlock()
		all.Wait()
	})
	return f
}

// forget has nothing more come through on the connections that there are. Both ends
// stay open.
func (f *firewall) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.mu.Lock()
		c.forgotten = true
		c.mu.Unlock()
	}
}

type forwarded struct {
	near, far net.Conn
	mu        sync.Mutex // guards forgotten
	forgotten bool
}

func (c *forwarded) copy(to, from net.Conn) {
	_, _ = io.Copy(writer(func(b []byte) (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.forgotten {
			return len(b), nil
		}
		return to.Write(b)
	}), from)
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
