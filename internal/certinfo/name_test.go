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
