package ocspresp

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"github.com/ocspstaple/staple/internal/errtext"
	"golang.org/x/crypto/ocsp"
)

// A Proof is what a verified response says. It does not change once it is returned,
// and refers to its Subject. A Proof held past its Limit proves nothing: callers
// compare that with the clock when they serve it.
type Proof struct {
	Status     int // ocsp.Good or ocsp.Revoked
	Reason     int // of a revocation
	RevokedAt  time.Time
	ThisUpdate time.Time
	NextUpdate time.Time // zero: absent
	ProducedAt time.Time

	// Limit is the last moment at which the proof is worth anything: the
	// earliest of nextUpdate (or thisUpdate and maxAge, if absent), in each
	// SingleResponse that a client may pick, the delegate's notAfter and the
	// leaf's.
	Limit time.Time

	// Raw is the response in DER: from Verify as received, from Prove encoded again.
	Raw []byte

	sub    *Subject
	signer *x509.Certificate // nil: the issuer

	// What Raw was parsed into, while it is verified.
	basic  *basicResponse
	single single
	ends   *single // the first to end of those that a client may pick
}

// newProof sums up s, of b; ends limits it. It judges nothing: check does.
func newProof(raw []byte, b *basicResponse, s, ends *single, signer *x509.Certificate, sub *Subject) *Proof {
	p := &Proof{
		Status:     s.status,
		Reason:     s.reason,
		RevokedAt:  s.revokedAt,
		ThisUpdate: s.thisUpdate,
		NextUpdate: s.nextUpdate,
		ProducedAt: b.producedAt,
		Limit:      ends.expiry(),
		Raw:        raw,
		sub:        sub,
		signer:     signer,
		basic:      b,
		single:     *s,
		ends:       ends,
	}
	p.Limit = earlier(p.Limit, time.Unix(sub.NotAfter, 0).UTC())
	if signer != nil {
		p.Limit = earlier(p.Limit, signer.NotAfter)
	}
	return p
}

// SameSigned reports whether p is proven by the same signed bytes as raw. The rest may
// differ: one ResponseData twice is no news, unless a delegate's certificate now ends
// later, which package held decides.
func (p *Proof) SameSigned(raw []byte) bool {
	return bytes.Equal(p.Raw, raw) || bytes.Equal(ResponseData(p.Raw), ResponseData(raw))
}

// Issuer returns the issuer by whose key, or delegate, p is proven.
func (p *Proof) Issuer() *Issuer { return p.sub.Issuer }

// Err is nil for good, and says why for revoked: an [*Error] that wraps [ErrRevoked].
func (p *Proof) Err() error {
	if p.Status == ocsp.Good {
		return nil
	}
	return refuse(Revoked, p.revocation(), ErrRevoked)
}

// revocation puts a revocation into words.
func (p *Proof) revocation() string {
	if p.NotIssued() {
		return "certificateHold since 1970-01-01: the CA never issued it"
	}
	return fmt.Sprintf("%s since %s", ReasonCode(p.Reason), errtext.Stamp(p.RevokedAt))
}

// NotIssued: a responder may call a certificate that was never issued revoked, in
// this form (RFC 6960 §2.2). Texts say so, since nobody revoked such a certificate.
func (p *Proof) NotIssued() bool {
	return p.Reason == ocsp.CertificateHold && p.RevokedAt.Unix() == 0 // both are of a revocation
}

// ReasonCode names a CRLReason (RFC 5280 §5.3.1); 7 is not used. Responders may sign
// any other number, and the text then has it.
func ReasonCode(code int) string {
	names := [...]string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
		"cessationOfOperation", "certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise"}
	if code < 0 || code >= len(names) || names[code] == "" {
		return fmt.Sprintf("CRLReason %d", code)
	}
	return names[code]
}

// Revoking returns an [ErrRevoked] that says how raw, which was verified before, has sub
// revoked. A cache keeps Raw alone: it is parsed when the text is asked for.
func Revoking(raw []byte, sub Subject) error {
	return errtext.Of(func() string {
		if b, err := parseResponse(raw); err == nil && sub.Issuer != nil {
			if s, ends, err := b.find(&sub); err == nil && s.status == ocsp.Revoked {
				return newProof(raw, b, s, ends, nil, &sub).revocation()
			}
		}
		return errtext.Bare(ErrRevoked)
	}, ErrRevoked)
}

// Response is p in public terms; its parts are slices of Raw. It parses Raw again, for
// events and callers of the root's Verify: a refresh that nobody watches does without.
func (p *Proof) Response() *ocsp.Response {
	b, err := parseResponse(p.Raw)
	if err != nil {
		return nil // not of what was parsed before
	}
	s, _, err := b.find(p.sub)
	if err != nil {
		return nil
	}
	r := &ocsp.Response{
		Raw:                p.Raw,
		Status:             p.Status,
		SerialNumber:       new(big.Int).SetBytes(s.serial),
		ProducedAt:         p.ProducedAt,
		ThisUpdate:         p.ThisUpdate,
		NextUpdate:         p.NextUpdate,
		RevokedAt:          p.RevokedAt,
		RevocationReason:   p.Reason,
		TBSResponseData:    b.tbs,
		Signature:          b.signature,
		SignatureAlgorithm: b.algorithm.x509,
		IssuerHash:         s.hash,
		Extensions:         pkixExtensions(s.extensions),
	}
	if p.signer != nil {
		r.Certificate, _ = x509.ParseCertificate(p.signer.Raw) // it was parsed before
	}
	if b.byKey {
		r.ResponderKeyHash = b.responder
	} else {
		r.RawResponderName = b.responder
	}
	return r
}
