package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/ocsptest"
)

// No signature is verified by the key of a certificate that comes with the staple before that
// is known to be the signer's: x/crypto/ocsp took seconds for one of 250,000 bits, whatever
// -timeout said, and ended the command in FIPS mode, where SHA-1 is not allowed.
func TestEmbeddedKeys(t *testing.T) {
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{})
	huge := hugeCertificate(t)
	for name, tt := range map[string]struct {
		edit    func(*ocsptest.Spec)
		refusal string // one of the reasons
	}{
		"a huge key, nothing proven": {func(s *ocsptest.Spec) { s.Sign.By, s.Certs = ocsptest.WrongKey, [][]byte{huge} }, "bad signature"},
		"a huge key beside the delegate's": {func(s *ocsptest.Spec) { s.Sign.By, s.Certs = ocsptest.Delegated, [][]byte{huge} },
			"key of type RSA with 16384 bits is not supported"},
		"SHA-1": {func(s *ocsptest.Spec) { s.Sign.By, s.Sign.Algorithm = ocsptest.IssuerEmbedded, x509.ECDSAWithSHA1 }, "weak"},
	} {
		t.Run(name, func(t *testing.T) {
			var raw []byte
			fips140.WithoutEnforcement(func() { raw = ca.Responder.Build(cert, tt.edit) })
			r := visit(t, ca, serve(t, withStaple(cert, raw)))
			var why []string
			for _, refusal := range r.Refusals {
				why = append(why, refusal.Why)
			}
			if got := strings.Join(why, "\n"); !strings.Contains(got, tt.refusal) {
				t.Errorf("got %q, want %q", got, tt.refusal)
			}
			if r.Staple.Status != "good" { // as it says, proven or not
				t.Errorf("status %q: %s", r.Staple.Status, r.Staple.Error)
			}
		})
	}
}

// hugeCertificate has a key of more bits than crypto/tls takes.
func hugeCertificate(t *testing.T) []byte {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := new(big.Int).Lsh(big.NewInt(1), 16383)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
