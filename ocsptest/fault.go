package ocsptest

import "fmt"

// A Fault is a way to fail. Set it by [Responder.SetFault], [Responder.SetFaultFor] or
// [Responder.Script]. Every fault works in memory and on loopback, with the differences that
// are noted.
type Fault uint8

// FaultNone is a normal answer.
const FaultNone Fault = 0

// Faults of the network.
const (
	// FaultRefused is a connection refused: an error of type *net.OpError with
	// syscall.ECONNREFUSED. On loopback the connection is reset after the request instead, since
	// a port refuses all or none; for a port that refuses, use [Responder.Close].
	FaultRefused Fault = iota + 1
	// FaultNoHost is a host name that does not exist: a *net.DNSError with IsNotFound. On
	// loopback it is as FaultRefused.
	FaultNoHost
	// FaultReset is a connection reset instead of an answer: a *net.OpError with
	// syscall.ECONNRESET.
	FaultReset
	// FaultHang is no answer at all until the request's context, or the connection, ends.
	FaultHang
	// FaultCloseInHeader is a connection closed in the middle of the answer's header.
	FaultCloseInHeader
	// FaultSlowBody is a right answer of which one byte arrives each second.
	FaultSlowBody
	// FaultTruncated is a right answer cut in half: Content-Length promises all of it, and
	// reading ends with io.ErrUnexpectedEOF.
	FaultTruncated
)

// Faults of HTTP.
const (
	// FaultHTTP403 is HTTP status 403, Forbidden, with a page of HTML.
	FaultHTTP403 Fault = iota + 20
	// FaultHTTP404 is HTTP status 404, Not Found, with a page of HTML.
	FaultHTTP404
	// FaultHTTP429 is HTTP status 429, Too Many Requests, with [Responder.SetRetryAfter].
	FaultHTTP429
	// FaultHTTP500 is HTTP status 500, Internal Server Error, with a page of HTML.
	FaultHTTP500
	// FaultHTTP503 is HTTP status 503, Service Unavailable, with [Responder.SetRetryAfter].
	FaultHTTP503
	// FaultGETRefused is HTTP status 405 for GET; a POST is answered rightly.
	FaultGETRefused
	// FaultNotModified is HTTP status 304, whether or not the request had a condition.
	FaultNotModified
	// FaultRedirect is HTTP status 302 to a path on the same host where the same request, with
	// its method and its body, is answered rightly.
	FaultRedirect
	// FaultRedirectLoop is HTTP status 302 to the same URL.
	FaultRedirectLoop
	// FaultRedirectScheme is HTTP status 302 to a URL that is neither http nor https.
	FaultRedirectScheme
	// FaultHTML is a page of HTML with HTTP status 200, as captive portals and parked domains
	// have.
	FaultHTML
	// FaultContentType is a right response with Content-Type text/plain.
	FaultContentType
	// FaultNoContentType is a right response without Content-Type.
	FaultNoContentType
	// FaultGzip is a right response compressed with Content-Encoding gzip, which nobody asked
	// for. On loopback http.Transport asks for it by default, and hides it from its user.
	FaultGzip
	// FaultEmptyBody is an empty answer with HTTP status 200 and the right Content-Type.
	FaultEmptyBody
	// FaultHugeBody is a valid response of more than 256 KiB.
	FaultHugeBody
	// FaultEndlessBody is a right response with zero bytes after it that never end.
	FaultEndlessBody
	// FaultJunkBody is 300 bytes that are no DER, with the right Content-Type.
	FaultJunkBody
)

// OCSP error statuses (RFC 6960, section 4.2.1), which are not signed.
const (
	// FaultMalformedRequest is the status malformedRequest (1).
	FaultMalformedRequest Fault = iota + 50
	// FaultInternalError is the status internalError (2).
	FaultInternalError
	// FaultTryLater is the status tryLater (3).
	FaultTryLater
	// FaultSigRequired is the status sigRequired (5).
	FaultSigRequired
	// FaultUnauthorized is the status unauthorized (6).
	FaultUnauthorized
	// FaultUndefinedStatus is a status that no RFC defines (7).
	FaultUndefinedStatus
	// FaultNoBytes is the status successful (0) without a response.
	FaultNoBytes
)

// Signed responses that prove nothing about the certificate, or nothing now.
const (
	// FaultWrongSerial is a response for the serial number after the one asked about.
	FaultWrongSerial Fault = iota + 70
	// FaultWrongNameHash is a response whose CertID has another issuer's name.
	FaultWrongNameHash
	// FaultWrongKeyHash is a response whose CertID has another issuer's key.
	FaultWrongKeyHash
	// FaultNoSingle is a response about no certificate.
	FaultNoSingle
	// FaultExpired is a response whose nextUpdate was ten minutes ago, beyond any tolerance.
	FaultExpired
	// FaultStaleCache is as FaultExpired, with an Age header, unless the request has
	// Cache-Control no-cache: then the answer is right, as from the origin behind a cache.
	FaultStaleCache
	// FaultNotYetValid is a response whose thisUpdate is an hour from now.
	FaultNotYetValid
	// FaultNextBeforeThis is a response whose nextUpdate is a second before its thisUpdate, and
	// in the future all the same: thisUpdate is within the usual tolerance of 5 minutes.
	FaultNextBeforeThis
	// FaultNextIsThis is a response whose nextUpdate is its thisUpdate, a minute from now.
	FaultNextIsThis
	// FaultProducedInFuture is a response with producedAt an hour from now.
	FaultProducedInFuture
	// FaultProducedBeforeLeaf is a response with producedAt a day before the certificate's
	// notBefore.
	FaultProducedBeforeLeaf
	// FaultProducedAfterLeaf is a response with producedAt a day after the certificate's
	// notAfter.
	FaultProducedAfterLeaf
)

// Responses in a form that is wrong.
const (
	// FaultResponseType is a response of a type other than id-pkix-ocsp-basic.
	FaultResponseType Fault = iota + 100
	// FaultVersion2 is a response of version 2.
	FaultVersion2
	// FaultWrongResponderID is a response whose responder ID names somebody else.
	FaultWrongResponderID
	// FaultTrailingInside is an element too much, not signed, inside of the response; see [Junk]
	// for all the places.
	FaultTrailingInside
	// FaultTrailingSigned is an element too much in the signed data.
	FaultTrailingSigned
	// FaultTrailingAfter is bytes after the response.
	FaultTrailingAfter
	// FaultLongLength is a length in more bytes than DER allows.
	FaultLongLength
	// FaultCriticalSingle is an unknown critical extension in the SingleResponse.
	FaultCriticalSingle
	// FaultCriticalResponse is an unknown critical extension in the response.
	FaultCriticalResponse
	// FaultPadded20K is a valid response of more than 20 KiB: it comes with many copies of the
	// CA's certificate, which are not signed, so that anyone on the path can add them. OpenSSL's
	// clients do not take that many bytes in TLS 1.2.
	FaultPadded20K
	// FaultPadded70K is as FaultPadded20K, of more than 70 KiB. crypto/tls cannot staple that in
	// TLS 1.3.
	FaultPadded70K
	// FaultPadded120K is as FaultPadded20K, of more than 120 KiB.
	FaultPadded120K
	// FaultJunkCertificate is a response that comes with a certificate that is none: an empty
	// TBSCertificate. It is not signed, and OpenSSL's clients refuse the response for it.
	FaultJunkCertificate
)

// Signatures that prove nothing.
const (
	// FaultBrokenSignature is a signature with one bit changed.
	FaultBrokenSignature Fault = iota + 130
	// FaultSHA1Signature is a signature with SHA-1. Where the CA's key is of type Ed25519, which
	// has none, a delegate signs.
	FaultSHA1Signature
	// FaultUnknownAlgorithm is a signature with an algorithm that nobody knows.
	FaultUnknownAlgorithm
	// FaultWrongSigner is [WrongKey].
	FaultWrongSigner
	// FaultDelegateNoEKU is [DelegateNoEKU].
	FaultDelegateNoEKU
	// FaultDelegateAnyEKU is [DelegateAnyEKU].
	FaultDelegateAnyEKU
	// FaultDelegateExpired is [DelegateExpired].
	FaultDelegateExpired
	// FaultDelegateNotYetValid is [DelegateNotYetValid].
	FaultDelegateNotYetValid
	// FaultDelegateCritical is [DelegateCritical].
	FaultDelegateCritical
	// FaultDelegateSHA1 is [DelegateSHA1].
	FaultDelegateSHA1
	// FaultDelegateOtherCA is [DelegateOtherCA].
	FaultDelegateOtherCA
	// FaultDelegateOtherName is [DelegateOtherName].
	FaultDelegateOtherName
	// FaultDelegateOfDelegate is [DelegateOfDelegate].
	FaultDelegateOfDelegate
	// FaultDelegateMissing is [DelegateMissing].
	FaultDelegateMissing
	// FaultLeafSigner is [LeafSigner].
	FaultLeafSigner
)

// String returns the name of the fault, such as "http-503".
func (f Fault) String() string {
	if info, ok := faults[f]; ok {
		return info.name
	}
	return fmt.Sprintf("Fault(%d)", uint8(f))
}

// Faults returns all faults in the order of their values, without [FaultNone].
func Faults() []Fault {
	var all []Fault
	for f := FaultNone + 1; f != 0; f++ { // until it wraps around
		if _, ok := faults[f]; ok {
			all = append(all, f)
		}
	}
	return all
}

// check panics if there is no such fault.
func (f Fault) check() {
	if _, ok := faults[f]; !ok {
		panic("ocsptest: no such fault: " + f.String())
	}
}
