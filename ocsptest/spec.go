package ocsptest

import (
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A CertIDs says under which hashes a responder knows certificates.
type CertIDs uint8

const (
	AsAsked    CertIDs = iota // the hash of the request, the default
	SHA1Only                  // SHA-1; a request with another hash is unauthorized
	SHA256Only                // SHA-256; a request with another hash is unauthorized
	DualHash                  // one SingleResponse with SHA-1 and one with SHA-256, whatever was asked
)

// A Spec describes an OCSP response to the last byte, right or wrong. [Responder.Build] and
// [Responder.SetEdit] hand out one that describes what the responder would say, to be changed;
// it belongs to the function that gets it, and is of no use afterwards.
type Spec struct {
	// Status is that of the response as a whole. With any other than ocsp.Success there is
	// nothing else in the response.
	Status ocsp.ResponseStatus

	// Type is the type of the response, id-pkix-ocsp-basic by default.
	Type asn1.ObjectIdentifier

	// Version is the number in the response: 0 stands for v1, which DER leaves out.
	Version int

	// ResponderName, a Name in DER, or ResponderKey, a hash, replace the responder ID that Sign
	// leads to.
	ResponderName, ResponderKey []byte

	ProducedAt time.Time
	Singles    []Single         // the certificates in question, in their order
	Extensions []pkix.Extension // of the response

	// Sign says who signs, and how.
	Sign Sign

	// Certs are certificates in DER that come with the response before those of Sign. NoCerts
	// leaves out those of Sign.
	Certs   [][]byte
	NoCerts bool

	// Junk are places where the encoding has something too much.
	Junk Junk

	brokenSignature  bool
	unknownAlgorithm bool
	longLength       bool    // the outermost length is in more bytes than DER allows
	noBytes          bool    // successful, but without responseBytes
	target           *record // the certificate in question, if the CA issued it
}

// A Single is what a response says about one certificate.
type Single struct {
	Serial *big.Int
	Hash   crypto.Hash // of the CertID: SHA1, SHA256, SHA384 or SHA512

	// IssuerNameHash and IssuerKeyHash are by default those of the CA.
	IssuerNameHash, IssuerKeyHash []byte

	// Status is ocsp.Good, ocsp.Revoked or ocsp.Unknown. If it is Revoked, RevokedAt and Reason
	// count; a Reason of 0, unspecified, is left out.
	Status    int
	RevokedAt time.Time
	Reason    int

	ThisUpdate time.Time
	NextUpdate time.Time // left out if it is zero
	Extensions []pkix.Extension
}

// Junk is a set of places where an element that does not belong there is added to a response.
// An element outside of the signed data leaves the signature valid, one inside is signed.
// encoding/asn1 sees none of them but JunkAfter, which is why x/crypto/ocsp takes them.
type Junk uint

// The places.
const (
	JunkAfter     Junk = 1 << iota // after the whole response
	JunkResponse                   // at the end of OCSPResponse; not signed
	JunkBytes                      // at the end of ResponseBytes; not signed
	JunkBasic                      // at the end of BasicOCSPResponse, after the certificates; not signed
	JunkAlgorithm                  // at the end of the AlgorithmIdentifier of the signature; not signed
	JunkData                       // at the end of ResponseData; signed
	JunkSingle                     // at the end of the first SingleResponse; signed
	JunkCertID                     // at the end of the first CertID; signed
)

// spec describes the right answer to a query, from scratch at this moment.
func (r *Responder) spec(set settings, q query) *Spec {
	target, status := r.ca.issued.get(q.serial)
	now := time.Now().Round(0).UTC()
	s := &Spec{ProducedAt: now, Sign: set.sign, target: target}
	if status.kind == statusUnauthorized || q.nameHash != nil && !q.isFor(r.ca) {
		s.Status = ocsp.Unauthorized
	}
	hashes := []crypto.Hash{q.hash}
	switch set.certIDs {
	case DualHash:
		hashes = []crypto.Hash{defaultHash, otherHash}
	case SHA1Only:
		hashes = []crypto.Hash{defaultHash}
	case SHA256Only:
		hashes = []crypto.Hash{otherHash}
	}
	if !slices.Contains(hashes, q.hash) && set.certIDs != DualHash {
		s.Status = ocsp.Unauthorized
	}
	for _, hash := range hashes {
		s.Singles = append(s.Singles, single(set, q.serial, hash, status, now))
	}
	return s
}

// single says the status of a certificate. There is one even where the response as a whole is
// unauthorized, for edits that set Status to ocsp.Success.
func single(set settings, serial *big.Int, hash crypto.Hash, st status, now time.Time) Single {
	s := Single{Serial: serial, Hash: hash, ThisUpdate: now.Truncate(time.Second)}
	if !set.noNextUpdate {
		s.NextUpdate = s.ThisUpdate.Add(set.validity)
	}
	switch st.kind {
	case statusRevoked:
		s.Status, s.Reason, s.RevokedAt = ocsp.Revoked, st.reason, st.at
	case statusUnknown:
		s.Status = ocsp.Unknown
	}
	return s
}

// leafValidity returns that of the certificate in question, now if it is not known.
func (s *Spec) leafValidity() (notBefore, notAfter time.Time) {
	if s.target == nil {
		return s.ProducedAt, s.ProducedAt
	}
	return s.target.cert.NotBefore, s.target.cert.NotAfter
}
