package ocsptest_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

// The structures of RFC 6960 for encoding/asn1: a decoder that shares nothing with the encoder.
type (
	rawResponse struct {
		Raw    asn1.RawContent
		Status asn1.Enumerated
		Bytes  rawBytes `asn1:"explicit,tag:0,optional"`
	}
	rawBytes struct {
		Raw   asn1.RawContent
		Type  asn1.ObjectIdentifier
		Basic []byte
	}
	rawBasic struct {
		Raw       asn1.RawContent
		Data      rawData
		Algorithm rawAlgorithm
		Signature asn1.BitString
		Certs     []asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	rawAlgorithm struct {
		Raw        asn1.RawContent
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	rawData struct {
		Raw         asn1.RawContent
		Version     int `asn1:"optional,default:0,explicit,tag:0"`
		ResponderID asn1.RawValue
		ProducedAt  time.Time `asn1:"generalized"`
		Singles     []rawSingle
		Extensions  []pkix.Extension `asn1:"explicit,tag:1,optional"`
	}
	rawSingle struct {
		Raw        asn1.RawContent
		ID         rawID
		Status     asn1.RawValue
		ThisUpdate time.Time        `asn1:"generalized"`
		NextUpdate time.Time        `asn1:"generalized,explicit,tag:0,optional"`
		Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
	}
	rawID struct {
		Raw       asn1.RawContent
		Hash      pkix.AlgorithmIdentifier
		Name, Key []byte
		Serial    asn1.RawValue
	}
)

// decode takes a successful response apart.
func decode(t *testing.T, der []byte) (rawResponse, rawBasic) {
	t.Helper()
	var r rawResponse
	var b rawBasic
	if _, err := asn1.Unmarshal(der, &r); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(r.Bytes.Basic, &b); err != nil {
		t.Fatal(err)
	}
	return r, b
}

// REQ F: the status of each certificate.
func TestStatus(t *testing.T) {
	ca := ocsptest.NewCA()
	cert, other := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})
	if got := mustFetch(t, ca, cert); got.Status != ocsp.Good || got.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 {
		t.Errorf("got status %d", got.Status)
	}
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, at)
	if got := mustFetch(t, ca, cert); got.Status != ocsp.Revoked || got.RevocationReason != ocsp.KeyCompromise || !got.RevokedAt.Equal(at) {
		t.Errorf("got status %d, reason %d, at %v", got.Status, got.RevocationReason, got.RevokedAt)
	}
	if got := mustFetch(t, ca, other); got.Status != ocsp.Good {
		t.Errorf("got status %d of the other", got.Status)
	}
	ca.Responder.Revoke(cert, ocsp.CertificateHold, time.Unix(0, 0))
	if got := mustFetch(t, ca, cert); got.RevocationReason != ocsp.CertificateHold || !got.RevokedAt.Equal(time.Unix(0, 0)) {
		t.Errorf("got reason %d at %v", got.RevocationReason, got.RevokedAt)
	}
	ca.Responder.SetUnknown(cert)
	if got := mustFetch(t, ca, cert); got.Status != ocsp.Unknown {
		t.Errorf("got status %d, want unknown", got.Status)
	}
	ca.Responder.SetUnauthorized(cert)
	wantStatus(t, ca, cert, ocsp.Unauthorized)
	ca.Responder.SetGood(cert)
	if got := mustFetch(t, ca, cert); got.Status != ocsp.Good {
		t.Errorf("got status %d, want good", got.Status)
	}
}

// REQ F: unauthorized for what the CA never issued: another CA's, or one of its own name.
func TestNeverIssued(t *testing.T) {
	ca := ocsptest.NewCA()
	twin := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
	cert := twin.Issue(ocsptest.Leaf{})
	for _, issuer := range []*ocsptest.CA{ca, twin} {
		req := post(t, ca.Responder.URL(), request(t, issuer, cert, crypto.SHA1))
		a := ask(t.Context(), ca.Responder.Client(), req)
		if !bytes.Equal(a.body, ocsp.UnauthorizedErrorResponse) {
			t.Errorf("got %x", a.body)
		}
	}
	// The serial alone is not enough: a certificate of the twin with the serial of one of ours.
	mine := ca.Issue(ocsptest.Leaf{})
	cert = twin.Issue(ocsptest.Leaf{Serial: mine.Leaf.SerialNumber})
	req := post(t, ca.Responder.URL(), request(t, twin, cert, crypto.SHA1))
	if a := ask(t.Context(), ca.Responder.Client(), req); !bytes.Equal(a.body, ocsp.UnauthorizedErrorResponse) {
		t.Errorf("got %x", a.body)
	}
}

func wantStatus(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, want ocsp.ResponseStatus) {
	t.Helper()
	_, err := fetch(t, ca, cert)
	var got ocsp.ResponseError
	if !errors.As(err, &got) || got.Status != want {
		t.Errorf("got %v, want status %v", err, want)
	}
}

// REQ F: validity, and no nextUpdate.
func TestValidity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{})
		for _, d := range []time.Duration{0, 4 * time.Second, 10 * 24 * time.Hour} {
			ca.Responder.SetValidity(d)
			if d == 0 {
				d = 4 * 24 * time.Hour
			}
			got := mustFetch(t, ca, cert)
			if !got.ThisUpdate.Equal(time.Now()) || !got.ProducedAt.Equal(time.Now()) || got.NextUpdate.Sub(got.ThisUpdate) != d {
				t.Errorf("got %v to %v, want %v", got.ThisUpdate, got.NextUpdate, d)
			}
		}
		ca.Responder.SetNoNextUpdate(true)
		if got := mustFetch(t, ca, cert); !got.NextUpdate.IsZero() {
			t.Errorf("got nextUpdate %v", got.NextUpdate)
		}
	})
}

// REQ F: CertIDs by SHA-1, SHA-256 and both.
func TestCertIDs(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	no := []crypto.Hash(nil)
	for _, test := range []struct {
		set    ocsptest.CertIDs
		asked  crypto.Hash
		answer []crypto.Hash
	}{
		{ocsptest.AsAsked, crypto.SHA1, []crypto.Hash{crypto.SHA1}},
		{ocsptest.AsAsked, crypto.SHA256, []crypto.Hash{crypto.SHA256}},
		{ocsptest.AsAsked, crypto.SHA384, []crypto.Hash{crypto.SHA384}},
		{ocsptest.AsAsked, crypto.SHA512, []crypto.Hash{crypto.SHA512}},
		{ocsptest.SHA1Only, crypto.SHA1, []crypto.Hash{crypto.SHA1}},
		{ocsptest.SHA1Only, crypto.SHA256, no},
		{ocsptest.SHA256Only, crypto.SHA1, no},
		{ocsptest.SHA256Only, crypto.SHA256, []crypto.Hash{crypto.SHA256}},
		{ocsptest.DualHash, crypto.SHA1, []crypto.Hash{crypto.SHA1, crypto.SHA256}},
		{ocsptest.DualHash, crypto.SHA256, []crypto.Hash{crypto.SHA1, crypto.SHA256}},
	} {
		ca.Responder.SetCertIDs(test.set)
		req := post(t, ca.Responder.URL(), request(t, ca, cert, test.asked))
		a := ask(t.Context(), ca.Responder.Client(), req)
		if test.answer == nil {
			if !bytes.Equal(a.body, ocsp.UnauthorizedErrorResponse) {
				t.Errorf("%v asked with %v: got %x", test.set, test.asked, a.body)
			}
			continue
		}
		_, basic := decode(t, a.body)
		if len(basic.Data.Singles) != len(test.answer) {
			t.Errorf("%v asked with %v: got %d singles", test.set, test.asked, len(basic.Data.Singles))
			continue
		}
		for i, hash := range test.answer {
			wantID(t, ca, cert, basic.Data.Singles[i].ID, hash)
		}
	}
}

// wantID compares a CertID with the one in a request that x/crypto/ocsp made.
func wantID(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, got rawID, hash crypto.Hash) {
	t.Helper()
	want, err := ocsp.ParseRequest(request(t, ca, cert, hash))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Name, want.IssuerNameHash) || !bytes.Equal(got.Key, want.IssuerKeyHash) ||
		!bytes.Equal(got.Serial.Bytes, cert.Leaf.SerialNumber.Bytes()) {
		t.Errorf("%v: got name %x, key %x, serial %x", hash, got.Name, got.Key, got.Serial.Bytes)
	}
}

// REQ F: signers, keys and responder IDs that are right. x/crypto/ocsp judges where it can, and
// openssl in TestOpenSSL.
func TestSigners(t *testing.T) {
	for _, typ := range []ocsptest.KeyType{ocsptest.ECDSAP256, ocsptest.ECDSAP384, ocsptest.RSA2048} {
		ca := ocsptest.NewCA(ocsptest.Options{KeyType: typ})
		cert := ca.Issue(ocsptest.Leaf{})
		for _, by := range []ocsptest.Signer{ocsptest.Direct, ocsptest.Delegated} {
			for _, byKey := range []bool{false, true} {
				ca.Responder.SetSign(ocsptest.Sign{By: by, KeyType: typ, ByKey: byKey})
				got, err := fetch(t, ca, cert)
				if err != nil {
					t.Errorf("%v, %v: %v", typ, by, err)
					continue
				}
				signer := ca.Cert
				if by == ocsptest.Delegated {
					signer = got.Certificate
				}
				wantResponder(t, got, signer, byKey)
			}
		}
	}
}

// wantResponder checks a responder ID.
func wantResponder(t *testing.T, got *ocsp.Response, signer *x509.Certificate, byKey bool) {
	t.Helper()
	if !byKey {
		if !bytes.Equal(got.RawResponderName, signer.RawSubject) || got.ResponderKeyHash != nil {
			t.Errorf("got name %x", got.RawResponderName)
		}
		return
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(signer.RawSubjectPublicKeyInfo, &spki); err != nil {
		t.Fatal(err)
	}
	if want := sha1Sum(spki.Key.Bytes); !bytes.Equal(got.ResponderKeyHash, want) {
		t.Errorf("got key hash %x, want %x", got.ResponderKeyHash, want)
	}
}

// The delegate stays the same between requests, and Template and NotAfter shape it.
func TestDelegate(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, NotAfter: end, Template: func(c *x509.Certificate) {
		c.KeyUsage = x509.KeyUsageContentCommitment
	}})
	first, second := mustFetch(t, ca, cert), mustFetch(t, ca, cert)
	if !bytes.Equal(first.Certificate.Raw, second.Certificate.Raw) {
		t.Error("a new delegate for the second request")
	}
	ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated})
	if third, fourth := mustFetch(t, ca, cert), mustFetch(t, ca, cert); !bytes.Equal(third.Certificate.Raw, fourth.Certificate.Raw) {
		t.Error("a new delegate for the second request, without Template")
	}
	if got := first.Certificate; !got.NotAfter.Equal(end) || got.KeyUsage != x509.KeyUsageContentCommitment {
		t.Errorf("got a delegate until %v with key usage %b", got.NotAfter, got.KeyUsage)
	}
	if err := first.Certificate.CheckSignatureFrom(ca.Cert); err != nil {
		t.Error(err)
	}
}

// REQ F: RSA-PSS and Ed25519, which x/crypto/ocsp cannot verify but crypto/x509 can.
func TestSignatures(t *testing.T) {
	rsa := ocsptest.NewCA(ocsptest.Options{KeyType: ocsptest.RSA2048})
	ed := ocsptest.NewCA(ocsptest.Options{KeyType: ocsptest.Ed25519})
	ec := ocsptest.NewCA()
	for _, test := range []struct {
		ca  *ocsptest.CA
		alg x509.SignatureAlgorithm
	}{
		{rsa, x509.SHA256WithRSA}, {rsa, x509.SHA384WithRSA}, {rsa, x509.SHA512WithRSA},
		{rsa, x509.SHA256WithRSAPSS}, {rsa, x509.SHA384WithRSAPSS}, {rsa, x509.SHA512WithRSAPSS},
		{ec, x509.ECDSAWithSHA256}, {ec, x509.ECDSAWithSHA384}, {ec, x509.ECDSAWithSHA512}, {ed, x509.PureEd25519},
	} {
		test.ca.Responder.SetSign(ocsptest.Sign{Algorithm: test.alg})
		_, basic := decode(t, test.ca.Responder.Response(test.ca.Issue(ocsptest.Leaf{})))
		if err := test.ca.Cert.CheckSignature(test.alg, basic.Data.Raw, basic.Signature.Bytes); err != nil {
			t.Errorf("%v: %v", test.alg, err)
		}
		// A certificate that crypto/x509 signs so has the same AlgorithmIdentifier.
		want := test.ca.Issue(ocsptest.Leaf{Template: func(c *x509.Certificate) { c.SignatureAlgorithm = test.alg }})
		if !bytes.Contains(want.Leaf.Raw, basic.Algorithm.Raw) {
			t.Errorf("%v: got AlgorithmIdentifier %x", test.alg, basic.Algorithm.Raw)
		}
	}
}

// Build shapes a response freely; for another CA's certificate it is unauthorized at first.
func TestBuild(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	der := ca.Responder.Build(cert, func(s *ocsptest.Spec) {
		s.ProducedAt = at
		s.Singles[0].ThisUpdate, s.Singles[0].NextUpdate = at, at.Add(time.Minute)
		s.Singles = append(s.Singles, s.Singles[0])
		s.Singles[1].Status, s.Singles[1].RevokedAt = ocsp.Revoked, at
		s.Certs = [][]byte{other.Cert.Raw}
	})
	_, basic := decode(t, der)
	if d := basic.Data; !d.ProducedAt.Equal(at) || len(d.Singles) != 2 || !d.Singles[0].NextUpdate.Equal(at.Add(time.Minute)) ||
		d.Singles[0].Status.Tag != 0 || d.Singles[1].Status.Tag != 1 || !bytes.Equal(basic.Certs[0].FullBytes, other.Cert.Raw) {
		t.Errorf("got %+v", d)
	}
	if n := ca.Responder.Requests(); n != 0 {
		t.Errorf("Build counted %d requests", n)
	}
	if got := ca.Responder.Response(other.Issue(ocsptest.Leaf{})); !bytes.Equal(got, ocsp.UnauthorizedErrorResponse) {
		t.Errorf("got %x", got)
	}
	stranger := other.Issue(ocsptest.Leaf{})
	der = ca.Responder.Build(stranger, func(s *ocsptest.Spec) { s.Status = ocsp.Success })
	if got, err := ocsp.ParseResponseForCert(der, stranger.Leaf, ca.Cert); err != nil || got.Status != ocsp.Good {
		t.Errorf("got %v, %v", got, err)
	}
}

// SetEdit does to what is served what Build does to one response.
func TestEdit(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetEdit(func(s *ocsptest.Spec) { s.Singles[0].Status = ocsp.Unknown })
	if got := mustFetch(t, ca, cert); got.Status != ocsp.Unknown {
		t.Errorf("got status %d", got.Status)
	}
}

// Every Junk is where it says, once, and neither encoding/asn1 nor the signature minds it.
func TestJunk(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	for name, test := range map[string]struct {
		junk ocsptest.Junk
		in   func(r rawResponse, b rawBasic) (outer []byte, inner [][]byte)
	}{
		"response": {ocsptest.JunkResponse, func(r rawResponse, b rawBasic) ([]byte, [][]byte) { return r.Raw, [][]byte{r.Bytes.Raw} }},
		"bytes":    {ocsptest.JunkBytes, func(r rawResponse, b rawBasic) ([]byte, [][]byte) { return r.Bytes.Raw, [][]byte{b.Raw} }},
		"basic": {ocsptest.JunkBasic, func(r rawResponse, b rawBasic) ([]byte, [][]byte) {
			return b.Raw, [][]byte{b.Data.Raw, b.Algorithm.Raw}
		}},
		"algorithm": {ocsptest.JunkAlgorithm, func(r rawResponse, b rawBasic) ([]byte, [][]byte) { return b.Algorithm.Raw, nil }},
		"data": {ocsptest.JunkData, func(r rawResponse, b rawBasic) ([]byte, [][]byte) {
			return b.Data.Raw, [][]byte{b.Data.Singles[0].Raw}
		}},
		"single": {ocsptest.JunkSingle, func(r rawResponse, b rawBasic) ([]byte, [][]byte) {
			return b.Data.Singles[0].Raw, [][]byte{b.Data.Singles[0].ID.Raw}
		}},
		"certID": {ocsptest.JunkCertID, func(r rawResponse, b rawBasic) ([]byte, [][]byte) { return b.Data.Singles[0].ID.Raw, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			der := ca.Responder.Build(cert, func(s *ocsptest.Spec) { s.Junk = test.junk })
			if n := bytes.Count(der, []byte("junk")); n != 1 {
				t.Errorf("got it %d times", n)
			}
			outer, inner := test.in(decode(t, der))
			if !bytes.Contains(outer, []byte("junk")) {
				t.Error("not where it should be")
			}
			for _, in := range inner {
				if bytes.Contains(in, []byte("junk")) {
					t.Error("too far inside")
				}
			}
			if _, err := ocsp.ParseResponseForCert(der, cert.Leaf, ca.Cert); err != nil {
				t.Error(err)
			}
		})
	}
}
