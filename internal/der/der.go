// Package der reads the strict DER that OCSP and X.509 use, over cryptobyte.
// Everything read is a slice of the input: nothing is copied.
//
// cryptobyte refuses indefinite lengths, lengths that are not in the shortest
// form, and tag numbers over 30. This package adds what cryptobyte leaves to its
// caller: whether anything follows the last element of a SEQUENCE, and the one
// form that an OID, an INTEGER and a time may have.
//
// Packages certinfo and ocspresp use it, for bytes that anybody may have written.
// There is no state here, and any function may be called concurrently. A reader that
// returns false may have read a part: its caller refuses the whole structure.
package der

import (
	encasn1 "encoding/asn1"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The constructed context-specific tags of explicitly tagged fields.
var (
	Tag0 = asn1.Tag(0).ContextSpecific().Constructed()
	Tag1 = asn1.Tag(1).ContextSpecific().Constructed()
	Tag2 = asn1.Tag(2).ContextSpecific().Constructed()
)

// ReadLast reads the last element of s: nothing may follow it. encoding/asn1
// ignores what follows, and so lets others add to a structure.
func ReadLast(s, out *cryptobyte.String, tag asn1.Tag) bool {
	return s.ReadASN1(out, tag) && s.Empty()
}

// ReadAlgorithm reads an AlgorithmIdentifier (RFC 5280 §4.1.1.2):
//
//	SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL }
//
// params is one element, with its tag and length, or empty. Which of them is right
// depends on the algorithm, so the caller decides.
func ReadAlgorithm(s, oid, params *cryptobyte.String) bool {
	var body, element cryptobyte.String
	var tag asn1.Tag
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !ReadOID(&body, oid) {
		return false
	}
	*params = body
	return body.Empty() || body.ReadAnyASN1(&element, &tag) && body.Empty()
}

// EmptyOrNull reports whether parameters are absent or NULL. RFC 4055 §2.1 wants
// both forms accepted for a hash function, and §5 for RSA PKCS#1 signatures.
func EmptyOrNull(params []byte) bool {
	return len(params) == 0 || string(params) == "\x05\x00"
}

// ReadOID reads the content octets of an OBJECT IDENTIFIER, which are what OIDs
// are compared by here.
func ReadOID(s, out *cryptobyte.String) bool {
	if !s.ReadASN1(out, asn1.OBJECT_IDENTIFIER) {
		return false
	}
	oid := *out
	if len(oid) == 0 || oid[len(oid)-1]&0x80 != 0 {
		return false
	}
	for i, c := range oid { // no arc begins with padding (X.690 §8.19.2)
		if c == 0x80 && (i == 0 || oid[i-1]&0x80 == 0) {
			return false
		}
	}
	return true
}

// ReadInteger reads the content octets of an INTEGER of any size. Serial numbers
// are compared by these octets, without a [math/big.Int].
func ReadInteger(s, out *cryptobyte.String) bool {
	if !s.ReadASN1(out, asn1.INTEGER) || len(*out) == 0 {
		return false
	}
	if v := *out; len(v) > 1 { // the shortest form (X.690 §8.3.2)
		return !(v[0] == 0 && v[1] < 0x80 || v[0] == 0xff && v[1] >= 0x80)
	}
	return true
}

const generalized = "20060102150405Z"

// ReadTime reads a GeneralizedTime in the one form that RFC 5280 §4.1.2.5.2
// allows, YYYYMMDDHHMMSSZ.
func ReadTime(s *cryptobyte.String) (time.Time, error) {
	var v cryptobyte.String
	if !s.ReadASN1(&v, asn1.GeneralizedTime) {
		return time.Time{}, errors.New("no GeneralizedTime")
	}
	t, err := time.Parse(generalized, string(v)) // which takes fractions of a second, too
	switch {
	case err == nil && len(v) == len(generalized):
		return t, nil
	case err == nil && len(v) > len(generalized):
		return time.Time{}, fmt.Errorf("%.40q has fractions of a second (RFC 5280 §4.1.2.5.2)", v)
	}
	return time.Time{}, fmt.Errorf("%.40q is not a time as YYYYMMDDHHMMSSZ", v)
}

// An Extension is a parsed Extension (RFC 5280 §4.1). Value is what extnValue
// holds, which is not parsed.
//
//	SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
type Extension struct {
	OID      cryptobyte.String
	Critical bool
	Value    cryptobyte.String
}

// Read reads the next Extension of s. e must be zero: where critical is absent,
// Read does not write it.
func (e *Extension) Read(s *cryptobyte.String) bool {
	var body cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !ReadOID(&body, &e.OID) {
		return false
	}
	// FALSE is the default, which DER omits.
	if body.PeekASN1Tag(asn1.BOOLEAN) && (!body.ReadASN1Boolean(&e.Critical) || !e.Critical) {
		return false
	}
	return ReadLast(&body, &e.Value, asn1.OCTET_STRING)
}

// ObjectIdentifier turns content octets into what messages and public types
// take. It returns nil if an arc is 2^31 or more.
func ObjectIdentifier(oid []byte) (out encasn1.ObjectIdentifier) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(oid) })
	in := cryptobyte.String(b.BytesOrPanic())
	in.ReadASN1ObjectIdentifier(&out)
	return out
}

// OIDString is for messages.
func OIDString(oid []byte) string { return "OID " + ObjectIdentifier(oid).String() }

// Wrap encodes an element of parts, one after the other, into a new slice. tag must
// have the low form, of one byte. Structures are written from the inside out, which
// takes half of the allocations of nested [cryptobyte.Builder] closures.
func Wrap(tag asn1.Tag, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n+6)
	switch out = append(out, byte(tag)); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n)) // 16 MiB are more than anything here
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
