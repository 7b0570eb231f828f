package certinfo_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
)

// issue returns the certificate of a CA with this key, and of a leaf that it signed under
// alg.
func issue(t *testing.T, key crypto.Signer, alg x509.SignatureAlgorithm) (ca, leaf *x509.Certificate) {
	t.Helper()
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour)}
	certify := func(tmpl *x509.Certificate, alg x509.SignatureAlgorithm) *x509.Certificate {
		tmpl.SignatureAlgorithm = alg
		raw, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca = certify(parent, 0)
	return ca, certify(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: parent.NotAfter}, alg)
}

// patched returns cert with other bytes in the place of some, parsed.
func patched(t *testing.T, cert *x509.Certificate, from, to string) *x509.Certificate {
	t.Helper()
	other, err := x509.ParseCertificate(bytes.ReplaceAll(cert.Raw, []byte(from), []byte(to)))
	if err != nil || bytes.Equal(other.Raw, cert.Raw) {
		t.Fatalf("nothing was replaced, or what it is does not parse: %v", err)
	}
	return other
}

// REQ A5 B7: who signed a leaf is found by name and signature, under any algorithm that Go
// can check, and what it can't is not called a bad signature.
func TestSignedBy(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, leaf := issue(t, rsaKey, x509.SHA256WithRSA)
	ec, ecLeaf := issue(t, ecKey, x509.ECDSAWithSHA384)
	ed, edLeaf := issue(t, edKey, x509.PureEd25519)
	var old, md5, small, smallLeaf *x509.Certificate
	fips140.WithoutEnforcement(func() {
		_, old = issue(t, rsaKey, x509.SHA1WithRSA)
		t.Setenv("GODEBUG", os.Getenv("GODEBUG")+",rsa1024min=0")
		smallKey, err := rsa.GenerateKey(rand.Reader, 768)
		if err != nil {
			t.Fatal(err)
		}
		small, smallLeaf = issue(t, smallKey, x509.SHA256WithRSA)
	})
	t.Setenv("GODEBUG", strings.TrimSuffix(os.Getenv("GODEBUG"), ",rsa1024min=0"))
	md5 = new(*leaf)
	md5.SignatureAlgorithm = x509.MD5WithRSA
	const ed25519ID, ed448ID = "\x2b\x65\x70", "\x2b\x65\x71"
	unsupported := func(what string) error { return &certinfo.UnsupportedError{What: what} }

	for name, tt := range map[string]struct {
		ca, leaf *x509.Certificate
		want     error
	}{
		"RSA":                          {ca, leaf, nil},
		"ECDSA":                        {ec, ecLeaf, nil},
		"Ed25519":                      {ed, edLeaf, nil},
		"SHA-1":                        {ca, old, nil},
		"another key of the name":      {ec, leaf, certinfo.ErrNotSigned},
		"another name":                 {leaf, leaf, certinfo.ErrOtherName},
		"a changed leaf":               {ca, patched(t, leaf, "leaf", "fire"), certinfo.ErrNotSigned},
		"a key that Go does not know":  {patched(t, ed, ed25519ID, ed448ID), edLeaf, unsupported("the issuer's key of type Ed448 (OID 1.3.101.113)")},
		"a signature of such a key":    {ed, patched(t, edLeaf, ed25519ID, ed448ID), unsupported("the certificate's signature of type Ed448 (OID 1.3.101.113)")},
		"a key that Go finds small":    {small, smallLeaf, unsupported("the issuer's key of type RSA with 768 bits")},
		"a signature that Go won't do": {ca, md5, unsupported("the certificate's signature of type MD5-RSA")},
	} {
		err := certinfo.SignedBy(tt.ca, tt.leaf)
		want, typed := tt.want.(*certinfo.UnsupportedError)
		if got, is := errors.AsType[*certinfo.UnsupportedError](err); typed != is || typed && got.What != want.What || !typed && err != tt.want {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

// REQ B7: an issuer that crypto/x509 refuses is named, where its name is the issuer's.
func TestUnparsed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, leaf := issue(t, key, x509.ECDSAWithSHA256)
	raw := bytes.ReplaceAll(ca.Raw, []byte("\x2a\x86\x48\xce\x3d\x03\x01\x07"), []byte("\x2a\x86\x48\xce\x3d\x03\x01\x06"))
	if _, err := x509.ParseCertificate(raw); err == nil {
		t.Fatal("crypto/x509 reads it")
	}
	got, is := errors.AsType[*certinfo.UnsupportedError](certinfo.Unparsed(raw, leaf))
	if want := "the issuer's key of type OID 1.2.840.10045.3.1.6, or its certificate (x509: unsupported elliptic curve)"; !is || got.What != want {
		t.Errorf("got %v, want %q", got, want)
	}
	for name, other := range map[string][]byte{"another name": leaf.Raw, "torn": raw[:40], "nothing": nil} {
		if err := certinfo.Unparsed(other, leaf); err != certinfo.ErrOtherName {
			t.Errorf("%s: got %v, want %v", name, err, certinfo.ErrOtherName)
		}
	}
}

// What no certificate could have is named, and does not panic.
func TestUnreadableAlgorithms(t *testing.T) {
	for _, raw := range []string{"", "\x30\x00", "\x30\x02\x30\x00", "\x30\x04\x30\x02\x30\x00", "\x02\x01\x05"} {
		if key, sig := certinfo.KeyText([]byte(raw)), certinfo.SignatureText([]byte(raw)); key != "unreadable" || sig != "unreadable" {
			t.Errorf("%x: got %q and %q", raw, key, sig)
		}
	}
	pss := []byte("\x30\x0d\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a")
	if got := certinfo.KeyText(pss); got != "id-RSASSA-PSS" {
		t.Errorf("a key for RSASSA-PSS alone is %q", got)
	}
}
