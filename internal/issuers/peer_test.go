package issuers_test

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/ocsptest"
)

// REQ B5: a peer that sends hundreds of certificates costs no more than one that sends a
// few: each issuer is a response to verify, and each of the issuer's name a signature. One
// behind too many of these is not found.
func TestOfPeer(t *testing.T) {
	ca := ocsptest.NewCA()
	leaf, again := ca.Issue(ocsptest.Leaf{}).Leaf, ca.CrossSign(ocsptest.NewCA())
	var impostors []*x509.Certificate
	for range issuers.MaxOfPeer {
		impostors = append(impostors, ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName}).Cert)
	}
	sent := func(lists ...[]*x509.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: slices.Concat(append([][]*x509.Certificate{{leaf}}, lists...)...)}
	}
	only := []*x509.Certificate{ca.Cert}
	for name, tc := range map[string]struct {
		state *tls.ConnectionState
		want  int
	}{
		"copies":                  {sent(slices.Repeat(only, 500)), 1},
		"two certificates of one": {sent([]*x509.Certificate{ca.Cert, again}), 1},
		"behind some impostors":   {sent(impostors[1:], only), 1},
		"behind too many":         {sent(impostors, only), 0},
		"verified": {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf},
			VerifiedChains: [][]*x509.Certificate{{leaf, ca.Cert}, {leaf, again}, {leaf, impostors[0]}}}, 2},
		"verified by itself":        {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf, ca.Cert}, VerifiedChains: [][]*x509.Certificate{{leaf}}}, 1},
		"by itself and by a chain":  {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}, {leaf, ca.Cert}}}, 1},
		"by itself, and sent alone": {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}, 0},
	} {
		if got := issuers.OfPeer(tc.state); len(got) != tc.want {
			t.Errorf("%s: got %d issuers, want %d", name, len(got), tc.want)
		}
	}
}
