package certinfo

import (
	"bytes"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/ocspstaple/staple/internal/der"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Why a certificate is not the issuer of another. An operator mends each in another
// way, so errors keep them apart: the chain lacks the issuer, or holds one of its name
// with another key, or one that Go can't use ([UnsupportedError]).
var (
	// ErrOtherName: its subject is not the issuer that the other names.
	ErrOtherName = errors.New("has another name")
	// ErrNotSigned: it has the name, and its key did not sign.
	ErrNotSigned = errors.New("did not sign this certificate")
)

// An UnsupportedError says what of a certificate crypto/x509 can't work with,
// though it may be what is wanted: brainpool curves, RSASSA-PSS and Ed448 keys,
// MD5 signatures.
type UnsupportedError struct {
	What string // whose key or signature, and its algorithm
}

func (e *UnsupportedError) Error() string { return Clip(e.What) + " is not supported by crypto/x509" }

// MaxRSA is the largest key that crypto/tls takes, in bits. Larger ones, which
// anybody may put into a chain or a response, take seconds: CVE-2023-29409 was this
// in crypto/tls.
const MaxRSA = 8192

// SupportedKey reports why nothing is verified by cert's key; nil if it
// is usable. Each error is an [*UnsupportedError].
func SupportedKey(cert *x509.Certificate) error {
	if key, isRSA := cert.PublicKey.(*rsa.PublicKey); isRSA && key.N.BitLen() > MaxRSA {
		return &UnsupportedError{fmt.Sprintf("key of type RSA with %d bits", key.N.BitLen())}
	}
	if cert.PublicKeyAlgorithm == x509.UnknownPublicKeyAlgorithm && len(cert.RawSubjectPublicKeyInfo) > 0 {
		return &UnsupportedError{"key of type " + KeyText(cert.RawSubjectPublicKeyInfo)}
	}
	return nil
}

// SignedBy returns nil if ca signed leaf, and else why it is not its issuer. That
// finds the issuer and proves nothing, so a legacy leaf may be signed with SHA-1,
// and FIPS 140 has no say in it. The signature alone decides (RFC 9919 §4.2): dates,
// basicConstraints and keyUsage of ca are not looked at.
//
// The error is [ErrOtherName], [ErrNotSigned] or an [*UnsupportedError]. Names are
// compared first, byte by byte, so that another name costs no signature.
func SignedBy(ca, leaf *x509.Certificate) (err error) {
	if !bytes.Equal(ca.RawSubject, leaf.RawIssuer) {
		return ErrOtherName
	}
	if err := supported(ca, leaf); err != nil {
		return err
	}
	check := func() { err = ca.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) }
	if Strong(leaf.SignatureAlgorithm) {
		check()
	} else {
		fips140.WithoutEnforcement(check)
	}
	if key, isRSA := ca.PublicKey.(*rsa.PublicKey); err != nil && isRSA && key.N.BitLen() < minRSA {
		return &UnsupportedError{fmt.Sprintf("the issuer's key of type RSA with %d bits", key.N.BitLen())}
	}
	if err != nil {
		return ErrNotSigned
	}
	return nil
}

// minRSA is the length of the smallest key that crypto/rsa takes, in bits, unless GODEBUG has
// rsa1024min=0.
const minRSA = 1024

// supported reports what of ca's key or leaf's signature can't be checked. It
// comes before the check: what Go can't verify is not called a bad signature.
func supported(ca, leaf *x509.Certificate) error {
	if err, is := SupportedKey(ca).(*UnsupportedError); is {
		return &UnsupportedError{"the issuer's " + err.What}
	}
	return SupportedSignature(leaf)
}

// SupportedSignature reports why no issuer's key verifies the signature of leaf; nil if one
// may. Each error is an [*UnsupportedError].
func SupportedSignature(leaf *x509.Certificate) error {
	const what = "the certificate's signature of type "
	switch alg := leaf.SignatureAlgorithm; {
	case alg == x509.MD2WithRSA || alg == x509.MD5WithRSA:
		return &UnsupportedError{what + alg.String()}
	case alg == x509.UnknownSignatureAlgorithm && len(leaf.Raw) > 0:
		return &UnsupportedError{what + SignatureText(leaf.Raw)}
	}
	return nil
}

// Unparsed is SignedBy for a certificate that crypto/x509 does not parse, as it does not know
// the curve of its key, say, or its serial number is negative. Nothing is verified: the error is
// [ErrOtherName], or an [*UnsupportedError] if the name is that of the issuer.
func Unparsed(ca []byte, leaf *x509.Certificate) error {
	subject, key := SubjectAndKey(ca)
	if !bytes.Equal(subject, leaf.RawIssuer) {
		return ErrOtherName
	}
	_, err := x509.ParseCertificate(ca)
	return &UnsupportedError{fmt.Sprintf("the issuer's key of type %s, or its certificate (%v)", KeyText(key), err)}
}

// SubjectAndKey returns the subject and the SubjectPublicKeyInfo of a
// certificate, in DER; nil if it has not the form of one. It reads the fields of a
// TBSCertificate up to these (RFC 5280 §4.1), for certificates that crypto/x509
// refuses:
//
//	[0] version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
func SubjectAndKey(raw []byte) (subject, key []byte) {
	in := cryptobyte.String(raw)
	var cert, tbs, name, info cryptobyte.String
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !cert.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(der.Tag0) || !tbs.SkipASN1(asn1.INTEGER) || !tbs.SkipASN1(asn1.SEQUENCE) || // algorithm
		!tbs.SkipASN1(asn1.SEQUENCE) || !tbs.SkipASN1(asn1.SEQUENCE) || // issuer, validity
		!tbs.ReadASN1Element(&name, asn1.SEQUENCE) || !tbs.ReadASN1Element(&info, asn1.SEQUENCE) {
		return nil, nil
	}
	return name, info
}

// KeyText names the algorithm of a SubjectPublicKeyInfo, of an elliptic curve
// the curve, which is in the parameters (RFC 5480 §2.1.1).
func KeyText(info cryptobyte.String) string {
	var body, oid, params, curve cryptobyte.String
	if !info.ReadASN1(&body, asn1.SEQUENCE) || !der.ReadAlgorithm(&body, &oid, &params) {
		return "unreadable"
	}
	if der.ReadOID(&params, &curve) {
		oid = curve
	}
	if text := AlgorithmText(oid); !strings.HasPrefix(text, "RSASSA-PSS") {
		return text
	}
	return "id-RSASSA-PSS"
}

// SignatureText names the algorithm that a certificate is signed under.
func SignatureText(raw cryptobyte.String) string {
	var cert, oid, params cryptobyte.String
	if !raw.ReadASN1(&cert, asn1.SEQUENCE) || !cert.SkipASN1(asn1.SEQUENCE) || !der.ReadAlgorithm(&cert, &oid, &params) {
		return "unreadable"
	}
	return AlgorithmText(oid)
}

// algorithmNames are those that certificates have and crypto/x509 refuses.
var algorithmNames = map[string]string{
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x02": "MD2 with RSA",     // 1.2.840.113549.1.1.2
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04": "MD5 with RSA",     // 1.2.840.113549.1.1.4
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05": "SHA-1 with RSA",   // 1.2.840.113549.1.1.5
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e": "SHA-224 with RSA", // 1.2.840.113549.1.1.14
	"\x2b\x0e\x03\x02\x1d":                 "SHA-1 with RSA",   // 1.3.14.3.2.29
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a": "RSASSA-PSS with unsupported parameters",
	"\x2a\x86\x48\xce\x3d\x04\x01":         "ECDSA with SHA-1",   // 1.2.840.10045.4.1
	"\x2a\x86\x48\xce\x3d\x04\x03\x01":     "ECDSA with SHA-224", // 1.2.840.10045.4.3.1
	"\x2a\x86\x48\xce\x38\x04\x03":         "DSA with SHA-1",     // 1.2.840.10040.4.3
	"\x60\x86\x48\x01\x65\x03\x04\x03\x02": "DSA with SHA-256",   // 2.16.840.1.101.3.4.3.2
	"\x2b\x65\x71":                         "Ed448",              // 1.3.101.113
	"\x2b\x24\x03\x03\x02\x08\x01\x01\x07": "brainpoolP256r1",    // 1.3.36.3.3.2.8.1.1.7
	"\x2b\x24\x03\x03\x02\x08\x01\x01\x0b": "brainpoolP384r1",
	"\x2b\x24\x03\x03\x02\x08\x01\x01\x0d": "brainpoolP512r1",
	"\x2b\x81\x04\x00\x0a":                 "secp256k1", // 1.3.132.0.10
}

// AlgorithmText names an algorithm, or the curve of a key, for messages.
func AlgorithmText(oid []byte) string {
	if name, ok := algorithmNames[string(oid)]; ok {
		return name + " (" + der.OIDString(oid) + ")"
	}
	return der.OIDString(oid)
}

// Strong reports whether alg may vouch for anything: neither MD2, MD5, SHA-1 nor
// DSA, and none that crypto/x509 does not know. It lists what is strong, so that an
// algorithm that a later Go adds is weak until it is judged.
func Strong(alg x509.SignatureAlgorithm) bool {
	switch alg {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return true
	}
	return false
}
