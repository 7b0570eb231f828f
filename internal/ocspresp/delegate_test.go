package ocspresp_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// TestDelegateDatesWhenKnown: knowing a delegate doesn't keep it alive.
//
// REQ B6
func TestDelegateDatesWhenKnown(t *testing.T) {
	v := ownVectors(t)
	sub, raw := v.subject("delegated-ends-first"), v.response("delegated-ends-first")
	if _, err := sub.Verify(raw, v.Time, 0); err != nil {
		t.Fatal(err)
	}
	_, err := sub.Verify(raw, v.Time.AddDate(0, 0, 2), 0)
	if got := ocspresp.ReasonOf(err); got != ocspresp.DelegateValidity {
		t.Errorf("got %v, want %v", err, ocspresp.DelegateValidity)
	}
}

// TestDelegatesRemembered: those that may sign, a bounded number of them.
//
// REQ B6
func TestDelegatesRemembered(t *testing.T) {
	v := ownVectors(t)
	leaf, issuer := v.pair("delegated")
	iss := ocspresp.NewIssuer(issuer)
	sub := ocspresp.NewSubject(leaf, iss)
	for _, c := range v.Cases {
		if c.Issuer != v.find("delegated").Issuer {
			continue
		}
		before := iss.KnownDelegates()
		_, err := sub.Verify(v.response(c.Name), v.Time, 0)
		after := iss.KnownDelegates()
		switch ocspresp.ReasonOf(err) {
		case ocspresp.DelegateEKU, ocspresp.DelegateIssuer, ocspresp.DelegateExtension, ocspresp.DelegateAlgorithm:
			if after != before {
				t.Errorf("%s: a delegate that was refused is remembered", c.Name)
			}
		}
	}
	if n := iss.KnownDelegates(); n == 0 || n > ocspresp.MaxDelegates {
		t.Errorf("got %d delegates, want up to %d", n, ocspresp.MaxDelegates)
	}
}

// TestDelegatesBounded: a CA may go through delegates for years.
//
// REQ B6
func TestDelegatesBounded(t *testing.T) {
	w := newWorld(t, newKey(t))
	iss := ocspresp.NewIssuer(w.ca)
	sub := ocspresp.NewSubject(w.leaf, iss)
	var delegates [][]byte
	for n := range 2*ocspresp.MaxDelegates + 1 {
		raw := w.delegatedResponse(int64(n))
		for range 2 {
			proof, err := sub.Verify(raw, time.Now(), 0)
			if err != nil {
				t.Fatalf("delegate %d: %v", n, err)
			}
			delegates = append(delegates[:n], proof.Response().Certificate.Raw)
		}
		if got, want := iss.KnownDelegates(), min(n+1, ocspresp.MaxDelegates); got != want {
			t.Errorf("after %d: got %d delegates, want %d", n+1, got, want)
		}
	}
	for n, der := range delegates {
		if want := n >= len(delegates)-ocspresp.MaxDelegates; iss.Knows(der) != want {
			t.Errorf("delegate %d of %d: known %v, want %v", n, len(delegates), !want, want)
		}
	}
}

// TestMessage: what came from the network is in a message, but neither all of it
// nor as it came.
func TestMessage(t *testing.T) {
	w := newWorld(t, newKey(t))
	delegate, key := w.delegate("\x1b[31m\n"+strings.Repeat("long ", 150), 1)
	raw := w.respond(delegate, nil, key)
	err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Check(raw, time.Now())
	if got := ocspresp.ReasonOf(err); got != ocspresp.Signer {
		t.Fatalf("got %v, want %v", err, ocspresp.Signer)
	}
	if s := err.Error(); len(s) > 300 || strings.ContainsAny(s, "\x1b\n") || !strings.Contains(s, "responder CN=") {
		t.Errorf("got %q", s)
	}
}

// TestMessageOfLongNames: a delegate's names may have thousands of attributes, and cost
// little to show.
func TestMessageOfLongNames(t *testing.T) {
	w := newWorld(t, newKey(t))
	other := newWorld(t, newKey(t))
	key := newKey(t)
	var name pkix.Name
	for range 3000 {
		name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: encasn1.ObjectIdentifier{2, 5, 5, 11}, Value: "A"})
	}
	other.ca.RawSubject = nil // CreateCertificate takes Subject
	other.ca.Subject = name
	template := x509.Certificate{SerialNumber: big.NewInt(3), Subject: name}
	for _, tt := range []struct {
		name     string
		delegate *x509.Certificate
		reason   ocspresp.Reason
		want     string
	}{
		{"subject", w.sign(&template, key.Public()), ocspresp.DelegateEKU, "2.5.5.11="},
		{"issuer", other.sign(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "x"}}, key.Public()), ocspresp.DelegateIssuer, "issued by 2.5.5.11="},
	} {
		raw := w.respond(tt.delegate, tt.delegate, key)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Check(raw, time.Now())
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; ocspresp.ReasonOf(err) != tt.reason || !strings.Contains(err.Error(), tt.want) || n > 16<<20 {
			t.Errorf("%s: got %v, want %q, and %d KB", tt.name, err, tt.want, n>>10)
		}
	}
}

// TestEmbeddedBounded: who fills a response with certificates that claim the
// signer's name gets but a few of them tried; others cost nothing, and may be many.
//
// REQ B7
func TestEmbeddedBounded(t *testing.T) {
	v := ownVectors(t)
	claimant := selfSigned(t, "delegate", nil)
	slow := selfSigned(t, "delegate", &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 8191, 1), E: 1<<31 - 1})
	other := selfSigned(t, "other", nil)
	for _, c := range []struct {
		name   string
		cert   []byte
		copies int
		want   ocspresp.Reason
	}{
		{"same name", claimant, ocspresp.MaxTries - 1, 0},
		{"same name", claimant, ocspresp.MaxTries, ocspresp.DelegateIssuer},
		{"same name, and slow", slow, ocspresp.MaxTries/4 - 1, 0},
		{"same name, and slow", slow, ocspresp.MaxTries / 4, ocspresp.DelegateIssuer},
		{"another name", other, 20 * ocspresp.MaxTries, 0},
	} {
		raw := withEmbedded(t, v.response("delegated"), c.cert, c.copies)
		err := v.subject("delegated").Check(raw, v.Time)
		if got := ocspresp.ReasonOf(err); got != c.want {
			t.Errorf("%d of %s: got %v, want %v", c.copies, c.name, err, c.want)
		}
	}
}

// selfSigned has pub for its key, or else one that it is signed with.
func selfSigned(t *testing.T, name string, pub any) []byte {
	t.Helper()
	key := newKey(t)
	if pub == nil {
		pub = key.Public()
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// withEmbedded puts copies of cert before those that raw has: they aren't signed.
func withEmbedded(t *testing.T, raw, cert []byte, copies int) []byte {
	t.Helper()
	return edit(t, raw, func(alg, certs []byte) ([]byte, []byte) {
		return alg, append(bytes.Repeat(cert, copies), certs...)
	})
}

// rewrap puts another AlgorithmIdentifier into raw: it isn't signed.
func rewrap(t *testing.T, raw, algorithm []byte) []byte {
	t.Helper()
	return edit(t, raw, func(_, certs []byte) ([]byte, []byte) { return algorithm, certs })
}

// edit changes what is not signed of a response: the AlgorithmIdentifier, and what
// is in certs.
func edit(t *testing.T, raw []byte, change func(alg, certs []byte) (newAlg, newCerts []byte)) []byte {
	t.Helper()
	explicit0 := asn1.Tag(0).ContextSpecific().Constructed()
	in := cryptobyte.String(raw)
	var body, status, bytes, oid, basic, tbs, alg, sig, certs cryptobyte.String
	ok := in.ReadASN1(&body, asn1.SEQUENCE) && body.ReadASN1Element(&status, asn1.ENUM) &&
		body.ReadASN1(&body, explicit0) && body.ReadASN1(&bytes, asn1.SEQUENCE) &&
		bytes.ReadASN1Element(&oid, asn1.OBJECT_IDENTIFIER) && bytes.ReadASN1(&basic, asn1.OCTET_STRING) &&
		basic.ReadASN1(&basic, asn1.SEQUENCE) && basic.ReadASN1Element(&tbs, asn1.SEQUENCE) &&
		basic.ReadASN1Element(&alg, asn1.SEQUENCE) && basic.ReadASN1Element(&sig, asn1.BIT_STRING) &&
		(basic.Empty() || basic.ReadASN1(&certs, explicit0) && certs.ReadASN1(&certs, asn1.SEQUENCE))
	if !ok {
		t.Fatal("not a response")
	}
	wrap := func(tag asn1.Tag, parts ...[]byte) []byte {
		var b cryptobyte.Builder
		b.AddASN1(tag, func(b *cryptobyte.Builder) {
			for _, p := range parts {
				b.AddBytes(p)
			}
		})
		return b.BytesOrPanic()
	}
	newAlg, newCerts := change(alg, certs)
	parts := [][]byte{tbs, newAlg, sig}
	if len(newCerts) > 0 {
		parts = append(parts, wrap(explicit0, wrap(asn1.SEQUENCE, newCerts)))
	}
	basic = wrap(asn1.SEQUENCE, parts...)
	return wrap(asn1.SEQUENCE, status, wrap(explicit0, wrap(asn1.SEQUENCE, oid, wrap(asn1.OCTET_STRING, basic))))
}

// A delegate with a key that takes seconds is not tried, though its CA signed it:
// on a server with many customers the CA may be one of them.
//
// REQ B14
func TestHugeDelegate(t *testing.T) {
	w := newWorld(t, newKey(t))
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 100_000, 1), E: 1<<31 - 1}
	d := w.sign(&x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "delegate"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}, huge)
	named, key := w.delegate("delegate", 1)
	raw := edit(t, w.respond(named, nil, key), func([]byte, []byte) (alg, certs []byte) {
		return []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"), d.Raw
	})
	iss := ocspresp.NewIssuer(w.ca)
	_, err := ocspresp.NewSubject(w.leaf, iss).Prove(raw, time.Now())
	if ocspresp.ReasonOf(err) != ocspresp.SignatureAlgorithm || !strings.Contains(err.Error(), "RSA with 100001 bits") || iss.KnownDelegates() > 0 {
		t.Errorf("got %v, and %d delegates", err, iss.KnownDelegates())
	}
}
