package certinfo_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/internal/certinfo"
)

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
		if got := certinfo.MustStaple(withExtension(oidTLSFeature, []byte(c.value))); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if certinfo.MustStaple(withExtension(oidNoRevAvail, []byte("\x30\x03\x02\x01\x05"))) {
		t.Error("another extension makes it Must-Staple")
	}
	extra := &x509.Certificate{ExtraExtensions: withExtension(oidTLSFeature, []byte("\x30\x03\x02\x01\x05")).Extensions}
	if certinfo.MustStaple(extra) {
		t.Error("ExtraExtensions, which are a template's, were looked at")
	}
}

// REQ D3
func TestNoRevAvail(t *testing.T) {
	if !certinfo.NoRevAvail(withExtension(oidNoRevAvail, []byte{5, 0})) {
		t.Error("got false for noRevAvail")
	}
	if certinfo.NoRevAvail(withExtension(oidTLSFeature, []byte{5, 0})) || certinfo.NoRevAvail(&x509.Certificate{}) {
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
		if got := certinfo.MustStaple(withExtension(oidTLSFeature, value)); got != want {
			t.Fatalf("%x: got %v, want %v", value, got, want)
		}
	})
}

// REQ B7: a refused algorithm is named, not only numbered.
func TestAlgorithmText(t *testing.T) {
	for oid, want := range map[string]string{
		"1.2.840.113549.1.1.2":   "MD2 with RSA",
		"1.2.840.113549.1.1.4":   "MD5 with RSA",
		"1.2.840.113549.1.1.5":   "SHA-1 with RSA",
		"1.2.840.113549.1.1.14":  "SHA-224 with RSA",
		"1.3.14.3.2.29":          "SHA-1 with RSA",
		"1.2.840.10045.4.1":      "ECDSA with SHA-1",
		"1.2.840.10045.4.3.1":    "ECDSA with SHA-224",
		"1.2.840.10040.4.3":      "DSA with SHA-1",
		"2.16.840.1.101.3.4.3.2": "DSA with SHA-256",
		"1.3.101.113":            "Ed448",
		"1.2.3.4":                "",
	} {
		var id asn1.ObjectIdentifier
		for arc := range strings.SplitSeq(oid, ".") {
			var n int
			fmt.Sscan(arc, &n)
			id = append(id, n)
		}
		der, err := asn1.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		if want = strings.TrimSpace(want + " (OID " + oid + ")"); want[0] == '(' {
			want = "OID " + oid
		}
		if got := certinfo.AlgorithmText(der[2:]); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
