package ocspresp_test

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// vectors are those of testdata/gen: each differs from a good one, its twin, in
// one thing, so that the check that refuses it is the only one that can.
type vectors struct {
	t     testing.TB
	Time  time.Time
	Cases []vector
}

type vector struct {
	Name, Req, Twin, Leaf, Issuer, Expected, Reason string
	Limit                                           time.Time
}

func ownVectors(t testing.TB) *vectors {
	t.Helper()
	v := &vectors{t: t}
	if err := json.Unmarshal(v.read("manifest.json"), v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vectors) read(name string) []byte {
	v.t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", name))
	if err != nil {
		v.t.Fatal(err)
	}
	return data
}

func (v *vectors) response(name string) []byte { return v.read(name + ".der") }

func (v *vectors) certificate(name string) *x509.Certificate {
	v.t.Helper()
	block, _ := pem.Decode(v.read(name + ".pem"))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		v.t.Fatal(err)
	}
	return cert
}

func (v *vectors) find(name string) vector {
	v.t.Helper()
	i := slices.IndexFunc(v.Cases, func(c vector) bool { return c.Name == name })
	if i < 0 {
		v.t.Fatalf("no vector %s", name)
	}
	return v.Cases[i]
}

// pair returns the certificates of a case.
func (v *vectors) pair(name string) (leaf, issuer *x509.Certificate) {
	c := v.find(name)
	return v.certificate(c.Leaf), v.certificate(c.Issuer)
}

// subject is that of a case, under an issuer that has seen nothing yet.
func (v *vectors) subject(name string) ocspresp.Subject {
	leaf, issuer := v.pair(name)
	return ocspresp.NewSubject(leaf, ocspresp.NewIssuer(issuer))
}

// outcome puts what Verify returned into the manifest's words.
func outcome(p *ocspresp.Proof, err error) (word, reason string) {
	if err != nil {
		reason = ocspresp.ReasonOf(err).String()
	}
	switch {
	case errors.Is(err, ocspresp.ErrUnknown):
		return "unknown", reason
	case err != nil:
		return "reject", reason
	case p.Err() != nil:
		return "revoked", ocspresp.ReasonOf(p.Err()).String()
	}
	return "good", ""
}

// REQ B1, REQ B2, REQ B3, REQ B4, REQ B5, REQ B6, REQ B7, REQ B8, REQ B9, REQ B10, REQ B11, REQ B12, REQ B13, REQ B14
func TestVectors(t *testing.T) {
	v := ownVectors(t)
	for _, c := range v.Cases {
		t.Run(c.Name, func(t *testing.T) {
			sub := v.subject(c.Name)
			for _, cache := range []string{"cold", "warm"} { // the second time delegates are known
				p, err := sub.Verify(v.response(c.Name), v.Time, 0)
				got, reason := outcome(p, err)
				if got != c.Expected || reason != c.Reason {
					t.Errorf("%s: got %s %q (%v), want %s %q", cache, got, reason, err, c.Expected, c.Reason)
				}
				if got == "good" && !p.Limit.Equal(c.Limit) {
					t.Errorf("%s: got limit %v, want %v", cache, p.Limit, c.Limit)
				}
			}
		})
	}
}

// TestVectorsIsolate: every case that is refused has a twin that isn't, of the
// same certificates at the same time.
func TestVectorsIsolate(t *testing.T) {
	v := ownVectors(t)
	for _, c := range v.Cases {
		if c.Expected == "good" {
			continue
		}
		twin := v.find(c.Twin)
		if twin.Expected != "good" || twin.Leaf != c.Leaf || twin.Issuer != c.Issuer {
			t.Errorf("%s: %s is no twin", c.Name, c.Twin)
		}
	}
}

// TestVectorsReachEveryReason: no check of a response is without a case.
//
// REQ B12
func TestVectorsReachEveryReason(t *testing.T) {
	seen := map[string]bool{
		// Not about what is in a response:
		ocspresp.Empty.String(): true, ocspresp.TooLarge.String(): true, // TestVerifySize
		ocspresp.Replay.String(): true,
	}
	for _, c := range ownVectors(t).Cases {
		seen[c.Reason] = true
	}
	for r := ocspresp.MalformedRequest; r <= ocspresp.Last; r++ {
		if !seen[r.String()] {
			t.Errorf("no vector for %q", r)
		}
	}
}

// REQ A11
func TestVerifySize(t *testing.T) {
	v := ownVectors(t)
	sub := v.subject("direct")
	big := append(v.response("direct"), make([]byte, ocspresp.MaxResponse)...)
	for _, c := range []struct {
		size int
		want ocspresp.Reason
	}{
		{0, ocspresp.Empty},
		{1, ocspresp.Malformed},
		{ocspresp.MaxResponse, ocspresp.Malformed},
		{ocspresp.MaxResponse + 1, ocspresp.TooLarge},
	} {
		_, err := sub.Verify(big[:c.size], v.Time, 0)
		if got := ocspresp.ReasonOf(err); got != c.want {
			t.Errorf("%d bytes: got %v, want %v", c.size, err, c.want)
		}
	}
}

// TestVerifyTruncated: no prefix of a good response is one.
//
// REQ B2
func TestVerifyTruncated(t *testing.T) {
	v := ownVectors(t)
	sub, raw := v.subject("complete"), v.response("complete")
	for n := range raw {
		if _, err := sub.Verify(raw[:n], v.Time, 0); err == nil {
			t.Errorf("the first %d bytes are proof", n)
		}
	}
}

// TestEveryBit: whatever bit of a response anyone on the path flips, what comes
// of it is nothing, or what came of the genuine one. It makes no difference
// whether the delegate is known from before.
//
// REQ B2, REQ B4, REQ I1
func TestEveryBit(t *testing.T) {
	v := ownVectors(t)
	for _, name := range []string{"direct", "delegated"} {
		leaf, issuer := v.pair(name)
		raw, warm := v.response(name), v.subject(name)
		genuine, err := warm.Prove(raw, v.Time)
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			for bit := range 8 {
				raw[i] ^= 1 << bit
				for what, sub := range map[string]ocspresp.Subject{"warm": warm, "cold": ocspresp.NewSubject(leaf, ocspresp.NewIssuer(issuer))} {
					if p, err := sub.Prove(raw, v.Time); err == nil && !bytes.Equal(p.Raw, genuine.Raw) {
						t.Errorf("%s, %s: bit %d of byte %d flipped shows in what is stapled", name, what, bit, i)
					}
				}
				raw[i] ^= 1 << bit
			}
		}
	}
}

// TestVerifyOverTime moves the clock over what a response rests on.
//
// REQ B6, REQ B9, REQ B10
func TestVerifyOverTime(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name  string
		at    time.Duration // from the vectors' time
		grace time.Duration
		want  ocspresp.Reason
	}{
		{"direct", -65 * time.Minute, 0, 0},
		{"direct", -65*time.Minute - time.Second, 0, ocspresp.ThisUpdate},
		{"direct", 3*day - 1, 0, 0},
		{"direct", 3 * day, 0, ocspresp.Expired}, // nextUpdate itself
		{"direct", 3*day + 1, day, 0},
		{"direct", 10 * day, 7 * day, 0},
		{"direct", 10*day + 1, 7 * day, ocspresp.Expired},
		{"brief", day, 0, 0}, // the leaf's notAfter itself
		{"brief", day + time.Second, 0, ocspresp.Expired},
		{"brief-late", 2 * day, 7 * day, ocspresp.ProducedAtLeaf},
		{"direct-no-next-update", 7*day - time.Hour, 0, 0},
		{"direct-no-next-update", 7*day - time.Hour + time.Second, 0, ocspresp.Expired},
		{"direct-no-next-update", 7*day - time.Hour + time.Second, 7 * day, ocspresp.Expired},
		{"delegated-ends-first", day, 0, 0}, // the delegate's notAfter itself
		{"delegated-ends-first", day + time.Second, 0, ocspresp.DelegateValidity},
		{"delegated-ends-first", 8 * day, 7 * day, 0},
		{"delegated-ends-first", 8*day + time.Second, 7 * day, ocspresp.DelegateValidity},
	} {
		v := ownVectors(t)
		_, err := v.subject(c.name).Verify(v.response(c.name), v.Time.Add(c.at), c.grace)
		if got := ocspresp.ReasonOf(err); got != c.want {
			t.Errorf("%s at %v, grace %v: got %v, want %v", c.name, c.at, c.grace, err, c.want)
		}
		past := c.want == ocspresp.Expired || c.want == ocspresp.DelegateValidity
		if errors.Is(err, ocspresp.ErrExpired) != past {
			t.Errorf("%s at %v: got %v, want ErrExpired %v", c.name, c.at, err, past)
		}
	}
}

// TestVerifyConcurrently is for the race detector.
func TestVerifyConcurrently(t *testing.T) {
	v := ownVectors(t)
	sub := v.subject("delegated")
	raws := [][]byte{v.response("delegated"), v.response("delegated-usage"), v.response("delegated-among-usages")}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 20 {
				if _, err := sub.Verify(raws[(n+i)%len(raws)], v.Time, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// REQ B13
func TestNotIssued(t *testing.T) {
	v := ownVectors(t)
	for name, want := range map[string]string{
		"direct-not-issued":     "the CA never issued it",
		"direct-on-hold":        "certificateHold since 2030-01-13T12:00:00Z",
		"direct-revoked":        "unspecified since 2030-01-13T12:00:00Z",
		"direct-revoked-reason": "keyCompromise since 2030-01-13T12:00:00Z",
		"direct-revoked-1970":   "keyCompromise since 1970-01-01T00:00:00Z",
	} {
		p, err := v.subject(name).Verify(v.response(name), v.Time, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.NotIssued(); got != (name == "direct-not-issued") {
			t.Errorf("%s: not issued: got %v", name, got)
		}
		if !errors.Is(p.Err(), ocspresp.ErrRevoked) || !strings.Contains(p.Err().Error(), want) {
			t.Errorf("%s: got %v, want ErrRevoked with %q", name, p.Err(), want)
		}
	}
}

// TestRequest compares with x/crypto, which the world's responders understand.
//
// REQ A1, REQ A2, REQ A8
func TestRequest(t *testing.T) {
	v := ownVectors(t)
	for _, name := range []string{"direct", "rsa", "ed25519"} {
		leaf, issuer := v.pair(name)
		iss := ocspresp.NewIssuer(issuer)
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			var want []byte
			var err error
			fips140.WithoutEnforcement(func() {
				want, err = ocsp.CreateRequest(leaf, issuer, &ocsp.RequestOptions{Hash: h})
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := iss.Request(h, ocspresp.NewSubject(leaf, iss).Serial)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %v: got %x, %v, want %x", name, h, got, err, want)
			}
		}
		for _, h := range []crypto.Hash{0, crypto.SHA224, crypto.MD5} {
			if _, err := iss.Request(h, []byte{1}); err == nil {
				t.Errorf("%v: no error", h)
			}
		}
	}
}

// TestSerial: the octets are those of the certificate, or of a number.
//
// REQ A2
func TestSerial(t *testing.T) {
	v := ownVectors(t)
	leaf, issuer := v.pair("direct")
	iss := ocspresp.NewIssuer(issuer)
	if got := ocspresp.NewSubject(leaf, iss).Serial; !bytes.Equal(got, leaf.SerialNumber.Bytes()) {
		t.Errorf("got %x, want %x", got, leaf.SerialNumber)
	}
	for n, want := range map[int64]string{0: "\x00", 127: "\x7f", 128: "\x00\x80", -1: "\xff"} {
		byHand := &x509.Certificate{SerialNumber: big.NewInt(n)}
		if got := ocspresp.NewSubject(byHand, iss).Serial; string(got) != want {
			t.Errorf("%d: got %x, want %x", n, got, want)
		}
	}
	if got := ocspresp.NewSubject(&x509.Certificate{}, iss).Serial; got != nil {
		t.Errorf("got %x for no serial", got)
	}
}

// TestAgainstXCrypto: what both take they read alike. Where they differ in
// judgement it is x/crypto that knows less.
func TestAgainstXCrypto(t *testing.T) {
	v := ownVectors(t)
	agreed := 0
	for _, c := range v.Cases {
		if strings.HasPrefix(c.Name, "several") { // theirs is the first, ours the worst
			continue
		}
		leaf, issuer := v.pair(c.Name)
		raw := v.response(c.Name)
		p, err := v.subject(c.Name).Verify(raw, v.Time, 0)
		if err != nil {
			continue
		}
		theirs, err := ocsp.ParseResponseForCert(raw, leaf, issuer)
		if err != nil {
			continue
		}
		agreed++
		if theirs.Certificate.Equal(issuer) { // embedded; it is no delegate
			theirs.Certificate = nil
		}
		compareResponses(t, c.Name, p.Response(), theirs)
	}
	if agreed < 20 {
		t.Errorf("agreed on %d responses, want at least 20", agreed)
	}
}

func compareResponses(t *testing.T, name string, got, want *ocsp.Response) {
	t.Helper()
	for field, same := range map[string]bool{
		"Status":             got.Status == want.Status,
		"RevocationReason":   got.RevocationReason == want.RevocationReason,
		"IssuerHash":         got.IssuerHash == want.IssuerHash,
		"SignatureAlgorithm": got.SignatureAlgorithm == want.SignatureAlgorithm,
		"SerialNumber":       got.SerialNumber.Cmp(want.SerialNumber) == 0,
		"ThisUpdate":         got.ThisUpdate.Equal(want.ThisUpdate),
		"NextUpdate":         got.NextUpdate.Equal(want.NextUpdate),
		"ProducedAt":         got.ProducedAt.Equal(want.ProducedAt),
		"RevokedAt":          got.RevokedAt.Equal(want.RevokedAt),
		"Raw":                bytes.Equal(got.Raw, want.Raw),
		"TBSResponseData":    bytes.Equal(got.TBSResponseData, want.TBSResponseData),
		"Signature":          bytes.Equal(got.Signature, want.Signature),
		"RawResponderName":   bytes.Equal(got.RawResponderName, want.RawResponderName),
		"ResponderKeyHash":   bytes.Equal(got.ResponderKeyHash, want.ResponderKeyHash),
		"Certificate":        got.Certificate.Equal(want.Certificate),
		"Extensions":         len(got.Extensions)+len(want.Extensions) == 0 || reflect.DeepEqual(got.Extensions, want.Extensions),
	} {
		if !same {
			t.Errorf("%s: %s differs from x/crypto's", name, field)
		}
	}
}
