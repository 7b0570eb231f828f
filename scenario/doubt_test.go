package scenario_test

import (
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

const issuerURL = "http://issuer.example/ca"

// aloneLeaf comes without its issuer's certificate, which issuerURL has.
func aloneLeaf() ocsptest.Leaf {
	return ocsptest.Leaf{Names: []string{"a.example"}, WithoutIssuer: true, IssuerURLs: []string{issuerURL}}
}

// publishing returns a client that reaches ca's responder, and gets from issuerURL what
// issuer returns: nil is a failure.
func publishing(ca *ocsptest.CA, issuer func() []byte) staple.Option {
	return staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.String() != issuerURL {
			return ca.Responder.RoundTrip(r)
		}
		if der := issuer(); der != nil {
			return answers(http.StatusOK, "application/pkix-cert", der), nil
		}
		return nil, errors.New("unreachable")
	})})
}

func answers(status int, mediaType string, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {mediaType}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
}

// REQ E7: an issuer that was downloaded is kept where its responder does not know the
// certificate yet, or fails, and no other is found.
func TestDoubtedIssuerIsKept(t *testing.T) {
	for name, fault := range map[string]ocsptest.Fault{"unauthorized": ocsptest.FaultUnauthorized, "stale": ocsptest.FaultExpired, "junk": ocsptest.FaultJunkBody} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				leaf, issuer := ca.Issue(aloneLeaf()), new(atomic.Pointer[[]byte])
				issuer.Store(&ca.Cert.Raw)
				s := testkit.Stapler(t, ca, publishing(ca, func() []byte { return *issuer.Load() }))
				ca.Responder.SetFault(fault)
				testkit.List(t, s, leaf)
				time.Sleep(500 * time.Millisecond)
				issuer.Store(new([]byte))
				ca.Responder.ClearFaults()
				time.Sleep(20 * time.Minute)
				if !testkit.Stapled(t, s, ca, leaf) {
					t.Error(s.Ready())
				}
			})
		})
	}
}

// So is one out of a record whose response has expired, for a leaf that names no URL.
func TestDoubtedIssuerOfARecordIsKept(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		whole := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		st := learned(t, ca, whole)
		leaf := *whole
		leaf.Certificate = whole.Certificate[:1:1]
		time.Sleep(8 * testkit.Day)
		ca.Responder.Script(ocsptest.FaultUnauthorized, ocsptest.FaultUnauthorized)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, s, &leaf)
		time.Sleep(time.Hour)
		if !testkit.Stapled(t, s, ca, &leaf) {
			t.Error(s.Ready())
		}
	})
}

// keyAsked returns the issuerKeyHash of a request.
func keyAsked(t *testing.T, r *http.Request) []byte {
	var der []byte
	if r.Method == http.MethodPost {
		der, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(der))
	} else {
		path := r.URL.EscapedPath()
		text, _ := url.PathUnescape(path[strings.LastIndexByte(path, '/')+1:])
		der, _ = base64.StdEncoding.DecodeString(text)
	}
	q, err := ocsp.ParseRequest(der)
	if err != nil {
		t.Error(err)
		return nil
	}
	return q.IssuerKeyHash
}

// REQ I4: a responder may say in many ways that it does not know an issuer: one that serves
// files has none. One forged download costs no certificate its staple for good.
func TestDoubtWhateverTheResponderSays(t *testing.T) {
	for name, says := range map[string]*http.Response{
		"status 404":    answers(http.StatusNotFound, "text/plain", nil),
		"HTML":          answers(http.StatusOK, "text/html", nil),
		"internalError": answers(http.StatusOK, testkit.OCSPMedia, []byte("0\x03\x0a\x01\x02")),
		"tryLater":      answers(http.StatusOK, testkit.OCSPMedia, []byte("0\x03\x0a\x01\x03")),
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				body, _ := io.ReadAll(says.Body)
				leaf := ca.Issue(aloneLeaf())
				var der []byte
				fips140.WithoutEnforcement(func() { der, _ = ocsp.CreateRequest(leaf.Leaf, ca.Cert, nil) }) // by SHA-1
				genuine, _ := ocsp.ParseRequest(der)
				forged, downloads := forgedIssuer(t, ca.Cert, twinKey(t, leaf.Leaf, ca.Cert), 0), new(atomic.Int32)
				s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					if r.URL.String() == issuerURL {
						if downloads.Add(1) == 1 {
							return answers(http.StatusOK, "application/pkix-cert", forged), nil
						}
						return answers(http.StatusOK, "application/pkix-cert", ca.Cert.Raw), nil
					}
					if key := keyAsked(t, r); len(key) == len(genuine.IssuerKeyHash) && !bytes.Equal(key, genuine.IssuerKeyHash) {
						return answers(says.StatusCode, says.Header.Get("Content-Type"), body), nil
					}
					return ca.Responder.RoundTrip(r)
				})}))
				testkit.List(t, s, leaf)
				time.Sleep(10 * time.Minute)
				if !testkit.Stapled(t, s, ca, leaf) {
					t.Errorf("%d downloads: %v", downloads.Load(), s.Ready())
				}
			})
		})
	}
}

// A response that another request brought, by the right issuer, says nothing for a forged
// one that is in place when it comes.
func TestProofByAnotherIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		leaf := ca.Issue(aloneLeaf())
		whole := *leaf
		whole.Certificate = [][]byte{leaf.Certificate[0], ca.Cert.Raw}
		forged, downloads := forgedIssuer(t, ca.Cert, twinKey(t, leaf.Leaf, ca.Cert), 0), new(atomic.Int32)
		s := testkit.Stapler(t, ca, publishing(ca, func() []byte {
			if downloads.Add(1) == 1 {
				return forged
			}
			return ca.Cert.Raw
		}))
		ca.Responder.SetDelay(3 * time.Second)
		s.Staple(&whole)
		time.Sleep(time.Second)
		s.Forget(&whole)
		testkit.List(t, s, leaf)
		time.Sleep(5 * time.Second)
		ca.Responder.SetDelay(0)
		time.Sleep(10 * testkit.Day)
		if !testkit.Stapled(t, s, ca, leaf) || downloads.Load() == 0 {
			t.Errorf("%d downloads: %v", downloads.Load(), s.Ready())
		}
	})
}

// A tenant's CA may have the name of another, and its key's id. Both are found.
func TestTenantsCAOfTheSameName(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		key := testkit.NewKey(t)
		sign := func(tmpl, parent *x509.Certificate) *x509.Certificate {
			tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
			der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			cert, _ := x509.ParseCertificate(der)
			return cert
		}
		root := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: ca.Cert.RawSubject, SubjectKeyId: ca.Cert.SubjectKeyId, IsCA: true, BasicConstraintsValid: true}
		namesake := ocsptest.NewCA(ocsptest.Options{Cert: sign(root, root), Key: key, URL: "http://namesake.example"})
		lone := ca.Issue(aloneLeaf())
		next := ocsptest.Network(ca.Responder, namesake.Responder).Transport
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.String() == issuerURL {
				return nil, errors.New("unreachable")
			}
			return next.RoundTrip(r)
		})}))
		testkit.MustFetch(t, s, namesake.Issue(ocsptest.Leaf{Names: []string{"tenant.example"}}))
		testkit.MustFetch(t, s, ca.Issue(ocsptest.Leaf{Names: []string{"first.example"}}))
		testkit.List(t, s, lone)
		time.Sleep(time.Minute)
		if !testkit.Stapled(t, s, ca, lone) {
			t.Error(s.Ready())
		}
	})
}
