package staple

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/directions"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/exchange"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

// Errors that a caller may want to branch on. They are found with [errors.Is];
// what a responder's answer was refused for is in a [ResponseError].
var (
	// ErrNoResponder: the certificate names no OCSP responder that can be asked,
	// yet it must be stapled; or the function of WithResponders named none.
	ErrNoResponder = directions.ErrNoResponder

	// ErrNoIssuer: the certificate that issued the leaf was not found, so that
	// nothing can be asked or proven.
	ErrNoIssuer = issuers.ErrNotFound

	// ErrNoStaple: the peer sent no staple where one is required; or Forget dropped
	// a certificate for which Prefetch or Refresh was waiting.
	ErrNoStaple = errors.New("staple: no OCSP staple")

	// ErrRevoked: a valid response says that the certificate is revoked.
	ErrRevoked = ocspresp.ErrRevoked

	// ErrUnknown: a valid response says that the responder does not know the
	// certificate.
	ErrUnknown = ocspresp.ErrUnknown

	// ErrExpired: the response, or what it rests on, is past its time.
	ErrExpired = ocspresp.ErrExpired

	// ErrClosed: the Stapler was closed.
	ErrClosed = errors.New("staple: closed")
)

// A ResponseError says why an answer was not accepted as proof. It is returned,
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

// refused returns err, of an answer or of none, as a [ResponseError] of responder.
func refused(responder string, err error) error {
	if e, ok := errors.AsType[*ocspresp.Error](err); ok {
		return &ResponseError{Responder: responder, Reason: Reason(e.Reason), Err: e.Err}
	}
	if e, ok := errors.AsType[*ocsphttp.Error](err); ok {
		re := &ResponseError{Responder: responder, Reason: Reason(e.Kind)}
		if e.Err != nil {
			re.Err = e
		}
		return re
	}
	return err
}

// Error names the responder, the reason and the detail, in this order. Where the
// detail is an error of ours, what it repeats is left out. Long URLs and details
// are cut; the fields have them whole.
func (e *ResponseError) Error() string {
	if e.Reason == ReasonIssuer && e.Err != nil {
		return errtext.Prefix + "issuer certificate at " + certinfo.Clip(e.Responder) + ": " + errtext.Cut(errtext.Bare(e.Err))
	}
	who := "OCSP response: "
	if e.Responder != "" {
		who = "OCSP responder " + certinfo.Clip(e.Responder) + ": "
	}
	msg := errtext.Prefix + who + e.Reason.String()
	if e.Err != nil {
		msg += ": " + errtext.Cut(strings.TrimPrefix(errtext.Bare(e.Err), who))
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
	ReasonNetwork Reason = Reason(ocsphttp.Network)
	// ReasonTimeout: no complete answer in the time allowed.
	ReasonTimeout Reason = Reason(ocsphttp.Timeout)
	// ReasonRedirect: too many redirects, or one to a scheme other than http
	// and https.
	ReasonRedirect Reason = Reason(ocsphttp.Redirect)
	// ReasonHTTPStatus: an HTTP status other than 200 (RFC 6960 appendix A.2).
	ReasonHTTPStatus Reason = Reason(ocsphttp.Status)
	// ReasonContentType: a media type other than application/ocsp-response
	// (RFC 6960 appendix A.2).
	ReasonContentType Reason = Reason(ocsphttp.ContentType)
	// ReasonTooLarge: more than 128 KiB; or good, and more than TLS clients take
	// as a staple, 16 KiB.
	ReasonTooLarge Reason = Reason(ocsphttp.TooLarge)
	// ReasonTruncated: the answer ended before its announced length.
	ReasonTruncated Reason = Reason(ocsphttp.Truncated)
	// ReasonEmpty: an answer without a byte in it.
	ReasonEmpty Reason = Reason(ocsphttp.Empty)
	// ReasonIssuer: the issuer's certificate could not be downloaded from
	// id-ad-caIssuers, came in a format that is not supported, such as PKCS#7,
	// or is not the issuer (RFC 5280 §4.2.2.1).
	ReasonIssuer Reason = iota + 1
	// ReasonUnavailable: the responder failed lately and was not asked again.
	ReasonUnavailable
	// ReasonPanic: the user's code (a RoundTripper, a Store, a callback) panicked.
	ReasonPanic

	// The rest has the names of package ocspresp, which verifies responses.

	// The error statuses of OCSPResponseStatus (RFC 6960 §4.2.1), which
	// are unsigned and prove nothing:

	// ReasonMalformedRequest: malformedRequest (1).
	ReasonMalformedRequest Reason = Reason(ocspresp.MalformedRequest)
	// ReasonInternalError: internalError (2).
	ReasonInternalError Reason = Reason(ocspresp.InternalError)
	// ReasonTryLater: tryLater (3).
	ReasonTryLater Reason = Reason(ocspresp.TryLater)
	// ReasonSigRequired: sigRequired (5).
	ReasonSigRequired Reason = Reason(ocspresp.SigRequired)
	// ReasonUnauthorized: unauthorized (6): the responder has no record of the
	// certificate, which is common in a certificate's first minutes
	// (RFC 9919 §3.2.3).
	ReasonUnauthorized Reason = Reason(ocspresp.Unauthorized)

	// Why a response is no proof:

	// ReasonMalformed: not the DER of an OCSPResponse (RFC 6960 §4.2.1),
	// at whatever depth; or a responseStatus that does not exist.
	ReasonMalformed Reason = Reason(ocspresp.Malformed)
	// ReasonResponseType: a responseType other than id-pkix-ocsp-basic
	// (RFC 6960 §4.2.1).
	ReasonResponseType Reason = Reason(ocspresp.ResponseType)
	// ReasonVersion: a version other than v1 (RFC 6960 §4.2.2.3).
	ReasonVersion Reason = Reason(ocspresp.Version)
	// ReasonSerial: no SingleResponse has the certificate's serial number
	// (RFC 6960 §3.2, item 1).
	ReasonSerial Reason = Reason(ocspresp.Serial)
	// ReasonHashAlgorithm: the serial number is there, under a CertID hash
	// other than SHA-1, SHA-256, SHA-384 and SHA-512 (RFC 6960 §4.1.1).
	ReasonHashAlgorithm Reason = Reason(ocspresp.HashAlgorithm)
	// ReasonIssuerName: the serial number is there, under another issuer's name
	// (RFC 6960 §4.1.1, issuerNameHash).
	ReasonIssuerName Reason = Reason(ocspresp.IssuerName)
	// ReasonIssuerKey: the serial number is there, under another issuer's key
	// (RFC 6960 §4.1.1, issuerKeyHash).
	ReasonIssuerKey Reason = Reason(ocspresp.IssuerKey)
	// ReasonCriticalExtension: an unknown critical extension, in the response
	// or in the SingleResponse (RFC 6960 §4.4, RFC 9919 §3.2.1).
	ReasonCriticalExtension Reason = Reason(ocspresp.CriticalExtension)
	// ReasonSignatureAlgorithm: the response is signed under an algorithm that
	// is unknown or weak (MD2, MD5, SHA-1), or is not one for the signer's key.
	ReasonSignatureAlgorithm Reason = Reason(ocspresp.SignatureAlgorithm)
	// ReasonSignature: the signature does not verify (RFC 6960 §3.2,
	// item 2).
	ReasonSignature Reason = Reason(ocspresp.Signature)
	// ReasonSigner: the response is signed by neither the issuer nor a
	// certificate that it holds (RFC 6960 §4.2.2.2).
	ReasonSigner Reason = Reason(ocspresp.Signer)
	// ReasonResponderID: the responderID names another than the signer
	// (RFC 6960 §4.2.1, RFC 9919 §3.2.2).
	ReasonResponderID Reason = Reason(ocspresp.ResponderID)
	// ReasonDelegateIssuer: the signer's certificate was not issued directly by
	// the issuer: another name, or a signature that does not verify (RFC 6960
	// §4.2.2.2).
	ReasonDelegateIssuer Reason = Reason(ocspresp.DelegateIssuer)
	// ReasonDelegateAlgorithm: the signer's certificate is signed under an
	// algorithm that is unknown or weak.
	ReasonDelegateAlgorithm Reason = Reason(ocspresp.DelegateAlgorithm)
	// ReasonDelegateEKU: the signer's certificate lacks the extended key usage
	// id-kp-OCSPSigning (RFC 6960 §4.2.2.2).
	ReasonDelegateEKU Reason = Reason(ocspresp.DelegateEKU)
	// ReasonDelegateExtension: the signer's certificate has an unknown critical
	// extension (RFC 5280 §4.2).
	ReasonDelegateExtension Reason = Reason(ocspresp.DelegateExtension)
	// ReasonDelegateValidity: the signer's certificate is not valid now.
	ReasonDelegateValidity Reason = Reason(ocspresp.DelegateValidity)
	// ReasonThisUpdate: thisUpdate is in the future (RFC 6960 §4.2.2.1).
	ReasonThisUpdate Reason = Reason(ocspresp.ThisUpdate)
	// ReasonNextUpdate: nextUpdate is not after thisUpdate (RFC 6960
	// §4.2.2.1).
	ReasonNextUpdate Reason = Reason(ocspresp.NextUpdate)
	// ReasonProducedAt: producedAt is in the future.
	ReasonProducedAt Reason = Reason(ocspresp.ProducedAt)
	// ReasonProducedAtLeaf: producedAt is not within the certificate's own
	// validity.
	ReasonProducedAtLeaf Reason = Reason(ocspresp.ProducedAtLeaf)
	// ReasonExpired: nextUpdate is past (RFC 6960 §3.2, item 6), or,
	// where there is none, thisUpdate is too old. Wraps [ErrExpired].
	ReasonExpired Reason = Reason(ocspresp.Expired)
	// ReasonUnknown: the certificate's status is unknown. Wraps [ErrUnknown].
	ReasonUnknown Reason = Reason(ocspresp.Unknown)
	// ReasonRevoked: the certificate is revoked. Wraps [ErrRevoked].
	ReasonRevoked Reason = Reason(ocspresp.Revoked)
	// ReasonReplay: the response is older than the one that is held.
	ReasonReplay Reason = Reason(ocspresp.Replay)
)

// String describes r in a few words, fit for a log line or a metric's label.
func (r Reason) String() string {
	switch {
	case r == ReasonIssuer:
		return "unusable issuer certificate"
	case r == ReasonUnavailable:
		return "responder unavailable, not asked"
	case r == ReasonPanic:
		return "panic in user code"
	case r > 0 && r < ReasonIssuer:
		return ocsphttp.Kind(r).String()
	}
	return ocspresp.Reason(r).String()
}

// reasonOf returns the Reason in err; 0 for none.
func reasonOf(err error) Reason {
	if re, ok := errors.AsType[*ResponseError](err); ok {
		return re.Reason
	}
	return 0
}

// verdict returns whom err, the outcome of an exchange, blames.
func verdict(err error) schedule.Verdict {
	if err == nil {
		return schedule.Proof
	}
	return exchange.Verdict(ocspresp.Reason(reasonOf(err)))
}

// retryHint returns the Retry-After in err.
func retryHint(err error) time.Duration {
	if he, ok := errors.AsType[*ocsphttp.Error](err); ok {
		return he.RetryAfter
	}
	return 0
}

// fault converts the error of code that is not ours, or of a download.
func fault(err error) error {
	switch err := err.(type) {
	case *foreign.PanicError:
		return &ResponseError{Reason: ReasonPanic, Err: err}
	case *issuers.DownloadError:
		return &ResponseError{Responder: err.URL, Reason: ReasonIssuer, Err: err.Err}
	case *directions.SlowError:
		return &ResponseError{Reason: ReasonTimeout, Err: err.Err}
	case *foreign.HungError:
		return fmt.Errorf("staple: %w", err)
	}
	return err
}
