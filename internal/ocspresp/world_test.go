package ocspresp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A world is a CA and a certificate of it, made in the test because it needs its
// keys.
type world struct {
	t        testing.TB
	caKey    crypto.Signer
	ca, leaf *x509.Certificate
}

func newWorld(t testing.TB, caKey crypto.Signer) *world {
	t.Helper()
	w := &world{t: t, caKey: caKey}
	w.ca = w.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
	}, w.caKey.Public())
	w.leaf = w.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "peer"}, DNSNames: []string{"peer.test"},
	}, newKey(t).Public())
	return w
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign issues a certificate of 90 days, where the template does not say
// otherwise; the first is the CA's own.
func (w *world) sign(template *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	w.t.Helper()
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 90)
	}
	parent := w.ca
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// delegatedResponse makes a good response by a delegate of its own.
func (w *world) delegatedResponse(serial int64) []byte {
	w.t.Helper()
	delegate, key := w.delegate("delegate", serial)
	return w.respond(delegate, delegate, key)
}

func (w *world) delegate(name string, serial int64) (*x509.Certificate, crypto.Signer) {
	w.t.Helper()
	key := newKey(w.t)
	return w.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1000 + serial), Subject: pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
	}, key.Public()), key
}

// respond makes a good response; embedded may be nil.
func (w *world) respond(signer, embedded *x509.Certificate, key crypto.Signer) []byte {
	w.t.Helper()
	var raw []byte
	var err error
	fips140.WithoutEnforcement(func() {
		raw, err = ocsp.CreateResponse(w.ca, signer, ocsp.Response{
			SerialNumber: w.leaf.SerialNumber, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), Certificate: embedded,
		}, key)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}
