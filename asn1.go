package staple

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// Parsing of OCSP responses: strict DER, with nothing allowed to follow the last
// element of any SEQUENCE. encoding/asn1 ignores such extra elements, and what is
// outside of the signed part would let anyone on the path add to what we staple.
// Everything parsed is a sub-slice of the input.

var (
	tag0 = asn1.Tag(0).ContextSpecific().Constructed()
	tag1 = asn1.Tag(1).ContextSpecific().Constructed()
	tag2 = asn1.Tag(2).ContextSpecific().Constructed()
)

const oidBasicResponse = "\x2b\x06\x01\x05\x05\x07\x30\x01\x01" // 1.3.6.1.5.5.7.48.1.1

// A basicResponse is a parsed BasicOCSPResponse (RFC 6960 section 4.2.1). Nothing
// in it is verified.
type basicResponse struct {
	tbs          []byte // ResponseData in DER: what is signed
	responder    []byte // responderID: a Name in DER or, if byKey, a SHA-1 hash
	byKey        bool
	producedAt   time.Time
	singles      cryptobyte.String // SingleResponses, each parsed by readSingle
	critical     bool              // responseExtensions has a critical one
	algorithm    x509.SignatureAlgorithm
	algorithmOID []byte
	signature    []byte
	certs        cryptobyte.String // Certificates, each a SEQUENCE
	embeds       int               // how many of them
}

// A single is a parsed SingleResponse (RFC 6960 section 4.2.1).
type single struct {
	hash              crypto.Hash // zero: none that we know
	nameHash, keyHash []byte
	serial            []byte // the INTEGER's content octets
	status, reason    int    // as in package ocsp
	revokedAt         time.Time
	thisUpdate        time.Time
	nextUpdate        time.Time // zero: absent
	extensions        cryptobyte.String
	critical          bool // one of the extensions is
}

func malformed(what string) error {
	return refuse(ReasonMalformed, what, nil)
}

// parseResponse parses an OCSPResponse. An error status is an error.
func parseResponse(raw []byte) (*basicResponse, error) {
	in := cryptobyte.String(raw)
	var body, explicit, bytes, oid, octets cryptobyte.String
	var status int
	if !readLast(&in, &body, asn1.SEQUENCE) || !body.ReadASN1Enum(&status) {
		return nil, malformed("OCSPResponse")
	}
	if status != int(ocsp.Success) {
		return nil, statusError(status)
	}
	if !readLast(&body, &explicit, tag0) || !readLast(&explicit, &bytes, asn1.SEQUENCE) ||
		!readOID(&bytes, &oid) || !readLast(&bytes, &octets, asn1.OCTET_STRING) {
		return nil, malformed("ResponseBytes")
	}
	if string(oid) != oidBasicResponse {
		return nil, refuse(ReasonResponseType, oidString(oid), nil)
	}
	return parseBasic(octets)
}

// statusError turns an OCSPResponseStatus other than successful into an error.
func statusError(status int) error {
	switch ocsp.ResponseStatus(status) {
	case ocsp.Malformed:
		return refuse(ReasonMalformedRequest, "", nil)
	case ocsp.InternalError:
		return refuse(ReasonInternalError, "", nil)
	case ocsp.TryLater:
		return refuse(ReasonTryLater, "", nil)
	case ocsp.SignatureRequired:
		return refuse(ReasonSigRequired, "", nil)
	case ocsp.Unauthorized:
		return refuse(ReasonUnauthorized, "", nil)
	}
	return malformed("OCSPResponseStatus")
}

// parseBasic parses a BasicOCSPResponse.
func parseBasic(in cryptobyte.String) (*basicResponse, error) {
	var body, tbs, params, oid cryptobyte.String
	var b basicResponse
	if !readLast(&in, &body, asn1.SEQUENCE) || !body.ReadASN1Element(&tbs, asn1.SEQUENCE) ||
		!readAlgorithm(&body, &oid, &params) || !body.ReadASN1BitStringAsBytes(&b.signature) ||
		!b.readCerts(&body) {
		return nil, malformed("BasicOCSPResponse")
	}
	b.tbs, b.algorithmOID = tbs, oid
	b.algorithm = signatureAlgorithm(oid, params)
	if err := b.parseData(tbs); err != nil {
		return nil, err
	}
	return &b, nil
}

// signedPart returns the ResponseData of a response in DER that was parsed before.
func signedPart(raw []byte) []byte {
	in := cryptobyte.String(raw)
	var tbs cryptobyte.String
	if in.ReadASN1(&in, asn1.SEQUENCE) && in.SkipASN1(asn1.ENUM) && in.ReadASN1(&in, tag0) && in.ReadASN1(&in, asn1.SEQUENCE) &&
		in.SkipASN1(asn1.OBJECT_IDENTIFIER) && in.ReadASN1(&in, asn1.OCTET_STRING) && in.ReadASN1(&in, asn1.SEQUENCE) {
		in.ReadASN1Element(&tbs, asn1.SEQUENCE)
	}
	return tbs
}

// parseData parses a ResponseData.
func (b *basicResponse) parseData(in cryptobyte.String) error {
	var body cryptobyte.String
	if !readLast(&in, &body, asn1.SEQUENCE) {
		return malformed("ResponseData")
	}
	if err := readVersion(&body); err != nil {
		return err
	}
	if !b.readResponder(&body) || !readTime(&body, &b.producedAt) {
		return malformed("ResponseData")
	}
	var extensions cryptobyte.String
	if !body.ReadASN1(&b.singles, asn1.SEQUENCE) || !readExtensions(&body, &extensions, &b.critical) || !body.Empty() {
		return malformed("ResponseData")
	}
	return nil
}

// readVersion reads the version, v1 if absent. That a default is encoded, which
// DER forbids, is tolerated here: Boulder, among others, did so for years.
func readVersion(s *cryptobyte.String) error {
	var explicit cryptobyte.String
	var present bool
	var version int64
	if !s.ReadOptionalASN1(&explicit, &present, tag0) {
		return malformed("version")
	}
	if !present {
		return nil
	}
	if !explicit.ReadASN1Integer(&version) || !explicit.Empty() {
		return malformed("version")
	}
	if version != 0 {
		return refuse(ReasonVersion, "", nil)
	}
	return nil
}

// readResponder reads the responderID: [1] Name or [2] KeyHash, both explicit.
func (b *basicResponse) readResponder(s *cryptobyte.String) bool {
	var explicit, id cryptobyte.String
	if s.PeekASN1Tag(tag2) {
		b.byKey = true
		ok := s.ReadASN1(&explicit, tag2) && readLast(&explicit, &id, asn1.OCTET_STRING)
		b.responder = id
		return ok
	}
	ok := s.ReadASN1(&explicit, tag1) && explicit.ReadASN1Element(&id, asn1.SEQUENCE) && explicit.Empty()
	b.responder = id
	return ok
}

// readSingle reads a SingleResponse.
func readSingle(s *cryptobyte.String, out *single) bool {
	var body cryptobyte.String
	return s.ReadASN1(&body, asn1.SEQUENCE) &&
		readCertID(&body, out) &&
		readStatus(&body, out) &&
		readTime(&body, &out.thisUpdate) &&
		readNextUpdate(&body, &out.nextUpdate) &&
		readExtensions(&body, &out.extensions, &out.critical) &&
		body.Empty()
}

// readCertID reads a CertID (RFC 6960 section 4.1.1).
func readCertID(s *cryptobyte.String, out *single) bool {
	var id, oid, params, name, key, serial cryptobyte.String
	if !s.ReadASN1(&id, asn1.SEQUENCE) || !readAlgorithm(&id, &oid, &params) ||
		!id.ReadASN1(&name, asn1.OCTET_STRING) || !id.ReadASN1(&key, asn1.OCTET_STRING) ||
		!readInteger(&id, &serial) || !id.Empty() {
		return false
	}
	out.hash = hashAlgorithm(oid)
	out.nameHash, out.keyHash, out.serial = name, key, serial
	return out.hash == 0 || emptyOrNull(params)
}

// readStatus reads a CertStatus: good and unknown are implicitly tagged NULLs.
func readStatus(s *cryptobyte.String, out *single) bool {
	var info cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&info, &tag) {
		return false
	}
	switch tag {
	case asn1.Tag(0).ContextSpecific():
		out.status = ocsp.Good
		return info.Empty()
	case asn1.Tag(2).ContextSpecific():
		out.status = ocsp.Unknown
		return info.Empty()
	case tag1:
		out.status = ocsp.Revoked
		return readTime(&info, &out.revokedAt) && readReason(&info, &out.reason) && info.Empty()
	}
	return false
}

// readReason reads the optional CRLReason. Its value is not judged: a revocation
// for a reason that we don't know is one all the same.
func readReason(s *cryptobyte.String, out *int) bool {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, tag0) {
		return false
	}
	return !present || explicit.ReadASN1Enum(out) && explicit.Empty()
}

func readNextUpdate(s *cryptobyte.String, out *time.Time) bool {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, tag0) {
		return false
	}
	return !present || readTime(&explicit, out) && explicit.Empty()
}

// readExtensions reads optional Extensions under an explicit [1]; critical is set
// if any of them is.
func readExtensions(s, out *cryptobyte.String, critical *bool) bool {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, tag1) {
		return false
	}
	if !present {
		return true
	}
	if !readLast(&explicit, out, asn1.SEQUENCE) || out.Empty() {
		return false // SIZE (1..MAX), RFC 5280 section 4.1
	}
	for rest := *out; !rest.Empty(); {
		var e extension
		if !e.read(&rest) {
			return false
		}
		*critical = *critical || e.critical
	}
	return true
}

// An extension is a parsed Extension (RFC 5280 section 4.1).
type extension struct {
	oid      cryptobyte.String
	critical bool
	value    cryptobyte.String
}

func (e *extension) read(s *cryptobyte.String) bool {
	var body cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !readOID(&body, &e.oid) {
		return false
	}
	// FALSE is the default, which DER omits.
	if body.PeekASN1Tag(asn1.BOOLEAN) && (!body.ReadASN1Boolean(&e.critical) || !e.critical) {
		return false
	}
	return readLast(&body, &e.value, asn1.OCTET_STRING)
}

// pkixExtensions is for [ocsp.Response]; der was read by readExtensions.
func pkixExtensions(der cryptobyte.String) []pkix.Extension {
	var out []pkix.Extension
	for !der.Empty() {
		var e extension
		if !e.read(&der) {
			return nil
		}
		out = append(out, pkix.Extension{Id: objectIdentifier(e.oid), Critical: e.critical, Value: e.value})
	}
	return out
}

// readLast reads the last element of s: nothing may follow it.
func readLast(s, out *cryptobyte.String, tag asn1.Tag) bool {
	return s.ReadASN1(out, tag) && s.Empty()
}

// readAlgorithm reads an AlgorithmIdentifier; params is one element or empty.
func readAlgorithm(s, oid, params *cryptobyte.String) bool {
	var body, any cryptobyte.String
	var tag asn1.Tag
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !readOID(&body, oid) {
		return false
	}
	*params = body
	return body.Empty() || body.ReadAnyASN1(&any, &tag) && body.Empty()
}

func emptyOrNull(params []byte) bool {
	return len(params) == 0 || string(params) == "\x05\x00"
}

// readOID reads the content octets of an OBJECT IDENTIFIER, which are what OIDs
// are compared by here.
func readOID(s, out *cryptobyte.String) bool {
	if !s.ReadASN1(out, asn1.OBJECT_IDENTIFIER) {
		return false
	}
	oid := *out
	if len(oid) == 0 || oid[len(oid)-1]&0x80 != 0 {
		return false
	}
	for i, c := range oid { // no arc begins with padding (X.690 section 8.19.2)
		if c == 0x80 && (i == 0 || oid[i-1]&0x80 == 0) {
			return false
		}
	}
	return true
}

// readInteger reads the content octets of an INTEGER of any size.
func readInteger(s, out *cryptobyte.String) bool {
	if !s.ReadASN1(out, asn1.INTEGER) || len(*out) == 0 {
		return false
	}
	if v := *out; len(v) > 1 { // the shortest form (X.690 section 8.3.2)
		return !(v[0] == 0 && v[1] < 0x80 || v[0] == 0xff && v[1] >= 0x80)
	}
	return true
}

// readTime reads a GeneralizedTime in the one form that RFC 5280 section
// 4.1.2.5.2 allows, YYYYMMDDHHMMSSZ: no fractions, no other zone. Nothing was
// signed before 1970, and the year 1 would be taken for an absent time.
func readTime(s *cryptobyte.String, out *time.Time) bool {
	var v cryptobyte.String
	if !s.ReadASN1(&v, asn1.GeneralizedTime) || len(v) != len(generalized) {
		return false
	}
	t, err := time.Parse(generalized, string(v))
	*out = t
	return err == nil && t.Unix() >= 0
}

const generalized = "20060102150405Z"

// objectIdentifier is for messages and public types.
func objectIdentifier(oid []byte) (out encasn1.ObjectIdentifier) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(oid) })
	der := cryptobyte.String(b.BytesOrPanic())
	der.ReadASN1ObjectIdentifier(&out)
	return out
}

func oidString(oid []byte) string { return "OID " + objectIdentifier(oid).String() }

// extensionValue returns the value of leaf's extension oid.
func extensionValue(leaf *x509.Certificate, oid ...int) (value []byte, ok bool) {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(oid) {
			return e.Value, true
		}
	}
	return nil, false
}

// mustStaple reports whether leaf has the TLS feature status_request (RFC 7633
// section 4): SEQUENCE OF INTEGER containing 5. What isn't that demands nothing.
func mustStaple(leaf *x509.Certificate) bool {
	value, ok := extensionValue(leaf, 1, 3, 6, 1, 5, 5, 7, 1, 24)
	if !ok {
		return false
	}
	in := cryptobyte.String(value)
	var features, feature cryptobyte.String
	found := false
	if !readLast(&in, &features, asn1.SEQUENCE) {
		return false
	}
	for !features.Empty() {
		if !readInteger(&features, &feature) {
			return false
		}
		found = found || bytes.Equal(feature, []byte{5})
	}
	return found
}

// noRevAvail reports whether leaf says that no revocation information exists for
// it (RFC 9608 section 2).
func noRevAvail(leaf *x509.Certificate) bool {
	_, ok := extensionValue(leaf, 2, 5, 29, 56)
	return ok
}
