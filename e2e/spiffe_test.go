package e2e

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// go-spiffe verifies by itself, with InsecureSkipVerify, and crypto/tls knows no
// chain. An SVID comes without its issuer, which is in the bundle: RequireStaple
// finds it in VerifiedChains.
func TestSPIFFE(t *testing.T) {
	ca := issuer(t)
	id := spiffeid.RequireFromString("spiffe://example.org/web")
	svid := ca.Issue(ocsptest.Leaf{MustStaple: true, WithoutIssuer: true,
		Template: func(c *x509.Certificate) { c.DNSNames, c.URIs = nil, []*url.URL{id.URL()} }})
	bundle := x509bundle.FromX509Authorities(id.TrustDomain(), []*x509.Certificate{ca.Cert})
	s := newStapler(t, staple.WithIssuers(ca.Cert))
	if err := s.Prefetch(t.Context(), svid); err != nil {
		t.Fatal(err)
	}
	source := &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{svid.Leaf}, PrivateKey: svid.PrivateKey.(crypto.Signer)}
	l := listen(t)
	serveHTTPS(t, l, s.TLSConfig(tlsconfig.TLSServerConfig(source)))

	client := tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(id))
	client.VerifyConnection = staple.RequireStaple
	if _, err := shake(t, l.Addr().String(), client); !isError(err, staple.ErrNoIssuer) {
		t.Errorf("without VerifiedChains: got %v, want %v", err, staple.ErrNoIssuer)
	}
	client.VerifyConnection = func(cs tls.ConnectionState) error {
		_, chains, err := x509svid.Verify(cs.PeerCertificates, bundle)
		if err != nil {
			return err
		}
		cs.VerifiedChains = chains
		return staple.RequireStaple(cs)
	}
	if cs := mustShake(t, l.Addr().String(), client); len(cs.OCSPResponse) == 0 {
		t.Error("no staple")
	}
}
