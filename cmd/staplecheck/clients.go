package main

import (
	"bytes"
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
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
	goOCSP   = "Go programs that use golang.org/x/crypto/ocsp, such as MongoDB's driver"
)

// maxOpenSSL is the longest staple that OpenSSL's clients take: the message that
// carries it must fit into one TLS record.
const maxOpenSSL = 1<<14 - 4 - 1 - 3

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
	certs := embedded(p.proof.Raw)
	if why := p.decoy(certs); why != "" {
		refuse(openSSL, "%s", why)
	}
	if len(certs) > 0 {
		if _, err := ocsp.ParseResponseForCert(p.proof.Raw, p.leaf, p.issuer); err != nil {
			refuse(goOCSP, "for the certificates that come with the staple: %s", line(err))
		}
	}
	if !p.inChain {
		refuse(curl, "the chain lacks the issuer, which they look for there")
	}
	return out
}

// embedded returns the certificates that come with a response. They are not
// signed.
func embedded(raw []byte) []asn1.RawValue {
	var response struct {
		Status asn1.Enumerated
		Bytes  struct {
			Type  asn1.ObjectIdentifier
			Basic []byte
		} `asn1:"explicit,tag:0"`
	}
	var basic struct {
		Data      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
		Certs     []asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	if _, err := asn1.Unmarshal(raw, &response); err != nil {
		return nil // not of what was verified
	}
	if _, err := asn1.Unmarshal(response.Bytes.Basic, &basic); err != nil {
		return nil
	}
	return basic.Certs
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
