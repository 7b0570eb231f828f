package staple

import (
	"bytes"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The certificates that come with a response. They are outside of what is signed,
// so that anyone on the path can add to them, and clients that parse them all, as
// OpenSSL does, refuse a response for one that they can't read. Most of them are
// nobody's signer, and may have keys that crypto/x509 doesn't know, so this looks
// at their form alone.

// readCerts reads the optional last element of a BasicOCSPResponse.
func (b *basicResponse) readCerts(s *cryptobyte.String) bool {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, tag0) || !s.Empty() {
		return false
	}
	if !present {
		return true
	}
	if !readLast(&explicit, &b.certs, asn1.SEQUENCE) {
		return false
	}
	for certs := b.certs; !certs.Empty(); b.embeds++ {
		if !certs.SkipASN1(asn1.SEQUENCE) {
			return false
		}
	}
	return true
}

// checkCerts reads the certificates that came with b. The issuer's own and the
// delegates that it knows were read before, byte for byte.
func (b *basicResponse) checkCerts(iss *issuer) error {
	for certs := b.certs; !certs.Empty(); {
		var der cryptobyte.String
		if !certs.ReadASN1Element(&der, asn1.SEQUENCE) {
			return malformed("certs")
		}
		if bytes.Equal(der, iss.cert.Raw) || iss.known(der) != nil {
			continue
		}
		if !soundCertificate(der) {
			return malformed("Certificate")
		}
	}
	return nil
}

// soundCertificate reports whether der has the form of a Certificate (RFC 5280
// section 4.1).
func soundCertificate(der cryptobyte.String) bool {
	var cert cryptobyte.String
	return readLast(&der, &cert, asn1.SEQUENCE) && skipTBSCertificate(&cert) && skipAlgorithm(&cert) &&
		skipBits(&cert, asn1.BIT_STRING) && cert.Empty()
}

func skipTBSCertificate(s *cryptobyte.String) bool {
	var tbs, serial cryptobyte.String
	return s.ReadASN1(&tbs, asn1.SEQUENCE) &&
		skipVersion(&tbs) &&
		readInteger(&tbs, &serial) &&
		skipAlgorithm(&tbs) &&
		skipName(&tbs) && // the issuer's
		skipValidity(&tbs) &&
		skipName(&tbs) && // the subject's
		skipKey(&tbs) &&
		skipUniqueID(&tbs, 1) &&
		skipUniqueID(&tbs, 2) &&
		skipExtensions(&tbs) &&
		tbs.Empty()
}

// skipVersion skips v1, v2 or v3. That v1, the default, is encoded is tolerated.
func skipVersion(s *cryptobyte.String) bool {
	var explicit cryptobyte.String
	var present bool
	var version int64
	if !s.ReadOptionalASN1(&explicit, &present, tag0) {
		return false
	}
	return !present || explicit.ReadASN1Integer(&version) && explicit.Empty() && version >= 0 && version <= 2
}

// skipAlgorithm skips an AlgorithmIdentifier. OpenSSL reads parameters that are
// no SEQUENCE; of these there are NULL and, for curves, an OBJECT IDENTIFIER.
func skipAlgorithm(s *cryptobyte.String) bool {
	var oid, params cryptobyte.String
	if !readAlgorithm(s, &oid, &params) {
		return false
	}
	return emptyOrNull(params) || params.PeekASN1Tag(asn1.SEQUENCE) || readOID(&params, &oid)
}

// skipBits skips a BIT STRING under its own tag or, if implicit, another.
func skipBits(s *cryptobyte.String, tag asn1.Tag) bool {
	var bits cryptobyte.String
	return s.ReadASN1(&bits, tag) && validBits(bits)
}

// validBits reports whether bits is the content of a BIT STRING: the number of
// unused bits in the last octet, which are zero, comes first.
func validBits(bits []byte) bool {
	if len(bits) == 0 {
		return false
	}
	unused, last := bits[0], bits[len(bits)-1]
	if len(bits) == 1 {
		return unused == 0
	}
	return unused < 8 && last&(1<<unused-1) == 0
}

// skipName skips a Name. encoding/asn1, which others read it by, sees to the
// characters of most strings.
func skipName(s *cryptobyte.String) bool {
	var rdns, set cryptobyte.String
	der := *s
	if !s.ReadASN1(&rdns, asn1.SEQUENCE) {
		return false
	}
	der = der[:len(der)-len(*s)]
	for !rdns.Empty() {
		if !rdns.ReadASN1(&set, asn1.SET) || set.Empty() {
			return false
		}
		for !set.Empty() {
			if !skipAttribute(&set) {
				return false
			}
		}
	}
	var name pkix.RDNSequence
	_, err := encasn1.Unmarshal(der, &name)
	return err == nil
}

// skipAttribute skips an AttributeTypeAndValue whose value is of a type that
// OpenSSL takes in a name.
func skipAttribute(s *cryptobyte.String) bool {
	var pair, oid, value cryptobyte.String
	var tag asn1.Tag
	if !s.ReadASN1(&pair, asn1.SEQUENCE) || !readOID(&pair, &oid) || !pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
		return false
	}
	switch tag {
	case asn1.UTF8String:
		return utf8.Valid(value)
	case asn1.PrintableString, asn1.IA5String, asn1.T61String, numericString:
		return true
	case asn1.BIT_STRING:
		return validBits(value)
	case bmpString:
		return validUnits(value, 2)
	case universalString:
		return validUnits(value, 4)
	}
	return false
}

// The types of strings in names that package cryptobyte has no names for.
const (
	numericString   = asn1.Tag(18)
	universalString = asn1.Tag(28)
	bmpString       = asn1.Tag(30)
)

// validUnits reports whether b consists of characters of size bytes each.
func validUnits(b []byte, size int) bool {
	for ; len(b) >= size; b = b[size:] {
		var r uint32
		for _, c := range b[:size] {
			r = r<<8 | uint32(c)
		}
		if r > utf8.MaxRune || utf16.IsSurrogate(rune(r)) {
			return false
		}
	}
	return len(b) == 0
}

func skipValidity(s *cryptobyte.String) bool {
	var validity cryptobyte.String
	return s.ReadASN1(&validity, asn1.SEQUENCE) && skipTime(&validity) && skipTime(&validity) && validity.Empty()
}

// skipTime skips a UTCTime or GeneralizedTime in the forms of RFC 5280 section
// 4.1.2.5.
func skipTime(s *cryptobyte.String) bool {
	var v cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&v, &tag) {
		return false
	}
	form := generalized
	switch tag {
	case asn1.UTCTime:
		form = form[2:]
	case asn1.GeneralizedTime:
	default:
		return false
	}
	_, err := time.Parse(form, string(v))
	return err == nil && len(v) == len(form)
}

// skipKey skips a SubjectPublicKeyInfo.
func skipKey(s *cryptobyte.String) bool {
	var info cryptobyte.String
	return s.ReadASN1(&info, asn1.SEQUENCE) && skipAlgorithm(&info) && skipBits(&info, asn1.BIT_STRING) && info.Empty()
}

func skipUniqueID(s *cryptobyte.String, n asn1.Tag) bool {
	n = n.ContextSpecific()
	return !s.PeekASN1Tag(n) || skipBits(s, n)
}

// skipExtensions skips optional Extensions under an explicit [3]. Old CAs encode
// critical where it is FALSE, the default.
func skipExtensions(s *cryptobyte.String) bool {
	tag := asn1.Tag(3).ContextSpecific().Constructed()
	if !s.PeekASN1Tag(tag) {
		return true
	}
	var explicit, list, e, oid, value cryptobyte.String
	if !s.ReadASN1(&explicit, tag) || !readLast(&explicit, &list, asn1.SEQUENCE) || list.Empty() {
		return false
	}
	for !list.Empty() {
		var critical bool
		if !list.ReadASN1(&e, asn1.SEQUENCE) || !readOID(&e, &oid) ||
			e.PeekASN1Tag(asn1.BOOLEAN) && !e.ReadASN1Boolean(&critical) ||
			!readLast(&e, &value, asn1.OCTET_STRING) {
			return false
		}
	}
	return true
}
