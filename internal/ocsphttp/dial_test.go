package ocsphttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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

// A name may be anybody's, and have as many addresses as a reply holds. One request
// makes a few connections all the same.
func TestNameOfManyAddresses(t *testing.T) {
	var ips []netip.Addr
	for ip := netip.MustParseAddr("127.1.0.0"); len(ips) < 4000; ip = ip.Next() {
		ips = append(ips, ip)
	}
	lookup := func() []netip.Addr { return ips }
	names.Store(&lookup)
	var connected atomic.Int32
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{ConnectDone: func(_, _ string, err error) {
		if errors.Is(err, syscall.ECONNREFUSED) { // others saw no packet
			connected.Add(1)
		}
	}})
	c := overNet(t)
	if _, err := c.Get(ctx, "http://many.example:1/"); err == nil || !strings.Contains(err.Error(), "127.1.0.0:1") {
		t.Errorf("got %v, want what the first address said", err)
	}
	if n := connected.Load(); n < 2 || n > 8 {
		t.Errorf("%d connections for one request", n)
	}
}

// One family does not take the tries of the other: IPv6 may be broken, and come first.
func TestAddressesByFamily(t *testing.T) {
	d := ocsphttp.NewDialer()
	for i, tt := range []struct {
		network, address string
		n                int
		refused          bool
	}{
		{"tcp6", "[fe80::1]:80", 10, true}, // refused as such, and does not count
		{"tcp6", "[2001:db8::1]:80", 8, false},
		{"tcp6", "[2001:db8::1]:80", 2, true},
		{"tcp4", "192.0.2.1:80", 8, false},
		{"tcp4", "192.0.2.1:80", 2, true},
	} {
		for range tt.n {
			if err := d.Control(tt.network, tt.address, nil); (err != nil) != tt.refused {
				t.Errorf("%d: %s: %v", i, tt.address, err)
			}
		}
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
