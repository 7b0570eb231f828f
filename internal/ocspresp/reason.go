package ocspresp

import (
	"errors"

	"github.com/ocspstaple/staple/internal/certinfo"
)

// What a caller branches on, by [errors.Is]. Their texts are those that the users
// of package staple see, which has the same values under the same names.
var (
	ErrExpired = errors.New("staple: OCSP response has expired")
	ErrUnknown = errors.New("staple: certificate is unknown to the responder")
	ErrRevoked = errors.New("staple: certificate is revoked")
)

// A Reason is one check that a response failed. Each check has its own, so that an
// operator can tell a wrong clock from a wrong CA. Package exchange decides by it whether
// the certificate or the responder is at fault, and what to ask next.
type Reason uint8

// The Reasons. Package staple documents each, and has others before 12, for what
// is no response at all: the Kinds of ocsphttp, these two among them, and its own.
const (
	TooLarge Reason = 6
	Empty    Reason = 8
)

// The others, about in the order of the checks: error statuses, form, CertID, who
// signed and under what, the delegate's certificate, times, status. The tests have a
// vector for each, but for Replay, that fails this check alone.
const (
	// The error statuses, as RFC 6960 §4.2.1 orders them.
	MalformedRequest Reason = iota + 12
	InternalError
	TryLater
	SigRequired
	Unauthorized

	Malformed
	ResponseType
	Version
	Serial // the greater, of these four, the closer to what was asked for
	HashAlgorithm
	IssuerName
	IssuerKey
	CriticalExtension
	SignatureAlgorithm
	Signature
	Signer
	ResponderID
	DelegateIssuer
	DelegateAlgorithm
	DelegateEKU
	DelegateExtension
	DelegateValidity
	ThisUpdate
	NextUpdate
	ProducedAt
	ProducedAtLeaf
	Expired
	Unknown
	Revoked
	Replay // by package held

	Last = Replay
)

// reasonText has no text for the root's own Reasons, whose String looks here last.
var reasonText = [...]string{
	TooLarge: "response too large",
	Empty:    "empty response",

	MalformedRequest: "OCSP error status malformedRequest",
	InternalError:    "OCSP error status internalError",
	TryLater:         "OCSP error status tryLater",
	SigRequired:      "OCSP error status sigRequired",
	Unauthorized:     "OCSP error status unauthorized",

	Malformed:          "malformed response",
	ResponseType:       "unsupported response type",
	Version:            "unsupported version",
	Serial:             "no answer for this serial number",
	IssuerName:         "issuerNameHash of another issuer",
	IssuerKey:          "issuerKeyHash of another issuer",
	HashAlgorithm:      "unsupported CertID hash algorithm",
	CriticalExtension:  "unknown critical extension",
	SignatureAlgorithm: "unsupported or weak signature algorithm",
	Signature:          "bad signature",
	Signer:             "signer not found",
	ResponderID:        "responderID is not the signer's",
	DelegateIssuer:     "delegate not issued by the issuer",
	DelegateAlgorithm:  "delegate signed under an unsupported or weak algorithm",
	DelegateEKU:        "delegate lacks id-kp-OCSPSigning",
	DelegateExtension:  "delegate has an unknown critical extension",
	DelegateValidity:   "delegate not valid at this time",
	ThisUpdate:         "thisUpdate in the future",
	NextUpdate:         "nextUpdate not after thisUpdate",
	ProducedAt:         "producedAt in the future",
	ProducedAtLeaf:     "producedAt outside the certificate's validity",
	Expired:            "expired",
	Unknown:            "status unknown",
	Revoked:            "status revoked",
	Replay:             "older than the response held",
}

// String describes r in a few words.
func (r Reason) String() string {
	if int(r) >= len(reasonText) || reasonText[r] == "" {
		return "no reason"
	}
	return reasonText[r]
}

// An Error says why a response is no proof. It unwraps to [ErrExpired], [ErrUnknown]
// or [ErrRevoked], where one of these is why. The root adds whom it asked.
type Error struct {
	Reason Reason
	Err    error // the detail; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Reason.String()
	}
	return e.Reason.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// refuse makes the error of a failed check. is, which may be nil, is the sentinel
// that it wraps; detail may be empty. Details quote what came from the network, so
// they are cut and made legible here, in one place.
func refuse(r Reason, detail string, is error) *Error {
	e := &Error{Reason: r, Err: is}
	if detail != "" {
		e.Err = &detailError{certinfo.Clip(detail), is}
	}
	return e
}

// malformed refuses a response that is not strict DER. what is the structure or field
// in which that was found.
func malformed(what string) error { return refuse(Malformed, what, nil) }

// A detailError wraps a sentinel without repeating its text: the Reason before it
// has said that already.
type detailError struct {
	text string
	is   error
}

func (e *detailError) Error() string { return e.text }
func (e *detailError) Unwrap() error { return e.is }
