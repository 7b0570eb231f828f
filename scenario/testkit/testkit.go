// Package testkit is what the tests of package staple and its scenarios share:
// virtual time with a CA, a Stapler that reaches the CA's responder in memory,
// handshakes in memory, and handlers, events and stores that remember. It is for
// tests of this module alone: nothing in it is stable.
package testkit

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// Anew returns cert as a source does that reads its files at every handshake:
// no byte of it is shared.
func Anew(t testing.TB, cert *tls.Certificate) *tls.Certificate {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Error(err)
		return nil
	}
	var certPEM []byte
	for _, der := range cert.Certificate {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	pair, err := tls.X509KeyPair(certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	if err != nil {
		t.Error(err)
	}
	return &pair
}

// Bubble runs f in virtual time with a CA of its own.
func Bubble(t *testing.T, f func(t *testing.T, ca *ocsptest.CA)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, ocsptest.NewCA()) })
}

// Stapler returns a Stapler that reaches ca's responder in memory, and closes it
// at the end of the test.
func Stapler(t testing.TB, ca *ocsptest.CA, opts ...staple.Option) *staple.Stapler {
	t.Helper()
	s := staple.New(append([]staple.Option{staple.WithHTTPClient(ca.Responder.Client())}, opts...)...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Reason returns the Reason in err, 0 for none.
func Reason(err error) staple.Reason {
	var re *staple.ResponseError
	if errors.As(err, &re) {
		return re.Reason
	}
	return 0
}

// Stapled reports whether cert carries a good response that is valid now.
func Stapled(t testing.TB, s *staple.Stapler, ca *ocsptest.CA, cert *tls.Certificate) bool {
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

// RoundTripper is a RoundTripper made of a function.
type RoundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Count returns how many of certs carry a valid staple.
func Count(t testing.TB, s *staple.Stapler, ca *ocsptest.CA, certs []*tls.Certificate) (n int) {
	t.Helper()
	for _, cert := range certs {
		if Stapled(t, s, ca, cert) {
			n++
		}
	}
	return n
}

// Carrying returns how many of certs carry a staple.
func Carrying(s *staple.Stapler, certs []*tls.Certificate) (n int) {
	for _, cert := range certs {
		if s.Staple(cert).OCSPStaple != nil {
			n++
		}
	}
	return n
}

// Network returns a Stapler that reaches the responders of several CAs in memory,
// and closes it at the end of the test.
func Network(t testing.TB, responders []*ocsptest.Responder, opts ...staple.Option) *staple.Stapler {
	t.Helper()
	s := staple.New(append([]staple.Option{staple.WithHTTPClient(ocsptest.Network(responders...))}, opts...)...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Within returns a context with a deadline.
func Within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Joined takes apart what Prefetch and Refresh return.
func Joined(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return nil
}

// FailFor has a responder fail for certs for d, so that its breaker is open and
// retries are rare.
func FailFor(t *testing.T, s *staple.Stapler, ca *ocsptest.CA, d time.Duration, certs ...*tls.Certificate) {
	t.Helper()
	ca.Responder.SetFault(ocsptest.FaultRefused)
	List(t, s, certs...)
	time.Sleep(d)
	ca.Responder.ResetCounts()
	ca.Responder.ClearFaults()
}

// NewKey makes an ECDSA key.
func NewKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// AnswerWith says body with the media type of a response.
func AnswerWith(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", OCSPMedia)
	_, _ = w.Write(body)
}

// Day is a day without a change of the clock.
const Day = 24 * time.Hour

// LeafFor issues a certificate with the CA's key, which is quick.
func LeafFor(ca *ocsptest.CA, name string) *tls.Certificate {
	return ca.Issue(ocsptest.Leaf{Names: []string{name}, Key: ca.Key(), NotAfter: time.Now().AddDate(3, 0, 0)})
}

// Leaves issues n certificates as LeafFor does, host0.example.com and on.
func Leaves(ca *ocsptest.CA, n int) []*tls.Certificate {
	certs := make([]*tls.Certificate, n)
	for i := range certs {
		certs[i] = LeafFor(ca, fmt.Sprintf("host%d.example.com", i))
	}
	return certs
}

// List has certificates kept fresh until the end of the test.
func List(t testing.TB, s *staple.Stapler, certs ...*tls.Certificate) *tls.Config {
	base := new(tls.Config)
	for _, cert := range certs {
		base.Certificates = append(base.Certificates, *cert)
	}
	cfg := s.TLSConfig(base)
	t.Cleanup(func() { runtime.KeepAlive(cfg) })
	return cfg
}

// MustFetch lists certificates and has a response fetched for each.
func MustFetch(t testing.TB, s *staple.Stapler, certs ...*tls.Certificate) {
	t.Helper()
	List(t, s, certs...)
	if err := s.Prefetch(context.Background(), certs...); err != nil {
		t.Fatal(err)
	}
}

// OCSPMedia is the media type of a response (RFC 6960, appendix A.1).
const OCSPMedia = "application/ocsp-response"
