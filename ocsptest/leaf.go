package ocsptest

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"slices"
	"time"
)

// A Leaf describes a certificate that [CA.Issue] is to make. The zero value is an ordinary
// server certificate for example.com.
type Leaf struct {
	// Names are the DNS names and IP addresses. The default is "example.com".
	Names []string

	// Serial is the serial number, by default a random one of 127 bits.
	Serial *big.Int

	// NotBefore and NotAfter bound the validity. The defaults are an hour ago and 90 days from
	// now.
	NotBefore, NotAfter time.Time

	// Key is the private key. If it is nil a new one of KeyType is made. Many leaves may share
	// one, which makes issuing them quicker.
	Key     crypto.Signer
	KeyType KeyType

	MustStaple bool // has the TLS feature extension with status_request (RFC 7633)
	NoRevAvail bool // has the noRevAvail extension (RFC 9608); the OCSP URL stays unless NoURL
	Client     bool // is for client authentication, not for servers

	// URLs are the OCSP responders to name. The default is that of the CA's Responder; NoURL
	// means none at all.
	URLs  []string
	NoURL bool

	// IssuerURLs are the places from which the issuer's certificate can be had (caIssuers), by
	// default none. The responder serves it: see [Responder.IssuerURL].
	IssuerURLs []string

	// WithoutIssuer leaves the issuer out of the chain, which otherwise is leaf and issuer.
	WithoutIssuer bool

	// SelfSigned makes the leaf its own issuer, and the chain the leaf alone. The responder
	// does not know it.
	SelfSigned bool

	// Template, if not nil, may change anything before the certificate is signed.
	Template func(*x509.Certificate)
}

// The extensions of leaves that crypto/x509 has no field for.
var (
	oidTLSFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	oidNoRevAvail = asn1.ObjectIdentifier{2, 5, 29, 56}
)

// Issue returns a new certificate with its key, its chain and its Leaf. The caller owns it. The
// responder knows it from now on, as good.
func (ca *CA) Issue(l Leaf) *tls.Certificate {
	key := l.Key
	if key == nil {
		key = newKey(l.KeyType)
	}
	tmpl := l.template(ca.Responder.URL())
	if l.SelfSigned {
		cert := sign(tmpl, tmpl, key.Public(), key)
		return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	}
	cert := sign(tmpl, ca.Cert, key.Public(), ca.key)
	ca.issued.add(&record{cert: cert, key: key})
	chain := [][]byte{cert.Raw}
	if !l.WithoutIssuer {
		chain = append(chain, ca.Cert.Raw)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: cert}
}

// template turns the description into what crypto/x509 wants, with url as the default responder.
func (l Leaf) template(url string) *x509.Certificate {
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          l.Serial,
		NotBefore:             or(l.NotBefore, now.Add(-time.Hour)),
		NotAfter:              or(l.NotAfter, now.AddDate(0, 0, 90)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IssuingCertificateURL: l.IssuerURLs,
		OCSPServer:            l.URLs,
	}
	if l.Serial == nil {
		tmpl.SerialNumber = newSerial()
	}
	if l.Client {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if l.NoURL {
		tmpl.OCSPServer = nil
	} else if len(l.URLs) == 0 {
		tmpl.OCSPServer = []string{url}
	}
	l.addNames(tmpl)
	l.addExtensions(tmpl)
	if l.Template != nil {
		l.Template(tmpl)
	}
	return tmpl
}

// addNames sets the subject and the alternative names.
func (l Leaf) addNames(tmpl *x509.Certificate) {
	names := slices.Clone(l.Names)
	if len(names) == 0 {
		names = []string{"example.com"}
	}
	tmpl.Subject = pkix.Name{CommonName: names[0]}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
}

// addExtensions sets the extensions that crypto/x509 does not know.
func (l Leaf) addExtensions(tmpl *x509.Certificate) {
	if l.MustStaple { // SEQUENCE { INTEGER 5 }
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions,
			pkix.Extension{Id: oidTLSFeature, Value: []byte{0x30, 3, 2, 1, 5}})
	}
	if l.NoRevAvail { // NULL
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions,
			pkix.Extension{Id: oidNoRevAvail, Value: []byte{5, 0}})
	}
}

// or returns t, or the default if t is the zero time.
func or(t, def time.Time) time.Time {
	if t.IsZero() {
		return def
	}
	return t
}
