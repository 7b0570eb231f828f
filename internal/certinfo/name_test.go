package certinfo_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/internal/certinfo"
)

// REQ G6
func TestNames(t *testing.T) {
	subject := pkix.Name{CommonName: "client", Names: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "client"}}}
	id := &url.URL{Scheme: "spiffe", Host: "example.org", Path: "/web"}
	for want, leaf := range map[string]*x509.Certificate{
		"a.example, 127.0.0.1":     {DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, URIs: []*url.URL{id}, Subject: subject},
		"a, b, c, and 2 more":      {DNSNames: []string{"a", "b", "c", "d", "e"}},
		"spiffe://example.org/web": {URIs: []*url.URL{id}, EmailAddresses: []string{"who@example.org"}, Subject: subject},
		"who@example.org":          {EmailAddresses: []string{"who@example.org"}, Subject: subject},
		"CN=client":                {Subject: subject},
		"serial ff":                {SerialNumber: big.NewInt(255)},
	} {
		if got := certinfo.Names(leaf); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := certinfo.Name([]byte("junk"), nil); !strings.HasPrefix(got, "unparsable certificate (SHA-256 ") {
		t.Errorf("unparsable: %q", got)
	}
	if got := certinfo.Clip("a\n\x1b" + strings.Repeat("ü", 200)); len(got) > 203 || !strings.HasPrefix(got, "a??ü") || !strings.HasSuffix(got, "ü...") {
		t.Errorf("clipped: %q", got)
	}
}

// A name is as package pkix writes it, and bounded in what it costs: names,
// lists of names and serial numbers may have thousands of parts.
//
// REQ G6
func TestLongNames(t *testing.T) {
	ou := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: "unit, one"}
	other := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 5, 11}, Value: "A"}
	short := name(slices.Concat(slices.Repeat([]pkix.AttributeTypeAndValue{ou}, 8), slices.Repeat([]pkix.AttributeTypeAndValue{other}, 8))...)
	byHand := pkix.Name{CommonName: "by hand", ExtraNames: []pkix.AttributeTypeAndValue{other}}
	for _, n := range []pkix.Name{short, byHand, {}} {
		if got, want := certinfo.DN(n), n.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	const many = 10_000
	long := ou
	long.Value = strings.Repeat("u", many)
	for what, leaf := range map[string]*x509.Certificate{
		"known attributes":   {Subject: name(slices.Repeat([]pkix.AttributeTypeAndValue{ou}, many)...)},
		"unknown attributes": {Subject: name(slices.Repeat([]pkix.AttributeTypeAndValue{other}, many)...)},
		"long attributes":    {Subject: name(slices.Repeat([]pkix.AttributeTypeAndValue{long}, 20)...)},
		"long types":         {Subject: name(slices.Repeat([]pkix.AttributeTypeAndValue{{Type: make(asn1.ObjectIdentifier, many), Value: "A"}}, 20)...)},
		"DNS names":          {DNSNames: slices.Repeat([]string{"a"}, many)},
		"addresses":          {IPAddresses: slices.Repeat([]net.IP{net.IPv4(127, 0, 0, 1)}, many)},
		"both":               {DNSNames: []string{"a", "b"}, IPAddresses: slices.Repeat([]net.IP{net.IPv4(127, 0, 0, 1)}, many)},
		"URIs":               {URIs: slices.Repeat([]*url.URL{{Scheme: "spiffe", Host: "a"}}, many)},
		"e-mail addresses":   {EmailAddresses: slices.Repeat([]string{"a@b"}, many)},
		"a serial number":    {SerialNumber: new(big.Int).Lsh(big.NewInt(1), 80*many)},
	} {
		if leaf.SerialNumber == nil {
			leaf.SerialNumber = big.NewInt(42)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		text := certinfo.Name(nil, leaf)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 128<<10 || len(text) > 450 {
			t.Errorf("%s: %d bytes allocated for %q", what, n, text)
		}
		if alone := certinfo.Names(leaf); len(alone) > 4<<10 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs)+len(leaf.EmailAddresses) > 0 && !strings.HasSuffix(alone, " more") {
			t.Errorf("%s: %q", what, alone)
		}
	}
}

// name is a name that was parsed.
func name(attributes ...pkix.AttributeTypeAndValue) (n pkix.Name) {
	n.FillFromRDNSequence(&pkix.RDNSequence{attributes})
	return n
}

// The first digits of a number are those that it begins with, whatever its length.
func TestLongNumbers(t *testing.T) {
	for digits := 199; digits < 209; digits++ {
		whole := strings.Repeat("123456789a", 21)[:digits]
		n, _ := new(big.Int).SetString(whole, 16)
		if got, want := certinfo.SerialText(&x509.Certificate{SerialNumber: n}), certinfo.Clip(whole); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if digits%2 == 0 {
			if got, want := certinfo.Hex(n.FillBytes(make([]byte, digits/2))), certinfo.Clip(whole); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
	if got := certinfo.SerialText(&x509.Certificate{SerialNumber: big.NewInt(-255)}); got != "-ff" {
		t.Errorf("got %q", got)
	}
	if got := certinfo.SerialText(new(x509.Certificate)); got != "<nil>" {
		t.Errorf("got %q", got)
	}
}

// REQ A3
func TestHTTPURLs(t *testing.T) {
	urls := []string{"ldap://x", "http://a", "HTTPS://b", "http://", "", "file:///etc", "http://c", "http://d", "http://e"}
	if got, want := certinfo.HTTPURLs(urls, 4), []string{"http://a", "HTTPS://b", "http://c", "http://d"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A key of more bits than crypto/tls takes is not tried: it may be anybody's, and
// takes seconds.
//
// REQ A5
func TestHugeKey(t *testing.T) {
	name := []byte{0x30, 0}
	for bits, want := range map[uint]error{8192: certinfo.ErrNotSigned, 8193: new(certinfo.UnsupportedError)} {
		ca := &x509.Certificate{RawSubject: name, PublicKeyAlgorithm: x509.RSA,
			PublicKey: &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1), E: 65537}}
		leaf := &x509.Certificate{RawIssuer: bytes.Clone(name), SignatureAlgorithm: x509.SHA256WithRSA, Signature: make([]byte, bits/8)}
		err := certinfo.SignedBy(ca, leaf)
		if unsupported := new(*certinfo.UnsupportedError); errors.As(want, unsupported) != errors.As(err, unsupported) || err == nil {
			t.Errorf("%d bits: got %v, want %v", bits, err, fmt.Sprintf("%T", want))
		}
	}
}
