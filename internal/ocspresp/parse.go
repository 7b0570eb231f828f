package ocspresp

import (
	"crypto"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/ocspstaple/staple/internal/der"
	"github.com/ocspstaple/staple/internal/errtext"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// Parsing is strict: nothing may follow the last element of any SEQUENCE.
// Everything parsed is a slice of the input. encoding/asn1 and OpenSSL are less strict,
// so a client may read in a lax response something else than was judged here.
//
// The functions quote the ASN.1 of what they read. Tags are EXPLICIT where nothing
// else is said, as in RFC 6960. Each exception from strictness names the responders
// that need it.

const oidBasicResponse = "\x2b\x06\x01\x05\x05\x07\x30\x01\x01" // 1.3.6.1.5.5.7.48.1.1

// A basicResponse is a parsed BasicOCSPResponse (RFC 6960 §4.2.1). Nothing in it
// is verified. Only tbs is signed, and what was parsed from it: responder, byKey,
// producedAt, singles, critical.
type basicResponse struct {
	tbs          []byte // ResponseData in DER: what is signed
	responder    []byte // responderID: a Name in DER or, if byKey, a SHA-1 hash
	byKey        bool
	producedAt   time.Time
	singles      cryptobyte.String // SingleResponses, each parsed by readSingle
	critical     bool              // responseExtensions has a critical one
	algorithm    algorithm
	algorithmOID []byte
	signature    []byte
	certs        cryptobyte.String // unsigned: anything may be in it
}

// A single is a parsed SingleResponse (RFC 6960 §4.2.1). reason and revokedAt are
// those of a revocation, else zero.
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

// open opens an OCSPResponse up to its BasicOCSPResponse. An error status is an
// error, whatever follows it.
//
//	OCSPResponse  SEQUENCE { responseStatus ENUMERATED, responseBytes [0] ResponseBytes OPTIONAL }
//	ResponseBytes SEQUENCE { responseType OBJECT IDENTIFIER, response OCTET STRING }
func open(raw []byte) (basic cryptobyte.String, err error) {
	in := cryptobyte.String(raw)
	var body, explicit, bytes, oid cryptobyte.String
	var status int
	if !der.ReadLast(&in, &body, asn1.SEQUENCE) || !body.ReadASN1Enum(&status) {
		return nil, malformed("OCSPResponse")
	}
	if status != int(ocsp.Success) {
		return nil, statusError(status)
	}
	if !der.ReadLast(&body, &explicit, der.Tag0) || !der.ReadLast(&explicit, &bytes, asn1.SEQUENCE) ||
		!der.ReadOID(&bytes, &oid) || !der.ReadLast(&bytes, &basic, asn1.OCTET_STRING) {
		return nil, malformed("ResponseBytes")
	}
	if string(oid) != oidBasicResponse {
		return nil, refuse(ResponseType, der.OIDString(oid), nil)
	}
	return basic, nil
}

// statusError turns an OCSPResponseStatus other than successful into an error. These
// are not signed (RFC 6960 §2.2), so anyone on the path can write one: they
// are never cached nor stapled, and revoke nothing. 4 is not used.
func statusError(status int) error {
	switch ocsp.ResponseStatus(status) {
	case ocsp.Malformed:
		return refuse(MalformedRequest, "", nil)
	case ocsp.InternalError:
		return refuse(InternalError, "", nil)
	case ocsp.TryLater:
		return refuse(TryLater, "", nil)
	case ocsp.SignatureRequired:
		return refuse(SigRequired, "", nil)
	case ocsp.Unauthorized:
		return refuse(Unauthorized, "", nil)
	}
	return malformed("OCSPResponseStatus")
}

// parseResponse parses an OCSPResponse, but for the SingleResponses, which find reads,
// and the certificates, which findSigner does.
//
//	BasicOCSPResponse SEQUENCE { tbsResponseData ResponseData, signatureAlgorithm AlgorithmIdentifier,
//	                             signature BIT STRING, certs [0] SEQUENCE OF Certificate OPTIONAL }
func parseResponse(raw []byte) (*basicResponse, error) {
	in, err := open(raw)
	if err != nil {
		return nil, err
	}
	var body, tbs, oid cryptobyte.String
	var b basicResponse
	ok := der.ReadLast(&in, &body, asn1.SEQUENCE) && body.ReadASN1Element(&tbs, asn1.SEQUENCE)
	if ok {
		b.algorithm, ok = readAlgorithm(&body, &oid)
	}
	// A BIT STRING with unused bits is refused: crypto/x509 would shift them away.
	if !ok || !body.ReadASN1BitStringAsBytes(&b.signature) || !b.readCerts(&body) {
		return nil, malformed("BasicOCSPResponse")
	}
	b.tbs, b.algorithmOID = tbs, oid
	if err := b.parseData(tbs); err != nil {
		return nil, err
	}
	return &b, nil
}

// readCerts reads the optional last element of a BasicOCSPResponse, as far as
// what is around the certificates. Anyone on the path may have put anything among
// them, so no certificate that can't be parsed refuses the response.
func (b *basicResponse) readCerts(s *cryptobyte.String) bool {
	var explicit cryptobyte.String
	var present bool
	return s.ReadOptionalASN1(&explicit, &present, der.Tag0) && s.Empty() &&
		(!present || der.ReadLast(&explicit, &b.certs, asn1.SEQUENCE))
}

// ResponseData returns the signed part of a response in DER, nil if there is
// none. It verifies nothing: it tells whether two responses say the same, though the
// path changed the rest.
func ResponseData(raw []byte) []byte {
	in, err := open(raw)
	var tbs cryptobyte.String
	if err != nil || !in.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Element(&tbs, asn1.SEQUENCE) {
		return nil
	}
	return tbs
}

// parseData parses a ResponseData. Of responseExtensions it keeps whether one is
// critical: no critical one is known here.
//
//	ResponseData SEQUENCE { version [0] INTEGER DEFAULT v1, responderID ResponderID, producedAt GeneralizedTime,
//	                        responses SEQUENCE OF SingleResponse, responseExtensions [1] Extensions OPTIONAL }
func (b *basicResponse) parseData(in cryptobyte.String) (err error) {
	var body, extensions cryptobyte.String
	if !der.ReadLast(&in, &body, asn1.SEQUENCE) {
		return malformed("ResponseData")
	}
	if err := readVersion(&body); err != nil {
		return err
	}
	if !b.readResponder(&body) {
		return malformed("responderID")
	}
	if b.producedAt, err = readTime(&body); err != nil {
		return malformed("producedAt: " + err.Error())
	}
	if !body.ReadASN1(&b.singles, asn1.SEQUENCE) || !readExtensions(&body, &extensions, &b.critical) || !body.Empty() {
		return malformed("ResponseData")
	}
	return nil
}

// readVersion reads the version, v1 if absent, which is encoded as 0. That a default
// is encoded, which DER forbids, is tolerated here: Boulder, among others, did so for
// years.
func readVersion(s *cryptobyte.String) error {
	var explicit cryptobyte.String
	var present bool
	var version int64
	if !s.ReadOptionalASN1(&explicit, &present, der.Tag0) {
		return malformed("version")
	}
	if !present {
		return nil
	}
	if !explicit.ReadASN1Integer(&version) || !explicit.Empty() {
		return malformed("version")
	}
	if version != 0 {
		return refuse(Version, "", nil)
	}
	return nil
}

// readResponder reads the responderID: [1] Name or [2] KeyHash, both explicit. The
// Name keeps its DER, as names are compared byte by byte. The hash is always SHA-1.
func (b *basicResponse) readResponder(s *cryptobyte.String) bool {
	var explicit, id cryptobyte.String
	if s.PeekASN1Tag(der.Tag2) {
		b.byKey = true
		ok := s.ReadASN1(&explicit, der.Tag2) && der.ReadLast(&explicit, &id, asn1.OCTET_STRING)
		b.responder = id
		return ok
	}
	ok := s.ReadASN1(&explicit, der.Tag1) && explicit.ReadASN1Element(&id, asn1.SEQUENCE) && explicit.Empty()
	b.responder = id
	return ok
}

// readSingle reads the next SingleResponse of s into out, which must be zero. The
// error says in which field it is malformed, for those who write responders.
//
//	SingleResponse SEQUENCE { certID CertID, certStatus CertStatus, thisUpdate GeneralizedTime,
//	                          nextUpdate [0] GeneralizedTime OPTIONAL, singleExtensions [1] Extensions OPTIONAL }
func readSingle(s *cryptobyte.String, out *single) (err error) {
	var body cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) {
		return malformed("SingleResponse")
	}
	if !readCertID(&body, out) {
		return malformed("CertID")
	}
	if err := readStatus(&body, out); err != nil {
		return malformed("certStatus: " + err.Error())
	}
	if out.thisUpdate, err = readTime(&body); err != nil {
		return malformed("thisUpdate: " + err.Error())
	}
	if out.nextUpdate, err = readNextUpdate(&body); err != nil {
		return malformed("nextUpdate: " + err.Error())
	}
	if !readExtensions(&body, &out.extensions, &out.critical) || !body.Empty() {
		return malformed("SingleResponse")
	}
	return nil
}

// readCertID reads a CertID (RFC 6960 §4.1.1). A hash algorithm that is unknown does
// not make it malformed, whatever its parameters: find skips that answer.
//
//	CertID SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING,
//	                  issuerKeyHash OCTET STRING, serialNumber INTEGER }
func readCertID(s *cryptobyte.String, out *single) bool {
	var id, oid, params, name, key, serial cryptobyte.String
	if !s.ReadASN1(&id, asn1.SEQUENCE) || !der.ReadAlgorithm(&id, &oid, &params) ||
		!id.ReadASN1(&name, asn1.OCTET_STRING) || !id.ReadASN1(&key, asn1.OCTET_STRING) ||
		!der.ReadInteger(&id, &serial) || !id.Empty() {
		return false
	}
	out.hash = hashAlgorithm(oid)
	out.nameHash, out.keyHash, out.serial = name, key, serial
	return out.hash == 0 || der.EmptyOrNull(params)
}

// errForm says that a field is not what its ASN.1 says. The caller names the field.
var errForm = errors.New("not in its form")

// readStatus reads a CertStatus: good and unknown are implicitly tagged NULLs.
//
//	CertStatus  CHOICE { good [0] IMPLICIT NULL, revoked [1] IMPLICIT RevokedInfo, unknown [2] IMPLICIT NULL }
//	RevokedInfo SEQUENCE { revocationTime GeneralizedTime, revocationReason [0] CRLReason OPTIONAL }
func readStatus(s *cryptobyte.String, out *single) (err error) {
	var info cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&info, &tag) {
		return errForm
	}
	switch tag {
	case asn1.Tag(0).ContextSpecific():
		out.status = ocsp.Good
	case asn1.Tag(2).ContextSpecific():
		out.status = ocsp.Unknown
	case der.Tag1:
		out.status = ocsp.Revoked
		if out.revokedAt, err = der.ReadTime(&info); err != nil {
			return fmt.Errorf("revocationTime: %w", err)
		}
		if !readReason(&info, &out.reason) {
			return errForm
		}
	default:
		return errForm
	}
	if !info.Empty() {
		return errForm
	}
	return nil
}

// readReason reads the optional CRLReason. Its value is not judged: a revocation
// for a reason that we don't know is one all the same.
func readReason(s *cryptobyte.String, out *int) bool {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, der.Tag0) {
		return false
	}
	return !present || explicit.ReadASN1Enum(out) && explicit.Empty()
}

// readTime reads a time that counts. Nothing was signed before 1970, and the year 1 would
// be taken for an absent time. A revocationTime may say that, and is only shown.
func readTime(s *cryptobyte.String) (time.Time, error) {
	t, err := der.ReadTime(s)
	if err == nil && t.Unix() < 0 {
		err = fmt.Errorf("%s is before 1970", errtext.Stamp(t))
	}
	return t, err
}

// readNextUpdate returns the zero time if there is none.
func readNextUpdate(s *cryptobyte.String) (t time.Time, err error) {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, der.Tag0) {
		return t, errForm
	}
	if present {
		t, err = readTime(&explicit)
	}
	if err == nil && !explicit.Empty() {
		return t, errForm
	}
	return t, err
}

// readExtensions reads optional Extensions under an explicit [1]; critical is set
// if any of them is. RFC 5280 §4.1 wants one at least, but HashiCorp Vault,
// OpenBao and other responders sign an empty SEQUENCE, and every client takes it. An
// extension that says critical FALSE, the default, is malformed.
//
//	Extensions SEQUENCE OF Extension
func readExtensions(s, out *cryptobyte.String, critical *bool) bool {
	var explicit cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&explicit, &present, der.Tag1) {
		return false
	}
	if !present {
		return true
	}
	if !der.ReadLast(&explicit, out, asn1.SEQUENCE) {
		return false
	}
	for rest := *out; !rest.Empty(); {
		var e der.Extension
		if !e.Read(&rest) {
			return false
		}
		*critical = *critical || e.Critical
	}
	return true
}

// pkixExtensions is for [ocsp.Response]; in was read by readExtensions. Values are
// slices of in.
func pkixExtensions(in cryptobyte.String) []pkix.Extension {
	var out []pkix.Extension
	for !in.Empty() {
		var e der.Extension
		if !e.Read(&in) {
			return nil
		}
		out = append(out, pkix.Extension{Id: der.ObjectIdentifier(e.OID), Critical: e.Critical, Value: e.Value})
	}
	return out
}
