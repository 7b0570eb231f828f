package ocspresp

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/der"
	"github.com/ocspstaple/staple/internal/errtext"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// This file finds who signed, and whether they may: the issuer itself, or a delegate,
// a certificate that the issuer issued for signing responses (RFC 6960 §4.2.2.2).
//
// The certificates that come with a response are not signed. An attacker on the path
// can add decoys that bear the delegate's name, older certificates of the delegate, or
// keys that take seconds to verify with. So what is known is tried first, of several
// the one that ends last counts, tries and sizes of keys are bounded, and a certificate
// that does not serve is skipped without a verdict on the response.

// maxTries bounds the certificates in one response on which signatures are tried.
// Those that don't bear the signer's name don't count, and known delegates are counted
// apart. MaxResponse leaves room for hundreds.
const maxTries = 16

// effort is how many tries one with certs, whose keys it needs, counts for: an RSA key of 8,192
// bits with a long exponent takes 3 ms, and a tenant's responder may be asked twice a second.
func effort(certs ...*x509.Certificate) int {
	for _, c := range certs {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > certinfo.MaxRSA/2 {
			return 4
		}
	}
	return 1
}

// maxRemembered is the longest certificate of a delegate that is remembered, in bytes: a
// tenant's CA may sign any. One with a key of 8,192 bits has about 3 KiB.
const maxRemembered = 4 << 10

// A delegate is a certificate that may sign. It is verified but for its dates if
// its issuer knows it. Whether it is revoked is not asked: most have
// id-pkix-ocsp-nocheck, and docs/security.md says so.
type delegate struct {
	cert    *x509.Certificate
	keyHash []byte // SHA-1, as in a byKey responderID
	may     bool   // it is or was known: cert is lean
}

// findSigner returns the delegate's certificate, or nil if the issuer signed. The
// issuer is tried first: many responders embed its certificate, which is then no
// delegate's. The error is the most specific one: first what is wrong with the delegate
// that the responderID names, then that another signed, then that the issuer's
// signature does not verify, then that there is no signer.
func (b *basicResponse) findSigner(iss *Issuer, now time.Time, grace time.Duration) (*x509.Certificate, error) {
	if b.algorithm.oid == "" {
		return nil, refuse(SignatureAlgorithm, certinfo.AlgorithmText(b.algorithmOID), nil)
	}
	var refused error
	if b.names(iss.Cert, iss.keyHash()) {
		refused = b.algorithm.verify(iss.Cert, b.tbs, b.signature)
		if refused == nil {
			return nil, nil
		}
	}
	d, err := b.findDelegate(iss, now, grace)
	switch {
	case d != nil:
		return d.cert, nil
	case err != nil:
		return nil, err
	case b.misnamed(iss):
		return nil, refuse(ResponderID, b.responderText(), nil)
	case refused != nil:
		return nil, refused
	}
	return nil, refuse(Signer, b.responderText(), nil)
}

// names reports whether the responderID is that of cert. Names are compared byte by
// byte; OpenSSL takes one in another encoding for the same.
func (b *basicResponse) names(cert *x509.Certificate, keyHash []byte) bool {
	if b.byKey {
		return bytes.Equal(b.responder, keyHash)
	}
	return bytes.Equal(b.responder, cert.RawSubject)
}

// maxNamed is the longest name of a responder that is parsed to be shown, in bytes. Package
// pkix takes time by the square of the attributes: with 128 KB one took 0.5 s.
const maxNamed = 1 << 10

// responderText is for messages. A name that does not parse, or is long, is given in hex.
func (b *basicResponse) responderText() string {
	if b.byKey {
		return "responder key " + certinfo.Hex(b.responder)
	}
	var name pkix.RDNSequence
	if len(b.responder) <= maxNamed {
		if _, err := encasn1.Unmarshal(b.responder, &name); err == nil {
			return "responder " + name.String()
		}
	}
	return "responder name " + certinfo.Hex(b.responder)
}

// findDelegate returns the delegate that the responderID names and that signed:
// of several certificates of its key the one that ends last, so that an older one
// put into the response shortens nothing. Those that iss knows are tried first,
// so that no number of decoys hides them. The error says why the first one of
// that name in the response may not sign; it is nil if there is none.
func (b *basicResponse) findDelegate(iss *Issuer, now time.Time, grace time.Duration) (best *delegate, refused error) {
	tries := 0
	for _, d := range iss.knownDelegates() {
		if d == nil || !b.names(d.cert, d.keyHash) || !d.outlasts(best) {
			continue
		}
		if tries += effort(d.cert); tries <= maxTries && b.signedBy(d, iss, now, grace) == nil {
			best = d
		}
	}
	tries = 0
	for raw := range b.embedded {
		// findSigner has tried the issuer, which openssl ocsp embeds.
		if bytes.Equal(raw, iss.Cert.Raw) {
			continue
		}
		d, err := iss.delegate(raw)
		// A certificate counts as tried if it has the signer's name, whether or not it
		// parses. One that ends before the best is not worth a signature.
		if err != nil && b.namesUnparsed(raw) || d != nil && b.names(d.cert, d.keyHash) && d.outlasts(best) {
			cost := 1
			if err == nil {
				cost = effort(iss.Cert, d.cert)
			}
			if tries += cost; tries > maxTries {
				break
			}
			if err == nil {
				err = b.signedBy(d, iss, now, grace)
			}
			if err == nil {
				best = d
			} else if refused == nil {
				refused = err
			}
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, refused
}

// outlasts reports whether d has the key of another that signed, which may be nil, and is
// valid for longer. An attacker can put an older certificate of the same key into the
// response: if that were taken, the staple would end with it.
func (d *delegate) outlasts(other *delegate) bool {
	return other == nil || d.cert.NotAfter.After(other.cert.NotAfter) && bytes.Equal(d.cert.RawSubjectPublicKeyInfo, other.cert.RawSubjectPublicKeyInfo)
}

// namesUnparsed reports whether a certificate that is not to be used has the name
// that the responderID gives: then that is why there is no signer.
func (b *basicResponse) namesUnparsed(raw []byte) bool {
	subject, _ := certinfo.SubjectAndKey(raw)
	return bytes.Equal(b.responder, subject) // a key's hash is no Name in DER
}

// misnamed reports whether someone who may sign did, without being named by the
// responderID. It is asked only to give the right reason: the response is refused
// (RFC 9919 §3.2.2) either way. Tries are bounded as in findDelegate.
func (b *basicResponse) misnamed(iss *Issuer) bool {
	if b.algorithm.verify(iss.Cert, b.tbs, b.signature) == nil {
		return true
	}
	tries := 0
	for raw := range b.embedded {
		d, err := iss.delegate(raw)
		if err != nil {
			continue
		}
		if tries += effort(iss.Cert, d.cert); tries > maxTries {
			break
		}
		if iss.authorize(d) == nil && b.algorithm.verify(d.cert, b.tbs, b.signature) == nil {
			return true
		}
	}
	return false
}

// embedded yields what came with the response as certificates, up to what can't
// be read: behind that no certificate's beginning can be told. They are slices of the
// response, parsed by those who want them.
func (b *basicResponse) embedded(yield func(raw []byte) bool) {
	for certs := b.certs; !certs.Empty(); {
		var raw cryptobyte.String
		var tag asn1.Tag
		if !certs.ReadAnyASN1Element(&raw, &tag) || !yield(raw) {
			return
		}
	}
}

// signedBy reports why b is not to be taken as signed by d for iss. Dates come last
// and are compared each time: that a delegate is known does not keep it alive. grace
// applies to its notAfter, too.
func (b *basicResponse) signedBy(d *delegate, iss *Issuer, now time.Time, grace time.Duration) error {
	if err := iss.authorize(d); err != nil {
		return err
	}
	if err := b.algorithm.verify(d.cert, b.tbs, b.signature); err != nil {
		return err
	}
	switch {
	case now.Before(d.cert.NotBefore):
		return refuse(DelegateValidity, "notBefore "+errtext.Stamp(d.cert.NotBefore), nil)
	case now.After(d.cert.NotAfter.Add(grace)):
		return refuse(DelegateValidity, "notAfter "+errtext.Stamp(d.cert.NotAfter), ErrExpired)
	}
	return nil
}

// delegate returns the known delegate with these bytes, or parses them. A delegate
// that it parsed may not sign before authorize says so.
func (i *Issuer) delegate(raw []byte) (*delegate, error) {
	if d := i.known(raw); d != nil {
		return d, nil
	}
	// The certificate keeps what it was parsed from, which is not to be a slice
	// of a whole response.
	cert, err := x509.ParseCertificate(bytes.Clone(raw))
	if err != nil {
		return nil, refuse(SignatureAlgorithm, "certificate of the delegate: "+err.Error(), nil)
	}
	if !exact(raw) {
		return nil, malformed("certificate of the delegate")
	}
	d := &delegate{cert: cert}
	fips140.WithoutEnforcement(func() { d.keyHash = digest(crypto.SHA1, publicKeyBits(cert.RawSubjectPublicKeyInfo)) })
	return d, nil
}

// exact reports whether nothing can be added to a certificate outside of what its
// issuer signed. crypto/x509 ignores what follows the signature, and shifts away
// the unused bits of its BIT STRING; OpenSSL refuses both. The delegate's certificate
// is the one thing that is stapled as it came.
//
//	Certificate SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING }
func exact(raw cryptobyte.String) bool {
	var cert, oid, params cryptobyte.String
	var signature []byte
	return der.ReadLast(&raw, &cert, asn1.SEQUENCE) && cert.SkipASN1(asn1.SEQUENCE) &&
		der.ReadAlgorithm(&cert, &oid, &params) && cert.ReadASN1BitStringAsBytes(&signature) && cert.Empty()
}

// knownDelegates returns a copy, so that signatures are verified without the lock.
// Places not taken yet are nil.
func (i *Issuer) knownDelegates() [maxDelegates]*delegate {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.delegates
}

// known returns the delegate with these bytes that i has verified, or nil.
func (i *Issuer) known(raw []byte) *delegate {
	for _, d := range i.knownDelegates() {
		if d != nil && bytes.Equal(d.cert.Raw, raw) {
			return d
		}
	}
	return nil
}

// authorize reports why d may not sign for i, and remembers those that may. Two
// callers may both add a new one, which does no harm. Refusals are not remembered, or
// an attacker could fill the places.
func (i *Issuer) authorize(d *delegate) error {
	if d.may || i.known(d.cert.Raw) != nil {
		return nil
	}
	if err := i.checkDelegate(d.cert); err != nil {
		return err
	}
	if len(d.cert.Raw) > maxRemembered {
		return nil // it only costs its verification again
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.delegates[i.oldest] = &delegate{lean(d.cert), d.keyHash, true}
	i.oldest = (i.oldest + 1) % maxDelegates
	return nil
}

// oidNoCheck is id-pkix-ocsp-nocheck (RFC 6960 §4.2.2.2.1), which some CAs mark
// critical: it asks for nothing.
var oidNoCheck = encasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}

// checkDelegate reports why cert is not a delegate of i: all but its dates, which
// are another question each time. It must be issued directly by i (RFC 6960
// §4.2.2.2); anyExtendedKeyUsage is no delegation. Its KeyUsage isn't looked at:
// real responders carry nonRepudiation alone.
//
// cert's own key, which is to verify the response, has at most 8,192 bits: a tenant's
// CA may sign a larger one, which takes seconds. Unlike in the search for a leaf's
// issuer, the signature's algorithm must be strong, as this certificate proves something.
func (i *Issuer) checkDelegate(cert *x509.Certificate) error {
	if !bytes.Equal(cert.RawIssuer, i.Cert.RawSubject) {
		return refuse(DelegateIssuer, "issued by "+certinfo.DN(cert.Issuer), nil)
	}
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		return refuse(DelegateIssuer, "has the issuer's name: OpenSSL takes it for self-signed", nil)
	}
	if !certinfo.Strong(cert.SignatureAlgorithm) {
		return refuse(DelegateAlgorithm, certinfo.SignatureText(cert.Raw), nil)
	}
	if err := certinfo.SupportedKey(cert); err != nil {
		return refuse(SignatureAlgorithm, "certificate of the delegate: "+err.Error(), nil)
	}
	if err := i.Cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return refuse(DelegateIssuer, err.Error(), nil)
	}
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return refuse(DelegateEKU, certinfo.DN(cert.Subject), nil)
	}
	for _, oid := range cert.UnhandledCriticalExtensions {
		if !oid.Equal(oidNoCheck) {
			return refuse(DelegateExtension, "OID "+oid.String(), nil)
		}
	}
	return nil
}
