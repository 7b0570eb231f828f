package ocspresp

import (
	"crypto/x509"

	"github.com/ocspstaple/staple/internal/der"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// encode writes the OCSPResponse that p is proven by: the ResponseData and the
// signature byte for byte, and of what is not signed only what clients need to
// verify that. Anyone on the path may add to the certs of a response, and curl,
// openssl and gnutls-cli refuse one for what is in them: a decoy with the delegate's
// name that comes first, or a certificate that GnuTLS can't read.
//
// It takes the proof and not the received bytes, so that nothing unsigned can pass
// through it. The same proof gives the same bytes. Parsing the result gives the same
// proof, which the tests check.
func (p *Proof) encode(sub *Subject) ([]byte, error) {
	var algorithm cryptobyte.Builder
	p.basic.algorithm.add(&algorithm)
	alg, err := algorithm.Bytes()
	if err != nil {
		return nil, err
	}
	var certs []byte
	if cert := p.embedded(sub); cert != nil {
		certs = der.Wrap(der.Tag0, der.Wrap(asn1.SEQUENCE, cert.Raw))
	}
	basic := der.Wrap(asn1.SEQUENCE, p.basic.tbs, alg, der.Wrap(asn1.BIT_STRING, []byte{0}, p.basic.signature), certs)
	bytes := der.Wrap(asn1.SEQUENCE, der.Wrap(asn1.OBJECT_IDENTIFIER, []byte(oidBasicResponse)), der.Wrap(asn1.OCTET_STRING, basic))
	return der.Wrap(asn1.SEQUENCE, der.Wrap(asn1.ENUM, []byte{byte(ocsp.Success)}), der.Wrap(der.Tag0, bytes)), nil
}

// embedded returns the certificate that clients need besides those that they
// have: the delegate's. OpenSSL looks for the signer in the chain that is served,
// so a root that is not in it has to come along; x/crypto/ocsp refuses an issuer
// that does, so no other issuer comes. MongoDB's driver is such a client. A root that
// was downloaded does not come either: its unsigned part may have been changed. nil
// leaves out certs altogether.
func (p *Proof) embedded(sub *Subject) *x509.Certificate {
	switch {
	case p.signer != nil:
		return p.signer
	case sub.Alone && sub.Issuer.selfSigned():
		return sub.Issuer.Cert
	}
	return nil
}
