package certinfo_test

import (
	"bytes"
	"crypto/x509"
	"net/url"
	"slices"
	"testing"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/der"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// rebuilt is a certificate with another serial number and other extensions. Nobody
// signed it, which crypto/x509 does not look at.
func rebuilt(cert *x509.Certificate, serial []byte, extensions ...[]byte) []byte {
	var tbs, e cryptobyte.String
	in := cryptobyte.String(cert.RawTBSCertificate)
	var parts [][]byte
	in.ReadASN1(&tbs, asn1.SEQUENCE)
	for tag := asn1.Tag(0); tbs.ReadAnyASN1Element(&e, &tag); {
		switch tag {
		case asn1.INTEGER:
			e = der.Wrap(tag, serial)
		case tagExtensions:
			e = der.Wrap(tag, der.Wrap(asn1.SEQUENCE, extensions...))
		}
		parts = append(parts, e)
	}
	return der.Wrap(asn1.SEQUENCE, der.Wrap(asn1.SEQUENCE, parts...), der.Wrap(asn1.SEQUENCE, []byte(oidECDSA)), der.Wrap(asn1.BIT_STRING, []byte{0}, cert.Signature))
}

const oidECDSA = "\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"

var tagExtensions = asn1.Tag(3).ContextSpecific().Constructed()

// inDER returns an extension, as its OID says the content octets of which are given.
func inDER(oid string, value []byte) []byte {
	return der.Wrap(asn1.SEQUENCE, der.Wrap(asn1.OBJECT_IDENTIFIER, []byte(oid)), der.Wrap(asn1.OCTET_STRING, value))
}

// FuzzCertificate: what is read from the bytes of a certificate is what crypto/x509
// reads in it, and of its AIA URLs the first that can be asked are kept.
//
// REQ A3, REQ A5, REQ D1
func FuzzCertificate(f *testing.F) {
	const oidAIA, oidFeature = "\x2b\x06\x01\x05\x05\x07\x01\x01", "\x2b\x06\x01\x05\x05\x07\x01\x18"
	ca := ocsptest.NewCA()
	template := ca.Issue(ocsptest.Leaf{NoURL: true}).Leaf
	for _, l := range []ocsptest.Leaf{
		{MustStaple: true, URLs: []string{"http://ocsp.example/", "ldap://x", "HTTPS://ocsp.example/b"}, IssuerURLs: []string{"http://ca.example/ca.der"}},
		{NoURL: true, NoRevAvail: true}, {URLs: slices.Repeat([]string{"http://a.example/", "x"}, 5)}, {URLs: []string{"http://", "https://%", "//x", "http:/x"}},
	} {
		var values [2][]byte
		for _, e := range ca.Issue(l).Leaf.Extensions {
			switch e.Id.String() {
			case "1.3.6.1.5.5.7.1.1":
				values[0] = e.Value
			case "1.3.6.1.5.5.7.1.24":
				values[1] = e.Value
			}
		}
		for _, serial := range []string{"\x01", "\x00\x80", "\x80", "\x00", ""} {
			f.Add([]byte(serial), values[0], values[1], inDER("\x55\x1d\x38", []byte{5, 0})) // noRevAvail
			f.Add([]byte(serial), values[0], values[1], []byte{})
		}
	}
	f.Fuzz(func(t *testing.T, number, aia, feature, extra []byte) {
		raw := rebuilt(template, number, inDER(oidAIA, aia), inDER(oidFeature, feature), extra)
		if len(aia) > 0 && aia[0] != 0x30 { // whatever bytes there are
			raw = aia
		}
		serial := certinfo.SerialOf(raw)
		subject, key := certinfo.SubjectAndKey(raw)
		texts := certinfo.KeyText(key) + certinfo.SignatureText(raw)
		leaf, err := x509.ParseCertificate(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(serial, certinfo.Serial(leaf)) || !bytes.Equal(subject, leaf.RawSubject) || !bytes.Equal(key, leaf.RawSubjectPublicKeyInfo) || texts == "" {
			t.Errorf("serial %x, subject %x, key %x, %s: %x", serial, subject, key, texts, raw)
		}
		byHand := certinfo.Serial(&x509.Certificate{SerialNumber: leaf.SerialNumber})
		if !bytes.Equal(serial, byHand) {
			t.Errorf("serial %x, of its number %x", serial, byHand)
		}
		if certinfo.MustStaple(leaf) && !certinfo.MayMustStaple(raw) || len(leaf.OCSPServer) > 0 && !certinfo.MayNameResponder(raw) {
			t.Errorf("the bytes are said to hold no Must-Staple, or no responder: %x", raw)
		}
		if certinfo.NoRevAvail(leaf) && !certinfo.Exempt(leaf) {
			t.Error("noRevAvail, and not exempt")
		}
		if err := certinfo.SignedBy(leaf, leaf); err == nil && (leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil || !certinfo.Exempt(leaf)) {
			t.Error("signed by itself, and not")
		}
		for _, urls := range [][]string{leaf.OCSPServer, leaf.IssuingCertificateURL} {
			checkURLs(t, urls, certinfo.HTTPURLs(urls, 4))
		}
	})
}

// checkURLs fails the test unless kept are the first 4 of urls that can be asked.
func checkURLs(t *testing.T, urls, kept []string) {
	t.Helper()
	asked := func(u string) bool {
		parsed, err := url.Parse(u)
		return err == nil && (parsed.Scheme == "http" || parsed.Scheme == "https") && parsed.Host != ""
	}
	var want []string
	for _, u := range urls {
		if asked(u) || slices.Contains(kept, u) { // what does not parse is kept, and fails when it is asked
			want = append(want, u)
		}
	}
	if !slices.Equal(kept, want[:min(len(want), 4)]) {
		t.Errorf("kept %q of %q", kept, urls)
	}
	for _, u := range kept {
		if parsed, err := url.Parse(u); err == nil && parsed.Scheme != "http" && parsed.Scheme != "https" {
			t.Errorf("kept %q", u)
		}
	}
}
