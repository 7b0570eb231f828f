package staple

import (
	"crypto"
	_ "crypto/sha1" // names things in a CertID and a responderID, proves nothing
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers as their content octets in DER.
const (
	oidSHA1   = "\x2b\x0e\x03\x02\x1a"                 // 1.3.14.3.2.26
	oidSHA256 = "\x60\x86\x48\x01\x65\x03\x04\x02\x01" // 2.16.840.1.101.3.4.2.1
	oidSHA384 = "\x60\x86\x48\x01\x65\x03\x04\x02\x02"
	oidSHA512 = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"

	oidMGF1      = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" // 1.2.840.113549.1.1.8
	oidRSAPSS    = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
	oidRSASHA256 = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
	oidRSASHA384 = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c"
	oidRSASHA512 = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d"
	oidECDSA256  = "\x2a\x86\x48\xce\x3d\x04\x03\x02" // 1.2.840.10045.4.3.2
	oidECDSA384  = "\x2a\x86\x48\xce\x3d\x04\x03\x03"
	oidECDSA512  = "\x2a\x86\x48\xce\x3d\x04\x03\x04"
	oidEd25519   = "\x2b\x65\x70" // 1.3.101.112
)

// certIDHashes are the hash functions of the CertIDs that we understand.
var certIDHashes = [...]struct {
	hash crypto.Hash
	oid  string
}{
	{crypto.SHA1, oidSHA1},
	{crypto.SHA256, oidSHA256},
	{crypto.SHA384, oidSHA384},
	{crypto.SHA512, oidSHA512},
}

// refusedAlgorithms are those of the others that a responder may well use.
var refusedAlgorithms = map[string]string{
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x02": "MD2 with RSA",     // 1.2.840.113549.1.1.2
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04": "MD5 with RSA",     // 1.2.840.113549.1.1.4
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05": "SHA-1 with RSA",   // 1.2.840.113549.1.1.5
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e": "SHA-224 with RSA", // 1.2.840.113549.1.1.14
	"\x2b\x0e\x03\x02\x1d":                 "SHA-1 with RSA",   // 1.3.14.3.2.29
	oidRSAPSS:                              "RSASSA-PSS with other parameters than those of SHA-256, 384 and 512",
	"\x2a\x86\x48\xce\x3d\x04\x01":         "ECDSA with SHA-1",   // 1.2.840.10045.4.1
	"\x2a\x86\x48\xce\x3d\x04\x03\x01":     "ECDSA with SHA-224", // 1.2.840.10045.4.3.1
	"\x2a\x86\x48\xce\x38\x04\x03":         "DSA with SHA-1",     // 1.2.840.10040.4.3
	"\x60\x86\x48\x01\x65\x03\x04\x03\x02": "DSA with SHA-256",   // 2.16.840.1.101.3.4.3.2
	"\x2b\x65\x71":                         "Ed448",              // 1.3.101.113
}

// algorithmText is for messages.
func algorithmText(oid []byte) string {
	if name, ok := refusedAlgorithms[string(oid)]; ok {
		return name + " (" + oidString(oid) + ")"
	}
	return oidString(oid)
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

// signatureAlgorithm returns 0 for what is unknown, weak, or has parameters other
// than those that its RFC prescribes: RFC 4055 sections 3.1 and 5 for RSA, where
// an absent NULL is to be accepted; RFC 5758 section 3.2 for ECDSA and RFC 8410
// section 3 for Ed25519, both without.
func signatureAlgorithm(oid, params cryptobyte.String) x509.SignatureAlgorithm {
	switch string(oid) {
	case oidRSAPSS:
		return pssAlgorithm(params)
	case oidRSASHA256:
		return algorithmIf(emptyOrNull(params), x509.SHA256WithRSA)
	case oidRSASHA384:
		return algorithmIf(emptyOrNull(params), x509.SHA384WithRSA)
	case oidRSASHA512:
		return algorithmIf(emptyOrNull(params), x509.SHA512WithRSA)
	case oidECDSA256:
		return algorithmIf(params.Empty(), x509.ECDSAWithSHA256)
	case oidECDSA384:
		return algorithmIf(params.Empty(), x509.ECDSAWithSHA384)
	case oidECDSA512:
		return algorithmIf(params.Empty(), x509.ECDSAWithSHA512)
	case oidEd25519:
		return algorithmIf(params.Empty(), x509.PureEd25519)
	}
	return x509.UnknownSignatureAlgorithm
}

func algorithmIf(ok bool, alg x509.SignatureAlgorithm) x509.SignatureAlgorithm {
	if !ok {
		return x509.UnknownSignatureAlgorithm
	}
	return alg
}

// pssAlgorithm reads RSASSA-PSS-params (RFC 4055 section 3.1). As crypto/x509
// does, it takes three sets alone: MGF1 with the message's own hash, and a salt
// of that hash's length. The trailer field has but its default, which DER omits.
func pssAlgorithm(in cryptobyte.String) x509.SignatureAlgorithm {
	var params, mgf, oid, mgfParams, explicit cryptobyte.String
	var salt int
	if !readLast(&in, &params, asn1.SEQUENCE) {
		return x509.UnknownSignatureAlgorithm
	}
	hash := readPSSHash(&params)
	if hash == 0 || !params.ReadASN1(&mgf, tag1) || !readAlgorithm(&mgf, &oid, &mgfParams) || !mgf.Empty() {
		return x509.UnknownSignatureAlgorithm
	}
	if string(oid) != oidMGF1 || readHash(&mgfParams) != hash || !mgfParams.Empty() {
		return x509.UnknownSignatureAlgorithm
	}
	if !readLast(&params, &explicit, tag2) || !explicit.ReadASN1Integer(&salt) || !explicit.Empty() || salt != hash.Size() {
		return x509.UnknownSignatureAlgorithm
	}
	switch hash {
	case crypto.SHA256:
		return x509.SHA256WithRSAPSS
	case crypto.SHA384:
		return x509.SHA384WithRSAPSS
	case crypto.SHA512:
		return x509.SHA512WithRSAPSS
	}
	return x509.UnknownSignatureAlgorithm // SHA-1 among them
}

// readPSSHash reads the first field of RSASSA-PSS-params.
func readPSSHash(s *cryptobyte.String) crypto.Hash {
	var explicit cryptobyte.String
	if !s.ReadASN1(&explicit, tag0) {
		return 0
	}
	hash := readHash(&explicit)
	if !explicit.Empty() {
		return 0
	}
	return hash
}

// readHash reads a hash function's AlgorithmIdentifier.
func readHash(s *cryptobyte.String) crypto.Hash {
	var oid, params cryptobyte.String
	if !readAlgorithm(s, &oid, &params) || !emptyOrNull(params) {
		return 0
	}
	return hashAlgorithm(oid)
}

// keyAlgorithm returns what keys sign under alg, one that signatureAlgorithm knows.
func keyAlgorithm(alg x509.SignatureAlgorithm) x509.PublicKeyAlgorithm {
	switch alg {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return x509.ECDSA
	case x509.PureEd25519:
		return x509.Ed25519
	}
	return x509.RSA
}

// strong reports whether alg may sign a delegate's certificate: what
// signatureAlgorithm knows, and neither MD2, MD5, SHA-1 nor DSA.
func strong(alg x509.SignatureAlgorithm) bool {
	switch alg {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return true
	}
	return false
}
