package ocspresp_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"math/big"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/der"
)

// A draft is a response before it is written and signed, each part of it in DER where
// that may be wrong. A part that is nil is left out.
type draft struct {
	w      *world
	now    time.Time
	status byte
	typ    []byte

	version, responder, produced, extensions []byte
	answers                                  []*answer
	spoilData                                func(tbs []byte) []byte // before it is signed

	signer    *party
	byKey     bool
	scheme    *scheme                 // nil: that of the signer's key
	algorithm []byte                  // nil: as the scheme says
	spoilSig  func(sig []byte) []byte // its BIT STRING
	before    [][]byte                // certificates before the signer's
	after     [][]byte
	noCerts   bool

	junk map[string][]byte // by where it follows the last element
}

// An answer is a SingleResponse.
type answer struct {
	hash              []byte // AlgorithmIdentifier
	name, key, serial []byte // octets
	status            []byte
	this, next        []byte
	extensions        []byte
}

// A party signs responses. Its certificate comes with them unless it is the issuer.
type party struct {
	cert   *x509.Certificate
	key    crypto.Signer
	issuer bool
	extras [][]byte
}

// A scheme is a signature algorithm.
type scheme struct {
	oid  string
	hash crypto.Hash
	null bool
	salt int // of RSASSA-PSS; -1: none
}

var schemes = map[string]*scheme{
	"RSA":           {"1.2.840.113549.1.1.11", crypto.SHA256, true, -1},
	"RSA, SHA-384":  {"1.2.840.113549.1.1.12", crypto.SHA384, true, -1},
	"RSA, SHA-512":  {"1.2.840.113549.1.1.13", crypto.SHA512, true, -1},
	"RSA, SHA-1":    {"1.2.840.113549.1.1.5", crypto.SHA1, true, -1},
	"PSS":           {"1.2.840.113549.1.1.10", crypto.SHA256, false, 32},
	"PSS, salt 20":  {"1.2.840.113549.1.1.10", crypto.SHA256, false, 20},
	"PSS, salt 0":   {"1.2.840.113549.1.1.10", crypto.SHA256, false, 0},
	"PSS, SHA-512":  {"1.2.840.113549.1.1.10", crypto.SHA512, false, 64},
	"PSS, SHA-1":    {"1.2.840.113549.1.1.10", crypto.SHA1, false, 20},
	"ECDSA":         {"1.2.840.10045.4.3.2", crypto.SHA256, false, -1},
	"ECDSA SHA-384": {"1.2.840.10045.4.3.3", crypto.SHA384, false, -1},
	"ECDSA SHA-512": {"1.2.840.10045.4.3.4", crypto.SHA512, false, -1},
	"ECDSA SHA-224": {"1.2.840.10045.4.3.1", crypto.SHA224, false, -1},
	"ECDSA SHA-1":   {"1.2.840.10045.4.1", crypto.SHA1, false, -1},
	"Ed25519":       {"1.3.101.112", 0, false, -1},
}

var hashOIDs = map[crypto.Hash]string{crypto.SHA1: "1.3.14.3.2.26", crypto.SHA224: "2.16.840.1.101.3.4.2.4", crypto.SHA256: "2.16.840.1.101.3.4.2.1",
	crypto.SHA384: "2.16.840.1.101.3.4.2.2", crypto.SHA512: "2.16.840.1.101.3.4.2.3"}

func oid(dotted string) []byte {
	var id encasn1.ObjectIdentifier
	for arc := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.Atoi(arc)
		if err != nil {
			panic(err)
		}
		id = append(id, n)
	}
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(id)
	return b.BytesOrPanic()
}

var null = []byte{5, 0}

func sequence(parts ...[]byte) []byte { return der.Wrap(asn1.SEQUENCE, parts...) }
func octets(b []byte) []byte          { return der.Wrap(asn1.OCTET_STRING, b) }
func generalized(text string) []byte  { return der.Wrap(asn1.GeneralizedTime, []byte(text)) }
func stamp(t time.Time) []byte        { return generalized(t.UTC().Format("20060102150405Z")) }

func hashed(h crypto.Hash, data []byte) (sum []byte) {
	fips140.WithoutEnforcement(func() {
		w := h.New()
		w.Write(data)
		sum = w.Sum(nil)
	})
	return sum
}

// keyBits is what CertIDs and responder IDs hash of a certificate's key.
func keyBits(cert *x509.Certificate) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       encasn1.BitString
	}
	if _, err := encasn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info); err != nil {
		panic(err)
	}
	return info.Key.Bytes
}

// extension returns an Extension.
func extension(dotted string, critical bool, value []byte) []byte {
	var flag []byte
	if critical {
		flag = []byte{1, 1, 0xff}
	}
	return sequence(oid(dotted), flag, octets(value))
}

// extensions returns the optional last field of a SingleResponse or ResponseData.
func extensions(list ...[]byte) []byte { return der.Wrap(der.Tag1, sequence(list...)) }

// newDraft returns that of a good response by the issuer, to which nothing was done.
func newDraft(w *world, now time.Time) *draft {
	d := &draft{w: w, now: now, typ: oid("1.3.6.1.5.5.7.48.1.1"), produced: stamp(now.Add(-time.Hour)), signer: &party{cert: w.ca, key: w.caKey, issuer: true},
		junk: make(map[string][]byte)}
	d.answers = []*answer{d.answer(crypto.SHA1, certinfo.Serial(w.leaf))}
	return d
}

// answer returns a good one under a hash.
func (d *draft) answer(h crypto.Hash, serial []byte) *answer {
	a := &answer{serial: serial, status: []byte{0x80, 0}, this: stamp(d.now.Add(-time.Hour)), next: der.Wrap(der.Tag0, stamp(d.now.AddDate(0, 0, 4)))}
	a.under(h, d.w.ca)
	return a
}

// under has a name the issuer by a hash.
func (a *answer) under(h crypto.Hash, issuer *x509.Certificate) {
	a.hash = sequence(oid(hashOIDs[h]), null)
	a.name, a.key = hashed(h, issuer.RawSubject), hashed(h, keyBits(issuer))
}

func (a *answer) encode(junk map[string][]byte) []byte {
	id := sequence(a.hash, octets(a.name), octets(a.key), der.Wrap(asn1.INTEGER, a.serial), junk["CertID"])
	return sequence(id, a.status, a.this, a.next, a.extensions, junk["SingleResponse"])
}

// data is the ResponseData.
func (d *draft) data() []byte {
	responder := d.responder
	switch {
	case responder != nil:
	case d.byKey:
		responder = der.Wrap(der.Tag2, octets(hashed(crypto.SHA1, keyBits(d.signer.cert))))
	default:
		responder = der.Wrap(der.Tag1, d.signer.cert.RawSubject)
	}
	var answers [][]byte
	for _, a := range d.answers {
		answers = append(answers, a.encode(d.junk))
	}
	tbs := sequence(d.version, responder, d.produced, sequence(answers...), d.extensions, d.junk["ResponseData"])
	if d.spoilData != nil {
		tbs = d.spoilData(tbs)
	}
	return tbs
}

// encode writes the response and signs it.
func (d *draft) encode() []byte {
	if d.status != 0 {
		return sequence([]byte{0x0a, 1, d.status})
	}
	tbs := d.data()
	s := d.scheme
	if s == nil {
		s = schemes[map[x509.PublicKeyAlgorithm]string{x509.RSA: "RSA", x509.ECDSA: "ECDSA", x509.Ed25519: "Ed25519"}[d.signer.cert.PublicKeyAlgorithm]]
	}
	sig := append([]byte{0}, s.sign(d.signer.key, tbs)...)
	if d.spoilSig != nil {
		sig = d.spoilSig(sig)
	}
	algorithm := d.algorithm
	if algorithm == nil {
		algorithm = s.identifier()
	}
	list := d.before
	if !d.noCerts && !d.signer.issuer {
		list = append(append(list[:len(list):len(list)], d.signer.cert.Raw), d.signer.extras...)
	}
	list = append(list[:len(list):len(list)], d.after...)
	var certs []byte
	if len(list) > 0 {
		certs = der.Wrap(der.Tag0, sequence(list...))
	}
	basic := sequence(tbs, algorithm, der.Wrap(asn1.BIT_STRING, sig), certs, d.junk["BasicOCSPResponse"])
	bytes := der.Wrap(der.Tag0, sequence(d.typ, octets(basic), d.junk["ResponseBytes"]))
	return append(sequence([]byte{0x0a, 1, 0}, bytes, d.junk["OCSPResponse"]), d.junk["all"]...)
}

// sign signs; where key and scheme don't fit each other it returns something else.
func (s *scheme) sign(key crypto.Signer, data []byte) (sig []byte) {
	digest, opts := data, crypto.SignerOpts(s.hash)
	if _, ok := key.(ed25519.PrivateKey); ok {
		opts = crypto.Hash(0)
	} else if s.hash != 0 {
		digest = hashed(s.hash, data)
	} else {
		digest, opts = hashed(crypto.SHA256, data), crypto.SHA256
	}
	if _, ok := key.(*rsa.PrivateKey); ok && s.salt > 0 {
		opts = &rsa.PSSOptions{SaltLength: s.salt, Hash: s.hash}
	} else if ok && s.salt == 0 { // which crypto/rsa does not make
		opts = &rsa.PSSOptions{SaltLength: 1, Hash: s.hash}
	}
	fips140.WithoutEnforcement(func() {
		var err error
		if sig, err = key.Sign(rand.Reader, digest, opts); err != nil {
			panic(err)
		}
	})
	return sig
}

// identifier is the AlgorithmIdentifier.
func (s *scheme) identifier() []byte {
	switch {
	case s.null:
		return sequence(oid(s.oid), null)
	case s.salt < 0:
		return sequence(oid(s.oid))
	}
	hash := sequence(oid(hashOIDs[s.hash]), null)
	return sequence(oid(s.oid), sequence(der.Wrap(der.Tag0, hash), der.Wrap(der.Tag1, sequence(oid("1.2.840.113549.1.1.8"), hash)),
		der.Wrap(der.Tag2, []byte{2, 1, byte(s.salt)})))
}

// A deputy describes a delegate, good or not.
type deputy struct {
	edit   func(*x509.Certificate)
	key    func(w *world) crypto.Signer                      // nil: ECDSA
	parent func(w *world) (*x509.Certificate, crypto.Signer) // nil: the CA
	extras func(w *world, parent *x509.Certificate) [][]byte // that come along
}

// deputize makes a delegate.
func (w *world) deputize(p deputy) *party {
	key := newKey(w.t)
	if p.key != nil {
		key = p.key(w)
	}
	parent, parentKey := w.ca, w.caKey
	if p.parent != nil {
		parent, parentKey = p.parent(w)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1000), Subject: pkix.Name{CommonName: "delegate"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().AddDate(0, 1, 0), KeyUsage: x509.KeyUsageDigitalSignature}
	if p.edit != nil {
		p.edit(template)
	}
	var raw []byte
	fips140.WithoutEnforcement(func() {
		var err error
		if raw, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey); err != nil {
			w.t.Fatal(err)
		}
	})
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	out := &party{cert: cert, key: key}
	if p.extras != nil {
		out.extras = p.extras(w, parent)
	}
	return out
}
