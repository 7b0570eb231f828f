package issuers

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"slices"
)

// maxOfPeer is how many of the certificates that a peer sent are tried as its
// issuer's, which costs a signature each: it may send hundreds.
const maxOfPeer = 8

// OfPeer returns the certificates that may have issued the peer's: those of
// the verified chains or, lacking these, what the peer sent, in any order. Of
// those with one name and key, which prove the same, it returns one.
//
// cs must have a peer certificate. crypto/tls has verified the signatures in
// VerifiedChains, so these cost nothing here. A chain has no issuer where the peer's
// certificate is trusted by itself. Without any chain the peer chose its own
// issuer, and its staple is worth no more than its word: VerifyStaple's doc says so.
func OfPeer(cs *tls.ConnectionState) (issuers []*x509.Certificate) {
	for _, chain := range cs.VerifiedChains {
		if len(chain) > 1 && !hasIssuer(issuers, chain[1]) {
			issuers = append(issuers, chain[1])
		}
	}
	if len(issuers) > 0 {
		return issuers
	}
	leaf, tries := cs.PeerCertificates[0], 0
	for _, cert := range cs.PeerCertificates[1:] {
		if !bytes.Equal(cert.RawSubject, leaf.RawIssuer) {
			continue
		}
		if tries++; tries > maxOfPeer {
			break
		}
		if leaf.CheckSignatureFrom(cert) == nil {
			return []*x509.Certificate{cert} // a second one has the same key, or one that nobody has the private key of
		}
	}
	return nil
}

// hasIssuer reports whether one of issuers has the key of cert. All have the leaf's issuer's name.
func hasIssuer(issuers []*x509.Certificate, cert *x509.Certificate) bool {
	return slices.ContainsFunc(issuers, func(i *x509.Certificate) bool {
		key, ok := i.PublicKey.(interface{ Equal(crypto.PublicKey) bool }) // bytes differ: it has several encodings
		return ok && key.Equal(cert.PublicKey)
	})
}
