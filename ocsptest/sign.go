package ocsptest

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"sync"
	"time"
)

// A Signer says whose key signs a response, and what certificates come with it.
type Signer uint8

// The signers. The first four are valid, all others a client must reject.
const (
	// Direct is the CA's own key, with no certificate in the response. The default.
	Direct Signer = iota
	// IssuerEmbedded is the CA's own key, with the CA's certificate in the response.
	IssuerEmbedded
	// Delegated is a delegate: a certificate by the CA for OCSP signing, in the response.
	Delegated
	// DelegatedExtras is a delegate whose certificate is in the response between others.
	DelegatedExtras

	// DelegateNoEKU is a delegate without any extended key usage.
	DelegateNoEKU
	// DelegateAnyEKU is a delegate with anyExtendedKeyUsage, which is not enough.
	DelegateAnyEKU
	// DelegateExpired is a delegate whose certificate expired an hour ago.
	DelegateExpired
	// DelegateNotYetValid is a delegate whose certificate becomes valid in half a year.
	DelegateNotYetValid
	// DelegateCritical is a delegate with an unknown critical extension.
	DelegateCritical
	// DelegateSHA1 is a delegate whose certificate has a SHA-1 signature. With a CA key of type
	// Ed25519, which has none, it is by another CA as well.
	DelegateSHA1
	// DelegateOtherCA is a delegate of another CA that has the same name and another key.
	DelegateOtherCA
	// DelegateOtherName is a delegate signed by the CA's key whose issuer has another name.
	DelegateOtherName
	// DelegateOfDelegate is a delegate issued by a delegate of the CA; both are in the response.
	DelegateOfDelegate
	// DelegateMissing is a delegate whose certificate is not in the response.
	DelegateMissing
	// LeafSigner is the key of the very certificate in question, which is in the response.
	LeafSigner
	// WrongKey is a key that belongs to nobody; the response claims to be the CA's.
	WrongKey

	signerEnd
)

var signerNames = [...]string{
	"direct", "issuer-embedded", "delegated", "delegated-extras", "delegate-no-eku",
	"delegate-any-eku", "delegate-expired", "delegate-not-yet-valid", "delegate-critical",
	"delegate-sha1", "delegate-other-ca", "delegate-other-name", "delegate-of-delegate",
	"delegate-missing", "leaf", "wrong-key",
}

// String returns the name of the signer, such as "delegate-no-eku".
func (s Signer) String() string {
	if s < signerEnd {
		return signerNames[s]
	}
	return fmt.Sprintf("Signer(%d)", uint8(s))
}

// A Sign says how responses are signed.
type Sign struct {
	// By is who signs, by default the CA's key.
	By Signer

	// KeyType is the kind of the delegate's key, where By is one.
	KeyType KeyType

	// Algorithm is the signature algorithm. By default it fits the key: PKCS #1 with SHA-256
	// for RSA, ECDSA with SHA-256 or SHA-384, Ed25519. It must fit the key if it is set, such as
	// x509.SHA256WithRSAPSS or x509.SHA1WithRSA; all that crypto/x509 names from SHA-1 on work.
	Algorithm x509.SignatureAlgorithm

	// ByKey makes the responder ID the SHA-1 of the signer's key, instead of its name.
	ByKey bool

	// NotAfter is the end of the delegate's validity, by default a year after it is made at its
	// first use.
	NotAfter time.Time

	// Template, if not nil, may change the delegate's certificate before it is signed.
	Template func(*x509.Certificate)

	made *madeSigner // where SetSign keeps the delegate that Template changed
}

// madeSigner holds a delegate that is made once, at its first use.
type madeSigner struct {
	once sync.Once
	*identity
}

// An identity signs responses.
type identity struct {
	key   crypto.Signer
	cert  *x509.Certificate // the responder ID names it
	certs [][]byte          // go into the response
}

// A signerKey tells the delegates of a responder apart. Those with a Template are not among
// them: functions cannot be compared.
type signerKey struct {
	by       Signer
	keyType  KeyType
	notAfter time.Time
}

// identity returns who signs by s, in a response about target, which may be nil.
func (r *Responder) identity(s Sign, target *record) *identity {
	ca := r.ca
	switch s.By {
	case Direct:
		return &identity{key: ca.key, cert: ca.Cert}
	case IssuerEmbedded:
		return &identity{key: ca.key, cert: ca.Cert, certs: [][]byte{ca.Cert.Raw}}
	case LeafSigner:
		if target != nil && target.key != nil {
			return &identity{key: target.key, cert: target.cert, certs: [][]byte{target.cert.Raw}}
		}
		s.By = WrongKey // a certificate of others: its key is not ours
	}
	if s.Template == nil {
		return r.cachedSigner(s)
	}
	if s.made == nil { // set by an edit, for one response
		return ca.newSigner(s)
	}
	s.made.once.Do(func() { s.made.identity = ca.newSigner(s) })
	return s.made.identity
}

// cachedSigner returns the same signer for the same Sign, made at its first use.
func (r *Responder) cachedSigner(s Sign) *identity {
	key := signerKey{s.By, s.KeyType, s.NotAfter}
	r.mu.Lock()
	id := r.signers[key]
	r.mu.Unlock()
	if id != nil {
		return id
	}
	id = r.ca.newSigner(s) // takes up to a second with RSA, so without the lock
	r.mu.Lock()
	defer r.mu.Unlock()
	if first := r.signers[key]; first != nil {
		return first
	}
	r.signers[key] = id
	return id
}

var (
	oidNoCheck = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	oidUnknown = asn1.ObjectIdentifier{2, 999, 1} // an arc for examples: nobody knows it
)

// newSigner makes a delegate, good or bad.
func (ca *CA) newSigner(s Sign) *identity {
	if s.By == WrongKey {
		return &identity{key: newKey(typeOf(ca.key)), cert: ca.Cert}
	}
	key := newKey(s.KeyType)
	tmpl := delegateTemplate(s, key)
	parent, parentKey := ca.Cert, ca.key
	var extras [][]byte
	switch s.By {
	case DelegateSHA1:
		tmpl.SignatureAlgorithm = sha1Algorithm(ca.key)
		if tmpl.SignatureAlgorithm == 0 {
			tmpl.SignatureAlgorithm, parentKey = x509.ECDSAWithSHA1, newKey(ECDSAP256)
			parent = &x509.Certificate{RawSubject: ca.Cert.RawSubject}
		}
	case DelegateOtherCA:
		// Name and key identifier are those of the CA, so that the signature alone tells.
		parent = &x509.Certificate{RawSubject: ca.Cert.RawSubject, SubjectKeyId: ca.Cert.SubjectKeyId}
		parentKey = newKey(typeOf(ca.key))
	case DelegateOtherName:
		parent = &x509.Certificate{Subject: pkix.Name{CommonName: "ocsptest other name"}, SubjectKeyId: ca.Cert.SubjectKeyId}
	case DelegateOfDelegate:
		first := ca.newSigner(Sign{By: Delegated})
		parent, parentKey, extras = first.cert, first.key, first.certs
	}
	if s.Template != nil {
		s.Template(tmpl)
	}
	cert := sign(tmpl, parent, key.Public(), parentKey)
	return &identity{key: key, cert: cert, certs: ca.embed(s.By, cert, extras)}
}

// embed returns the certificates that come with a response which a delegate signed.
func (ca *CA) embed(by Signer, cert *x509.Certificate, extras [][]byte) [][]byte {
	switch by {
	case DelegateMissing:
		return nil
	case DelegatedExtras:
		key := newKey(ECDSAP256)
		stranger := delegateTemplate(Sign{}, key)
		stranger.Subject.CommonName = "ocsptest stranger"
		other := sign(stranger, stranger, key.Public(), key)
		return [][]byte{other.Raw, cert.Raw, ca.Cert.Raw}
	}
	return append([][]byte{cert.Raw}, extras...)
}

// delegateTemplate describes a delegate's certificate, with the faults that are in itself.
func delegateTemplate(s Sign, key crypto.Signer) *x509.Certificate {
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{Organization: []string{"ocsptest"}, CommonName: "ocsptest OCSP signer"},
		SubjectKeyId:          keyID(key.Public()),
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              or(s.NotAfter, now.AddDate(1, 0, 0)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{{Id: oidNoCheck, Value: []byte{5, 0}}},
	}
	switch s.By {
	case DelegateNoEKU:
		tmpl.ExtKeyUsage = nil
	case DelegateAnyEKU:
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	case DelegateExpired:
		tmpl.NotAfter = now.Add(-time.Hour)
	case DelegateNotYetValid:
		tmpl.NotBefore = now.AddDate(0, 6, 0) // beyond what a test plays through
	case DelegateCritical:
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, unknownExtension(true))
	}
	return tmpl
}

// unknownExtension is an extension that no client knows.
func unknownExtension(critical bool) pkix.Extension {
	return pkix.Extension{Id: oidUnknown, Critical: critical, Value: []byte{5, 0}}
}
