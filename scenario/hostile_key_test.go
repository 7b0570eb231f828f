package scenario_test

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// overflowing makes a response that needs no key: by RSASSA-PSS with a salt length at the
// end of its range, at which crypto/rsa panics if the signature ends as one has to.
func overflowing(raw []byte, issuer *x509.Certificate) []byte {
	pub := issuer.PublicKey.(*rsa.PublicKey)
	half := new(big.Int).Lsh(big.NewInt(1), uint(pub.N.BitLen()-1))
	sig := make([]byte, pub.Size())
	for n := int64(2); ; n++ {
		s := new(big.Int).Sub(pub.N, big.NewInt(n))
		em := new(big.Int).Exp(s, big.NewInt(int64(pub.E)), pub.N)
		if em.Bytes()[len(em.Bytes())-1] == 0xbc && em.Cmp(half) < 0 {
			s.FillBytes(sig)
			break
		}
	}
	sha256 := sequence([]byte("\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01"))
	mgf := sequence([]byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"), sha256)
	salt := []byte("\x02\x08\x7f\xff\xff\xff\xff\xff\xff\xff")
	m := dissect(raw)
	m.algorithm = sequence([]byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"),
		sequence(tlv(explicit(0), sha256), tlv(explicit(1), mgf), tlv(explicit(2), salt)))
	m.signature = tlv(asn1.BIT_STRING, []byte{0}, sig)
	return m.encode()
}

// REQ B8, REQ I1: no response ends the process, whoever has it: a caller, a peer, the
// store, the source.
func TestSaltLengthOverflows(t *testing.T) {
	ca := ocsptest.NewCA(ocsptest.Options{KeyType: ocsptest.RSA2048})
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
	forged := overflowing(ca.Responder.Response(cert), ca.Cert)
	if _, err := staple.Verify(forged, cert.Leaf, ca.Cert); testkit.Reason(err) != staple.ReasonSignatureAlgorithm {
		t.Errorf("Verify: %v", err)
	}
	own := *cert
	own.OCSPStaple = forged
	client := &tls.Config{RootCAs: ca.Pool(), ServerName: "a.example", VerifyConnection: staple.VerifyStaple}
	if _, _, err := testkit.Talk(&tls.Config{Certificates: []tls.Certificate{own}}, client); testkit.Reason(err) != staple.ReasonSignatureAlgorithm {
		t.Errorf("a client: %v", err)
	}
	for from, s := range map[string]*staple.Stapler{
		"store":  testkit.Stapler(t, ca, staple.WithStore(oneRecord(pem.EncodeToMemory(&pem.Block{Type: "OCSP RESPONSE", Bytes: forged})))),
		"source": testkit.Stapler(t, ca),
	} {
		if err := s.Prefetch(t.Context(), &own); err != nil || !testkit.Stapled(t, s, ca, &own) {
			t.Errorf("%s: %v", from, err)
		}
	}
}

// shiftedKey is a certificate with the name and the key of ca, as crypto/x509 reads it: it
// shifts the unused bits of subjectPublicKey away. Nobody's key is needed to write it, and
// what ca signed verifies with it, but the hash of its bytes is another.
func shiftedKey(t *testing.T, ca *x509.Certificate) []byte {
	cert := elements(ca.Raw)
	tbs := elements(cert[0])
	for i, e := range tbs {
		if string(e) == string(ca.RawSubjectPublicKeyInfo) {
			spki := elements(e)
			tbs[i] = sequence(spki[0], shifted(spki[1]))
		}
	}
	raw := sequence(sequence(tbs...), cert[1], cert[2])
	if _, err := x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

// REQ I4: an issuer whose key is written in another way, by who changed a download, by another
// tenant, or in a record, is as good as the issuer.
func TestIssuerWithTheKeyInAnotherEncoding(t *testing.T) {
	for _, by := range []string{"download", "tenant", "record"} {
		t.Run(by, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				_, leaf := issuerScene(t, ca)
				forged, struck := shiftedKey(t, ca.Cert), new(atomic.Int32)
				opts := []staple.Option{staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
					resp, err := ca.Responder.RoundTrip(req)
					if err == nil && by == "download" && strings.Contains(req.URL.Path, "issuer.") {
						struck.Add(1)
						resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(string(forged))), int64(len(forged))
					}
					return resp, err
				})})}
				if by == "record" {
					data := append(block("OCSP RESPONSE", ca.Responder.Response(leaf), time.Now()), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged})...)
					opts = append(opts, staple.WithStore(oneRecord(data)))
				}
				s := testkit.Stapler(t, ca, opts...)
				if by == "tenant" {
					tenants := ca.Issue(ocsptest.Leaf{Names: []string{"tenant.example"}})
					tenants.Certificate = [][]byte{tenants.Certificate[0], forged}
					testkit.List(t, s, tenants)
					time.Sleep(time.Minute)
				}
				testkit.List(t, s, leaf)
				time.Sleep(time.Minute)
				if err := errors.Join(s.Refresh(t.Context(), leaf), s.Ready()); err != nil || !testkit.Stapled(t, s, ca, leaf) || by == "download" && struck.Load() == 0 {
					t.Error(err)
				}
			})
		})
	}
}
