package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	echo4 "github.com/labstack/echo/v4"
	echo5 "github.com/labstack/echo/v5"
	"github.com/valyala/fasthttp"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// behind returns a config whose own certificates are never served: each handshake
// gets stapled. It is for servers that load files into the config they are given.
func behind(stapled *tls.Config) *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return stapled, nil }}
}

var quiet = log.New(io.Discard, "", 0)

// forced starts a server that loads certificate files by itself, or may do so, with
// cfg on l.
type forced func(t *testing.T, l net.Listener, cfg *tls.Config, certFile, keyFile string) (stop func() error)

func netHTTP(t *testing.T, l net.Listener, cfg *tls.Config, certFile, keyFile string) func() error {
	srv := &http.Server{TLSConfig: cfg, ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })}
	return running(t, srv.Close, func() error { return srv.ServeTLS(l, certFile, keyFile) })
}

func fastHTTP(t *testing.T, l net.Listener, cfg *tls.Config, certFile, keyFile string) func() error {
	srv := &fasthttp.Server{TLSConfig: cfg, Logger: quiet, Handler: func(ctx *fasthttp.RequestCtx) { ctx.Write(ctx.Request.Header.Protocol()) }}
	return running(t, srv.Shutdown, func() error { return srv.ServeTLS(l, certFile, keyFile) })
}

// echoV4 gives the config to StartServer: StartTLS overwrites it.
func echoV4(t *testing.T, l net.Listener, cfg *tls.Config, _, _ string) func() error {
	e := echo4.New()
	e.HideBanner, e.HidePort, e.StdLogger = true, true, quiet
	e.GET("/", func(c echo4.Context) error { return c.String(http.StatusOK, c.Request().Proto) })
	e.TLSListener = tls.NewListener(l, cfg) // StartServer makes it of an address
	srv := &http.Server{TLSConfig: cfg}
	return running(t, srv.Close, func() error { return e.StartServer(srv) })
}

func echoV5(t *testing.T, l net.Listener, cfg *tls.Config, certFile, keyFile string) func() error {
	l.Close() // a Listener of the StartConfig's is served without TLS
	dir, name := filepath.Split(certFile)
	e := echo5.New()
	e.Logger = slog.New(slog.DiscardHandler)
	e.GET("/", func(c *echo5.Context) error { return c.String(http.StatusOK, c.Request().Proto) })
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	sc := echo5.StartConfig{TLSConfig: cfg, Address: l.Addr().String(), HideBanner: true, HidePort: true,
		CertFilesystem: os.DirFS(dir), ListenerAddrFunc: func(net.Addr) { close(started) }}
	stop := running(t, func() error { cancel(); return nil }, func() error { return sc.StartTLS(ctx, e, name, filepath.Base(keyFile)) })
	<-started
	return stop
}

// running runs serve until the test or what it returns ends it.
func running(t *testing.T, end, serve func() error) (stop func() error) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	stop = sync.OnceValue(func() error {
		err := end()
		wg.Wait()
		return err
	})
	t.Cleanup(func() { stop() })
	return stop
}

// A server that loads files into the config it is given staples every handshake if
// that config's GetConfigForClient returns the stapled one, and speaks HTTP/2 if the
// stapled one lists h2. With the stapled config itself a client that names no server
// gets the pair of the files.
func TestForcedFiles(t *testing.T) {
	ca := issuer(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{host, "127.0.0.1"}, MustStaple: true})
	s := newStapler(t)
	if err := s.Prefetch(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePair(t, dir, cert)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for _, c := range []struct {
		name   string
		start  forced
		protos []string
		direct bool // it loads no files, so it is given the stapled config itself
		proto  string
	}{
		{"net/http", netHTTP, []string{"h2", "http/1.1"}, false, "HTTP/2.0"},
		{"net/http without h2", netHTTP, nil, false, "HTTP/1.1"},
		{"fasthttp", fastHTTP, []string{"http/1.1"}, false, "HTTP/1.1"},
		{"fasthttp without files", func(t *testing.T, l net.Listener, cfg *tls.Config, _, _ string) func() error {
			return fastHTTP(t, l, cfg, "", "")
		}, []string{"http/1.1"}, true, "HTTP/1.1"},
		{"echo v4", echoV4, []string{"h2", "http/1.1"}, true, "HTTP/2.0"},
		{"echo v5", echoV5, []string{"h2", "http/1.1"}, false, "HTTP/2.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrapped := func() *tls.Config {
				return s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: c.protos})
			}
			l, cfg := listen(t), wrapped()
			if !c.direct {
				cfg = behind(cfg)
			}
			c.start(t, l, cfg, certFile, keyFile)
			for _, name := range []string{host, "127.0.0.1"} { // an address is not sent as a name
				client := strict(ca.Pool())
				client.ServerName = name
				mustShake(t, l.Addr().String(), client)
			}
			transport := &http.Transport{TLSClientConfig: strict(ca.Pool()), ForceAttemptHTTP2: true}
			resp, err := (&http.Client{Transport: transport}).Get("https://" + l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			transport.CloseIdleConnections()
			if err != nil || string(body) != c.proto {
				t.Errorf("got %q, %v, want %q", body, err, c.proto)
			}

			if c.direct {
				return
			}
			client := strict(ca.Pool())
			client.ServerName = "127.0.0.1"
			l = listen(t)
			c.start(t, l, wrapped(), certFile, keyFile)
			if _, err := shake(t, l.Addr().String(), client); !errors.Is(err, staple.ErrNoStaple) {
				t.Errorf("the stapled config itself: got %v, want %v", err, staple.ErrNoStaple)
			}
		})
	}
}

// Session tickets are those of the config that the server has: a resumed
// connection carries no certificate, and the staple of the first handshake.
func TestForcedFilesResume(t *testing.T) {
	ca := issuer(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{host}})
	s := newStapler(t)
	if err := s.Prefetch(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePair(t, dir, cert)
	l := listen(t)
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}})
	netHTTP(t, l, behind(cfg), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	client := strict(ca.Pool())
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	resumed := func() (yes bool) {
		transport := &http.Transport{TLSClientConfig: client} // reads, so that the ticket is seen
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("https://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.TLS.DidResume
	}
	if resumed() {
		t.Error("the first connection was resumed")
	}
	if !resumed() {
		t.Error("the second connection was not resumed")
	}
	cfg.SetSessionTicketKeys([][32]byte{{1}}) // counts on the stapled config
	if resumed() {
		t.Error("a ticket of a key that was withdrawn was taken")
	}
}
