package staple

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"golang.org/x/crypto/ocsp"
)

// resumedGrace is by how much the proof of a resumed connection may have expired:
// the staple is that of the full handshake, and no ticket lives longer (RFC 9846
// §4.6.1).
const resumedGrace = 7 * 24 * time.Hour

// VerifyStaple is a callback for [tls.Config.VerifyConnection]: it verifies what
// the peer stapled. An OCSP response, if there is one, must prove that the peer's
// certificate is good, and a Must-Staple certificate (RFC 7633) must come with
// one, else the error is [ErrNoStaple]. It returns nil for a connection without
// peer certificates, and where nothing is stapled and nothing has to be; use
// [RequireStaple] where that isn't enough.
//
// Each error names the peer's certificate. One that is not ErrNoStaple wraps [ErrNoIssuer] or
// a [*ResponseError] that says what is wrong. [ErrRevoked], found with
// [errors.Is], means proven revoked; an expired response is [ErrExpired].
//
// The issuer's certificate is taken from all of VerifiedChains. It is the one of the
// PeerCertificates that issued the peer's certificate where that is trusted by itself,
// and without VerifiedChains, because the [tls.Config] has InsecureSkipVerify set or
// asks for a client certificate without verifying it: the proof is then worth no more
// than the peer's own claim. A callback that verifies the chain by itself, as with
// go-spiffe, should set VerifiedChains before it calls VerifyStaple or RequireStaple.
//
// Times are compared with [time.Now]. On a resumed connection the response is
// that of the first handshake and may be up to 7 days past its nextUpdate, a
// session ticket's longest life; after that the error makes crypto/tls forget the
// ticket. A response without nextUpdate is taken until 7 days after its
// thisUpdate.
//
// On a server it judges client certificates. Those can have a staple in TLS 1.3
// only, so that a Must-Staple client certificate is refused in TLS 1.2.
func VerifyStaple(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	if len(cs.OCSPResponse) == 0 && !certinfo.MustStaple(cs.PeerCertificates[0]) {
		return nil
	}
	return RequireStaple(cs)
}

// RequireStaple is a stricter [VerifyStaple]: every connection with a peer
// certificate must have a staple that proves it good. Without one the error is
// [ErrNoStaple]. Only a connection without peer certificates, such as one from a client
// that need not have any, passes without.
func RequireStaple(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	leaf := cs.PeerCertificates[0]
	if len(cs.OCSPResponse) == 0 {
		return errtext.About(leaf.Raw, leaf, ErrNoStaple)
	}
	grace := time.Duration(0)
	if cs.DidResume {
		grace = resumedGrace
	}
	_, err := prove(cs.OCSPResponse, leaf, issuers.OfPeer(&cs), grace)
	return err
}

// Verify says what raw, an OCSP response in DER from any source, proves about leaf
// now, by the rules of [VerifyStaple]. A nil error means proven good. For a revoked
// certificate the error is an [ErrRevoked], and the response is returned with it. Every
// other error is an [ErrNoIssuer], if issuer did not sign leaf, or a [*ResponseError]
// that says why raw is no proof; then there is no response. A nil leaf or issuer is an
// ErrNoIssuer. The response keeps a reference to raw, which must not be changed after
// that.
func Verify(raw []byte, leaf, issuer *x509.Certificate) (*ocsp.Response, error) {
	if leaf == nil || issuer == nil {
		return nil, ErrNoIssuer
	}
	if err := certinfo.SignedBy(issuer, leaf); err != nil {
		return nil, errtext.About(leaf.Raw, leaf, fmt.Errorf("%w: %q %w", ErrNoIssuer, certinfo.Clip(certinfo.DN(issuer.Subject)), err))
	}
	p, err := prove(raw, leaf, []*x509.Certificate{issuer}, 0)
	if p == nil {
		return nil, err
	}
	return p.Response(), err
}

// prove returns what raw proves about leaf, and an error unless that is good. The issuer
// is one of those that are possible.
func prove(raw []byte, leaf *x509.Certificate, possible []*x509.Certificate, grace time.Duration) (*ocspresp.Proof, error) {
	if len(possible) == 0 {
		return nil, errtext.About(leaf.Raw, leaf, ErrNoIssuer)
	}
	p, err := ocspresp.VerifyByAny(raw, leaf, possible, time.Now(), grace)
	if err == nil {
		err = p.Err()
	}
	return p, errtext.About(leaf.Raw, leaf, refused("", err))
}
