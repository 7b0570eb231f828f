package ocspresp_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// What Prove writes is proof of the same, is written from itself again, and
// x/crypto/ocsp, which refuses an embedded issuer and more than one certificate,
// reads it.
//
// REQ B2, REQ I1
func TestProveWritesTheLeast(t *testing.T) {
	v := ownVectors(t)
	for _, c := range v.Cases {
		if c.Expected != "good" || strings.HasPrefix(c.Name, "several-one-hash-old") || // of which one has expired
			c.Name == "several-sha224-first" { // which x/crypto/ocsp takes for an answer
			continue
		}
		sub := v.subject(c.Name)
		p, err := sub.Prove(v.response(c.Name), v.Time)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		again, err := sub.Prove(p.Raw, v.Time)
		if err != nil || !bytes.Equal(again.Raw, p.Raw) || !again.Limit.Equal(p.Limit) {
			t.Errorf("%s: not the same once more: %v", c.Name, err)
		}
		if !p.SameSigned(v.response(c.Name)) {
			t.Errorf("%s: other signed bytes", c.Name)
		}
		leaf, issuer := v.pair(c.Name)
		if _, err := ocsp.ParseResponseForCert(p.Raw, leaf, issuer); err != nil && readable(c.Name) {
			t.Errorf("%s: x/crypto/ocsp: %v", c.Name, err)
		}
	}
}

// readable reports whether x/crypto/ocsp knows the algorithm and the hash of the
// CertID, and finds the SingleResponse.
func readable(name string) bool {
	for _, other := range []string{"pss", "ed25519", "several", "dual", "sha384", "sha512", "sha256-certid"} {
		if strings.Contains(name, other) {
			return false
		}
	}
	return true
}

// The certificate of a root that the served chain lacks comes along, ours and not
// the one received; of an intermediate CA never.
func TestProveEmbedsTheRootOfALoneLeaf(t *testing.T) {
	w := newWorld(t, newKey(t))
	iss := ocspresp.NewIssuer(w.ca)
	sub := ocspresp.NewSubject(w.leaf, iss)
	bare, err := sub.Prove(w.respond(w.ca, w.ca, w.caKey), time.Now())
	if err != nil || bytes.Contains(bare.Raw, w.ca.Raw) {
		t.Errorf("the chain has the issuer, and it is embedded: %v", err)
	}
	sub.Alone = true
	alone, err := sub.Prove(w.respond(w.ca, nil, w.caKey), time.Now())
	if err != nil || !bytes.HasSuffix(alone.Raw, w.ca.Raw) {
		t.Errorf("the chain lacks the root, and it is not embedded: %v", err)
	}
	key := newKey(t)
	sub2 := *w
	sub2.ca, sub2.caKey = w.sign(&x509.Certificate{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "intermediate"},
		IsCA: true, BasicConstraintsValid: true}, key.Public()), key
	sub2.leaf = sub2.sign(&x509.Certificate{SerialNumber: big.NewInt(6), Subject: pkix.Name{CommonName: "leaf"}}, newKey(t).Public())
	below := ocspresp.NewSubject(sub2.leaf, ocspresp.NewIssuer(sub2.ca))
	below.Alone = true
	p, err := below.Prove(sub2.respond(sub2.ca, nil, key), time.Now())
	if err != nil || bytes.Contains(p.Raw, sub2.ca.Raw) {
		t.Errorf("an intermediate CA is embedded: %v", err)
	}
}

// Of several certificates of one delegate the one that ends last is embedded,
// wherever it stands, and whether it comes with the response or came before.
//
// REQ B7, REQ I1
func TestLastingDelegate(t *testing.T) {
	w := newWorld(t, newKey(t))
	key := newKey(t)
	issue := func(serial int64, life time.Duration) *x509.Certificate {
		return w.sign(&x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "delegate"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
			NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life)}, key.Public())
	}
	long, short := issue(1, time.Hour), issue(2, time.Minute)
	for name, c := range map[string]struct{ first, more *x509.Certificate }{
		"the short one first": {short, long},
		"the long one first":  {long, short},
	} {
		raw := withEmbedded(t, w.respond(c.more, c.more, key), c.first.Raw, 1)
		p, err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Prove(raw, time.Now())
		if err != nil || !bytes.Contains(p.Raw, long.Raw) || bytes.Contains(p.Raw, short.Raw) {
			t.Errorf("%s: %v", name, err)
		}
	}
	iss := ocspresp.NewIssuer(w.ca)
	sub := ocspresp.NewSubject(w.leaf, iss)
	if _, err := sub.Prove(w.respond(long, long, key), time.Now()); err != nil {
		t.Fatal(err)
	}
	decoy := selfSigned(t, "delegate", nil)
	raw := withEmbedded(t, w.respond(short, short, key), decoy, 2*ocspresp.MaxTries)
	if p, err := sub.Prove(raw, time.Now()); err != nil || !bytes.Contains(p.Raw, long.Raw) {
		t.Errorf("known from before, behind decoys: %v", err)
	}
}

// Parameters of the signature's algorithm are not signed: they are written as
// their RFC has them, and a stated salt length is the one that is verified.
//
// REQ B2, REQ B14, REQ I1
func TestParametersAreWritten(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, key)
	sub := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca))
	raw := w.respond(w.ca, nil, key)
	genuine, err := sub.Prove(raw, time.Now())
	if err != nil || !bytes.Equal(genuine.Raw, raw) {
		t.Fatalf("%v, or not as it came", err)
	}
	without := rewrap(t, raw, []byte("\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"))
	p, err := sub.Prove(without, time.Now())
	if err != nil || !bytes.Equal(p.Raw, raw) {
		t.Errorf("RSA's NULL left out: %v, or another response", err)
	}
	if _, err := sub.Prove(rewrap(t, raw, []byte("\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00")), time.Now()); err == nil {
		t.Error("ECDSA with parameters is proof")
	}
}

// A delegate whose certificate crypto/x509 does not parse is not 'not found'.
//
// REQ B14
func TestUnsupportedDelegate(t *testing.T) {
	w := newWorld(t, newKey(t))
	d, key := w.delegate("delegate", 1)
	raw := w.respond(d, d, key)
	curve, odd := []byte("\x2a\x86\x48\xce\x3d\x03\x01\x07"), []byte("\x2a\x86\x48\xce\x3d\x03\x01\x06")
	at := bytes.Index(raw, d.RawSubjectPublicKeyInfo)
	copy(raw[at:], bytes.Replace(d.RawSubjectPublicKeyInfo, curve, odd, 1))
	_, err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Prove(raw, time.Now())
	if ocspresp.ReasonOf(err) != ocspresp.SignatureAlgorithm || !strings.Contains(err.Error(), "certificate of the delegate: x509: unsupported elliptic curve") {
		t.Errorf("got %v", err)
	}
}

// A date in another form than RFC 5280's is refused, and the error says which.
//
// REQ B2
func TestMalformedDateIsNamed(t *testing.T) {
	v := ownVectors(t)
	for name, want := range map[string]string{
		"direct-time-fraction":    `malformed response: thisUpdate: "20300115110000.5Z" has fractions of a second`,
		"direct-time-zone":        "thisUpdate: ",
		"direct-produced-at-zone": "producedAt: ",
		"direct-next-update-zone": "nextUpdate: ",
		"direct-next-update-1969": "nextUpdate: ",
	} {
		if err := v.subject(name).Check(v.response(name), v.Time); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}
