package staple

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Who signed, and may they? The issuer itself, or a delegate: a certificate that
// the issuer issued for signing responses (RFC 6960 section 4.2.2.2).

// A delegate is an embedded certificate. It is verified but for its dates if its
// issuer knows it.
type delegate struct {
	cert    *x509.Certificate
	keyHash []byte // SHA-1, as in a byKey responderID
}

// findSigner returns the delegate's certificate, or nil if the issuer signed. The
// issuer is tried first: many responders embed its certificate, which is then no
// delegate's.
func (b *basicResponse) findSigner(iss *issuer, now time.Time, grace time.Duration) (*x509.Certificate, error) {
	if b.algorithm == x509.UnknownSignatureAlgorithm {
		return nil, refuse(ReasonSignatureAlgorithm, algorithmText(b.algorithmOID), nil)
	}
	var refused error
	if b.names(iss.cert, iss.keyHash()) {
		err := b.verifySignature(iss.cert)
		if err == nil {
			return nil, nil
		}
		refused = err
	}
	d, err := b.findDelegate(iss, now, grace)
	switch {
	case d != nil:
		return d.cert, nil
	case err != nil:
		return nil, err
	case b.misnamed(iss):
		return nil, refuse(ReasonResponderID, b.responderText(), nil)
	case refused != nil:
		return nil, refused
	}
	return nil, refuse(ReasonSigner, b.responderText(), nil)
}

// names reports whether the responderID is that of cert.
func (b *basicResponse) names(cert *x509.Certificate, keyHash []byte) bool {
	if b.byKey {
		return bytes.Equal(b.responder, keyHash)
	}
	return bytes.Equal(b.responder, cert.RawSubject)
}

// responderText is for messages.
func (b *basicResponse) responderText() string {
	if b.byKey {
		return fmt.Sprintf("responder key %x", b.responder)
	}
	var name pkix.RDNSequence
	if _, err := encasn1.Unmarshal(b.responder, &name); err != nil {
		return fmt.Sprintf("responder name %x", b.responder)
	}
	return "responder " + name.String()
}

func (b *basicResponse) verifySignature(signer *x509.Certificate) error {
	if keyAlgorithm(b.algorithm) != signer.PublicKeyAlgorithm {
		return refuse(ReasonSignatureAlgorithm, fmt.Sprintf("%v by a key of type %v", b.algorithm, signer.PublicKeyAlgorithm), nil)
	}
	if err := signer.CheckSignature(b.algorithm, b.tbs, b.signature); err != nil {
		return refuse(ReasonSignature, err.Error(), nil)
	}
	return nil
}

// findDelegate returns the embedded certificate that the responderID names, if it
// may sign and did; else why the first one of that name may not; else nothing.
func (b *basicResponse) findDelegate(iss *issuer, now time.Time, grace time.Duration) (*delegate, error) {
	var refused error
	tries := 0
	for d := range b.embedded(iss) {
		if !b.names(d.cert, d.keyHash) {
			continue
		}
		if tries++; tries > maxTries {
			break
		}
		err := b.signedBy(d, iss, now, grace)
		if err == nil {
			return d, nil
		}
		if refused == nil {
			refused = err
		}
	}
	return nil, refused
}

// misnamed reports whether someone who may sign did, without being named by the
// responderID. It is asked only to give the right reason.
func (b *basicResponse) misnamed(iss *issuer) bool {
	if b.verifySignature(iss.cert) == nil {
		return true
	}
	tries := 0
	for d := range b.embedded(iss) {
		if tries++; tries > maxTries {
			break
		}
		if iss.authorize(d) == nil && b.verifySignature(d.cert) == nil {
			return true
		}
	}
	return false
}

// embedded yields the certificates that came with the response. Those that the
// issuer already knows aren't parsed again, those that don't parse are skipped,
// and so is the issuer's own: it needs no delegation.
func (b *basicResponse) embedded(iss *issuer) func(yield func(*delegate) bool) {
	return func(yield func(*delegate) bool) {
		for certs := b.certs; !certs.Empty(); {
			var der cryptobyte.String
			if !certs.ReadASN1Element(&der, asn1.SEQUENCE) {
				return
			}
			if bytes.Equal(der, iss.cert.Raw) {
				continue
			}
			if d := iss.delegate(der); d != nil && !yield(d) {
				return
			}
		}
	}
}

// signedBy reports why b is not to be taken as signed by d for iss.
func (b *basicResponse) signedBy(d *delegate, iss *issuer, now time.Time, grace time.Duration) error {
	if err := iss.authorize(d); err != nil {
		return err
	}
	if err := b.verifySignature(d.cert); err != nil {
		return err
	}
	switch {
	case now.Before(d.cert.NotBefore):
		return refuse(ReasonDelegateValidity, "notBefore "+stamp(d.cert.NotBefore), nil)
	case now.After(d.cert.NotAfter.Add(grace)):
		return refuse(ReasonDelegateValidity, "notAfter "+stamp(d.cert.NotAfter), ErrExpired)
	}
	return nil
}

// delegate returns the known delegate with these bytes, or parses them; nil if
// they aren't a certificate.
func (i *issuer) delegate(der []byte) *delegate {
	if d := i.known(der); d != nil {
		return d
	}
	// The certificate keeps what it was parsed from, which is not to be a slice
	// of a whole response.
	cert, err := x509.ParseCertificate(bytes.Clone(der))
	if err != nil {
		return nil
	}
	d := &delegate{cert: cert}
	fips140.WithoutEnforcement(func() { d.keyHash = digest(crypto.SHA1, publicKeyBits(cert)) })
	return d
}

func (i *issuer) known(der []byte) *delegate {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, d := range i.delegates {
		if bytes.Equal(d.cert.Raw, der) {
			return d
		}
	}
	return nil
}

// authorize reports why d may not sign for i, and remembers those that may.
func (i *issuer) authorize(d *delegate) error {
	if i.known(d.cert.Raw) != nil {
		return nil
	}
	if err := i.checkDelegate(d.cert); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.delegates) < maxDelegates {
		i.delegates = append(i.delegates, d)
	} else {
		i.delegates[i.oldest] = d
		i.oldest = (i.oldest + 1) % maxDelegates
	}
	return nil
}

// checkDelegate reports why cert is not a delegate of i: all but its dates, which
// are another question each time. It must be issued directly by i (RFC 6960
// section 4.2.2.2); anyExtendedKeyUsage is no delegation. Its KeyUsage isn't
// looked at: real responders carry nonRepudiation alone.
func (i *issuer) checkDelegate(cert *x509.Certificate) error {
	if !bytes.Equal(cert.RawIssuer, i.cert.RawSubject) {
		return refuse(ReasonDelegateIssuer, "issued by "+cert.Issuer.String(), nil)
	}
	if !strong(cert.SignatureAlgorithm) {
		return refuse(ReasonDelegateAlgorithm, cert.SignatureAlgorithm.String(), nil)
	}
	if err := i.cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return refuse(ReasonDelegateIssuer, err.Error(), nil)
	}
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return refuse(ReasonDelegateEKU, cert.Subject.String(), nil)
	}
	if oids := cert.UnhandledCriticalExtensions; len(oids) > 0 {
		return refuse(ReasonDelegateExtension, "OID "+oids[0].String(), nil)
	}
	return nil
}
