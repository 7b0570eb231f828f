package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"time"
)

// now is the moment at which every case is judged.
var now = time.Date(2030, 1, 15, 12, 0, 0, 0, time.UTC)

// An identity is a certificate and its key.
type identity struct {
	name string // of its file; empty: not written
	key  crypto.Signer
	cert *x509.Certificate
}

func check[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func p256() crypto.Signer { return check(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }
func p384() crypto.Signer { return check(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) }
func rsa2048() crypto.Signer {
	return check(rsa.GenerateKey(rand.Reader, 2048))
}
func ed() crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return check(key, err)
}

var serials = int64(0x7f_00_00)

// issue makes a certificate; change may be nil. It lives from a fortnight before
// now to a quarter after.
func issue(parent *identity, name, subject string, key crypto.Signer, change func(*x509.Certificate)) *identity {
	serials++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serials),
		Subject:      pkix.Name{CommonName: subject},
		NotBefore:    now.AddDate(0, 0, -14),
		NotAfter:     now.AddDate(0, 0, 76),
	}
	if change != nil {
		change(template)
	}
	id := &identity{name: name, key: key}
	signer, issuer := key, template
	if parent != nil {
		signer, issuer = parent.key, parent.cert
	}
	der := check(x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer))
	id.cert = check(x509.ParseCertificate(der))
	return id
}

func isCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid = true, true
	c.NotBefore, c.NotAfter = now.AddDate(-1, 0, 0), now.AddDate(20, 0, 0)
}

func isDelegate(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
}

// critical adds a critical extension that nobody knows.
func critical(c *x509.Certificate) {
	c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
		Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte(null)})
}

// all applies several changes.
func all(changes ...func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, change := range changes {
			change(c)
		}
	}
}

// keyBits is the value of the subjectPublicKey.
func keyBits(cert *x509.Certificate) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	check(asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info))
	return info.Key.Bytes
}
