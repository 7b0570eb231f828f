package scenario_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// What a responder's TLS certificate says of itself commands no terminal: crypto/x509
// quotes its names as they are, before anything about it was verified.
func TestErrorsAreLegible(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		refuses := testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"a\x1b]0;owned\a\r.test"}}, Host: r.URL.Host}
		})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: refuses}))
		defer s.Close()
		err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{}))
		if err == nil || !strings.Contains(err.Error(), "owned") || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q", err)
		}
	})
}

// What others name costs little to show: package pkix writes a name of thousands of
// attributes in a time that is the square of their number.
//
// REQ G6
func TestLongNamesCostLittle(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		names := longNames(5000)
		s := testkit.Stapler(t, ca)
		for i, name := range names {
			issuer, key := &x509.Certificate{RawSubject: name}, testkit.NewKey(t)
			template := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: names[1-i], OCSPServer: []string{ca.Responder.URL()}, NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			if s.Prefetch(background, &tls.Certificate{Certificate: [][]byte{der}}) == nil {
				t.Error("an issuer was found")
			}
			leaf, other := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{Template: func(c *x509.Certificate) { c.RawSubject = name }}).Leaf
			m := dissect(ca.Responder.Response(leaf))
			data := elements(m.data)
			data[0] = tlv(explicit(1), name) // the responderID
			m.data = sequence(data...)
			for what, text := range map[string]func() string{
				"Status": func() string { return s.Status()[i].Err.Error() },
				"Ready":  func() string { return s.Ready().Error() },
				"the issuer's name": func() string {
					_, err := staple.Verify(ca.Responder.Response(leaf), leaf.Leaf, other)
					return err.Error()
				},
				"the responder's name": func() string {
					_, err := staple.Verify(m.encode(), leaf.Leaf, ca.Cert)
					return err.Error()
				},
			} {
				if n, length := allocated(text); n > 16<<20 || length > 4<<10 {
					t.Errorf("%s: %d bytes of text, %d MB", what, length, n>>20)
				}
			}
		}
	})
}

// longNames returns two names in DER with n attributes: one that package pkix knows, and
// one that it does not.
func longNames(n int) (names [2][]byte) {
	for i, oid := range []asn1.ObjectIdentifier{{2, 5, 4, 11}, {2, 5, 5, 11}} {
		attribute, err := asn1.Marshal([]any{oid, "A"})
		if err != nil {
			panic(err)
		}
		names[i] = sequence(bytes.Repeat(tlv(0x31, attribute), n))
	}
	return names
}

// allocated returns how many bytes are allocated for a text, and its length.
func allocated(text func() string) (total uint64, length int) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	length = len(text())
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, length
}
