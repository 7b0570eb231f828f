package ocspresp

import (
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1" // names things in a CertID and a responderID, proves nothing
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"fmt"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/der"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers as their content octets in DER, as der.ReadOID returns them. They
// are compared in this form, which allocates nothing.
const (
	oidSHA1   = "\x2b\x0e\x03\x02\x1a"                 // 1.3.14.3.2.26
	oidSHA256 = "\x60\x86\x48\x01\x65\x03\x04\x02\x01" // 2.16.840.1.101.3.4.2.1
	oidSHA384 = "\x60\x86\x48\x01\x65\x03\x04\x02\x02"
	oidSHA512 = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"

	oidMGF1   = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" // 1.2.840.113549.1.1.8
	oidRSAPSS = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
)

// certIDHashes are the hash functions of the CertIDs that we understand. SHA-1, which
// must be the first, is what requests begin with: curl and NSS's tstclnt refuse a
// staple under SHA-256. Here it names the issuer and proves nothing.
// SHA-224 is not among them: OpenSSL knows it, x/crypto/ocsp does not.
var certIDHashes = [...]struct {
	hash crypto.Hash
	oid  string
}{
	{crypto.SHA1, oidSHA1},
	{crypto.SHA256, oidSHA256},
	{crypto.SHA384, oidSHA384},
	{crypto.SHA512, oidSHA512},
}

// hashAlgorithm returns 0 for an algorithm that isn't in certIDHashes.
func hashAlgorithm(oid []byte) crypto.Hash {
	for _, h := range certIDHashes {
		if string(oid) == h.oid {
			return h.hash
		}
	}
	return 0
}

// hashIndex returns where h is in certIDHashes, of which it is one.
func hashIndex(h crypto.Hash) int {
	for n, known := range certIDHashes {
		if known.hash == h {
			return n
		}
	}
	return 0
}

// An algorithm is one that a response may be signed under. The zero algorithm is any
// other. hash is 0 where the algorithm hashes by itself, as Ed25519 does.
type algorithm struct {
	x509 x509.SignatureAlgorithm
	key  x509.PublicKeyAlgorithm
	oid  string
	hash crypto.Hash
	null bool // the parameters are NULL (RFC 4055 §5), where absent ones are to be accepted
	salt int  // of RSASSA-PSS, in bytes; it is in the parameters
}

// An algorithm that is missing here is refused: SHA-1 (CA/B Forum ballot SC-053), MD2, MD5,
// DSA, SHA-224, and those that crypto/x509 can't verify. To accept another algorithm, add a row;
// certinfo.Strong is the same list for the certificates of delegates.
var (
	algorithms = []algorithm{
		{x509.SHA256WithRSA, x509.RSA, "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", crypto.SHA256, true, 0},
		{x509.SHA384WithRSA, x509.RSA, "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", crypto.SHA384, true, 0},
		{x509.SHA512WithRSA, x509.RSA, "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", crypto.SHA512, true, 0},
		{x509.ECDSAWithSHA256, x509.ECDSA, "\x2a\x86\x48\xce\x3d\x04\x03\x02", crypto.SHA256, false, 0}, // RFC 5758 §3.2
		{x509.ECDSAWithSHA384, x509.ECDSA, "\x2a\x86\x48\xce\x3d\x04\x03\x03", crypto.SHA384, false, 0},
		{x509.ECDSAWithSHA512, x509.ECDSA, "\x2a\x86\x48\xce\x3d\x04\x03\x04", crypto.SHA512, false, 0},
		{x509.PureEd25519, x509.Ed25519, "\x2b\x65\x70", 0, false, 0}, // RFC 8410 §3
	}
	pssAlgorithms = []algorithm{
		{x509.SHA256WithRSAPSS, x509.RSA, oidRSAPSS, crypto.SHA256, false, 0},
		{x509.SHA384WithRSAPSS, x509.RSA, oidRSAPSS, crypto.SHA384, false, 0},
		{x509.SHA512WithRSAPSS, x509.RSA, oidRSAPSS, crypto.SHA512, false, 0},
	}
)

// readAlgorithm reads an AlgorithmIdentifier. It returns the zero algorithm for
// what is unknown, weak, or has parameters other than its RFC prescribes. That is not
// malformed: ok is false only if it can't be read, so that an operator is told which
// algorithm it was. oid is then set.
func readAlgorithm(s, oid *cryptobyte.String) (alg algorithm, ok bool) {
	var params cryptobyte.String
	if !der.ReadAlgorithm(s, oid, &params) {
		return algorithm{}, false
	}
	if string(*oid) == oidRSAPSS {
		return readPSS(params), true
	}
	for _, a := range algorithms {
		if string(*oid) == a.oid && (params.Empty() || a.null && der.EmptyOrNull(params)) {
			return a, true
		}
	}
	return algorithm{}, true
}

// readPSS reads RSASSA-PSS-params (RFC 4055 §3.1): MGF1 with the message's own
// hash, and any salt length that a key has room for but 0, which crypto/rsa takes for
// 'whichever'. The trailer field has but its default, which DER omits.
//
//	SEQUENCE { hashAlgorithm [0] DEFAULT SHA-1, maskGenAlgorithm [1] DEFAULT MGF1 with SHA-1,
//	           saltLength [2] INTEGER DEFAULT 20, trailerField [3] INTEGER DEFAULT 1 }
//
// The first two must be there, as their default is SHA-1. OpenSSL signs with another
// salt length than the hash's, the only one that crypto/x509 knows. The parameters are
// not signed: a wrong salt length fails in verify, which uses exactly this one.
func readPSS(in cryptobyte.String) algorithm {
	var params, mgf, oid, mgfParams, explicit cryptobyte.String
	salt := defaultSalt
	if !der.ReadLast(&in, &params, asn1.SEQUENCE) || !params.ReadASN1(&explicit, der.Tag0) {
		return algorithm{}
	}
	hash := readHash(&explicit)
	if !explicit.Empty() ||
		!params.ReadASN1(&mgf, der.Tag1) || !der.ReadAlgorithm(&mgf, &oid, &mgfParams) || !mgf.Empty() ||
		string(oid) != oidMGF1 || readHash(&mgfParams) != hash ||
		!readSalt(&params, &salt) || salt <= 0 || salt > maxSalt {
		return algorithm{}
	}
	for _, a := range pssAlgorithms {
		if a.hash == hash { // neither SHA-1 nor what readHash does not know is among them
			a.salt = salt
			return a
		}
	}
	return algorithm{}
}

// defaultSalt is the length, in bytes, that DER leaves out. A response that states it
// is accepted, since the statement is not signed.
const defaultSalt = 20

// maxSalt is what fits into a signature by the largest key that is tried, in bytes. With a
// length near the end of its range crypto/rsa panics.
const maxSalt = certinfo.MaxRSA / 8

// readSalt reads the optional last parameter that RSASSA-PSS may have here. It leaves
// salt as it is if there is none; a negative one is for the caller to refuse.
func readSalt(s *cryptobyte.String, salt *int) bool {
	var explicit cryptobyte.String
	return s.Empty() || der.ReadLast(s, &explicit, der.Tag2) && explicit.ReadASN1Integer(salt) && explicit.Empty()
}

// readHash reads a hash function's AlgorithmIdentifier. It returns 0 for none of
// certIDHashes.
func readHash(s *cryptobyte.String) crypto.Hash {
	var oid, params cryptobyte.String
	if !der.ReadAlgorithm(s, &oid, &params) || !der.EmptyOrNull(params) {
		return 0
	}
	return hashAlgorithm(oid)
}

// add writes the AlgorithmIdentifier in the form that its RFC prescribes. It is not
// signed, so the one received may have been changed to one that clients refuse.
func (a *algorithm) add(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, a.oid)
		switch {
		case a.null:
			b.AddASN1NULL()
		case a.oid == oidRSAPSS:
			a.addPSS(b)
		}
	})
}

// addPSS writes what readPSS reads. The hash functions have NULL for parameters.
func (a *algorithm) addPSS(b *cryptobyte.Builder) {
	hash := func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addOID(b, certIDHashes[hashIndex(a.hash)].oid)
			b.AddASN1NULL()
		})
	}
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag0, hash)
		b.AddASN1(der.Tag1, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addOID(b, oidMGF1)
				hash(b)
			})
		})
		if a.salt != defaultSalt {
			b.AddASN1(der.Tag2, func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(a.salt)) })
		}
	})
}

// addOID writes an OBJECT IDENTIFIER of these content octets.
func addOID(b *cryptobyte.Builder, oid string) {
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oid)) })
}

// verify reports why sig is not signer's over data. CheckSignature takes no salt
// length, so PSS goes to crypto/rsa. The algorithm is not signed, but it must fit the
// type of the key, which is certified.
func (a *algorithm) verify(signer *x509.Certificate, data, sig []byte) error {
	if a.key != signer.PublicKeyAlgorithm {
		return refuse(SignatureAlgorithm, fmt.Sprintf("%v by a key of type %v", a.x509, signer.PublicKeyAlgorithm), nil)
	}
	err := error(nil)
	if key, ok := signer.PublicKey.(*rsa.PublicKey); ok && a.salt > 0 {
		h := a.hash.New()
		h.Write(data)
		err = rsa.VerifyPSS(key, a.hash, h.Sum(nil), sig, &rsa.PSSOptions{SaltLength: a.salt})
	} else {
		err = signer.CheckSignature(a.x509, data, sig)
	}
	if err != nil {
		return refuse(Signature, err.Error(), nil)
	}
	return nil
}
