package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// The reasons, as the root package words them.
const (
	malformed    = "malformed response"
	badAlgorithm = "unsupported or weak signature algorithm"
	badSignature = "bad signature"
	noSigner     = "signer not found"
	wrongID      = "responderID is not the signer's"
	badIssuer    = "delegate not issued by the issuer"
	noEKU        = "delegate lacks id-kp-OCSPSigning"
	badDates     = "delegate not valid at this time"
	criticalExt  = "unknown critical extension"
	wrongSerial  = "no answer for this serial number"
	wrongName    = "issuerNameHash of another issuer"
	wrongKey     = "issuerKeyHash of another issuer"
	isExpired    = "expired"
	isUnknown    = "status unknown"
	early        = "producedAt outside the certificate's validity"
)

func families() []family {
	return []family{
		{"direct", "B4", leaf, ca, nil, concat(direct(), structure(), certIDs(), times(), extensionCases())},
		{"complete", "B2", leaf, ca, complete, innerJunk()},
		{"delegated", "B5", leaf, ca, by(delegate, delegate), delegates()},
		{"several", "B3", leaf, ca, more(false, certID(crypto.SHA256, oidSHA256)), several()},
		{"young", "B9", young, ca, func(r *response) { r.producedAt = before(14 * time.Minute) }, []spoiled{
			reject("before-leaf", "B9", early, func(r *response) { r.producedAt = before(16 * time.Minute) }),
		}},
		{"brief", "B10", brief, ca, nil, []spoiled{ // to be judged later, when it isn't in the future
			reject("late", "B9", "producedAt in the future", func(r *response) { r.producedAt = after(day + 6*time.Minute) }),
		}},
		{"rsa", "B14", rsaLeaf, rsaCA, signedAs(algorithm(oidRSA+"\x0b", null), crypto.SHA256), rsaCases()},
		{"pss", "B14", rsaLeaf, rsaCA, pssSigned(oidSHA256, crypto.SHA256, 32), pssCases()},
		{"p384", "B14", p384Leaf, p384CA, signedAs(algorithm(oidECDSA384, ""), crypto.SHA384), []spoiled{
			reject("labelled-ed25519", "B14", badAlgorithm, signedAs(algorithm(oidEd25519, ""), crypto.SHA384)),
			reject("parameters", "B14", badAlgorithm, signedAs(algorithm(oidECDSA384, null), crypto.SHA384)),
			reject("sha512-parameters", "B14", badAlgorithm, signedAs(algorithm(oidECDSA512, null), crypto.SHA512)),
			fine("delegate-sha384", "B14", strongDelegate(p384CA, x509.ECDSAWithSHA384)),
			fine("delegate-sha512", "B14", strongDelegate(p384CA, x509.ECDSAWithSHA512)),
		}},
		{"ed25519", "B14", edLeaf, edCA, signedAs(algorithm(oidEd25519, ""), 0), []spoiled{
			reject("parameters", "B14", badAlgorithm, signedAs(algorithm(oidEd25519, null), 0)),
			fine("delegate", "B14", strongDelegate(edCA, x509.PureEd25519)),
			reject("labelled-ecdsa", "B14", badAlgorithm, labelled(algorithm(oidECDSA256, ""))),
			reject("labelled-rsa", "B14", badAlgorithm, labelled(algorithm(oidRSA+"\x0b", null))),
		}},
	}
}

func concat(lists ...[]spoiled) (all []spoiled) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func direct() []spoiled {
	errorStatus := func(n byte) change { return func(r *response) { r.status, r.bare = n, true } }
	flip := func(key crypto.Signer, tbs []byte) []byte {
		tampered := append([]byte{}, tbs...)
		tampered[len(tampered)-1] ^= 1
		return check(key.Sign(nil, digest(crypto.SHA256, tampered), crypto.SHA256))
	}
	return []spoiled{
		fine("by-key", "B8", func(r *response) { r.responder = byKey(ca) }),
		fine("issuer-embedded", "B7", by(ca, ca)),
		fine("unrelated-embedded", "B7", by(ca, other, elsewhere)),
		reject("status-1", "B1", "OCSP error status malformedRequest", errorStatus(1)),
		reject("status-2", "B1", "OCSP error status internalError", errorStatus(2)),
		reject("status-3", "B1", "OCSP error status tryLater", errorStatus(3)),
		reject("status-3-with-body", "B1", "OCSP error status tryLater", func(r *response) { r.status = 3 }),
		reject("status-4", "B1", malformed, errorStatus(4)),
		reject("status-5", "B1", "OCSP error status sigRequired", errorStatus(5)),
		reject("status-6", "B1", "OCSP error status unauthorized", errorStatus(6)),
		reject("status-7", "B1", malformed, errorStatus(7)),
		reject("without-body", "B1", malformed, func(r *response) { r.bare = true }),
		reject("response-type", "B2", "unsupported response type", func(r *response) { r.responseType = oidPrivate }),
		reject("tampered", "B4", badSignature, func(r *response) { r.sign = flip }),
		reject("unsigned", "B4", badSignature, func(r *response) { r.sign = func(crypto.Signer, []byte) []byte { return nil } }),
		reject("signature-bits", "B2", malformed, func(r *response) { r.der = map[string]string{"signature": "\x03\x02\x01\x80"} }),
		reject("embedded-tampered", "B7", badSignature, func(r *response) { by(ca, ca)(r); r.sign = flip }),
		reject("impostor", "B5", badSignature, by(impostor)),
		reject("impostor-embedded", "B5", badIssuer, by(impostor, impostor)),
		reject("impostor-by-key", "B5", noSigner, func(r *response) { r.signer, r.responder = impostor, byKey(impostor) }),
		reject("another-ca", "B5", badIssuer, by(elsewhere, elsewhere)),
		reject("other-name", "B8", wrongID, func(r *response) { r.responder = byName(elsewhere) }),
		reject("other-key", "B8", wrongID, func(r *response) { r.responder = byKey(elsewhere) }),
		reject("key-info-hashed", "B8", wrongID, func(r *response) {
			r.responder = tlv(explicit(2), tlv(octetString, digest(crypto.SHA1, spki(ca.cert))))
		}),
		reject("key-sha256", "B8", wrongID, func(r *response) {
			r.responder = tlv(explicit(2), tlv(octetString, digest(crypto.SHA256, keyBits(ca.cert))))
		}),
		reject("ecdsa-sha1", "B14", badAlgorithm, signedAs(algorithm(oidECDSA1, ""), crypto.SHA1)),
		reject("ecdsa-parameters", "B14", badAlgorithm, signedAs(algorithm(oidECDSA256, null), crypto.SHA256)),
		fine("ecdsa-sha512", "B14", signedAs(algorithm(oidECDSA512, ""), crypto.SHA512)),
		{"revoked", "B12", "revoked", "status revoked", one(status("revoked"))},
		{"revoked-reason", "B12", "revoked", "status revoked", one(func(s *single) { status("revoked")(s); s.reason = 1 })},
		{"revoked-odd-reason", "B12", "revoked", "status revoked", one(func(s *single) { status("revoked")(s); s.reason = 99 })},
		{"not-issued", "B13", "revoked", "status revoked", one(func(s *single) {
			s.status, s.revokedAt, s.reason = "revoked", "19700101000000Z", 6
		})},
		{"revoked-1970", "B13", "revoked", "status revoked", one(func(s *single) {
			s.status, s.revokedAt, s.reason = "revoked", "19700101000000Z", 1
		})},
		{"on-hold", "B13", "revoked", "status revoked", one(func(s *single) { status("revoked")(s); s.reason = 6 })},
		{"unknown", "B12", "unknown", isUnknown, one(status("unknown"))},
		reject("unknown-expired", "B12", isExpired, one(func(s *single) { status("unknown")(s); s.nextUpdate = before(time.Minute) })),
		reject("unknown-tampered", "B12", badSignature, func(r *response) { one(status("unknown"))(r); r.sign = flip }),
	}
}

// structure is about the encoding at large; innerJunk about what follows.
func structure() []spoiled {
	version := func(n byte) change { return func(r *response) { r.version = []byte{2, 1, n} } }
	return []spoiled{
		fine("version-encoded", "B2", version(0)),
		reject("version-2", "B2", "unsupported version", version(1)),
		reject("length-outer", "B2", malformed, long("OCSPResponse")),
		reject("length-data", "B2", malformed, long("ResponseData")),
		reject("length-single", "B2", malformed, long("SingleResponse")),
		reject("length-signature", "B2", malformed, long("signature")),
		reject("serial-padded", "B2", malformed, one(func(s *single) { s.serial = append([]byte{0}, s.serial...) })),
		reject("serial-empty", "B2", malformed, one(func(s *single) { s.serial = nil })),
		reject("good-constructed", "B2", malformed, instead("good", "\xa0\x00")),
		reject("time-fraction", "B2", malformed, one(func(s *single) { s.thisUpdate = "20300115110000.5Z" })),
		reject("time-zone", "B2", malformed, one(func(s *single) { s.thisUpdate = "20300115110000+0000" })),
		reject("time-no-seconds", "B2", malformed, one(func(s *single) { s.thisUpdate = "203001151100Z" })),
		reject("time-local", "B2", malformed, one(func(s *single) { s.thisUpdate = "20300115110000" })),
		reject("time-utctime", "B2", malformed, instead("producedAt", string(tlv(asn1.UTCTime, []byte("300115110000Z"))))),
		reject("produced-at-zone", "B2", malformed, func(r *response) { r.producedAt = "20300115110000+0000" }),
		reject("next-update-zero", "B2", malformed, one(func(s *single) { s.nextUpdate = "00010101000000Z" })),
		reject("next-update-1969", "B2", malformed, one(func(s *single) { s.nextUpdate = "19691231235959Z" })),
		reject("next-update-zone", "B2", malformed, one(func(s *single) { s.nextUpdate = "20300118120000+0000" })),
		fine("certs-not-certs", "B7", func(r *response) { by(ca, other)(r); r.der = map[string]string{"cert": "\x30\x03\x02\x01\x00"} }),
		reject("single-not-sequence", "B2", malformed, instead("SingleResponse", null)),
		reject("after-the-end", "B2", malformed, junk("")),
		reject("junk-without-certs", "B2", malformed, junk("BasicOCSPResponse")),
		reject("junk-in-key-hash", "B2", malformed, func(r *response) { r.responder = byKey(ca); junk("responderID")(r) }),
	}
}

// complete has every optional part there is.
func complete(r *response) {
	by(delegate, delegate)(r)
	r.version = []byte{2, 1, 0}
	r.extensions = extensions(extension(oidNonce, nil), extension(oidPrivate, nil))
	r.singles[0].extensions = extensions(extension(oidPrivate, nil))
}

// innerJunk adds one NULL after the last element, at every level.
func innerJunk() (cases []spoiled) {
	for _, level := range []string{"OCSPResponse", "responseBytes-tag", "ResponseBytes", "response", "BasicOCSPResponse",
		"ResponseData", "version", "responderID", "responses", "SingleResponse", "CertID", "hashAlgorithm", "good",
		"nextUpdate", "singleExtensions", "responseExtensions", "signatureAlgorithm", "certs", "cert"} {
		reason := malformed
		if level == "signatureAlgorithm" { // NULL parameters where there are none
			reason = badAlgorithm
		}
		cases = append(cases, reject("junk-in-"+level, "B2", reason, junk(level)))
	}
	two := string(algorithm(oidECDSA256, null+null))
	revoked := func(level string) change {
		return func(r *response) { one(func(s *single) { status("revoked")(s); s.reason = 1 })(r); junk(level)(r) }
	}
	unknown := func(r *response) { one(status("unknown"))(r); junk("unknown")(r) }
	return append(cases,
		fine("junk-in-certificates", "B7", junk("certificates")), // among them, that is
		reject("junk-in-parameters", "B2", malformed, instead("signatureAlgorithm", two)),
		reject("junk-in-revoked", "B2", malformed, revoked("revoked")),
		reject("junk-in-revocationReason", "B2", malformed, revoked("revocationReason")),
		reject("junk-in-unknown", "B2", malformed, unknown))
}

func certIDs() []spoiled {
	return []spoiled{
		fine("sha256-certid", "B3", one(certID(crypto.SHA256, oidSHA256))),
		fine("sha384-certid", "B3", one(certID(crypto.SHA384, oidSHA384))),
		fine("sha512-certid", "B3", one(certID(crypto.SHA512, oidSHA512))),
		reject("sha224-certid", "B3", "unsupported CertID hash algorithm", one(certID(crypto.SHA224, oidSHA224))),
		reject("serial", "B3", wrongSerial, one(func(s *single) { s.serial = octets(other.cert.SerialNumber) })),
		reject("issuer-name", "B3", wrongName, one(func(s *single) { s.issuerName = elsewhere.cert.RawSubject })),
		reject("issuer-key", "B3", wrongKey, one(func(s *single) { s.issuerKey = keyBits(impostor.cert) })),
		reject("issuer-key-info", "B3", wrongKey, one(func(s *single) { s.issuerKey = spki(ca.cert) })),
		reject("sha256-issuer-name", "B3", wrongName, one(func(s *single) {
			certID(crypto.SHA256, oidSHA256)(s)
			s.issuerName = elsewhere.cert.RawSubject
		})),
		reject("sha512-issuer-key", "B3", wrongKey, one(func(s *single) {
			certID(crypto.SHA512, oidSHA512)(s)
			s.issuerKey = keyBits(impostor.cert)
		})),
		reject("hash-mislabelled", "B3", wrongName, one(certID(crypto.SHA256, oidSHA1))),
		reject("hash-parameters", "B2", malformed, instead("hashAlgorithm", string(algorithm(oidSHA1, "\x02\x01\x00")))),
		fine("hash-parameters-absent", "B3", instead("hashAlgorithm", string(algorithm(oidSHA1, "")))),
		reject("nothing", "B3", wrongSerial, func(r *response) { r.singles = nil }),
	}
}

func several() []spoiled {
	two := func(word string) change { return func(r *response) { status(word)(&r.singles[1]) } }
	first := func(word string) change { return func(r *response) { status(word)(&r.singles[0]) } }
	dates := func(n int, this, next string) change {
		return func(r *response) { r.singles[n].thisUpdate, r.singles[n].nextUpdate = this, next }
	}
	alike := func(n int, this, next string) change {
		return func(r *response) { certID(crypto.SHA1, oidSHA1)(&r.singles[1]); dates(n, this, next)(r) }
	}
	skipped := func(r *response) { r.singles[0].hash, r.singles[0].hashOID = crypto.SHA224, oidSHA224 }
	return []spoiled{
		{"good-revoked", "B3", "revoked", "status revoked", two("revoked")},
		{"revoked-good", "B3", "revoked", "status revoked", first("revoked")},
		{"good-unknown", "B3", "unknown", isUnknown, two("unknown")},
		{"unknown-good", "B3", "unknown", isUnknown, first("unknown")},
		{"revoked-unknown", "B3", "revoked", "status revoked", func(r *response) { first("revoked")(r); two("unknown")(r) }},
		{"unknown-revoked", "B3", "revoked", "status revoked", func(r *response) { first("unknown")(r); two("revoked")(r) }},
		fine("sha224-first", "B3", skipped),
		reject("closest", "B3", wrongKey, func(r *response) { // the reason is that of the nearer miss
			r.singles[0].issuerKey = keyBits(impostor.cert)
			r.singles[1].serial = octets(other.cert.SerialNumber)
		}),
		reject("old-first", "B10", isExpired, dates(0, before(3*day), before(day))), // some clients look at one hash alone
		reject("old-last", "B10", isExpired, dates(1, before(3*day), before(day))),
		reject("old-open", "B10", isExpired, dates(0, before(8*day), "")),
		fine("ends-first", "B10", dates(0, before(time.Hour), after(day))),
		fine("ends-last", "B10", dates(1, before(time.Hour), after(day))),
		fine("ends-open", "B10", dates(0, before(6*day), "")),
		fine("one-hash-old-first", "B3", alike(0, before(3*day), before(day))),
		fine("one-hash-old-last", "B3", alike(1, before(3*day), before(day))),
		fine("one-hash-ends-first", "B10", alike(0, before(time.Hour), after(day))),
		fine("one-hash-ends-last", "B10", alike(1, before(time.Hour), after(day))),
		reject("backwards", "B9", "nextUpdate not after thisUpdate", func(r *response) {
			dates(0, after(2*time.Minute), after(time.Minute))(r)
			dates(1, after(3*time.Minute), after(day))(r)
		}),
		{"revoked-old", "B3", "revoked", "status revoked", func(r *response) { // a revocation stands by itself
			first("revoked")(r)
			dates(1, before(3*day), before(day))(r)
		}},
		fine("other-revoked", "B3", func(r *response) { two("revoked")(r); r.singles[1].serial = octets(other.cert.SerialNumber) }),
		fine("other-critical", "B11", func(r *response) {
			r.singles[1].serial = octets(other.cert.SerialNumber)
			r.singles[1].extensions = extensions(extension(oidPrivate, isTrue))
		}),
		reject("second-critical", "B11", criticalExt, func(r *response) { r.singles[1].extensions = extensions(extension(oidPrivate, isTrue)) }),
		reject("other-malformed", "B2", malformed, func(r *response) {
			r.singles[1].serial = octets(other.cert.SerialNumber)
			r.singles[1].thisUpdate = "20300115110000.5Z"
		}),
	}
}

func times() []spoiled {
	this := func(s string) change { return one(func(x *single) { x.thisUpdate = s }) }
	next := func(s string) change { return one(func(x *single) { x.nextUpdate = s }) }
	produced := func(s string) change { return func(r *response) { r.producedAt = s } }
	return []spoiled{
		fine("this-update-skew", "B9", this(after(5*time.Minute))),
		reject("this-update", "B9", "thisUpdate in the future", this(after(5*time.Minute+time.Second))),
		fine("produced-at-skew", "B9", produced(after(5*time.Minute))),
		reject("produced-at", "B9", "producedAt in the future", produced(after(5*time.Minute+time.Second))),
		reject("produced-at-leaf", "B9", early, produced(before(15*day))),
		reject("next-update-equal", "B9", "nextUpdate not after thisUpdate", one(func(s *single) {
			s.thisUpdate, s.nextUpdate = after(time.Minute), after(time.Minute)
		})),
		reject("next-update-before", "B9", "nextUpdate not after thisUpdate", one(func(s *single) {
			s.thisUpdate, s.nextUpdate = after(2*time.Minute), after(time.Minute)
		})),
		reject("expired", "B10", isExpired, next(before(time.Second))),
		fine("no-next-update", "B10", next("")),
		reject("no-next-update-old", "B10", isExpired, one(func(s *single) {
			s.thisUpdate, s.nextUpdate = before(7*day+time.Second), ""
		})),
	}
}

func extensionCases() []spoiled {
	in := func(der []byte) change { return func(r *response) { r.extensions = der } }
	inSingle := func(der []byte) change { return one(func(s *single) { s.extensions = der }) }
	two := extensions(extension(oidNonce, nil), extension(oidPrivate, isTrue))
	return []spoiled{
		fine("extension", "B11", in(extensions(extension(oidPrivate, nil)))),
		fine("single-extension", "B11", inSingle(extensions(extension(oidPrivate, nil)))),
		reject("critical", "B11", criticalExt, in(two)),
		reject("critical-first", "B11", criticalExt, in(extensions(extension(oidPrivate, isTrue), extension(oidNonce, nil)))),
		reject("single-critical", "B11", criticalExt, inSingle(two)),
		reject("critical-false", "B2", malformed, in(extensions(extension(oidPrivate, isFalse)))),
		reject("critical-ber", "B2", malformed, in(extensions(extension(oidPrivate, []byte{1, 1, 1})))),
		fine("extensions-empty", "B2", in(extensions())),
		fine("single-extensions-empty", "B2", inSingle(extensions())),
		reject("extension-junk", "B2", malformed, in(extensions(tlv(sequence, join(oid(oidPrivate), tlv(octetString, nil), []byte(null)))))),
	}
}

func delegates() []spoiled {
	sub := issue(ca, "", "subordinate CA", p256(), isCA)
	indirect := issue(sub, "", "delegate", p256(), isDelegate)
	renamed := issue(issue(nil, "", "CA by another name", ca.key, isCA), "", "delegate", p256(), isDelegate)
	fake := issue(impostor, "", "delegate", p256(), isDelegate)
	eku := func(e ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = e }
	}
	usage := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment }
	from := func(t time.Time) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = t, t.Add(90*day) }
	}
	to := func(t time.Time) func(*x509.Certificate) { return func(c *x509.Certificate) { c.NotAfter = t } }
	impersonated := by(delegate, delegate)
	return []spoiled{
		fine("by-key", "B8", func(r *response) { r.responder = byKey(delegate) }),
		fine("last-of-many", "B7", by(delegate, ca, other, delegate2, elsewhere, delegate)),
		fine("usage", "B6", byDelegate(all(isDelegate, usage))),
		fine("among-usages", "B6", byDelegate(eku(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageOCSPSigning))),
		fine("ends-first", "B6", byDelegate(all(isDelegate, to(now.Add(day))))),
		reject("missing", "B6", noSigner, by(delegate)),
		reject("no-eku", "B6", noEKU, byDelegate(nil)),
		reject("any-eku", "B6", noEKU, byDelegate(eku(x509.ExtKeyUsageAny))),
		reject("server-eku", "B6", noEKU, byDelegate(eku(x509.ExtKeyUsageServerAuth))),
		reject("leaf-itself", "B6", noEKU, by(leaf, leaf)),
		reject("expired", "B6", badDates, byDelegate(all(isDelegate, to(now.Add(-time.Second))))),
		reject("not-yet", "B6", badDates, byDelegate(all(isDelegate, from(now.Add(time.Second))))),
		reject("critical", "B6", "delegate has an unknown critical extension", byDelegate(all(isDelegate, critical))),
		reject("indirect", "B6", badIssuer, by(indirect, indirect, sub)),
		reject("of-impostor", "B6", badIssuer, by(fake, fake, impostor)),
		reject("of-other-name", "B6", badIssuer, by(renamed, renamed)),
		reject("tampered", "B4", badSignature, func(r *response) { r.signer = delegate2 }),
		reject("other-name", "B8", wrongID, func(r *response) { impersonated(r); r.responder = byName(delegate2) }),
		reject("other-key", "B8", wrongID, func(r *response) { impersonated(r); r.responder = byKey(delegate2) }),
		reject("issuers-name", "B8", wrongID, func(r *response) { impersonated(r); r.responder = byName(ca) }),
		reject("both-there", "B8", badSignature, func(r *response) {
			by(delegate, delegate, delegate2)(r)
			r.responder, r.signer = byName(delegate2), impostor
		}),
	}
}

func rsaCases() []spoiled {
	weak := func(c *x509.Certificate) { isDelegate(c); c.SignatureAlgorithm = x509.SHA1WithRSA }
	old := issue(rsaCA, "", "delegate", p256(), weak)
	return []spoiled{
		fine("no-parameters", "B14", signedAs(algorithm(oidRSA+"\x0b", ""), crypto.SHA256)),
		fine("sha384", "B14", signedAs(algorithm(oidRSA+"\x0c", null), crypto.SHA384)),
		fine("sha512", "B14", signedAs(algorithm(oidRSA+"\x0d", null), crypto.SHA512)),
		reject("sha1", "B14", badAlgorithm, signedAs(algorithm(oidRSA+"\x05", null), crypto.SHA1)),
		reject("md5", "B14", badAlgorithm, signedAs(algorithm(oidRSA+"\x04", null), crypto.MD5)),
		reject("parameters", "B14", badAlgorithm, signedAs(algorithm(oidRSA+"\x0b", "\x02\x01\x00"), crypto.SHA256)),
		reject("sha384-parameters", "B14", badAlgorithm, signedAs(algorithm(oidRSA+"\x0c", "\x02\x01\x00"), crypto.SHA384)),
		reject("sha512-parameters", "B14", badAlgorithm, signedAs(algorithm(oidRSA+"\x0d", "\x30\x00"), crypto.SHA512)),
		reject("null-filled", "B14", badAlgorithm, signedAs(algorithm(oidRSA+"\x0b", "\x05\x01\x00"), crypto.SHA256)),
		fine("delegate", "B14", strongDelegate(rsaCA, x509.SHA256WithRSA)),
		fine("delegate-sha384", "B14", strongDelegate(rsaCA, x509.SHA384WithRSA)),
		fine("delegate-sha512", "B14", strongDelegate(rsaCA, x509.SHA512WithRSA)),
		fine("delegate-pss", "B14", strongDelegate(rsaCA, x509.SHA256WithRSAPSS)),
		fine("delegate-pss-sha384", "B14", strongDelegate(rsaCA, x509.SHA384WithRSAPSS)),
		fine("delegate-pss-sha512", "B14", strongDelegate(rsaCA, x509.SHA512WithRSAPSS)),
		reject("delegate-sha1", "B14", "delegate signed under an unsupported or weak algorithm", func(r *response) {
			by(old, old)(r)
			r.algorithm = algorithm(oidECDSA256, "")
		}),
		reject("labelled-ecdsa", "B14", badAlgorithm, signedAs(algorithm(oidECDSA256, ""), crypto.SHA256)),
	}
}

// strongDelegate has a delegate sign whose certificate is signed under alg.
func strongDelegate(ca *identity, alg x509.SignatureAlgorithm) change {
	id := issue(ca, "", "delegate", p256(), all(isDelegate, func(c *x509.Certificate) { c.SignatureAlgorithm = alg }))
	return func(r *response) {
		by(id, id)(r)
		r.algorithm, r.hash, r.sign = algorithm(oidECDSA256, ""), crypto.SHA256, nil
	}
}

func pssSigned(oidHash string, h crypto.Hash, salt int) change {
	return func(r *response) {
		r.algorithm = algorithm(oidRSA+"\x0a", pss(oidHash, oidHash, salt))
		r.sign = signPSS(h, salt)
	}
}

func pssCases() []spoiled {
	params := func(p string) change { return func(r *response) { r.algorithm = algorithm(oidRSA+"\x0a", p) } }
	right := pss(oidSHA256, oidSHA256, 32)
	mgf := func(hash string) string { return string(algorithm(oidMGF1, hash)) }
	sha256, sha256Odd := string(algorithm(oidSHA256, null)), string(algorithm(oidSHA256, "\x02\x01\x00"))
	mgf1, salt := mgf(sha256), "\x02\x01\x20"
	trailer := string(tlv(sequence, append(inside([]byte(right)), tlv(explicit(3), []byte{2, 1, 1})...)))
	return []spoiled{
		fine("sha384", "B14", pssSigned(oidSHA384, crypto.SHA384, 48)),
		fine("sha512", "B14", pssSigned(oidSHA512, crypto.SHA512, 64)),
		reject("sha1", "B14", badAlgorithm, pssSigned(oidSHA1, crypto.SHA1, 20)),
		reject("defaults", "B14", badAlgorithm, func(r *response) {
			params("\x30\x00")(r)
			r.sign = signPSS(crypto.SHA1, 20)
		}),
		reject("no-parameters", "B14", badAlgorithm, params("")),
		fine("salt", "B14", pssSigned(oidSHA256, crypto.SHA256, 20)),
		reject("salt-wrong", "B4", badSignature, func(r *response) { r.sign = signPSS(crypto.SHA256, 20) }),
		reject("mgf", "B14", badAlgorithm, params(strings.Replace(right, oidMGF1, oidRSA+"\x09", 1))),
		reject("mgf-hash", "B14", badAlgorithm, params(pss(oidSHA256, oidSHA1, 32))),
		reject("trailer", "B14", badAlgorithm, params(trailer)),
		reject("junk-after", "B14", malformed, params(right+null)),
		reject("junk-inside", "B14", badAlgorithm, params(pssParts(null, sha256, mgf1, salt))),
		reject("junk-in-hash", "B14", badAlgorithm, params(pssParts("", sha256+null, mgf1, salt))),
		reject("junk-in-mgf", "B14", badAlgorithm, params(pssParts("", sha256, mgf1+null, salt))),
		reject("junk-in-mgf-parameters", "B14", badAlgorithm, params(pssParts("", sha256, string(algorithm(oidMGF1, sha256+null)), salt))),
		reject("junk-in-mgf-hash", "B14", badAlgorithm, params(pssParts("", sha256, mgf(sha256Odd), salt))),
		reject("junk-in-salt", "B14", badAlgorithm, params(pssParts("", sha256, mgf1, salt+null))),
		reject("hash-parameters", "B14", badAlgorithm, params(pssParts("", sha256Odd, mgf1, salt))),
		fine("hash-parameters-absent", "B14", params(pssParts("", string(algorithm(oidSHA256, "")), mgf(string(algorithm(oidSHA256, ""))), salt))),
		reject("pkcs1", "B4", badSignature, func(r *response) {
			r.sign = func(key crypto.Signer, tbs []byte) []byte {
				return check(rsa.SignPKCS1v15(nil, key.(*rsa.PrivateKey), crypto.SHA256, digest(crypto.SHA256, tbs)))
			}
		}),
	}
}
