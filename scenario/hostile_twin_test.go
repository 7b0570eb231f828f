package scenario_test

//lint:file-ignore SA1019 an attack computes with points, and crypto/elliptic is what has them

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// twinKey returns the other key with which an ECDSA signature over P-256 verifies: there
// are two, and anybody can compute both from the signature (SEC 1 §4.1.6).
func twinKey(t *testing.T, leaf, issuer *x509.Certificate) *ecdsa.PublicKey {
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(leaf.Signature, &sig); err != nil {
		t.Fatal(err)
	}
	c := elliptic.P256()
	p := c.Params()
	hash := sha256.Sum256(leaf.RawTBSCertificate)
	square := new(big.Int).Exp(sig.R, big.NewInt(3), p.P) // y² = x³ - 3x + b
	square.Sub(square, new(big.Int).Mul(big.NewInt(3), sig.R)).Add(square, p.B).Mod(square, p.P)
	y, inverse := new(big.Int).ModSqrt(square, p.P), new(big.Int).ModInverse(sig.R, p.N)
	if y == nil {
		t.Skip("the signature is one in 2^128")
	}
	u1 := new(big.Int).Mul(new(big.Int).SetBytes(hash[:]), inverse)
	u1.Neg(u1).Mod(u1, p.N)
	u2 := new(big.Int).Mul(sig.S, inverse)
	u2.Mod(u2, p.N)
	for range 2 {
		ax, ay := c.ScalarBaseMult(u1.Bytes())
		bx, by := c.ScalarMult(sig.R, y, u2.Bytes())
		x, sum := c.Add(ax, ay, bx, by)
		if key := (&ecdsa.PublicKey{Curve: c, X: x, Y: sum}); !key.Equal(issuer.PublicKey) {
			return key
		}
		y.Sub(p.P, y)
	}
	t.Fatal("the signature verifies with one key")
	return nil
}

// forgedIssuer has the name and the key's id of issuer, any key, and an extension of some
// length. Nobody's key is needed.
func forgedIssuer(t *testing.T, issuer *x509.Certificate, key any, length int) []byte {
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: issuer.RawSubject, SubjectKeyId: issuer.SubjectKeyId,
		NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter, IsCA: true, BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, length)}}}
	der, err := x509.CreateCertificate(nil, tmpl, &x509.Certificate{Subject: pkix.Name{CommonName: "nobody"}}, key, testkit.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// REQ I4: a certificate that verifies the leaf, and is not its issuer's, is looked at again
// when the responder does not know the leaf by it, wherever it came from.
func TestOtherKeyOfASignature(t *testing.T) {
	const genuine, tenants = "http://issuer.example/ca", "http://tenant.example/ca"
	for _, by := range []string{"download", "a tenant's chain", "a tenant's download", "record"} {
		t.Run(by, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				leaf := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, WithoutIssuer: true, IssuerURLs: []string{genuine}})
				forged, struck, other := forgedIssuer(t, ca.Cert, twinKey(t, leaf.Leaf, ca.Cert), 0), new(atomic.Int32), ocsptest.NewCA()
				next := ocsptest.Network(ca.Responder, other.Responder).Transport
				opts := []staple.Option{staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					body := ca.Cert.Raw
					switch u := r.URL.String(); {
					case u != genuine && u != tenants:
						return next.RoundTrip(r)
					case u == tenants || by == "download" && struck.Load() == 0:
						body = forged
						struck.Add(1)
					}
					return answers(http.StatusOK, "application/pkix-cert", body), nil
				})})}
				if by == "record" {
					data := append(block("OCSP RESPONSE", ca.Responder.Response(leaf), time.Now()), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged})...)
					opts = append(opts, staple.WithStore(oneRecord(data)))
				}
				s := testkit.Stapler(t, ca, opts...)
				var tenant *tls.Certificate
				switch by {
				case "a tenant's chain":
					tenant = testkit.LeafFor(other, "tenant.example")
					tenant.Certificate = append([][]byte{tenant.Certificate[0], forged}, tenant.Certificate[1:]...)
				case "a tenant's download":
					tenant = other.Issue(ocsptest.Leaf{Names: []string{"tenant.example"}, WithoutIssuer: true, IssuerURLs: []string{tenants}})
				}
				if tenant != nil {
					testkit.List(t, s, tenant)
					time.Sleep(time.Minute)
					runtime.GC()
				}
				testkit.List(t, s, leaf)
				time.Sleep(10 * time.Minute)
				if !testkit.Stapled(t, s, ca, leaf) || by == "download" && struck.Load() == 0 {
					t.Error(errors.Join(s.Ready()))
				}
			})
		})
	}
}

// A tenant's copy of the issuer, which may be of any length, does not become another's: its
// record would be too long to be read.
func TestHugeIssuerOfATenant(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		_, leaf := issuerScene(t, ca)
		tenant := ca.Issue(ocsptest.Leaf{Names: []string{"tenant.example"}})
		tenant.Certificate[1] = forgedIssuer(t, ca.Cert, ca.Cert.PublicKey, 300<<10)
		st := new(testkit.Shelf)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.MustFetch(t, s, tenant)
		testkit.MustFetch(t, s, leaf)
		time.Sleep(time.Second)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		again := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, again, leaf)
		time.Sleep(time.Minute)
		if !testkit.Stapled(t, again, ca, leaf) {
			t.Errorf("no staple after a restart with the responder down: %v", again.Ready())
		}
	})
}
