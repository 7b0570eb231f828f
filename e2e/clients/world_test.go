package clients_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// host is the name of every server; "localhost" is for clients that cannot be
// told where a name is.
const host = "www.example.com"

// A shape is what a server staples.
type shape int

const (
	goodSHA1   shape = iota // what staple does by default
	goodSHA256              // WithHash(crypto.SHA256)
	revoked                 // WithStapleRevoked(true)
	missing                 // the responder is out of order
	expired                 // so is it, and what staple never sends was put in by hand: the control
)

var shapes = []shape{goodSHA1, goodSHA256, revoked, missing, expired}

func (s shape) String() string {
	return [...]string{"good, SHA-1", "good, SHA-256", "revoked", "none", "expired"}[s]
}

// A subject is a certificate and what is stapled to it.
type subject struct {
	shape shape
	must  bool // Must-Staple
	cert  *tls.Certificate
	s     *staple.Stapler // nil if nothing is to touch cert
}

// A row is a subject under a version of TLS.
type row struct {
	subject
	version uint16
}

// world is a CA with a root above it, its responders on loopback, and servers'
// certificates of all kinds.
type world struct {
	ca       *ocsptest.CA        // its Responder is for clients, which find it in certificates
	upstream *ocsptest.Responder // is for the servers
	caPEM    string              // the root
	rows     []row
}

func newWorld(t *testing.T) *world {
	root := ocsptest.NewCA()
	ca := root.Intermediate("")
	w := &world{ca: ca, upstream: ca.NewResponder(""), caPEM: filepath.Join(t.TempDir(), "ca.pem")}
	for _, r := range []*ocsptest.Responder{ca.Responder, w.upstream} {
		r.Start()
		t.Cleanup(r.Close)
	}
	if err := os.WriteFile(w.caPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	staplers := map[shape]*staple.Stapler{
		goodSHA1:   w.stapler(t),
		goodSHA256: w.stapler(t, staple.WithHash(crypto.SHA256)),
		revoked:    w.stapler(t, staple.WithStapleRevoked(true)),
	}
	staplers[missing] = staplers[goodSHA1] // it makes no difference but that of the responder
	for _, must := range []bool{false, true} {
		for _, shape := range shapes {
			sub := w.newSubject(t, shape, must, staplers[shape])
			w.rows = append(w.rows, row{sub, tls.VersionTLS12}, row{sub, tls.VersionTLS13})
		}
	}
	return w
}

func (w *world) stapler(t *testing.T, opts ...staple.Option) *staple.Stapler {
	s := staple.New(append(opts, staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
		return []string{w.upstream.URL()}, true
	}))...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newSubject issues a certificate and has its staple fetched. After that no
// handshake waits for a responder that is out of order. Clients meet the same
// responder: it has nothing better for them than the server has.
func (w *world) newSubject(t *testing.T, shape shape, must bool, s *staple.Stapler) subject {
	cert := w.ca.Issue(ocsptest.Leaf{Names: []string{host, "localhost"}, MustStaple: must, NotBefore: time.Now().AddDate(0, 0, -30)})
	switch shape {
	case revoked:
		w.ca.Responder.Revoke(cert, 1, time.Now().Add(-time.Hour))
	case missing:
		w.ca.Responder.SetFaultFor(cert, ocsptest.FaultTryLater)
		w.upstream.SetFaultFor(cert, ocsptest.FaultTryLater)
	case expired:
		w.ca.Responder.SetFaultFor(cert, ocsptest.FaultTryLater)
		cert.OCSPStaple = w.ca.Responder.Build(cert, func(s *ocsptest.Spec) {
			s.ProducedAt = time.Now().AddDate(0, 0, -8).UTC().Truncate(time.Second)
			s.Singles[0].ThisUpdate = s.ProducedAt
			s.Singles[0].NextUpdate = s.ProducedAt.AddDate(0, 0, 7)
		})
		return subject{shape, must, cert, nil}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := s.Prefetch(ctx, cert)
	if (err != nil) != (shape == revoked || shape == missing) || errors.Is(err, staple.ErrRevoked) != (shape == revoked) {
		t.Fatalf("%v: Prefetch: %v", shape, err)
	}
	return subject{shape, must, cert, s}
}

// A visit is a server for one client, so that what it sees is that client's
// doing, and what came of it.
type visit struct {
	row
	addr, port string
	srv        *http.Server
	done       chan error

	said    string // what the client did, as in the tables
	settled bool

	mu     sync.Mutex // guards the rest, until settled
	hellos []bool     // of each ClientHello, whether it asks for a staple
	served bool       // a request came through
	alert  string     // what the client sent instead
}

// open starts the server.
func (r row) open(t *testing.T) *visit {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &visit{row: r, addr: l.Addr().String(), done: make(chan error, 1)}
	_, v.port, _ = net.SplitHostPort(v.addr)
	cfg := &tls.Config{
		Certificates: []tls.Certificate{*r.cert},
		MinVersion:   r.version, MaxVersion: r.version,
		GetConfigForClient: v.greet,
	}
	if r.s != nil {
		cfg = r.s.TLSConfig(cfg)
	}
	v.srv = &http.Server{TLSConfig: cfg, Handler: v, ErrorLog: log.New(v, "", 0)}
	go func() { v.done <- v.srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { v.settle(t) })
	return v
}

// settle ends the server and waits until it has seen how each connection ended.
func (v *visit) settle(t *testing.T) {
	if v.settled {
		return
	}
	v.settled = true
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := v.srv.Shutdown(ctx); err != nil {
		t.Errorf("a connection outlives its client: %v", err)
		v.srv.Close()
	}
	if err := <-v.done; err != http.ErrServerClosed {
		t.Error(err)
	}
}

// greet notes whether the client asks for a staple (status_request, RFC 6066).
func (v *visit) greet(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hellos = append(v.hellos, slices.Contains(hello.Extensions, 5))
	return nil, nil
}

func (v *visit) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	v.mu.Lock()
	v.served = true
	v.mu.Unlock()
	io.WriteString(rw, "hello")
}

var remoteAlert = regexp.MustCompile(`remote error: tls: (.*)`)

// Write is the server's error log.
func (v *visit) Write(line []byte) (int, error) {
	if m := remoteAlert.FindSubmatch(line); m != nil {
		v.mu.Lock()
		v.alert = string(m[1])
		v.mu.Unlock()
	}
	return len(line), nil
}

// asked says whether the client asked for a staple, in each of its attempts. The
// server is settled.
func (v *visit) asked(t *testing.T) bool {
	if len(v.hellos) == 0 {
		t.Errorf("%s: the client did not come", v)
		return false
	}
	if slices.Contains(v.hellos, !v.hellos[0]) {
		t.Errorf("%s: the client asked for a staple in some of its attempts only: %v", v, v.hellos)
	}
	return v.hellos[0]
}

func (r row) String() string {
	s := tls.VersionName(r.version) + ", staple " + r.shape.String()
	if r.must {
		s += ", Must-Staple"
	}
	return s
}

// inspect checks by x/crypto/ocsp, no line of which is ours, that what was
// stapled is what the row says.
func (v *visit) inspect(t *testing.T, w *world, raw []byte) {
	if v.shape == missing {
		if len(raw) > 0 {
			t.Errorf("%s: stapled %d bytes, want nothing", v, len(raw))
		}
		return
	}
	r, err := ocsp.ParseResponseForCert(raw, v.cert.Leaf, w.ca.Cert)
	if err != nil {
		t.Errorf("%s: %v", v, err)
		return
	}
	hash, status := crypto.SHA1, ocsp.Good
	if v.shape == goodSHA256 {
		hash = crypto.SHA256
	}
	if v.shape == revoked {
		status = ocsp.Revoked
	}
	if r.IssuerHash != hash || r.Status != status || r.NextUpdate.Before(time.Now()) != (v.shape == expired) {
		t.Errorf("%s: stapled status %d with %v until %v", v, r.Status, r.IssuerHash, r.NextUpdate)
	}
}
