package ocsptest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"time"
)

// Options change what [NewCA] makes. The zero value is the default.
type Options struct {
	// Name is the CA's common name. By default it is distinct for each CA. Two CAs with the
	// same Name have the same distinguished name and different keys.
	Name string

	// URL is where the responder is said to be, which certificates repeat; it may have a path
	// and a query. By default it is a host of its own under the reserved domain "example", such
	// as "http://ocsp-3f1a92c0.example". [Responder.Start] replaces it.
	URL string

	// KeyType is the kind of the CA's key, with which it signs certificates and, unless
	// [Responder.SetSign] says otherwise, OCSP responses.
	KeyType KeyType

	// Cert and Key make a CA of a certificate and its private key that exist already, such as
	// those of the CA of a test of one's own, which has the certificates that it issues
	// answered for by [CA.Adopt]. Name and KeyType are not looked at then.
	Cert *x509.Certificate
	Key  crypto.Signer
}

// A CA is a certificate authority. Its methods may be called by several goroutines at once.
type CA struct {
	// Cert is the CA's certificate: self-signed if [NewCA] made it. Read-only.
	Cert *x509.Certificate

	// Responder answers for every certificate that the CA issues.
	Responder *Responder

	key     crypto.Signer
	keyBits []byte    // the public key as CertIDs hash it
	root    *CA       // itself, or where Intermediate started
	issued  *registry // shared by all responders of this CA
}

// NewCA returns a root CA whose responder works in memory. At most one Options is looked at. It
// panics if Options has a Cert without the Key that belongs to it.
//
// A certificate that it makes is valid from a day ago, by the clock of the moment, for ten years.
func NewCA(opts ...Options) *CA {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	if o.Cert == nil {
		o.Key = newKey(o.KeyType)
		tmpl := caTemplate(o.Name, o.Key)
		o.Cert = sign(tmpl, tmpl, o.Key.Public(), o.Key)
	} else if o.Key == nil || !bytes.Equal(keyID(o.Key.Public()), keyID(o.Cert.PublicKey)) {
		panic("ocsptest: Options.Key is not that of Options.Cert")
	}
	ca := newCA(o.Cert, o.Key, o.URL)
	ca.root = ca
	return ca
}

// Adopt makes the CA's responders know a certificate that was signed elsewhere with its key: as
// good, until [Responder.Revoke] and the like say otherwise.
func (ca *CA) Adopt(cert *x509.Certificate) { ca.issued.add(&record{cert: cert}) }

// Intermediate returns a CA below ca, with an ECDSA key whatever the type of ca's, and a
// responder of its own (at its own URL: use [Network] to reach several). An empty name means the
// default of [Options]. Certificates of the intermediate come with it, and not with the root, in
// their chain.
func (ca *CA) Intermediate(name string) *CA {
	key := newKey(ECDSAP256)
	sub := newCA(sign(caTemplate(name, key), ca.Cert, key.Public(), ca.key), key, "")
	sub.root = ca.root
	ca.issued.add(&record{cert: sub.Cert, key: key})
	return sub
}

// CrossSign returns a certificate by the CA by for the name and the key of ca, as roots have
// that were signed by older ones. It takes the place of ca.Cert in a chain.
func (ca *CA) CrossSign(by *CA) *x509.Certificate {
	tmpl := caTemplate("", ca.key)
	tmpl.RawSubject, tmpl.SubjectKeyId = ca.Cert.RawSubject, ca.Cert.SubjectKeyId
	cross := sign(tmpl, by.Cert, ca.key.Public(), by.key)
	by.issued.add(&record{cert: cross, key: ca.key})
	return cross
}

// Key returns the CA's private key.
func (ca *CA) Key() crypto.Signer { return ca.key }

// Pool returns a new pool that holds the root above ca, or ca itself if it is one: what a
// client that trusts the CA has in tls.Config.RootCAs.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root.Cert)
	return pool
}

// NewResponder returns one more responder of the CA at the given URL, or at a URL of its own if
// that is empty. Responders of one CA know the same certificates and the same status of each;
// faults, settings and counts are each one's own. Name their URLs in [Leaf].URLs and reach them
// by [Network].
func (ca *CA) NewResponder(url string) *Responder {
	if url == "" {
		url = "http://ocsp-" + label(newSerial().Bytes()) + ".example"
	}
	return newResponder(ca, url)
}

// newCA completes a CA from its certificate.
func newCA(cert *x509.Certificate, key crypto.Signer, url string) *CA {
	if url == "" {
		url = "http://ocsp-" + label(keyID(key.Public())) + ".example"
	}
	ca := &CA{Cert: cert, key: key, keyBits: keyBits(cert), issued: newRegistry()}
	ca.Responder = newResponder(ca, url)
	return ca
}

// caTemplate describes a CA's certificate. Its subject has an organisation besides the common
// name, so that it is more than one RDN.
func caTemplate(name string, key crypto.Signer) *x509.Certificate {
	ski := keyID(key.Public())
	if name == "" {
		name = "ocsptest CA " + label(ski)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{Organization: []string{"ocsptest"}, CommonName: name},
		SubjectKeyId:          ski,
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

// sign issues a certificate and parses it, as every user of it would have to.
func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	var der []byte
	var err error
	unenforced(func() { der, err = x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key) })
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	return cert
}

// keyID is a subject key identifier by RFC 7093, method 1. The SHA-1 of CertIDs is another.
func keyID(pub crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	must(err)
	sum := sha256.Sum256(der)
	return sum[:20]
}

// newSerial returns a random serial of 127 bits, positive in DER without a leading zero byte.
func newSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// label shortens an identifier for a name that people read.
func label(b []byte) string { return hex.EncodeToString(b[len(b)-4:]) }
