package scenario_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A tenant's CA may sign delegates as long as a response may be. What is kept of them for
// its certificate is less than one of them takes.
func TestMemoryOfDelegates(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert, s := ca.Issue(ocsptest.Leaf{}), testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		before := testkit.HeapBytes()
		for range 16 {
			time.Sleep(time.Second)
			ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, Template: func(c *x509.Certificate) {
				for i := range 28_000 { // 110 KiB, 13 times as much once parsed
					c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{2, 5, 1 + i%100})
				}
			}})
			if err := s.Refresh(t.Context(), cert); err == nil {
				t.Fatal("a response that long is taken")
			}
		}
		ca.Responder.SetSign(ocsptest.Sign{})
		if err := s.Refresh(t.Context(), cert); err != nil {
			t.Error(err)
		}
		if after := testkit.HeapBytes(); after > before+1<<20 {
			t.Errorf("%.0f KiB are kept for one certificate", (after-before)/1024)
		}
		runtime.KeepAlive(s)
	})
}

// What a certificate's caIssuers URLs bring is not kept for it: neither a certificate with
// thousands of names, which takes fifty times its length once parsed, nor an error that
// quotes it.
func TestMemoryOfIssuers(t *testing.T) {
	san := func(names []byte) []pkix.Extension {
		der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: names})
		if err != nil {
			t.Fatal(err)
		}
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
	}
	for name, names := range map[string][]byte{
		"many names":         bytes.Repeat([]byte{0x86, 1, 'a'}, 5_000),
		"too many names":     bytes.Repeat([]byte{0x86, 1, 'a'}, 40_000),
		"a name of no URL":   append([]byte{0x86, 0x82, 0x3c, 0}, bytes.Repeat([]byte{1}, 0x3c00)...),
		"a long one of none": append([]byte{0x86, 0x83, 1, 0xe0, 0}, bytes.Repeat([]byte{1}, 0x1e000)...),
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				issuer := func(host string) []byte { // one for each
					der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: new(big.Int).SetBytes([]byte(host)), RawSubject: ca.Cert.RawSubject,
						NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0), ExtraExtensions: san(names)}, ca.Cert, ca.Key().Public(), ca.Key())
					if err != nil {
						t.Fatal(err)
					}
					return der
				}
				s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					if r.Header.Get("Accept") != "" {
						return ca.Responder.RoundTrip(r)
					}
					return answers(http.StatusOK, "application/pkix-cert", issuer(r.URL.Host)), nil
				})}))
				const n = 20
				var certs []*tls.Certificate
				for i := range n {
					certs = append(certs, ca.Issue(ocsptest.Leaf{Key: ca.Key(), WithoutIssuer: true, IssuerURLs: []string{fmt.Sprintf("http://h%d.example/a", i), fmt.Sprintf("http://h%d.example/b", i)}}))
				}
				before := testkit.HeapBytes()
				_ = s.Prefetch(t.Context(), certs...)
				time.Sleep(10 * time.Second)
				if after := testkit.HeapBytes(); after > before+n<<15 {
					t.Errorf("%.0f KiB are kept for each certificate, an issuer has %d", (after-before)/n/1024, len(issuer("a"))>>10)
				}
				runtime.KeepAlive(certs)
			})
		})
	}
}

// A tenant's leaf with thousands of names takes 40 times its length once parsed. It is not
// kept so while its issuer is looked for, nor by the error of a call.
func TestMemoryOfLeafs(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		names, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Repeat([]byte{0x86, 2, 'a', ':'}, 15_000)})
		if err != nil {
			t.Fatal(err)
		}
		var certs []*tls.Certificate
		const n = 20
		for i := range n {
			leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(int64(i)), NotAfter: time.Now().AddDate(1, 0, 0),
				OCSPServer: []string{"http://ocsp.example"}, IssuingCertificateURL: []string{fmt.Sprintf("http://h%d.example", i)},
				ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}}, ca.Cert, ca.Key().Public(), ca.Key())
			if err != nil {
				t.Fatal(err)
			}
			certs = append(certs, &tls.Certificate{Certificate: [][]byte{leaf}})
		}
		before := testkit.HeapBytes()
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}))
		testkit.Carrying(s, certs)
		time.Sleep(4 * time.Second)
		if after := testkit.HeapBytes(); after > before+n<<17 {
			t.Errorf("%.0f KiB are kept for each certificate of 60 that waits", (after-before)/n/1024)
		}
		err = s.Prefetch(t.Context(), certs...)
		if after := testkit.HeapBytes(); err == nil || after > before+n<<17 {
			t.Errorf("%.0f KiB are kept for each certificate of 60 that failed: %v", (after-before)/n/1024, err)
		}
		runtime.KeepAlive(err)
		runtime.KeepAlive(certs)
	})
}
