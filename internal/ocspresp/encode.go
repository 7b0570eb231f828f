package ocspresp

import (
	"bytes"
	"crypto/x509"

	"github.com/ocspstaple/staple/internal/der"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// encode writes the OCSPResponse that p is proven by: the ResponseData and the
// signature byte for byte, and of what is not signed only what clients need to
// verify that. Anyone on the path may add to the certs of a response, and curl,
// openssl and gnutls-cli refuse one for what is in them.
func (p *Proof) encode(sub *Subject) ([]byte, error) {
	size := len(p.basic.tbs) + len(p.basic.signature) + 128
	if cert := p.embedded(sub); cert != nil {
		size += len(cert.Raw)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, size))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(int64(ocsp.Success))
		b.AddASN1(der.Tag0, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addOID(b, oidBasicResponse)
				b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { p.addBasic(b, sub) })
				})
			})
		})
	})
	raw, err := b.Bytes()
	return bytes.Clone(raw), err // it is kept: without the spare capacity
}

func (p *Proof) addBasic(b *cryptobyte.Builder, sub *Subject) {
	b.AddBytes(p.basic.tbs)
	p.basic.algorithm.add(b)
	b.AddASN1BitString(p.basic.signature)
	if cert := p.embedded(sub); cert != nil {
		b.AddASN1(der.Tag0, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(cert.Raw) })
		})
	}
}

// embedded returns the certificate that clients need besides those that they
// have: the delegate's. OpenSSL looks for the signer in the chain that is served,
// so a root that is not in it has to come along; x/crypto/ocsp refuses an issuer
// that does, so no other issuer comes.
func (p *Proof) embedded(sub *Subject) *x509.Certificate {
	switch {
	case p.signer != nil:
		return p.signer
	case sub.Alone && sub.Issuer.selfSigned():
		return sub.Issuer.Cert
	}
	return nil
}
