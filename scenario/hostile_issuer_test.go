package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// The issuer's certificate may come from where others write: a store, or a download
// by plain HTTP. Then it is good for verifying, and nothing of it reaches a client.

// issuerScene is a certificate of a root whose chain may be the leaf alone, while
// nobody but the store is there.
func issuerScene(t *testing.T, ca *ocsptest.CA) (whole, leaf *tls.Certificate) {
	t.Helper()
	whole = ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, IssuerURLs: []string{ca.Responder.IssuerURL("der")}})
	alone := *whole
	alone.Certificate = whole.Certificate[:1:1]
	return whole, &alone
}

// fromRecord is what a new process staples of a record by itself.
func fromRecord(t *testing.T, cert *tls.Certificate, data []byte) []byte {
	t.Helper()
	var down wiretap
	s := staple.New(staple.WithHTTPClient(down.client()), staple.WithStore(oneRecord(data)))
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	_ = s.Prefetch(context.Background(), cert) // what is stapled tells
	return s.Staple(cert).OCSPStaple
}

// recordOf is the record that a process leaves of cert.
func recordOf(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, opts ...staple.Option) []byte {
	t.Helper()
	st := new(testkit.Shelf)
	s := testkit.Stapler(t, ca, append(opts, staple.WithStore(st))...)
	if err := s.Prefetch(context.Background(), cert); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	_, data := st.Only(t)
	return data
}

// withCerts is a response with those certificates in it.
func withCerts(raw []byte, certs ...[]byte) []byte {
	m := dissect(raw)
	m.certs = certs
	return m.encode()
}

func among(got []byte, forms ...[]byte) bool {
	return slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Equal(f, got) })
}

// TestRecordHoldsIssuer: a record is enough for a restart, whatever else is down.
//
// REQ E1, REQ I1
func TestRecordHoldsIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		whole, leaf := issuerScene(t, ca)
		bare := ca.Responder.Response(whole)
		var path wiretap
		path.carry(withCerts(bare, ca.Cert.Raw, ca.Cert.Raw, whole.Certificate[0]))
		for name, data := range map[string][]byte{
			"chain":      recordOf(t, ca, whole, staple.WithHTTPClient(path.client())),
			"configured": recordOf(t, ca, leaf, staple.WithHTTPClient(path.client()), staple.WithIssuers(ca.Cert)),
		} {
			response, rest := pem.Decode(data)
			issuer, rest := pem.Decode(rest)
			if response == nil || response.Type != "OCSP RESPONSE" || !among(response.Bytes, bare, withCerts(bare, ca.Cert.Raw)) {
				t.Errorf("%s: the record does not begin with the response in its shortest form", name)
			}
			if issuer == nil || issuer.Type != "CERTIFICATE" || !bytes.Equal(issuer.Bytes, ca.Cert.Raw) || len(rest) > 0 {
				t.Errorf("%s: the record does not end with the issuer's certificate", name)
			}
			if got := fromRecord(t, whole, data); !bytes.Equal(got, bare) {
				t.Errorf("%s: %d bytes stapled to a whole chain, want %d", name, len(got), len(bare))
			}
			if got := fromRecord(t, leaf, data); !among(got, bare, withCerts(bare, ca.Cert.Raw)) {
				t.Errorf("%s: %d bytes stapled to the leaf alone, want %d", name, len(got), len(bare))
			}
		}
	})
}

// TestRecordHoldsWrongIssuer: the issuer in a record counts if it signed the leaf.
//
// REQ I1, REQ I4
func TestRecordHoldsWrongIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		whole, leaf := issuerScene(t, ca)
		impostor := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
		its := impostor.Issue(ocsptest.Leaf{Serial: whole.Leaf.SerialNumber})
		for name, r := range map[string]struct {
			raw []byte
			// What stands after it.
			typ    string
			issuer []byte
		}{
			"none":                  {ca.Responder.Response(whole), "", nil},
			"impostor":              {ca.Responder.Response(whole), "CERTIFICATE", impostor.Cert.Raw},
			"impostor's response":   {impostor.Responder.Response(its), "CERTIFICATE", impostor.Cert.Raw},
			"the leaf":              {ca.Responder.Response(whole), "CERTIFICATE", whole.Certificate[0]},
			"junk":                  {ca.Responder.Response(whole), "CERTIFICATE", []byte("junk")},
			"empty":                 {ca.Responder.Response(whole), "CERTIFICATE", nil},
			"another kind of block": {ca.Responder.Response(whole), "TRUSTED CERTIFICATE", ca.Cert.Raw},
		} {
			data := block("OCSP RESPONSE", r.raw, time.Now())
			if r.typ != "" {
				data = append(data, pem.EncodeToMemory(&pem.Block{Type: r.typ, Bytes: r.issuer})...)
			}
			if got := fromRecord(t, leaf, data); got != nil {
				t.Errorf("%s: %d bytes stapled, want nothing", name, len(got))
			}
			if got := fromRecord(t, whole, data); (got == nil) != (name == "impostor's response") {
				t.Errorf("%s: %d bytes stapled to a whole chain, which needs no other issuer", name, len(got))
			}
		}
	})
}

// forgeries are certificates with the name and the key of a root, which is all that
// the leaf's signature proves. GnuTLS refuses a response that has any of them.
func forgeries(t *testing.T, root *x509.Certificate) map[string][]byte {
	s := &scene{signer: root, began: time.Now(), stranger: testkit.NewKey(t)}
	e := elements(root.Raw)
	return map[string][]byte{
		"a stranger's":      s.certificate(s.stranger, &x509.Certificate{RawSubject: root.RawSubject}, nil, root.PublicKey),
		"an element more":   sequence(append(e[:3:3], []byte{5, 0})...),
		"shifted":           sequence(e[0], e[1], shifted(e[2])),
		"another signature": sequence(e[0], e[1], twin(ecdsaKey(root), e[2])),
	}
}

// TestForgedIssuer: an issuer's certificate that others had in their hands is in no
// staple, altered.
//
// REQ I1
func TestForgedIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		whole, leaf := issuerScene(t, ca)
		bare := ca.Responder.Response(whole)
		ok := [][]byte{nil, bare, withCerts(bare, ca.Cert.Raw)}
		for name, forged := range forgeries(t, ca.Cert) {
			data := append(block("OCSP RESPONSE", bare, time.Now()), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged})...)
			if got := fromRecord(t, leaf, data); !among(got, ok...) {
				t.Errorf("%s, in a record: %d bytes stapled", name, len(got))
			}
			for media, der := range map[string][]byte{
				"application/pkix-cert":  forged,
				"application/x-pem-file": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged}),
			} {
				rt := testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
					typ, body := testkit.OCSPMedia, bare
					if strings.Contains(req.URL.Path, "issuer.") {
						typ, body = media, der
					}
					return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {typ}}, Request: req,
						Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}, nil
				})
				s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: rt}))
				_ = s.Prefetch(context.Background(), leaf) // what is stapled tells
				if got := s.Staple(leaf).OCSPStaple; !among(got, ok...) {
					t.Errorf("%s, downloaded as %s: %d bytes stapled", name, media, len(got))
				}
			}
		}
	})
}

// TestOlderDelegateOnce: who puts an older certificate of the delegate, which ends in
// minutes, into the first response, and leaves its ETag, causes no gap.
//
// REQ I1, REQ E7
func TestOlderDelegateOnce(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated})
		ca.Responder.SetPresign(true)
		cert := ca.Issue(ocsptest.Leaf{})
		s := &scene{ca: ca, began: time.Now(), signer: parseCertificate(t, dissect(ca.Responder.Response(cert)).certs[0])}
		older := s.other(s.began.Add(-time.Hour), s.began.Add(5*time.Minute))
		struck := false
		rt := testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := ca.Responder.RoundTrip(req)
			if err != nil || struck {
				return resp, err
			}
			struck = true
			raw, err := io.ReadAll(resp.Body)
			m := dissect(raw)
			m.certs = [][]byte{older}
			body := m.encode()
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			resp.Header.Del("Content-Length")
			return resp, errors.Join(err, resp.Body.Close())
		})
		st := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: rt}))
		if err := st.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		for range 6 * 60 {
			time.Sleep(10 * time.Second)
			raw := st.Staple(cert).OCSPStaple
			if raw == nil {
				t.Fatalf("nothing stapled after %v", time.Since(s.began))
			}
			if end := parseCertificate(t, dissect(raw).certs[0]).NotAfter; !time.Now().Before(end) {
				t.Fatalf("stapled after %v, though the delegate's certificate ended at %v", time.Since(s.began), end)
			}
		}
		if got := dissect(st.Staple(cert).OCSPStaple).certs[0]; !bytes.Equal(got, s.signer.Raw) {
			t.Error("the certificate in use does not come back")
		}
	})
}

// TestOtherDelegatesOlderCertificate: who puts an older certificate of a delegate,
// which ends in minutes, into a newer response, and then cuts the line, does not
// shorten what was held by another delegate's response.
//
// REQ I1, REQ E7
func TestOtherDelegatesOlderCertificate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated})
		cert := ca.Issue(ocsptest.Leaf{})
		first := ca.Responder.Response(cert)
		var path wiretap
		path.carry(first)
		st := testkit.Stapler(t, ca, staple.WithHTTPClient(path.client()))
		if err := st.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, KeyType: ocsptest.ECDSAP384})
		m := dissect(ca.Responder.Response(cert))
		s := &scene{ca: ca, began: time.Now(), signer: parseCertificate(t, m.certs[0])}
		m.certs = [][]byte{s.other(s.began.Add(-time.Hour), s.began.Add(70*time.Minute))} // the refresh is in an hour
		path.carry(m.encode())
		time.Sleep(65 * time.Minute)
		path.body.Store(nil)
		time.Sleep(24 * time.Hour)
		if got := st.Staple(cert).OCSPStaple; !bytes.Equal(got, first) {
			t.Errorf("%d bytes stapled a day later, want the first response", len(got))
		}
	})
}
