package staple_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// long reports whether tests may take minutes: STAPLE_LONG is set, as in CI.
func long() bool { return os.Getenv("STAPLE_LONG") != "" }

// pipe returns the two ends of a connection in memory.
func pipe() (client, server net.Conn) { return net.Pipe() }

// shake makes a real handshake in memory and returns the client's view of it.
func shake(t testing.TB, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	c, s := pipe()
	defer c.Close()
	defer s.Close()
	errc := make(chan error, 1)
	go func() { errc <- tls.Server(s, server).Handshake() }()
	conn := tls.Client(c, client)
	if err := conn.Handshake(); err != nil {
		t.Fatalf("client: %v (server: %v)", err, <-errc)
	}
	if err := <-errc; err != nil {
		t.Fatalf("server: %v", err)
	}
	return conn.ConnectionState()
}

// bubble runs f in virtual time with a CA of its own.
func bubble(t *testing.T, f func(t *testing.T, ca *ocsptest.CA)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, ocsptest.NewCA()) })
}

// stapler returns a Stapler that reaches ca's responder in memory.
func stapler(t testing.TB, ca *ocsptest.CA, opts ...staple.Option) *staple.Stapler {
	t.Helper()
	s := staple.New(append([]staple.Option{staple.WithHTTPClient(ca.Responder.Client())}, opts...)...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reason returns the Reason in err, 0 for none.
func reason(err error) staple.Reason {
	var re *staple.ResponseError
	if errors.As(err, &re) {
		return re.Reason
	}
	return 0
}

// stapled reports whether cert carries a good response that is valid now.
func stapled(t testing.TB, s *staple.Stapler, ca *ocsptest.CA, cert *tls.Certificate) bool {
	t.Helper()
	raw := s.Staple(cert).OCSPStaple
	if raw == nil {
		return false
	}
	r, err := ocsp.ParseResponseForCert(raw, cert.Leaf, ca.Cert)
	if err != nil {
		t.Fatalf("a bad staple: %v", err)
	}
	if now := time.Now(); r.Status != ocsp.Good || !r.NextUpdate.IsZero() && !now.Before(r.NextUpdate) {
		t.Fatalf("a bad staple: status %d, nextUpdate %v, now %v", r.Status, r.NextUpdate, now)
	}
	return true
}

// roundTripper is a RoundTripper made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
