package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

const (
	host = "www.example.com"

	// patience bounds everything that a test waits for.
	patience = 60 * time.Second
)

// issuer returns a CA whose responder is on loopback until the test ends.
func issuer(t *testing.T) *ocsptest.CA {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	t.Cleanup(ca.Responder.Close)
	return ca
}

// newStapler returns one that is closed when the test ends.
func newStapler(t *testing.T, opts ...staple.Option) *staple.Stapler {
	s := staple.New(opts...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// listen opens a free port of loopback until the test ends.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serveHTTPS serves on l until the test ends, or what it returns is called.
func serveHTTPS(t *testing.T, l net.Listener, cfg *tls.Config) (stop func()) {
	srv := &http.Server{TLSConfig: cfg, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { srv.Close(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// strict is the configuration of a client that insists on a staple.
func strict(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, ServerName: host, VerifyConnection: staple.RequireStaple}
}

// shake makes a handshake and returns what came of it.
func shake(t *testing.T, addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	d := tls.Dialer{Config: cfg}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState(), nil
}

// mustShake is shake for handshakes that may not fail.
func mustShake(t *testing.T, addr string, cfg *tls.Config) tls.ConnectionState {
	t.Helper()
	cs, err := shake(t, addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// output runs a program, with nothing to read, and returns all that it printed.
func output(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, testkit.Program(t, name), args...).CombinedOutput()
	return string(out), err
}

// writePair writes cert.pem and key.pem into dir.
func writePair(t *testing.T, dir string, cert *tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	testkit.WritePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", key)
	testkit.WritePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Certificate...)
}

// isError reports whether err is want, which may be nil.
func isError(err, want error) bool {
	if want == nil {
		return err == nil
	}
	return errors.Is(err, want)
}
