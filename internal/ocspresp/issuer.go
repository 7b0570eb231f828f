package ocspresp

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/der"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxDelegates is how many delegates an issuer remembers. A CA may go through them for
// years, so the oldest is replaced; it only costs its verification again.
const maxDelegates = 16

// An Issuer is what a proof needs of an issuing CA: one for all the certificates
// that it issued. It is safe for concurrent use. Cert and Key do not change.
//
// It remembers the delegates that it verified, so that a refresh costs one signature
// and not two, and so that a known delegate is found among any number of decoys. The
// root shares one Issuer among the certificates of a CA, by package issuers.
type Issuer struct {
	Cert *x509.Certificate // see lean
	Key  string            // SHA-256 of the public key: what certificates of one CA have in common
	ids  [len(certIDHashes)]issuerID

	mu        sync.Mutex // guards delegates and oldest
	delegates [maxDelegates]*delegate
	oldest    int // the one to go next
}

// An issuerID is how a CertID names an issuer under one hash function: hashes of the
// subject in DER and of the key's BIT STRING value (RFC 6960 §4.1.1).
type issuerID struct{ name, key []byte }

// NewIssuer hashes what CertIDs and responderIDs name an issuer by. SHA-1 is
// among them: it names and proves nothing, so FIPS 140 has no say in it. It keeps
// what is needed of cert. VerifyStaple makes an Issuer at each connection, so it costs hashes and
// no signature.
func NewIssuer(cert *x509.Certificate) *Issuer {
	key := publicKeyBits(cert.RawSubjectPublicKeyInfo)
	// crypto/x509 reads a key in other encodings, too. Anybody can write one into an issuer's
	// certificate, which still verifies what the issuer signed, and has another hash.
	if info, err := x509.MarshalPKIXPublicKey(cert.PublicKey); err == nil {
		key = publicKeyBits(info)
	}
	i := &Issuer{Cert: lean(cert)}
	fips140.WithoutEnforcement(func() {
		for n, h := range certIDHashes {
			i.ids[n] = issuerID{name: digest(h.hash, cert.RawSubject), key: digest(h.hash, key)}
		}
		i.Key = string(digest(crypto.SHA256, key))
	})
	return i
}

// lean returns what is needed of a certificate that has been judged: its bytes, names, key
// and dates. A parsed one may have tens of times its size, in names that its CA chose.
func lean(c *x509.Certificate) *x509.Certificate {
	return &x509.Certificate{Raw: c.Raw, RawSubject: c.RawSubject, RawIssuer: c.RawIssuer, RawSubjectPublicKeyInfo: c.RawSubjectPublicKeyInfo, SubjectKeyId: c.SubjectKeyId,
		PublicKeyAlgorithm: c.PublicKeyAlgorithm, PublicKey: c.PublicKey, NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

// digest returns the hash of data. SHA-1 panics where FIPS 140 is enforced, so callers
// suspend that for it.
func digest(h crypto.Hash, data []byte) []byte {
	d := h.New()
	d.Write(data)
	return d.Sum(nil)
}

// id returns how CertIDs under h name i, and h's OID; nothing if h isn't one of
// certIDHashes.
func (i *Issuer) id(h crypto.Hash) (id issuerID, oid string) {
	for n, known := range certIDHashes {
		if known.hash == h {
			return i.ids[n], known.oid
		}
	}
	return issuerID{}, ""
}

// keyHash is a byKey responderID: always SHA-1 (RFC 6960 §4.2.1).
func (i *Issuer) keyHash() []byte { return i.ids[0].key }

// publicKeyBits returns the value of subjectPublicKey without tag, length and number of
// unused bits, as RFC 6960 §4.1.1 has it hashed; nil if in, of a certificate that was
// made by hand, has not the form.
//
//	SubjectPublicKeyInfo SEQUENCE { algorithm AlgorithmIdentifier, subjectPublicKey BIT STRING }
func publicKeyBits(in cryptobyte.String) []byte {
	var info cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !info.SkipASN1(asn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&bits) {
		return nil
	}
	return bits
}

// Request makes an OCSPRequest in DER: one Request, no extensions, unsigned (RFC
// 9919 §3.1). The parameters of h are NULL, as everyone sends them. serial is what
// certinfo.Serial returns. Requests about one certificate are equal, so that caches
// can answer them.
//
//	OCSPRequest SEQUENCE { tbsRequest SEQUENCE { requestList SEQUENCE OF SEQUENCE { reqCert CertID } } }
func (i *Issuer) Request(h crypto.Hash, serial []byte) ([]byte, error) {
	id, oid := i.id(h)
	if oid == "" {
		return nil, fmt.Errorf("staple: hash %v is not for a CertID", h)
	}
	algorithm := der.Wrap(asn1.SEQUENCE, der.Wrap(asn1.OBJECT_IDENTIFIER, []byte(oid)), der.Wrap(asn1.NULL))
	request := der.Wrap(asn1.SEQUENCE, algorithm, der.Wrap(asn1.OCTET_STRING, id.name), der.Wrap(asn1.OCTET_STRING, id.key),
		der.Wrap(asn1.INTEGER, serial))
	for range 4 { // around the CertID: Request, requestList, TBSRequest, OCSPRequest
		request = der.Wrap(asn1.SEQUENCE, request)
	}
	return request, nil
}

// selfSigned reports whether i is a root, by its names alone: it is asked about bytes
// that the caller trusts (Subject.Alone).
func (i *Issuer) selfSigned() bool { return bytes.Equal(i.Cert.RawSubject, i.Cert.RawIssuer) }

// A Subject is the certificate that a response must be about. The caller has made sure
// that Issuer signed it. The root makes one from an entry of its cache without parsing
// the certificate again.
type Subject struct {
	Serial              []byte // the INTEGER's content octets
	NotBefore, NotAfter int64  // Unix seconds
	Issuer              *Issuer

	// Alone says that the certificate is served without its issuer's, and that
	// Issuer's bytes are trusted: configured, that is, not downloaded.
	Alone bool
}

// NewSubject returns the Subject for leaf. Alone is false.
func NewSubject(cert *x509.Certificate, iss *Issuer) Subject {
	return Subject{
		Serial:    certinfo.Serial(cert),
		NotBefore: cert.NotBefore.Unix(),
		NotAfter:  cert.NotAfter.Unix(),
		Issuer:    iss,
	}
}
