// Package certinfo reads what a certificate says about its own revocation: whether
// it must be stapled, its responders, who signed it, and its names for people.
//
// A certificate may be anybody's (docs/security.md, Tenants), so nothing that it
// says is believed: URLs are counted, texts are cut, keys are bounded. Nothing here
// makes a request, keeps state or writes to a certificate, and any function may be
// called concurrently. Bytes that are returned are a slice of the certificate.
//
// The root calls it when it learns of a certificate, ocspresp and issuers to verify
// signatures, cmd/staplecheck for its report. Start with certinfo.go, what a leaf
// asks for; signed.go says who issued it, name.go names it in errors and logs.
package certinfo

import (
	"bytes"
	"crypto/x509"
	"strings"

	"github.com/ocspstaple/staple/internal/der"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// MustStaple reports whether leaf has the TLS feature status_request (RFC 7633
// §4): SEQUENCE OF INTEGER containing 5. What isn't that demands nothing.
// status_request_v2, 17, does not count: crypto/tls has no such message.
func MustStaple(leaf *x509.Certificate) bool {
	value, ok := extension(leaf, 1, 3, 6, 1, 5, 5, 7, 1, 24)
	if !ok {
		return false
	}
	in := cryptobyte.String(value)
	var features, feature cryptobyte.String
	found := false
	if !der.ReadLast(&in, &features, asn1.SEQUENCE) {
		return false
	}
	for !features.Empty() {
		if !der.ReadInteger(&features, &feature) {
			return false
		}
		found = found || bytes.Equal(feature, []byte{5})
	}
	return found
}

// NoRevAvail reports whether leaf says that no revocation information exists for
// it (RFC 9608 §2). The extension's value, a NULL, is not looked at.
func NoRevAvail(leaf *x509.Certificate) bool {
	_, ok := extension(leaf, 2, 5, 29, 56)
	return ok
}

// Exempt reports whether a certificate is of a kind that is never asked about:
// noRevAvail, self-signed, or an acme-tls/1 challenge. It verifies a signature only if
// subject and issuer are one name.
func Exempt(leaf *x509.Certificate) bool {
	return Challenge(leaf) || NoRevAvail(leaf) || SignedBy(leaf, leaf) == nil
}

// Challenge reports whether leaf answers an acme-tls/1 challenge (RFC 8737 §3).
func Challenge(leaf *x509.Certificate) bool {
	_, ok := extension(leaf, 1, 3, 6, 1, 5, 5, 7, 1, 31)
	return ok
}

// extension returns the value of leaf's extension oid.
func extension(leaf *x509.Certificate, oid ...int) (value []byte, ok bool) {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(oid) {
			return e.Value, true
		}
	}
	return nil, false
}

// MayMustStaple reports from the bytes alone whether a leaf can have the TLS
// feature extension, for a handshake that can't wait for it to be parsed. It may be
// true for other reasons, as the OID may stand anywhere, and is never falsely false.
func MayMustStaple(raw []byte) bool { return bytes.Contains(raw, oidTLSFeatureDER) }

// MayNameResponder does so for the URL of a responder. A full cache evicts nothing
// for a leaf that certainly names none.
func MayNameResponder(raw []byte) bool { return bytes.Contains(raw, oidOCSPDER) }

// Whole elements, with tag and length: id-ad-ocsp (RFC 5280 §4.2.2.1) and
// id-pe-tlsfeature (RFC 7633 §4).
var (
	oidOCSPDER       = []byte{0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01}
	oidTLSFeatureDER = []byte{0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x18}
)

// HTTPURLs returns the first of urls that can be asked, most at most: http and
// https alone (RFC 9919 §4.1). A certificate may be anybody's, and name hundreds.
// URLs are not parsed here: one that is malformed fails when it is asked, and the
// error then names it.
func HTTPURLs(urls []string, most int) []string {
	var out []string
	for _, u := range urls {
		scheme, rest, ok := strings.Cut(u, "://")
		if ok && rest != "" && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) && len(out) < most {
			out = append(out, u)
		}
	}
	return out
}

// Serial returns the content octets of leaf's serial number: a slice of its own
// bytes where it has any, which costs nothing.
func Serial(leaf *x509.Certificate) []byte {
	if serial := serialIn(leaf.RawTBSCertificate); serial != nil || leaf.SerialNumber == nil {
		return serial
	}
	// The certificate was made by hand.
	var serial cryptobyte.String
	var b cryptobyte.Builder
	b.AddASN1BigInt(leaf.SerialNumber)
	in := cryptobyte.String(b.BytesOrPanic())
	der.ReadInteger(&in, &serial)
	return serial
}

// SerialOf returns the serial number in a certificate's bytes, nil if it can't
// be read.
func SerialOf(raw []byte) []byte {
	in := cryptobyte.String(raw)
	var cert cryptobyte.String
	if !in.ReadASN1(&cert, asn1.SEQUENCE) {
		return nil
	}
	return serialIn(cert)
}

// serialIn returns that in a TBSCertificate, which may have more behind it. It
// begins with (RFC 5280 §4.1)
//
//	version [0] EXPLICIT INTEGER DEFAULT v1, serialNumber INTEGER, ...
func serialIn(tbs cryptobyte.String) []byte {
	var body, serial cryptobyte.String
	if tbs.ReadASN1(&body, asn1.SEQUENCE) && body.SkipOptionalASN1(der.Tag0) && der.ReadInteger(&body, &serial) {
		return serial
	}
	return nil
}
