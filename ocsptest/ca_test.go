package ocsptest_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

// extension returns the value of an extension, nil if there is none.
func extension(cert *x509.Certificate, oid ...int) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier(oid)) {
			return e.Value
		}
	}
	return nil
}

// REQ F: the certificates.
func TestIssue(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	verify(t, ca, cert, "example.com")
	leaf := cert.Leaf
	if got, want := leaf.OCSPServer, []string{ca.Responder.URL()}; !slices.Equal(got, want) {
		t.Errorf("got URLs %v, want %v", got, want)
	}
	if len(cert.Certificate) != 2 || !bytes.Equal(cert.Certificate[1], ca.Cert.Raw) {
		t.Errorf("got a chain of %d", len(cert.Certificate))
	}
	if n := leaf.SerialNumber.BitLen(); n != 127 {
		t.Errorf("got a serial of %d bits", n)
	}
	if got := leaf.NotAfter.Sub(leaf.NotBefore); got != 90*24*time.Hour+time.Hour {
		t.Errorf("valid for %v", got)
	}
	if extension(leaf, 1, 3, 6, 1, 5, 5, 7, 1, 24) != nil || extension(leaf, 2, 5, 29, 56) != nil {
		t.Error("unasked extensions")
	}
}

// A CA of a certificate and key that exist, and what it did not issue itself.
func TestAdopt(t *testing.T) {
	elsewhere := ocsptest.NewCA()
	cert := elsewhere.Issue(ocsptest.Leaf{})
	ca := ocsptest.NewCA(ocsptest.Options{Cert: elsewhere.Cert, Key: elsewhere.Key(), URL: elsewhere.Responder.URL()})
	status := func() any {
		resp, err := ocsp.ParseResponseForCert(ca.Responder.Response(cert), cert.Leaf, ca.Cert)
		if err != nil {
			return err.Error()
		}
		return resp.Status
	}
	if got, want := status(), "ocsp: error from server: unauthorized"; got != want {
		t.Errorf("not adopted: got %v, want %v", got, want)
	}
	ca.Adopt(cert.Leaf)
	if got := status(); got != ocsp.Good {
		t.Errorf("adopted: got %v, want good", got)
	}
	ca.Responder.Revoke(cert, ocsp.Superseded, time.Time{})
	if got := status(); got != ocsp.Revoked {
		t.Errorf("revoked: got %v", got)
	}
	verify(t, ca, cert, "example.com")
	verify(t, ca, ca.Issue(ocsptest.Leaf{}), "example.com")
	ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.LeafSigner})
	if got := fmt.Sprint(status()); !strings.Contains(got, "signature") {
		t.Errorf("signed by a key that is not here: got %v", got)
	}

	for name, o := range map[string]ocsptest.Options{
		"no key":    {Cert: ca.Cert},
		"other key": {Cert: ca.Cert, Key: ocsptest.NewCA().Key()},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			ocsptest.NewCA(o)
		}()
	}
}

func TestIssueFields(t *testing.T) {
	ca := ocsptest.NewCA()
	from, to := time.Now().Add(-5*time.Hour).Truncate(time.Second).UTC(), time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	cert := ca.Issue(ocsptest.Leaf{
		Names: []string{"a.example", "192.0.2.1", "2001:db8::1"}, Serial: big.NewInt(77),
		NotBefore: from, NotAfter: to, MustStaple: true, NoRevAvail: true, Client: true,
		URLs: []string{"http://one.example/x", "http://two.example"}, IssuerURLs: []string{"http://ca.example/ca"},
		WithoutIssuer: true, Template: func(c *x509.Certificate) { c.Subject.Organization = []string{"Org"} },
	})
	leaf := cert.Leaf
	if !slices.Equal(leaf.DNSNames, []string{"a.example"}) || len(leaf.IPAddresses) != 2 || !leaf.IPAddresses[0].Equal(net.IPv4(192, 0, 2, 1)) {
		t.Errorf("got names %v %v", leaf.DNSNames, leaf.IPAddresses)
	}
	if leaf.SerialNumber.Int64() != 77 || !leaf.NotBefore.Equal(from) || !leaf.NotAfter.Equal(to) {
		t.Errorf("got %v, %v to %v", leaf.SerialNumber, leaf.NotBefore, leaf.NotAfter)
	}
	if got := extension(leaf, 1, 3, 6, 1, 5, 5, 7, 1, 24); !bytes.Equal(got, []byte{0x30, 3, 2, 1, 5}) {
		t.Errorf("got TLS feature %x", got)
	}
	if got := extension(leaf, 2, 5, 29, 56); !bytes.Equal(got, []byte{5, 0}) {
		t.Errorf("got noRevAvail %x", got)
	}
	if leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || leaf.Subject.Organization[0] != "Org" {
		t.Errorf("got %v, %v", leaf.ExtKeyUsage, leaf.Subject)
	}
	if len(leaf.OCSPServer) != 2 || len(leaf.IssuingCertificateURL) != 1 || len(cert.Certificate) != 1 {
		t.Errorf("got %v, %v, a chain of %d", leaf.OCSPServer, leaf.IssuingCertificateURL, len(cert.Certificate))
	}
	if got := ca.Issue(ocsptest.Leaf{NoURL: true, URLs: []string{"http://x.example"}}).Leaf.OCSPServer; got != nil {
		t.Errorf("got %v with NoURL", got)
	}
}

func TestKeys(t *testing.T) {
	is := map[ocsptest.KeyType]func(any) bool{
		ocsptest.ECDSAP256: func(k any) bool { p, ok := k.(*ecdsa.PrivateKey); return ok && p.Params().BitSize == 256 },
		ocsptest.ECDSAP384: func(k any) bool { p, ok := k.(*ecdsa.PrivateKey); return ok && p.Params().BitSize == 384 },
		ocsptest.RSA2048:   func(k any) bool { p, ok := k.(*rsa.PrivateKey); return ok && p.N.BitLen() == 2048 },
		ocsptest.Ed25519:   func(k any) bool { _, ok := k.(ed25519.PrivateKey); return ok },
	}
	for typ, ok := range is {
		t.Run(typ.String(), func(t *testing.T) {
			ca := ocsptest.NewCA(ocsptest.Options{KeyType: typ})
			cert := ca.Issue(ocsptest.Leaf{KeyType: typ})
			if !ok(ca.Key()) || !ok(cert.PrivateKey) {
				t.Errorf("got %T, %T", ca.Key(), cert.PrivateKey)
			}
			verify(t, ca, cert, "example.com")
			shared := ca.Issue(ocsptest.Leaf{Key: cert.PrivateKey.(crypto.Signer)})
			if shared.Leaf.SerialNumber.Cmp(cert.Leaf.SerialNumber) == 0 ||
				!bytes.Equal(shared.Leaf.RawSubjectPublicKeyInfo, cert.Leaf.RawSubjectPublicKeyInfo) {
				t.Error("Leaf.Key was not used")
			}
		})
	}
}

func TestSelfSigned(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{SelfSigned: true})
	if err := cert.Leaf.CheckSignature(cert.Leaf.SignatureAlgorithm, cert.Leaf.RawTBSCertificate, cert.Leaf.Signature); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(cert.Leaf.RawIssuer, cert.Leaf.RawSubject) || len(cert.Certificate) != 1 {
		t.Errorf("issuer %v, chain of %d", cert.Leaf.Issuer, len(cert.Certificate))
	}
	if _, err := fetch(t, ca, cert); err == nil {
		t.Error("the responder knows a self-signed certificate")
	}
}

func TestIntermediate(t *testing.T) {
	root := ocsptest.NewCA()
	sub := root.Intermediate("")
	cert := sub.Issue(ocsptest.Leaf{})
	verify(t, root, cert, "example.com")
	if !sub.Pool().Equal(root.Pool()) {
		t.Error("the pool of the intermediate is not that of the root")
	}
	if sub.Responder.URL() == root.Responder.URL() {
		t.Errorf("both responders at %s", sub.Responder.URL())
	}
	mustFetch(t, sub, cert)
	mustFetch(t, root, &tls.Certificate{Certificate: [][]byte{sub.Cert.Raw}, Leaf: sub.Cert})
}

func TestCrossSign(t *testing.T) {
	old, young := ocsptest.NewCA(), ocsptest.NewCA()
	cert := young.Issue(ocsptest.Leaf{})
	cert.Certificate[1] = young.CrossSign(old).Raw
	verify(t, old, cert, "example.com")
	verify(t, young, cert, "example.com")
}

// A CA from outside may lack a subject key identifier, and has a name of its own form.
func TestOwnCA(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Country: []string{"XX"}, CommonName: "mine"}, NotAfter: time.Now().Add(time.Hour)}
	for name, isCA := range map[string]bool{"as openssl's of version 1": false, "with an identifier of three bytes": true} {
		if tmpl.IsCA, tmpl.BasicConstraintsValid = isCA, isCA; isCA {
			tmpl.SubjectKeyId = []byte{1, 2, 3}
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		old, ca := ocsptest.NewCA(), ocsptest.NewCA(ocsptest.Options{Cert: cert, Key: key})
		leaf := ca.Issue(ocsptest.Leaf{})
		if _, err := fetch(t, ca, leaf); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		leaf.Certificate[1] = ca.CrossSign(old).Raw
		verify(t, old, leaf, "example.com")
	}
}

// The names and URLs of CAs are their own, unless they are set.
func TestOptions(t *testing.T) {
	a, b := ocsptest.NewCA(), ocsptest.NewCA()
	if a.Responder.URL() == b.Responder.URL() || a.Cert.Subject.String() == b.Cert.Subject.String() {
		t.Errorf("two CAs at %s named %s", a.Responder.URL(), a.Cert.Subject)
	}
	c := ocsptest.NewCA(ocsptest.Options{Name: a.Cert.Subject.CommonName, URL: "http://ocsp.example/path"})
	if !bytes.Equal(a.Cert.RawSubject, c.Cert.RawSubject) || c.Responder.URL() != "http://ocsp.example/path" {
		t.Errorf("got %s at %s", c.Cert.Subject, c.Responder.URL())
	}
}

// Certificates made in a bubble are valid by its clock.
func TestBubbleClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{})
		verify(t, ca, cert, "example.com")
		if y := cert.Leaf.NotAfter.Year(); y != 2000 {
			t.Errorf("expires in %d", y)
		}
		time.Sleep(3 * 24 * time.Hour)
		if got := mustFetch(t, ca, cert).ThisUpdate; !got.Equal(time.Now()) {
			t.Errorf("got thisUpdate %v, want %v", got, time.Now())
		}
	})
}

func TestPanics(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	for name, f := range map[string]func(){
		"Revoke of another CA's":  func() { ca.Responder.Revoke(other.Issue(ocsptest.Leaf{}), 0, time.Time{}) },
		"Response for nil":        func() { ca.Responder.Response(nil) },
		"Count of an empty":       func() { ca.Responder.Count("", &tls.Certificate{}) },
		"SetFault of none such":   func() { ca.Responder.SetFault(255) },
		"NewCA without such keys": func() { ocsptest.NewCA(ocsptest.Options{KeyType: 99}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
}
