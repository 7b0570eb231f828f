package main

import (
	"crypto"
	_ "crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers as content octets.
const (
	oidBasic    = "\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
	oidNonce    = "\x2b\x06\x01\x05\x05\x07\x30\x01\x02"
	oidPrivate  = "\x2b\x06\x01\x04\x01\x86\x8d\x1f\x01" // 1.3.6.1.4.1.99999.1
	oidSHA1     = "\x2b\x0e\x03\x02\x1a"
	oidSHA224   = "\x60\x86\x48\x01\x65\x03\x04\x02\x04"
	oidSHA256   = "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	oidSHA384   = "\x60\x86\x48\x01\x65\x03\x04\x02\x02"
	oidSHA512   = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"
	oidMGF1     = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
	oidRSA      = "\x2a\x86\x48\x86\xf7\x0d\x01\x01" // and one octet
	oidECDSA1   = "\x2a\x86\x48\xce\x3d\x04\x01"
	oidECDSA256 = "\x2a\x86\x48\xce\x3d\x04\x03\x02"
	oidECDSA384 = "\x2a\x86\x48\xce\x3d\x04\x03\x03"
	oidECDSA512 = "\x2a\x86\x48\xce\x3d\x04\x03\x04"
	oidEd25519  = "\x2b\x65\x70"
)

// A response is everything that a case may change about an OCSP response.
type response struct {
	encoder
	leaf, issuer *identity
	signer       *identity
	status       byte
	bare         bool   // no responseBytes
	responseType string // OID
	version      []byte // the element; nil: absent
	responder    []byte // the element
	producedAt   string
	singles      []single
	extensions   []byte // the element inside of [1]
	algorithm    []byte
	hash         crypto.Hash
	sign         func(key crypto.Signer, tbs []byte) []byte
	certs        []*identity
}

// A single is everything about a SingleResponse.
type single struct {
	hash                   crypto.Hash
	hashOID                string
	issuerName, issuerKey  []byte // what is hashed
	serial                 []byte // content octets
	status                 string
	revokedAt              string
	reason                 int // negative: absent
	thisUpdate, nextUpdate string
	extensions             []byte
}

func at(t time.Time) string { return t.UTC().Format("20060102150405Z") }

// before is so much before now; after, after it.
func before(d time.Duration) string { return at(now.Add(-d)) }
func after(d time.Duration) string  { return at(now.Add(d)) }

const day = 24 * time.Hour

func octets(n *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1BigInt(n)
	s := cryptobyte.String(b.BytesOrPanic())
	var out cryptobyte.String
	s.ReadASN1(&out, asn1.INTEGER)
	return out
}

// good is the response that all the others are changes of: by the issuer itself,
// an hour old, with three days to go.
func good(leaf, issuer *identity) *response {
	r := &response{
		leaf: leaf, issuer: issuer, signer: issuer, responseType: oidBasic,
		producedAt: before(time.Hour), responder: byName(issuer),
	}
	r.singles = []single{goodSingle(leaf, issuer)}
	r.algorithm, r.hash = algorithm(oidECDSA256, ""), crypto.SHA256
	return r
}

func goodSingle(leaf, issuer *identity) single {
	return single{
		hash: crypto.SHA1, hashOID: oidSHA1, issuerName: issuer.cert.RawSubject, issuerKey: keyBits(issuer.cert),
		serial: octets(leaf.cert.SerialNumber), status: "good", reason: -1,
		thisUpdate: before(time.Hour), nextUpdate: after(3 * day),
	}
}

func byName(id *identity) []byte { return tlv(explicit(1), id.cert.RawSubject) }

func byKey(id *identity) []byte {
	return tlv(explicit(2), tlv(octetString, digest(crypto.SHA1, keyBits(id.cert))))
}

func digest(h crypto.Hash, data []byte) []byte {
	d := h.New()
	d.Write(data)
	return d.Sum(nil)
}

// extension encodes an Extension; critical is an element or nil.
func extension(oidContent string, critical []byte) []byte {
	return tlv(sequence, append(append(oid(oidContent), critical...), tlv(octetString, []byte(null))...))
}

func extensions(list ...[]byte) []byte {
	var all []byte
	for _, e := range list {
		all = append(all, e...)
	}
	return tlv(sequence, all)
}

var (
	isTrue  = []byte{1, 1, 0xff}
	isFalse = []byte{1, 1, 0}
)

// optional wraps der in an explicit tag, if it is there.
func (r *response) optional(name string, tag int, der []byte) []byte {
	if der == nil {
		return nil
	}
	return r.element(name, explicit(tag), der)
}

func (r *response) encode() []byte {
	status := tlv(asn1.ENUM, []byte{r.status})
	if r.bare {
		return r.element("OCSPResponse", sequence, status)
	}
	octets := r.element("response", octetString, r.basic())
	bytes := r.element("ResponseBytes", sequence, oid(r.responseType), octets)
	der := r.element("OCSPResponse", sequence, status, r.element("responseBytes-tag", explicit(0), bytes))
	return append(der, r.junk[""]...)
}

func (r *response) basic() []byte {
	tbs := r.data()
	signature := r.element("signature", asn1.BIT_STRING, append([]byte{0}, r.signature(tbs)...))
	return r.element("BasicOCSPResponse", sequence, tbs, r.element("signatureAlgorithm", sequence, inside(r.algorithm)), signature, r.encodeCerts())
}

// inside strips the header of an element.
func inside(der []byte) []byte {
	s := cryptobyte.String(der)
	var out cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&out, &tag) {
		panic("not DER")
	}
	return out
}

func (r *response) signature(tbs []byte) []byte {
	if r.sign != nil {
		return r.sign(r.signer.key, tbs)
	}
	if r.hash == 0 {
		return check(r.signer.key.Sign(rand.Reader, tbs, crypto.Hash(0)))
	}
	return check(r.signer.key.Sign(rand.Reader, digest(r.hash, tbs), r.hash))
}

func (r *response) encodeCerts() []byte {
	if r.certs == nil {
		return nil
	}
	var list [][]byte
	for _, c := range r.certs {
		list = append(list, r.element("cert", sequence, inside(c.cert.Raw)))
	}
	return r.element("certs", explicit(0), r.element("certificates", sequence, list...))
}

func (r *response) data() []byte {
	var singles [][]byte
	for _, s := range r.singles {
		singles = append(singles, r.single(s))
	}
	return r.element("ResponseData", sequence,
		r.optional("version", 0, r.version),
		r.element("responderID", asn1.Tag(r.responder[0]), inside(r.responder)),
		r.element("producedAt", asn1.GeneralizedTime, []byte(r.producedAt)),
		r.element("responses", sequence, singles...),
		r.optional("responseExtensions", 1, r.extensions))
}

func (r *response) single(s single) []byte {
	id := r.element("CertID", sequence,
		r.element("hashAlgorithm", sequence, oid(s.hashOID), []byte(null)),
		tlv(octetString, digest(s.hash, s.issuerName)),
		tlv(octetString, digest(s.hash, s.issuerKey)),
		r.element("serialNumber", asn1.INTEGER, s.serial))
	var next []byte
	if s.nextUpdate != "" {
		next = r.element("nextUpdate", explicit(0), generalizedTime(s.nextUpdate))
	}
	return r.element("SingleResponse", sequence, id, r.certStatus(s),
		r.element("thisUpdate", asn1.GeneralizedTime, []byte(s.thisUpdate)), next,
		r.optional("singleExtensions", 1, s.extensions))
}

func (r *response) certStatus(s single) []byte {
	switch s.status {
	case "good":
		return r.element("good", context(0))
	case "unknown":
		return r.element("unknown", context(2))
	}
	var reason []byte
	if s.reason >= 0 {
		reason = r.element("revocationReason", explicit(0), tlv(asn1.ENUM, []byte{byte(s.reason)}))
	}
	return r.element("revoked", explicit(1), generalizedTime(s.revokedAt), reason)
}

// pss encodes RSASSA-PSS-params.
func pss(hash, mgfHash string, salt int) string {
	var b cryptobyte.Builder
	b.AddASN1Int64(int64(salt))
	return string(tlv(sequence, join(
		tlv(explicit(0), algorithm(hash, null)),
		tlv(explicit(1), algorithm(oidMGF1, string(algorithm(mgfHash, null)))),
		tlv(explicit(2), b.BytesOrPanic()))))
}

// pssParts encodes RSASSA-PSS-params from what is in its explicit tags, and what
// follows them.
func pssParts(junk, hash, mgf, salt string) string {
	return string(tlv(sequence, join(tlv(explicit(0), []byte(hash)), tlv(explicit(1), []byte(mgf)),
		tlv(explicit(2), []byte(salt)), []byte(junk))))
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// signPSS signs with a salt of that length.
func signPSS(h crypto.Hash, salt int) func(crypto.Signer, []byte) []byte {
	return func(key crypto.Signer, tbs []byte) []byte {
		return check(key.Sign(rand.Reader, digest(h, tbs), &rsa.PSSOptions{SaltLength: salt, Hash: h}))
	}
}

// spki is the whole subjectPublicKeyInfo, which is often hashed by mistake.
func spki(cert *x509.Certificate) []byte { return cert.RawSubjectPublicKeyInfo }
