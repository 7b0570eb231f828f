package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A gate lets a number of orders for certificates pass; the rest wait.
type gate struct {
	next   http.RoundTripper
	orders chan struct{}
	closed context.Context // ends those that wait
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, "/order-plz") {
		select {
		case <-g.orders:
		case <-g.closed.Done():
			return nil, errors.New("no more certificates in this test")
		}
	}
	return g.next.RoundTrip(req)
}

// mustStaple asks a CA for the TLS feature status_request (RFC 7633).
var mustStaple = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}

// manager returns an autocert.Manager for p's certificates, which are due for
// renewal from the start: as many as there are orders in the gate.
func (p *pebble) manager(cache autocert.Cache, g *gate) *autocert.Manager {
	return &autocert.Manager{
		Prompt:          autocert.AcceptTOS,
		HostPolicy:      autocert.HostWhitelist(host),
		Cache:           cache,
		Client:          &acme.Client{DirectoryURL: p.directory, HTTPClient: &http.Client{Transport: g}},
		RenewBefore:     30 * 24 * 60 * 60 * 1e9,
		ExtraExtensions: []pkix.Extension{mustStaple},
	}
}

// A certificate is issued through the wrapped config, stapled from its first
// handshake, renewed, and stapled after a restart with CA and responder gone:
// the manager's own cache is the store.
func TestAutocert(t *testing.T) {
	l := listen(t)
	p := startPebble(t, l.Addr().(*net.TCPAddr).Port)
	cache := autocert.DirCache(t.TempDir())
	g := &gate{next: p.http.Transport, orders: make(chan struct{}, 1), closed: t.Context()}
	g.orders <- struct{}{}

	s := newStapler(t, staple.WithStore(cache))
	stop := serveHTTPS(t, l, s.TLSConfig(p.manager(cache, g).TLSConfig()))
	client := strict(p.roots)
	first := mustShake(t, l.Addr().String(), client).PeerCertificates[0]
	if first.OCSPServer[0] != p.responder.URL() {
		t.Errorf("got responders %q", first.OCSPServer)
	}
	if got := p.responder.Requests(); got != 1 {
		t.Errorf("the responder was asked %d times, want 1", got)
	}

	g.orders <- struct{}{} // the renewal, with the same key
	second := first
	testkit.Eventually(t, patience, "the renewed certificate", func() bool {
		second = mustShake(t, l.Addr().String(), client).PeerCertificates[0] // with the staple of whichever it is
		return !second.Equal(first)
	})
	if got := p.responder.Requests(); got != 2 {
		t.Errorf("the responder was asked %d times for two certificates, want 2", got)
	}
	testkit.Eventually(t, patience, "both responses in the cache", func() bool {
		files, _ := filepath.Glob(filepath.Join(string(cache), "staple-ocsp-*"))
		return len(files) == 2
	})

	stop()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	p.stop()
	asked := p.responder.Requests()
	p.responder.Close()
	l = listen(t)
	serveHTTPS(t, l, newStapler(t, staple.WithStore(cache)).TLSConfig(p.manager(cache, g).TLSConfig()))
	if got := mustShake(t, l.Addr().String(), client).PeerCertificates[0]; !got.Equal(second) {
		t.Errorf("after the restart: got serial %x, want %x", got.SerialNumber, second.SerialNumber)
	}
	if got := p.responder.Requests(); got != asked {
		t.Errorf("after the restart the responder was asked %d times", got-asked)
	}
}

// What a validation by tls-alpn-01 gets is autocert's certificate for it,
// untouched, also for a client that asks for a staple.
func TestAutocertChallenge(t *testing.T) {
	l := listen(t)
	p := startPebble(t, l.Addr().(*net.TCPAddr).Port)
	cache := autocert.DirCache(t.TempDir())
	g := &gate{next: p.http.Transport, orders: make(chan struct{}, 1), closed: t.Context()}
	g.orders <- struct{}{}
	m := p.manager(cache, g)
	inner := m.TLSConfig()
	asked := make(chan *tls.Certificate, 8)
	s := newStapler(t)
	cfg := s.TLSConfig(inner)
	hook := cfg.GetCertificate
	cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := hook(h)
		if len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == acme.ALPNProto && c != nil {
			asked <- c
		}
		return c, err
	}
	serveHTTPS(t, l, cfg)
	mustShake(t, l.Addr().String(), strict(p.roots))
	if len(asked) == 0 {
		t.Fatal("no challenge went through the wrapped config")
	}
	if c := <-asked; c.OCSPStaple != nil {
		t.Error("the certificate of a challenge is stapled")
	}
	for _, st := range s.Status() {
		if st.State != staple.StateGood {
			t.Errorf("known besides the certificate: %v, %v", st.Leaf.Subject, st.State)
		}
	}
}
