package ocspresp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/der"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// in has the response be about a certificate of another CA.
func (d *draft) in(keyType string) {
	d.w = worldOf(d.w.t, keyType)
	d.signer = &party{cert: d.w.ca, key: d.w.caKey, issuer: true}
	for _, a := range d.answers {
		a.under(crypto.SHA1, d.w.ca)
	}
}

// by has a party sign that is made once in each world.
func by(name string, p deputy) func(*draft) {
	return func(d *draft) {
		key := string(d.w.ca.Raw) + name
		if parties[key] == nil {
			parties[key] = d.w.deputize(p)
		}
		d.signer = parties[key]
	}
}

func stranger(w *world) (*x509.Certificate, crypto.Signer) {
	return &x509.Certificate{RawSubject: w.ca.RawSubject}, newKey(w.t)
}

func signedBy(name string, reason ocspresp.Reason, p deputy) change {
	return change{name, reason, by(name, p)}
}

func usage(u ...x509.ExtKeyUsage) deputy {
	return deputy{edit: func(c *x509.Certificate) { c.ExtKeyUsage = u }}
}

func lasting(from, to time.Duration) deputy {
	return deputy{edit: func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }}
}

func having(critical bool, oid ...int) deputy {
	return deputy{edit: func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: oid, Critical: critical, Value: null}}
	}}
}

func keyed(keyType string) deputy {
	return deputy{key: func(w *world) crypto.Signer { return otherKey(w.t, keyType) }}
}

func using(name string) func(*draft) {
	return func(d *draft) {
		if s := schemes[name]; strings.HasPrefix(s.oid, "1.2.840.113549") && d.signer.cert.PublicKeyAlgorithm != x509.RSA {
			d.in("RSA")
		}
		d.scheme = schemes[name]
	}
}

func first(do func(d *draft, a *answer)) func(*draft) {
	return func(d *draft) { do(d, d.answers[0]) }
}

func status(der string) func(*draft) {
	return first(func(_ *draft, a *answer) { a.status = []byte(der) })
}

// revoked is the CertStatus.
func revoked(at time.Time, reason []byte) []byte {
	if reason != nil {
		reason = der.Wrap(der.Tag0, der.Wrap(asn1.ENUM, reason))
	}
	return der.Wrap(der.Tag1, stamp(at), reason)
}

// beside has another answer stand before the first or behind it.
func beside(before bool, edit func(d *draft, a *answer)) func(*draft) {
	return func(d *draft) {
		a := d.answer(crypto.SHA1, certinfo.Serial(d.w.leaf))
		edit(d, a)
		if before {
			d.answers = append([]*answer{a}, d.answers...)
		} else {
			d.answers = append(d.answers, a)
		}
	}
}

func junk(where string) change {
	return change{"junk at the end of " + where, ocspresp.Malformed, func(d *draft) { d.junk[where] = octets([]byte("junk")) }}
}

// of an hour is a span in which no test gets.
const hour = time.Hour

func next(d *draft, span time.Duration) []byte { return der.Wrap(der.Tag0, stamp(d.now.Add(span))) }

// kinds are the changes of each kind.
var kinds = []struct {
	name    string
	changes []change
}{
	{"CA", []change{
		{"RSA CA", 0, func(d *draft) { d.in("RSA") }},
		{"P-384 CA", 0, func(d *draft) { d.in("P-384") }},
		{"Ed25519 CA", 0, func(d *draft) { d.in("Ed25519") }},
	}},
	{"signer", []change{
		signedBy("delegate", 0, deputy{}),
		signedBy("RSA delegate", 0, keyed("RSA")),
		signedBy("P-384 delegate", 0, keyed("P-384")),
		signedBy("Ed25519 delegate", 0, keyed("Ed25519")),
		signedBy("delegate with other usages", 0, usage(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageOCSPSigning)),
		signedBy("delegate for servers", ocspresp.DelegateEKU, usage(x509.ExtKeyUsageServerAuth)),
		signedBy("delegate without usages", ocspresp.DelegateEKU, usage()),
		signedBy("delegate for any usage", ocspresp.DelegateEKU, usage(x509.ExtKeyUsageAny)),
		signedBy("delegate for email", 0, deputy{edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment }}),
		signedBy("delegate that has expired", ocspresp.DelegateValidity, lasting(-48*hour, -hour)),
		signedBy("delegate of tomorrow", ocspresp.DelegateValidity, lasting(24*hour, 48*hour)),
		signedBy("delegate that ends first", 0, lasting(-24*hour, 2*hour)),
		signedBy("delegate with no check", 0, having(false, 1, 3, 6, 1, 5, 5, 7, 48, 1, 5)),
		signedBy("delegate with a critical no check", 0, having(true, 1, 3, 6, 1, 5, 5, 7, 48, 1, 5)),
		signedBy("delegate with a critical extension", ocspresp.DelegateExtension, having(true, 2, 999, 1)),
		signedBy("delegate with an extension", 0, having(false, 2, 999, 1)),
		signedBy("delegate of another CA of that name", ocspresp.DelegateIssuer, deputy{parent: stranger}),
		signedBy("delegate of another name's", ocspresp.DelegateIssuer, deputy{parent: func(w *world) (*x509.Certificate, crypto.Signer) {
			return &x509.Certificate{Subject: pkix.Name{CommonName: "other"}}, w.caKey
		}}),
		signedBy("delegate signed with SHA-1", ocspresp.DelegateAlgorithm, deputy{edit: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 },
			parent: func(w *world) (*x509.Certificate, crypto.Signer) {
				if _, ok := w.caKey.(*ecdsa.PrivateKey); ok {
					return w.ca, w.caKey
				}
				return stranger(w)
			}}),
		signedBy("delegate of a delegate", ocspresp.DelegateIssuer, deputy{
			parent: func(w *world) (*x509.Certificate, crypto.Signer) { return w.delegate("first", 1) },
			extras: func(_ *world, parent *x509.Certificate) [][]byte { return [][]byte{parent.Raw} }}),
		signedBy("delegate that is a CA", 0, deputy{edit: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }}),
		signedBy("CA below", ocspresp.DelegateEKU, deputy{edit: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid, c.ExtKeyUsage = true, true, nil }}),
		signedBy("delegate of the CA's name", ocspresp.DelegateIssuer, deputy{edit: func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "CA"} }}),
		{"nobody", ocspresp.Signature, func(d *draft) {
			d.signer = &party{cert: d.w.ca, key: otherKey(d.w.t, d.w.ca.PublicKeyAlgorithm.String()), issuer: true}
		}},
	}},
	{"responder", []change{
		{"by key", 0, func(d *draft) { d.byKey = true }},
		{"another name", ocspresp.ResponderID, func(d *draft) { d.responder = der.Wrap(der.Tag1, d.w.leaf.RawSubject) }},
		{"an empty name", ocspresp.ResponderID, func(d *draft) { d.responder = der.Wrap(der.Tag1, sequence()) }},
		{"another key", ocspresp.ResponderID, func(d *draft) { d.responder = der.Wrap(der.Tag2, octets(hashed(crypto.SHA1, keyBits(d.w.leaf)))) }},
		{"a key under SHA-256", ocspresp.ResponderID, func(d *draft) { d.responder = der.Wrap(der.Tag2, octets(hashed(crypto.SHA256, keyBits(d.w.ca)))) }},
		{"another tag", ocspresp.Malformed, func(d *draft) { d.responder = der.Wrap(asn1.Tag(3).ContextSpecific().Constructed(), d.w.ca.RawSubject) }},
		{"no responder", ocspresp.Malformed, func(d *draft) { d.responder = []byte{} }},
		{"v1 in full", 0, func(d *draft) { d.version = der.Wrap(der.Tag0, []byte{2, 1, 0}) }},
		{"v2", ocspresp.Version, func(d *draft) { d.version = der.Wrap(der.Tag0, []byte{2, 1, 1}) }},
		{"v0", ocspresp.Version, func(d *draft) { d.version = der.Wrap(der.Tag0, []byte{2, 1, 0xff}) }},
		{"another type", ocspresp.ResponseType, func(d *draft) { d.typ = oid("1.3.6.1.5.5.7.48.1.2") }},
		{"tryLater", ocspresp.TryLater, func(d *draft) { d.status = 3 }},
		{"unauthorized", ocspresp.Unauthorized, func(d *draft) { d.status = 6 }},
	}},
	{"signature", []change{
		{"RSA with SHA-384", 0, using("RSA, SHA-384")},
		{"RSA with SHA-512", 0, using("RSA, SHA-512")},
		{"RSA with SHA-1", ocspresp.SignatureAlgorithm, using("RSA, SHA-1")},
		{"PSS", 0, using("PSS")},
		{"PSS with a salt of 20", 0, using("PSS, salt 20")},
		{"PSS without salt", ocspresp.SignatureAlgorithm, using("PSS, salt 0")},
		{"PSS with SHA-512", 0, using("PSS, SHA-512")},
		{"PSS with SHA-1", ocspresp.SignatureAlgorithm, using("PSS, SHA-1")},
		{"ECDSA with SHA-384", 0, using("ECDSA SHA-384")},
		{"ECDSA with SHA-512", 0, using("ECDSA SHA-512")},
		{"ECDSA with SHA-224", ocspresp.SignatureAlgorithm, using("ECDSA SHA-224")},
		{"ECDSA with SHA-1", ocspresp.SignatureAlgorithm, using("ECDSA SHA-1")},
		{"an unknown algorithm", ocspresp.SignatureAlgorithm, func(d *draft) { d.algorithm = sequence(oid("2.999.1")) }},
		{"ECDSA with NULL", ocspresp.SignatureAlgorithm, func(d *draft) { d.algorithm = sequence(oid(schemes["ECDSA"].oid), null) }},
		{"RSA without NULL", 0, func(d *draft) { using("RSA")(d); d.algorithm = sequence(oid(schemes["RSA"].oid)) }},
		{"RSA for ECDSA", ocspresp.SignatureAlgorithm, func(d *draft) { d.algorithm = schemes["RSA"].identifier() }},
		{"a broken signature", ocspresp.Signature, func(d *draft) { d.spoilSig = func(sig []byte) []byte { sig[len(sig)-1] ^= 1; return sig } }},
		{"a shifted signature", ocspresp.Malformed, func(d *draft) { d.spoilSig = shifted }},
		{"a signature with a tail", ocspresp.Signature, func(d *draft) { d.spoilSig = func(sig []byte) []byte { return append(sig, 0) } }},
		{"no signature", ocspresp.Signature, func(d *draft) { d.spoilSig = func([]byte) []byte { return []byte{0} } }},
	}},
	{"certificates", []change{
		{"no certificates", ocspresp.Signer, func(d *draft) { by("delegate", deputy{})(d); d.noCerts = true }},
		{"the issuer first", 0, func(d *draft) { d.before = [][]byte{d.w.ca.Raw} }},
		{"the issuer last", 0, func(d *draft) { d.after = [][]byte{d.w.ca.Raw} }},
		{"the leaf first", 0, func(d *draft) { d.before = [][]byte{d.w.leaf.Raw} }},
		{"the leaf last", 0, func(d *draft) { d.after = [][]byte{d.w.leaf.Raw} }},
		{"a decoy first", 0, func(d *draft) { d.before = [][]byte{decoy(d, false)} }},
		{"a decoy of the signer's key first", 0, func(d *draft) { d.before = [][]byte{decoy(d, true)} }},
		{"a decoy last", 0, func(d *draft) { d.after = [][]byte{decoy(d, false)} }},
		{"what is no certificate first", 0, func(d *draft) { d.before = [][]byte{octets([]byte("x"))} }},
		{"what is no certificate last", 0, func(d *draft) { d.after = [][]byte{sequence(octets([]byte("x")))} }},
		{"what is no certificate, and junk", 0, func(d *draft) { d.after = [][]byte{{0x30, 0x05, 1}} }},
		junk("BasicOCSPResponse"), junk("ResponseBytes"), junk("OCSPResponse"), junk("all"),
	}},
	{"date", []change{
		{"produced in the future", ocspresp.ProducedAt, func(d *draft) { d.produced = stamp(d.now.Add(hour)) }},
		{"produced soon", 0, func(d *draft) { d.produced = stamp(d.now.Add(2 * time.Minute)) }},
		{"produced before the leaf", ocspresp.ProducedAtLeaf, func(d *draft) { d.produced = stamp(d.now.Add(-72 * hour)) }},
		{"produced in fractions", ocspresp.Malformed, func(d *draft) { d.produced = generalized("20260101000000.5Z") }},
		{"produced elsewhere", ocspresp.Malformed, func(d *draft) { d.produced = generalized("20260101000000+0000") }},
		{"produced in UTCTime", ocspresp.Malformed, func(d *draft) { d.produced = der.Wrap(asn1.UTCTime, []byte("260101000000Z")) }},
		{"thisUpdate in the future", ocspresp.ThisUpdate, first(func(d *draft, a *answer) { a.this = stamp(d.now.Add(hour)) })},
		{"thisUpdate soon", 0, first(func(d *draft, a *answer) { a.this = stamp(d.now.Add(2 * time.Minute)) })},
		{"thisUpdate of 1970", 0, first(func(_ *draft, a *answer) { a.this = generalized("19700101000000Z") })},
		{"thisUpdate of 1969", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.this = generalized("19691231235959Z") })},
		{"thisUpdate in fractions", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.this = generalized("20260101000000.5Z") })},
		{"thisUpdate to the minute", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.this = generalized("202601010000Z") })},
		{"thisUpdate on the 31st of February", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.this = generalized("20260231000000Z") })},
		{"no nextUpdate", 0, first(func(_ *draft, a *answer) { a.next = nil })},
		{"no nextUpdate for 8 days", ocspresp.Expired, first(func(d *draft, a *answer) { a.this, a.next = stamp(d.now.Add(-8*24*hour)), nil })},
		{"nextUpdate past", ocspresp.Expired, first(func(d *draft, a *answer) { a.next = next(d, -30*time.Minute) })},
		{"nextUpdate at thisUpdate", ocspresp.NextUpdate, first(func(d *draft, a *answer) { a.next = next(d, -hour) })},
		{"nextUpdate before thisUpdate", ocspresp.NextUpdate, first(func(d *draft, a *answer) { a.next = next(d, -2*hour) })},
		{"nextUpdate before a thisUpdate soon", ocspresp.NextUpdate, first(func(d *draft, a *answer) { a.this, a.next = stamp(d.now.Add(3*time.Minute)), next(d, 2*time.Minute) })},
		{"nextUpdate of 9999", 0, first(func(_ *draft, a *answer) { a.next = der.Wrap(der.Tag0, generalized("99991231235959Z")) })},
		{"nextUpdate of the year 0", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.next = der.Wrap(der.Tag0, generalized("00000101000000Z")) })},
		{"nextUpdate and more", ocspresp.Malformed, first(func(d *draft, a *answer) { a.next = der.Wrap(der.Tag0, stamp(d.now.Add(hour)), null) })},
		{"nextUpdate of another tag", ocspresp.Malformed, first(func(d *draft, a *answer) { a.next = der.Wrap(der.Tag2, stamp(d.now.Add(hour))) })},
	}},
	{"status", []change{
		{"revoked", ocspresp.Revoked, first(func(d *draft, a *answer) { a.status = revoked(d.now.Add(-hour), nil) })},
		{"revoked for a reason", ocspresp.Revoked, first(func(d *draft, a *answer) { a.status = revoked(d.now.Add(-hour), []byte{1}) })},
		{"revoked for no known reason", ocspresp.Revoked, first(func(d *draft, a *answer) { a.status = revoked(d.now.Add(-hour), []byte{99}) })},
		{"revoked in the future", ocspresp.Revoked, first(func(d *draft, a *answer) { a.status = revoked(d.now.Add(24*hour), nil) })},
		{"revoked in the year 1", ocspresp.Revoked, first(func(_ *draft, a *answer) { a.status = revoked(time.Time{}, nil) })},
		{"not issued", ocspresp.Revoked, first(func(_ *draft, a *answer) { a.status = revoked(time.Unix(0, 0), []byte{6}) })},
		{"unknown", ocspresp.Unknown, status("\x82\x00")},
		{"good that is constructed", ocspresp.Malformed, status("\xa0\x00")},
		{"good with content", ocspresp.Malformed, status("\x80\x01\x00")},
		{"good in a long length", ocspresp.Malformed, status("\x80\x81\x00")},
		{"no status", ocspresp.Malformed, status("")},
		{"status 3", ocspresp.Malformed, status("\x83\x00")},
		{"revoked without a time", ocspresp.Malformed, status("\xa1\x00")},
		{"revoked for a reason of two bytes", ocspresp.Revoked, first(func(d *draft, a *answer) { a.status = revoked(d.now.Add(-hour), []byte{1, 0}) })},
		{"revoked and more", ocspresp.Malformed, first(func(d *draft, a *answer) { a.status = der.Wrap(der.Tag1, stamp(d.now.Add(-hour)), null) })},
		{"an extension", 0, first(func(_ *draft, a *answer) { a.extensions = extensions(extension("2.999.1", false, null)) })},
		{"a critical extension", ocspresp.CriticalExtension, first(func(_ *draft, a *answer) { a.extensions = extensions(extension("2.999.1", true, null)) })},
		{"no extension in the list", 0, first(func(_ *draft, a *answer) { a.extensions = extensions() })},
		{"an extension that is FALSE", ocspresp.Malformed, first(func(_ *draft, a *answer) {
			a.extensions = extensions(sequence(oid("2.999.1"), []byte{1, 1, 0}, octets(null)))
		})},
		{"an extension that is 1", ocspresp.Malformed, first(func(_ *draft, a *answer) {
			a.extensions = extensions(sequence(oid("2.999.1"), []byte{1, 1, 1}, octets(null)))
		})},
		{"an extension and more", ocspresp.Malformed, first(func(_ *draft, a *answer) {
			a.extensions = extensions(sequence(oid("2.999.1"), octets(null), null))
		})},
		{"an extension of the response", 0, func(d *draft) {
			d.extensions = extensions(extension("1.3.6.1.5.5.7.48.1.2", false, octets([]byte("nonce"))))
		}},
		{"a critical extension of the response", ocspresp.CriticalExtension, func(d *draft) { d.extensions = extensions(extension("2.999.1", true, null)) }},
		{"no extension in the response's list", 0, func(d *draft) { d.extensions = extensions() }},
		{"two lists of extensions", ocspresp.Malformed, func(d *draft) { d.extensions = slices.Concat(extensions(), extensions()) }},
	}},
	{"CertID", []change{
		{"SHA-256", 0, first(func(d *draft, a *answer) { a.under(crypto.SHA256, d.w.ca) })},
		{"SHA-384", 0, first(func(d *draft, a *answer) { a.under(crypto.SHA384, d.w.ca) })},
		{"SHA-512", 0, first(func(d *draft, a *answer) { a.under(crypto.SHA512, d.w.ca) })},
		{"SHA-224", ocspresp.HashAlgorithm, first(func(d *draft, a *answer) { a.under(crypto.SHA224, d.w.ca) })},
		{"an unknown hash", ocspresp.HashAlgorithm, first(func(_ *draft, a *answer) { a.hash = sequence(oid("2.999.1")) })},
		{"a hash without NULL", 0, first(func(_ *draft, a *answer) { a.hash = sequence(oid(hashOIDs[crypto.SHA1])) })},
		{"a hash with parameters", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.hash = sequence(oid(hashOIDs[crypto.SHA1]), octets(nil)) })},
		{"a hash with more", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.hash = sequence(oid(hashOIDs[crypto.SHA1]), null, null) })},
		{"another issuer's name", ocspresp.IssuerName, first(func(d *draft, a *answer) { a.name = hashed(crypto.SHA1, d.w.leaf.RawSubject) })},
		{"another issuer's key", ocspresp.IssuerKey, first(func(d *draft, a *answer) { a.key = hashed(crypto.SHA1, keyBits(d.w.leaf)) })},
		{"a key's hash cut", ocspresp.IssuerKey, first(func(_ *draft, a *answer) { a.key = a.key[:19] })},
		{"another serial", ocspresp.Serial, first(func(_ *draft, a *answer) { a.serial = []byte{3} })},
		{"a serial with a zero", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.serial = append([]byte{0}, a.serial...) })},
		{"a serial of nothing", ocspresp.Malformed, first(func(_ *draft, a *answer) { a.serial = nil })},
		junk("CertID"), junk("SingleResponse"), junk("ResponseData"),
	}},
	{"answers", []change{
		{"no answer", ocspresp.Serial, func(d *draft) { d.answers = nil }},
		{"another's before", 0, beside(true, func(_ *draft, a *answer) { a.serial = []byte{3} })},
		{"another's behind", 0, beside(false, func(_ *draft, a *answer) { a.serial = []byte{3} })},
		{"another's, revoked, before", 0, beside(true, func(d *draft, a *answer) { a.serial, a.status = []byte{3}, revoked(d.now, nil) })},
		{"another's, past, before", 0, beside(true, func(d *draft, a *answer) { a.serial, a.next = []byte{3}, next(d, -30*time.Minute) })},
		{"another's, critical, before", 0, beside(true, func(_ *draft, a *answer) {
			a.serial, a.extensions = []byte{3}, extensions(extension("2.999.1", true, null))
		})},
		{"another's, malformed, before", ocspresp.Malformed, beside(true, func(_ *draft, a *answer) { a.serial, a.status = []byte{3}, nil })},
		{"SHA-256 before", 0, beside(true, func(d *draft, a *answer) { a.under(crypto.SHA256, d.w.ca) })},
		{"SHA-256 behind", 0, beside(false, func(d *draft, a *answer) { a.under(crypto.SHA256, d.w.ca) })},
		{"SHA-256, revoked, behind", ocspresp.Revoked, beside(false, func(d *draft, a *answer) {
			a.under(crypto.SHA256, d.w.ca)
			a.status = revoked(d.now, nil)
		})},
		{"SHA-256, past, behind", ocspresp.Expired, beside(false, func(d *draft, a *answer) {
			a.under(crypto.SHA256, d.w.ca)
			a.next = next(d, -30*time.Minute)
		})},
		{"SHA-224 before", ocspresp.HashAlgorithm, beside(true, func(d *draft, a *answer) { a.under(crypto.SHA224, d.w.ca) })},
		{"revoked before", ocspresp.Revoked, beside(true, func(d *draft, a *answer) { a.status = revoked(d.now, nil) })},
		{"revoked behind", ocspresp.Revoked, beside(false, func(d *draft, a *answer) { a.status = revoked(d.now, nil) })},
		{"unknown before", ocspresp.Unknown, beside(true, func(_ *draft, a *answer) { a.status = []byte("\x82\x00") })},
		{"unknown behind", ocspresp.Unknown, beside(false, func(_ *draft, a *answer) { a.status = []byte("\x82\x00") })},
		{"past before", ocspresp.Expired, beside(true, func(d *draft, a *answer) { a.this, a.next = stamp(d.now.Add(-3*hour)), next(d, -2*hour) })},
		{"past behind", ocspresp.Expired, beside(false, func(d *draft, a *answer) { a.this, a.next = stamp(d.now.Add(-3*hour)), next(d, -2*hour) })},
		{"older before", 0, beside(true, func(d *draft, a *answer) { a.this, a.next = stamp(d.now.Add(-3*hour)), next(d, hour) })},
		{"in the future before", ocspresp.ThisUpdate, beside(true, func(d *draft, a *answer) { a.this = stamp(d.now.Add(hour)) })},
		{"critical before", ocspresp.CriticalExtension, beside(true, func(_ *draft, a *answer) { a.extensions = extensions(extension("2.999.1", true, null)) })},
		{"another issuer's before", ocspresp.IssuerName, beside(true, func(d *draft, a *answer) { a.under(crypto.SHA1, d.w.leaf) })},
		{"another issuer's behind", ocspresp.IssuerName, beside(false, func(d *draft, a *answer) { a.under(crypto.SHA1, d.w.leaf) })},
		{"another issuer's, revoked, before", ocspresp.IssuerName, beside(true, func(d *draft, a *answer) {
			a.under(crypto.SHA1, d.w.leaf)
			a.status = revoked(d.now, nil)
		})},
		{"another issuer's, critical, before", ocspresp.IssuerName, beside(true, func(d *draft, a *answer) {
			a.under(crypto.SHA1, d.w.leaf)
			a.extensions = extensions(extension("2.999.1", true, null))
		})},
		{"another issuer's other certificate before", ocspresp.IssuerName, beside(true, func(d *draft, a *answer) { a.under(crypto.SHA1, d.w.leaf); a.serial = []byte{3} })},
	}},
}

// shifted is sig with a bit that is not used, which crypto/x509 would shift away.
func shifted(sig []byte) []byte {
	n := new(big.Int).Lsh(new(big.Int).SetBytes(sig[1:]), 1)
	out := make([]byte, len(sig)+1)
	n.FillBytes(out[1:])
	out[0] = 1
	return out
}

// decoy is a certificate with the signer's name, which nobody vouches for.
func decoy(d *draft, withKey bool) []byte {
	key := newKey(d.w.t)
	pub := key.Public()
	if withKey {
		pub = d.signer.cert.PublicKey
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), RawSubject: d.signer.cert.RawSubject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		NotBefore: time.Now().Add(-hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	raw, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{RawSubject: d.w.ca.RawSubject}, pub, key)
	if err != nil {
		d.w.t.Fatal(err)
	}
	return raw
}
