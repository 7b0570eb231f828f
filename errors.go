package staple

import (
	"crypto/x509"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Errors that a caller may want to branch on. They are found with [errors.Is];
// what a responder's answer was refused for is in a [ResponseError].
var (
	// ErrNoResponder: the certificate names no OCSP responder that can be asked,
	// yet it must be stapled; or the function of WithResponders named none.
	ErrNoResponder = errors.New("staple: no OCSP responder")

	// ErrNoIssuer: the certificate that issued the leaf was not found, so that
	// nothing can be asked or proven.
	ErrNoIssuer = errors.New("staple: issuer certificate not found")

	// ErrNoStaple: the peer sent no staple where one is required.
	ErrNoStaple = errors.New("staple: no OCSP staple")

	// ErrRevoked: a valid response says that the certificate is revoked.
	ErrRevoked = errors.New("staple: certificate is revoked")

	// ErrUnknown: a valid response says that the responder does not know the
	// certificate.
	ErrUnknown = errors.New("staple: certificate is unknown to the responder")

	// ErrExpired: the response, or what it rests on, is past its time.
	ErrExpired = errors.New("staple: OCSP response has expired")

	// ErrClosed: the Stapler was closed.
	ErrClosed = errors.New("staple: closed")
)

// A ResponseError tells why an answer was not taken as proof. It is returned,
// wrapped or bare, by everything that judges responses: find it with
// [errors.As].
type ResponseError struct {
	// Responder is the URL that was asked, for ReasonIssuer that of the issuer's
	// certificate; empty when the response came from elsewhere, such as a TLS
	// handshake.
	Responder string

	// Reason is the one check that failed.
	Reason Reason

	// Err has the detail; it is nil when Reason says it all. It wraps
	// [ErrExpired], [ErrUnknown] or [ErrRevoked] where one of them applies.
	Err error
}

// refuse makes the error of a failed check. is, which may be nil, is the sentinel
// that it wraps; detail may be empty.
func refuse(r Reason, detail string, is error) *ResponseError {
	e := &ResponseError{Reason: r, Err: is}
	if detail != "" {
		e.Err = &detailError{clip(detail), is}
	}
	return e
}

// clip makes text that came from the network fit for a log: names and OIDs in a
// response may be of any length and content.
func clip(s string) string {
	const most = 200
	s = legible(s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func legible(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// prefix begins the text of every error that a caller gets from this package.
const prefix = "staple: "

// bare returns the text of err for another to go on with: on one line, and
// without the prefix, wherever an error of ours is in it.
func bare(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(strings.TrimPrefix(line, prefix), ": "+prefix, ": ")
	}
	return strings.Join(lines, "; ")
}

// An aboutError says which certificate an error is about.
type aboutError struct {
	der  []byte
	leaf *x509.Certificate // nil if it does not parse
	err  error
}

// about says that err, which may be nil, is about a certificate.
func about(der []byte, leaf *x509.Certificate, err error) error {
	if err == nil {
		return nil
	}
	return &aboutError{der, leaf, err}
}

func (e *aboutError) Error() string { return prefix + nameOf(e.der, e.leaf) + ": " + bare(e.err) }
func (e *aboutError) Unwrap() error { return e.err }

// A causedError is an error, and what it is due to.
type causedError struct{ err, cause error }

func (e *causedError) Error() string   { return e.err.Error() + ": " + bare(e.cause) }
func (e *causedError) Unwrap() []error { return []error{e.err, e.cause} }

// A lapsedError is why there is no response, and that there was one.
type lapsedError struct {
	until time.Time
	err   error // of the last attempt; may be nil
}

func (e *lapsedError) Error() string {
	msg := ErrExpired.Error() + " at " + stamp(e.until)
	if e.err != nil {
		msg += "; the last attempt: " + bare(e.err)
	}
	return msg
}

func (e *lapsedError) Unwrap() []error {
	if e.err == nil {
		return []error{ErrExpired}
	}
	return []error{e.err, ErrExpired}
}

// A detailError wraps a sentinel without repeating its text: the Reason before it
// has said that already.
type detailError struct {
	text string
	is   error
}

func (e *detailError) Error() string { return e.text }
func (e *detailError) Unwrap() error { return e.is }

// Error names the responder, the reason and the detail, in this order. Where the
// detail is an error of ours, what it repeats is left out.
func (e *ResponseError) Error() string {
	if e.Reason == ReasonIssuer && e.Err != nil {
		return prefix + "issuer certificate at " + e.Responder + ": " + bare(e.Err)
	}
	who := "OCSP response: "
	if e.Responder != "" {
		who = "OCSP responder " + e.Responder + ": "
	}
	msg := prefix + who + e.Reason.String()
	if e.Err != nil {
		msg += ": " + strings.TrimPrefix(bare(e.Err), who)
	}
	return msg
}

// Unwrap returns the detail.
func (e *ResponseError) Unwrap() error { return e.Err }

// A Reason is one way for an answer to be refused. The zero Reason is none.
type Reason uint8

// The first group: why there was no answer that could be read.
const (
	// ReasonNetwork: the responder was not reached, or the connection broke.
	ReasonNetwork Reason = iota + 1
	// ReasonTimeout: no complete answer in the time allowed.
	ReasonTimeout
	// ReasonRedirect: too many redirects, or one to a scheme other than http
	// and https.
	ReasonRedirect
	// ReasonHTTPStatus: an HTTP status other than 200 (RFC 6960 appendix A.2).
	ReasonHTTPStatus
	// ReasonContentType: a media type other than application/ocsp-response
	// (RFC 6960 appendix A.2).
	ReasonContentType
	// ReasonTooLarge: more than 128 KiB; or good, and more than TLS clients take
	// as a staple: 16 KiB, or 8 certificates.
	ReasonTooLarge
	// ReasonTruncated: the answer ended before its announced length.
	ReasonTruncated
	// ReasonEmpty: an answer without a byte in it.
	ReasonEmpty
	// ReasonIssuer: the issuer's certificate was not to be had from
	// id-ad-caIssuers, came in a format that is not supported, such as PKCS#7,
	// or is not the issuer (RFC 5280 section 4.2.2.1).
	ReasonIssuer
	// ReasonUnavailable: the responder failed lately and was not asked again.
	ReasonUnavailable
	// ReasonPanic: code that is not ours (a RoundTripper, a Store, a callback)
	// panicked.
	ReasonPanic

	// The error statuses of OCSPResponseStatus (RFC 6960 section 4.2.1), which
	// are unsigned and prove nothing:

	// ReasonMalformedRequest: malformedRequest (1).
	ReasonMalformedRequest
	// ReasonInternalError: internalError (2).
	ReasonInternalError
	// ReasonTryLater: tryLater (3).
	ReasonTryLater
	// ReasonSigRequired: sigRequired (5).
	ReasonSigRequired
	// ReasonUnauthorized: unauthorized (6): the responder has no record of the
	// certificate, which is common in a certificate's first minutes
	// (RFC 9919 section 3.2.3).
	ReasonUnauthorized

	// Why a response is no proof:

	// ReasonMalformed: not the DER of an OCSPResponse (RFC 6960 section 4.2.1),
	// at whatever depth; or a responseStatus that does not exist.
	ReasonMalformed
	// ReasonResponseType: a responseType other than id-pkix-ocsp-basic
	// (RFC 6960 section 4.2.1).
	ReasonResponseType
	// ReasonVersion: a version other than v1 (RFC 6960 section 4.2.2.3).
	ReasonVersion
	// ReasonSerial: no SingleResponse has the certificate's serial number
	// (RFC 6960 section 3.2, item 1).
	ReasonSerial
	// ReasonHashAlgorithm: the serial number is there, under a CertID hash
	// other than SHA-1, SHA-256, SHA-384 and SHA-512 (RFC 6960 section 4.1.1).
	ReasonHashAlgorithm
	// ReasonIssuerName: the serial number is there, under another issuer's name
	// (RFC 6960 section 4.1.1, issuerNameHash).
	ReasonIssuerName
	// ReasonIssuerKey: the serial number is there, under another issuer's key
	// (RFC 6960 section 4.1.1, issuerKeyHash).
	ReasonIssuerKey
	// ReasonCriticalExtension: an unknown critical extension, in the response
	// or in the SingleResponse (RFC 6960 section 4.4, RFC 9919 section 3.2.1).
	ReasonCriticalExtension
	// ReasonSignatureAlgorithm: the response is signed under an algorithm that
	// is unknown or weak (MD2, MD5, SHA-1), or is not one for the signer's key.
	ReasonSignatureAlgorithm
	// ReasonSignature: the signature does not verify (RFC 6960 section 3.2,
	// item 2).
	ReasonSignature
	// ReasonSigner: the response is signed by neither the issuer nor a
	// certificate that it holds (RFC 6960 section 4.2.2.2).
	ReasonSigner
	// ReasonResponderID: the responderID names another than the signer
	// (RFC 6960 section 4.2.1, RFC 9919 section 3.2.2).
	ReasonResponderID
	// ReasonDelegateIssuer: the signer's certificate was not issued directly by
	// the issuer: another name, or a signature that does not verify (RFC 6960
	// section 4.2.2.2).
	ReasonDelegateIssuer
	// ReasonDelegateAlgorithm: the signer's certificate is signed under an
	// algorithm that is unknown or weak.
	ReasonDelegateAlgorithm
	// ReasonDelegateEKU: the signer's certificate lacks the extended key usage
	// id-kp-OCSPSigning (RFC 6960 section 4.2.2.2).
	ReasonDelegateEKU
	// ReasonDelegateExtension: the signer's certificate has an unknown critical
	// extension (RFC 5280 section 4.2).
	ReasonDelegateExtension
	// ReasonDelegateValidity: the signer's certificate is not valid now.
	ReasonDelegateValidity
	// ReasonThisUpdate: thisUpdate is in the future (RFC 6960 section 4.2.2.1).
	ReasonThisUpdate
	// ReasonNextUpdate: nextUpdate is not after thisUpdate (RFC 6960 section
	// 4.2.2.1).
	ReasonNextUpdate
	// ReasonProducedAt: producedAt is in the future.
	ReasonProducedAt
	// ReasonProducedAtLeaf: producedAt is not within the certificate's own
	// validity.
	ReasonProducedAtLeaf
	// ReasonExpired: nextUpdate is past (RFC 6960 section 3.2, item 6), or,
	// where there is none, thisUpdate is too old. Wraps [ErrExpired].
	ReasonExpired
	// ReasonUnknown: the certificate's status is unknown. Wraps [ErrUnknown].
	ReasonUnknown
	// ReasonRevoked: the certificate is revoked. Wraps [ErrRevoked].
	ReasonRevoked
	// ReasonReplay: the response is older than the one that is held.
	ReasonReplay
)

var reasonText = [...]string{
	ReasonNetwork:     "network failure",
	ReasonTimeout:     "timeout",
	ReasonRedirect:    "redirect not followed",
	ReasonHTTPStatus:  "unexpected HTTP status",
	ReasonContentType: "unexpected content type",
	ReasonTooLarge:    "response too large",
	ReasonTruncated:   "response truncated",
	ReasonEmpty:       "empty response",
	ReasonIssuer:      "unusable issuer certificate",
	ReasonUnavailable: "responder unavailable, not asked",
	ReasonPanic:       "panic in user code",

	ReasonMalformedRequest: "OCSP error status malformedRequest",
	ReasonInternalError:    "OCSP error status internalError",
	ReasonTryLater:         "OCSP error status tryLater",
	ReasonSigRequired:      "OCSP error status sigRequired",
	ReasonUnauthorized:     "OCSP error status unauthorized",

	ReasonMalformed:          "malformed response",
	ReasonResponseType:       "unsupported response type",
	ReasonVersion:            "unsupported version",
	ReasonSerial:             "no answer for this serial number",
	ReasonIssuerName:         "issuerNameHash of another issuer",
	ReasonIssuerKey:          "issuerKeyHash of another issuer",
	ReasonHashAlgorithm:      "unsupported CertID hash algorithm",
	ReasonCriticalExtension:  "unknown critical extension",
	ReasonSignatureAlgorithm: "unsupported or weak signature algorithm",
	ReasonSignature:          "bad signature",
	ReasonSigner:             "signer not found",
	ReasonResponderID:        "responderID is not the signer's",
	ReasonDelegateIssuer:     "delegate not issued by the issuer",
	ReasonDelegateAlgorithm:  "delegate signed under an unsupported or weak algorithm",
	ReasonDelegateEKU:        "delegate lacks id-kp-OCSPSigning",
	ReasonDelegateExtension:  "delegate has an unknown critical extension",
	ReasonDelegateValidity:   "delegate not valid at this time",
	ReasonThisUpdate:         "thisUpdate in the future",
	ReasonNextUpdate:         "nextUpdate not after thisUpdate",
	ReasonProducedAt:         "producedAt in the future",
	ReasonProducedAtLeaf:     "producedAt outside the certificate's validity",
	ReasonExpired:            "expired",
	ReasonUnknown:            "status unknown",
	ReasonRevoked:            "status revoked",
	ReasonReplay:             "older than the response held",
}

// String describes r in a few words, fit for a log line or a metric's label.
func (r Reason) String() string {
	if r == 0 || int(r) >= len(reasonText) {
		return "no reason"
	}
	return reasonText[r]
}
