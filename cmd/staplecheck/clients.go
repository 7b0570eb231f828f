package main

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"golang.org/x/crypto/ocsp"
)

// The clients of docs/clients.md.
const (
	judging  = "clients that judge staples, such as Firefox, curl --cert-status and what is built on GnuTLS"
	heeding  = "clients that heed Must-Staple, such as Firefox and what is built on GnuTLS"
	insisted = "clients that insist on a staple, such as curl --cert-status"
	openSSL  = "what is built on OpenSSL, such as curl --cert-status"
	bySHA1   = "clients that look for SHA-1, such as curl --cert-status, NSS, libtls, and Java that checks revocation"
	curl     = "what looks for the signer in the chain, such as curl --cert-status"
	firefox  = "Firefox, unless the responder has a newer one for it"
	gnuTLS   = "what is built on GnuTLS, such as wget2 and git of Debian"
	goOCSP   = "Go programs that use golang.org/x/crypto/ocsp, such as MongoDB's driver"
)

// maxOpenSSL is the longest staple that OpenSSL's clients take: the message that
// carries it must fit into one TLS record.
const maxOpenSSL = 1<<14 - 4 - 1 - 3

// maxFirefox is the age from which Firefox takes a response for expired, whatever its
// nextUpdate: 10 days, and one for clocks that differ.
const maxFirefox = 11 * 24 * time.Hour

// refusals says who refuses. err is that of judge.
func (p *peer) refusals(err error) []Refusal {
	switch {
	case errors.Is(err, staple.ErrNoIssuer):
		return nil // nothing is known
	case errors.Is(err, staple.ErrNoStaple):
		return []Refusal{{heeding, "nothing is stapled, and the certificate is Must-Staple"}}
	case err != nil:
		return []Refusal{{judging, p.verifyError(err)}}
	case len(p.cs.OCSPResponse) > 0:
		return p.particular()
	case p.asks():
		return []Refusal{{insisted, "nothing is stapled"}}
	}
	return nil
}

// particular says which clients refuse a staple that is proven good.
func (p *peer) particular() (out []Refusal) {
	refuse := func(clients, format string, args ...any) {
		out = append(out, Refusal{clients, fmt.Sprintf(format, args...)})
	}
	if n := len(p.proof.Raw); n > maxOpenSSL {
		refuse(openSSL, "the staple has %d bytes, where they take %d", n, maxOpenSSL)
	}
	if h := p.proof.IssuerHash; h != crypto.SHA1 {
		refuse(bySHA1, "the CertID is by %s", h)
	}
	sub := ocspresp.NewSubject(p.leaf, ocspresp.NewIssuer(p.issuer))
	if _, err := ocspresp.Prove(p.proof.Raw, &sub, time.Now()); err != nil {
		refuse(openSSL, "they take the first of several answers for the certificate, and not all are good: %s", line(err))
	}
	if age := time.Since(p.proof.ThisUpdate); age > maxFirefox {
		refuse(firefox, "the staple is %d days old, where it takes 11, whatever the next update", age/(24*time.Hour))
	}
	if p.otherFirst() {
		refuse(gnuTLS, "the first answer in the staple is about another certificate, and they read no other")
	}
	certs := embedded(p.proof.Raw)
	if why := p.decoy(certs); why != "" {
		refuse(openSSL, "%s", why)
	}
	if len(certs) > 0 {
		if err := p.byGo(certs[0]); err != nil {
			refuse(goOCSP, "for the certificates that come with the staple: %s", line(err))
		}
	}
	if !p.inChain {
		refuse(curl, "the chain lacks the issuer, which they look for there")
	}
	return out
}

// byGo is the error of golang.org/x/crypto/ocsp, which verifies with the key of the first
// certificate that comes with the staple. A key that is not supported did not sign, and
// may take seconds to say so. FIPS 140 has no say in what others refuse.
func (p *peer) byGo(first asn1.RawValue) error {
	cert, err := x509.ParseCertificate(first.FullBytes)
	if err == nil {
		err = certinfo.SupportedKey(cert)
	}
	if err == nil {
		fips140.WithoutEnforcement(func() { _, err = ocsp.ParseResponseForCert(p.proof.Raw, p.leaf, p.issuer) })
	}
	return err
}

// otherFirst reports whether the first answer in the staple is about another certificate, by
// its serial number: hashes of one issuer differ.
func (p *peer) otherFirst() bool {
	_, b, _ := read(p.proof.Raw)
	var d data
	_, err := asn1.Unmarshal(b.Data.FullBytes, &d)
	return err == nil && len(d.Answers) > 0 && d.Answers[0].ID.Serial.Cmp(p.leaf.SerialNumber) != 0
}

// A response is an OCSPResponse, basic what is in its Bytes, and data what is signed (RFC 6960
// §4.2.1).
type (
	response struct {
		Status asn1.Enumerated
		Bytes  struct {
			Type  asn1.ObjectIdentifier
			Basic []byte
		} `asn1:"explicit,tag:0"`
	}
	basic struct {
		Data      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
		Certs     []asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	data struct {
		Version    int `asn1:"explicit,tag:0,optional"`
		Responder  asn1.RawValue
		ProducedAt asn1.RawValue
		Answers    []struct { // encoding/asn1 skips the rest of each
			ID struct {
				Hash      pkix.AlgorithmIdentifier
				Name, Key []byte
				Serial    *big.Int
			}
		}
	}
)

// read reads a response; ok is false if it can't.
func read(raw []byte) (r response, b basic, ok bool) {
	_, err := asn1.Unmarshal(raw, &r)
	if err == nil {
		_, err = asn1.Unmarshal(r.Bytes.Basic, &b)
	}
	return r, b, err == nil
}

// embedded returns the certificates that come with a response. They are not
// signed.
func embedded(raw []byte) []asn1.RawValue {
	_, b, _ := read(raw)
	return b.Certs
}

// bare returns a response without its certificates, nil if it can't be read. With them
// x/crypto/ocsp would verify a signature, by a key of any size.
func bare(raw []byte) []byte {
	r, b, ok := read(raw)
	if !ok {
		return nil
	}
	b.Certs = nil
	r.Bytes.Basic, _ = asn1.Marshal(b)
	raw, _ = asn1.Marshal(r)
	return raw
}

// decoy says what among certs keeps OpenSSL from the signer. It reads all; where the
// issuer in the chain did not sign it takes the first that has the signer's name.
func (p *peer) decoy(certs []asn1.RawValue) string {
	named := false
	for _, cert := range certs {
		subject, key := certinfo.SubjectAndKey(cert.FullBytes)
		switch {
		case subject == nil:
			return "a certificate that comes with the staple can't be read"
		case named || p.proof.Certificate == nil || !bytes.Equal(subject, p.proof.RawResponderName):
		case !bytes.Equal(key, p.proof.Certificate.RawSubjectPublicKeyInfo):
			return "a certificate with the delegate's name that did not sign comes first in the staple"
		default:
			named = true
		}
	}
	return ""
}
