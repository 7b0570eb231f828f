package ocspresp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/ocsptest"
)

// A CertID under a hash function that nobody knows is skipped, whatever parameters it
// has: it is not malformed.
//
// REQ B3
func TestUnknownHashHasParameters(t *testing.T) {
	w := newWorld(t, newKey(t))
	tbs := bytes.Clone(ocspresp.ResponseData(w.respond(w.ca, nil, w.caKey)))
	known, unknown := []byte("\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00"), []byte("\x06\x05\x2b\x0e\x03\x02\x1f\x04\x00")
	if bytes.Count(tbs, known) != 1 {
		t.Fatalf("not one CertID in %x", tbs)
	}
	raw := signed(t, bytes.Replace(tbs, known, unknown, 1), w.caKey)
	err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Check(raw, time.Now())
	if got := ocspresp.ReasonOf(err); got != ocspresp.HashAlgorithm {
		t.Errorf("got %v, want %v", err, ocspresp.HashAlgorithm)
	}
}

// signed makes a response of a ResponseData, by a key of type ECDSA.
func signed(t *testing.T, tbs []byte, key crypto.Signer) []byte {
	t.Helper()
	digest := sha256.Sum256(tbs)
	sig, err := ecdsa.SignASN1(rand.Reader, key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	sequence := func(f func(b *cryptobyte.Builder)) { b.AddASN1(asn1.SEQUENCE, f) }
	sequence(func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes([]byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"))
		b.AddASN1BitString(sig)
	})
	basic := b.BytesOrPanic()
	b = cryptobyte.Builder{}
	sequence(func(b *cryptobyte.Builder) {
		b.AddBytes([]byte("\x0a\x01\x00"))
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes([]byte("\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01"))
				b.AddASN1OctetString(basic)
			})
		})
	})
	return b.BytesOrPanic()
}

// Of several known certificates of a delegate the one that ends last is embedded,
// also where a shorter one stands behind it: the oldest are replaced in a circle.
//
// REQ B7, REQ I1
func TestLastingDelegateInACircle(t *testing.T) {
	w := newWorld(t, newKey(t))
	sub := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca))
	for n := range ocspresp.MaxDelegates - 1 {
		if err := sub.Check(w.delegatedResponse(int64(n)), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	key := newKey(t)
	var last []byte
	for serial, life := range []time.Duration{time.Minute, time.Hour} {
		d := w.sign(&x509.Certificate{SerialNumber: big.NewInt(int64(serial + 1)), Subject: pkix.Name{CommonName: "lasting"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
			NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life)}, key.Public())
		last = w.respond(d, d, key)
		if err := sub.Check(last, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	bare := edit(t, last, func(alg, _ []byte) ([]byte, []byte) { return alg, nil })
	p, err := sub.Prove(bare, time.Now())
	if err != nil || p.Response().Certificate.SerialNumber.Int64() != 2 {
		t.Errorf("%v, %v: want the one that ends last", p, err)
	}
}

// A delegate that is forgotten while a response is verified with it may still sign.
//
// REQ B5
func TestDelegateForgottenMeanwhile(t *testing.T) {
	w := newWorld(t, newKey(t))
	sub := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca))
	check := func(n int64) {
		if err := sub.Check(w.delegatedResponse(n), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	check(0)
	first, may := sub.Issuer.Oldest()
	for n := range ocspresp.MaxDelegates {
		check(int64(1 + n))
	}
	if err := may(); err != nil || sub.Issuer.Knows(first) {
		t.Error(err)
	}
}

// What is no number of an enumeration has words, too.
func TestNumbersOutOfRange(t *testing.T) {
	for code, want := range map[int]string{-1: "CRLReason -1", 7: "CRLReason 7", 10: "aACompromise", 11: "CRLReason 11"} {
		if got := ocspresp.ReasonCode(code); got != want {
			t.Errorf("CRLReason %d: got %q, want %q", code, got, want)
		}
	}
	for _, r := range []ocspresp.Reason{0, 7, ocspresp.Last + 1, 255} {
		if got := r.String(); got != "no reason" {
			t.Errorf("Reason %d: got %q", r, got)
		}
	}
}

// Why there is no signer: the first certificate of the name that was refused says so,
// and others do not. That someone signed whom the responderID does not name is looked
// for among as many certificates as a signer is.
//
// REQ B6, REQ B7, REQ B8
func TestReasonOfNoSigner(t *testing.T) {
	w := newWorld(t, newKey(t))
	d, key := w.delegate("delegate", 1)
	noEKU := w.sign(&x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "delegate"}}, key.Public())
	stranger := selfSigned(t, "stranger", nil)
	unparsed := bytes.Replace(stranger, []byte("\x2a\x86\x48\xce\x3d\x03\x01\x07"), []byte("\x2a\x86\x48\xce\x3d\x03\x01\x06"), 1)
	misnamed := w.respond(w.leaf, d, key)
	for name, c := range map[string]struct {
		raw  []byte
		want ocspresp.Reason
	}{
		"two refused":                   {withEmbedded(t, w.respond(noEKU, noEKU, key), selfSigned(t, "delegate", nil), 1), ocspresp.DelegateIssuer},
		"one of another name, no parse": {withEmbedded(t, w.respond(d, nil, key), unparsed, 1), ocspresp.Signer},
		"a delegate, misnamed":          {misnamed, ocspresp.ResponderID},
		"misnamed, after many":          {withEmbedded(t, misnamed, stranger, ocspresp.MaxTries-1), ocspresp.ResponderID},
		"misnamed, after too many":      {withEmbedded(t, misnamed, stranger, ocspresp.MaxTries), ocspresp.Signer},
		"misnamed, and no delegate":     {w.respond(w.leaf, noEKU, key), ocspresp.Signer},
		"misnamed, and did not sign":    {w.respond(w.leaf, d, newKey(t)), ocspresp.Signer},
		"nothing, which has no detail":  {nil, ocspresp.Empty},
	} {
		err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Check(c.raw, time.Now())
		if got := ocspresp.ReasonOf(err); got != c.want || strings.HasSuffix(err.Error(), ": ") {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// A good one is stapled only while each that a client may pick is proof; a revocation
// stands by itself.
//
// REQ B3, REQ C4
func TestProveOfSeveral(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
	sub := ocspresp.NewSubject(cert.Leaf, ocspresp.NewIssuer(ca.Cert))
	for name, c := range map[string]struct {
		change func(old *ocsptest.Single)
		status int // of the newer one
		want   ocspresp.Reason
	}{
		"an older one that is good, too":         {func(*ocsptest.Single) {}, ocsp.Good, 0},
		"an older one that expired":              {func(s *ocsptest.Single) { s.NextUpdate = time.Now().Add(-time.Minute) }, ocsp.Good, ocspresp.Expired},
		"one that expired, of another":           {func(s *ocsptest.Single) { s.NextUpdate, s.Serial = time.Now().Add(-time.Minute), big.NewInt(7) }, ocsp.Good, 0},
		"revoked, and an older one that expired": {func(s *ocsptest.Single) { s.NextUpdate = time.Now().Add(-time.Minute) }, ocsp.Revoked, 0},
	} {
		raw := ca.Responder.Build(cert, func(spec *ocsptest.Spec) {
			old := spec.Singles[0]
			old.ThisUpdate = old.ThisUpdate.Add(-time.Hour)
			c.change(&old)
			spec.Singles[0].Status, spec.Singles[0].RevokedAt = c.status, time.Now().Add(-time.Hour)
			spec.Singles = append([]ocsptest.Single{old}, spec.Singles...)
		})
		p, err := sub.Prove(raw, time.Now())
		if got := ocspresp.ReasonOf(err); got != c.want || err == nil && p.Status != c.status {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// The answer that counts is the newest. It may be backwards where the one that ends first,
// under another hash, is not.
//
// REQ B9
func TestBackwards(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
	sub := ocspresp.NewSubject(cert.Leaf, ocspresp.NewIssuer(ca.Cert))
	now := time.Now()
	raw := ca.Responder.Build(cert, func(spec *ocsptest.Spec) {
		older, newer := spec.Singles[0], spec.Singles[0]
		older.ThisUpdate, older.NextUpdate = now.Add(-time.Hour), now.Add(time.Minute)
		newer.ThisUpdate, newer.NextUpdate, newer.Hash = now.Add(4*time.Minute), now.Add(3*time.Minute), crypto.SHA256
		spec.Singles = []ocsptest.Single{older, newer}
	})
	if _, err := ocspresp.Verify(raw, &sub, now, 0); ocspresp.ReasonOf(err) != ocspresp.NextUpdate {
		t.Errorf("%v, want %v", err, ocspresp.NextUpdate)
	}
}
