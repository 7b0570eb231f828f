package staple_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"

	"github.com/ocspstaple/staple"
)

// A signedText is what the owner of a vector's key did sign, and what it proves.
type signedText struct {
	name  string
	proof *staple.Proof
}

// FuzzVerify: nothing panics, and nothing proves but what a key's owner signed,
// saying the same. The keys are gone, so that every proof must have the
// ResponseData of a vector.
//
// REQ B2, REQ B4
func FuzzVerify(f *testing.F) {
	v := ownVectors(f)
	signed := map[string]signedText{}
	subjects := map[string]staple.Subject{}
	for _, c := range v.Cases {
		raw := v.response(c.Name)
		f.Add(raw)
		if _, ok := subjects[c.Leaf]; !ok {
			subjects[c.Leaf] = v.subject(c.Name)
		}
		if p, err := v.subject(c.Name).Verify(raw, v.Time, 0); err == nil {
			signed[c.Leaf+text(p)] = signedText{c.Name, p}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		for leaf, sub := range subjects {
			p, err := sub.Verify(raw, v.Time, 0)
			if (p == nil) == (err == nil) || err != nil && staple.ReasonOf(err) == 0 {
				t.Fatalf("got %v, %v", p, err)
			}
			if p == nil {
				_ = err.Error()
				continue
			}
			was, ok := signed[leaf+text(p)]
			if !ok {
				t.Fatalf("%s: proof of what nobody signed", leaf)
			}
			if !sameProof(p, was.proof) {
				t.Fatalf("%s: got %+v, want that of %s: %+v", leaf, p, was.name, was.proof)
			}
		}
		if !bytes.Equal(raw, before) {
			t.Fatal("the input was changed")
		}
	})
}

// text is what was signed, and by whom.
func text(p *staple.Proof) string {
	if signer := p.Response.Certificate; signer != nil {
		return string(p.Response.TBSResponseData) + string(signer.Raw)
	}
	return string(p.Response.TBSResponseData)
}

func sameProof(a, b *staple.Proof) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.RevokedAt.Equal(b.RevokedAt) &&
		a.ThisUpdate.Equal(b.ThisUpdate) && a.NextUpdate.Equal(b.NextUpdate) &&
		a.ProducedAt.Equal(b.ProducedAt) && a.Limit.Equal(b.Limit)
}

var (
	oidTLSFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	oidNoRevAvail = asn1.ObjectIdentifier{2, 5, 29, 56}
)

// withExtension is a leaf that was parsed, as far as Extensions go.
func withExtension(oid asn1.ObjectIdentifier, value []byte) *x509.Certificate {
	return &x509.Certificate{Extensions: []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}},
		{Id: oid, Value: value},
	}}
}

// REQ D1
func TestMustStaple(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        bool
	}{
		{"status_request", "\x30\x03\x02\x01\x05", true},
		{"both", "\x30\x06\x02\x01\x05\x02\x01\x11", true},
		{"both, the other way round", "\x30\x06\x02\x01\x11\x02\x01\x05", true},
		{"after a large one", "\x30\x0d\x02\x08\x7f\xff\xff\xff\xff\xff\xff\xff\x02\x01\x05", true},
		{"status_request_v2 alone", "\x30\x03\x02\x01\x11", false},
		{"as long as the real one", "\x30\x03\x02\x01\x06", false},
		{"none", "\x30\x00", false},
		{"nothing", "", false},
		{"5 with padding", "\x30\x04\x02\x02\x00\x05", false},
		{"5 in two octets", "\x30\x04\x02\x02\x05\x00", false},
		{"not INTEGER", "\x30\x03\x0a\x01\x05", false},
		{"not SEQUENCE", "\x31\x03\x02\x01\x05", false},
		{"bare INTEGER", "\x02\x01\x05", false},
		{"junk after", "\x30\x03\x02\x01\x05\x05\x00", false},
		{"junk inside", "\x30\x05\x02\x01\x05\x05\x00", false},
		{"long length", "\x30\x81\x03\x02\x01\x05", false},
		{"cut", "\x30\x03\x02\x01", false},
	} {
		if got := staple.MustStaple(withExtension(oidTLSFeature, []byte(c.value))); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if staple.MustStaple(withExtension(oidNoRevAvail, []byte("\x30\x03\x02\x01\x05"))) {
		t.Error("another extension makes it Must-Staple")
	}
	extra := &x509.Certificate{ExtraExtensions: withExtension(oidTLSFeature, []byte("\x30\x03\x02\x01\x05")).Extensions}
	if staple.MustStaple(extra) {
		t.Error("ExtraExtensions, which are a template's, were looked at")
	}
}

// REQ D3
func TestNoRevAvail(t *testing.T) {
	if !staple.NoRevAvail(withExtension(oidNoRevAvail, []byte{5, 0})) {
		t.Error("got false for noRevAvail")
	}
	if staple.NoRevAvail(withExtension(oidTLSFeature, []byte{5, 0})) || staple.NoRevAvail(&x509.Certificate{}) {
		t.Error("got true without noRevAvail")
	}
}

// FuzzMustStaple compares with encoding/asn1, which reads this one as strictly.
//
// REQ D1
func FuzzMustStaple(f *testing.F) {
	for _, seed := range []string{"\x30\x03\x02\x01\x05", "\x30\x06\x02\x01\x11\x02\x01\x05", "\x30\x81\x03\x02\x01\x05", "\x30\x04\x02\x02\x00\x05"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var features []*big.Int
		rest, err := asn1.Unmarshal(value, &features)
		isFive := func(n *big.Int) bool { return n.Cmp(big.NewInt(5)) == 0 }
		want := err == nil && len(rest) == 0 && slices.ContainsFunc(features, isFive)
		if got := staple.MustStaple(withExtension(oidTLSFeature, value)); got != want {
			t.Fatalf("%x: got %v, want %v", value, got, want)
		}
	})
}
