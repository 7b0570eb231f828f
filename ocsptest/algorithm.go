package ocsptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for crypto.Hash.New
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The first hash that clients ask with, and the one that RFC 9919 wants.
const (
	defaultHash = crypto.SHA1
	otherHash   = crypto.SHA256
)

// hashOIDs are the hashes that CertIDs can have.
var hashOIDs = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA1:   {1, 3, 14, 3, 2, 26},
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}

// A signatureAlgorithm is how x509.SignatureAlgorithm is written and computed.
type signatureAlgorithm struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
	null bool // parameters are NULL, else absent
	pss  bool // parameters are those of RSASSA-PSS
}

var (
	oidPSS  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidMGF1 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
)

var signatureAlgorithms = map[x509.SignatureAlgorithm]signatureAlgorithm{
	x509.SHA1WithRSA:      {oid: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, hash: crypto.SHA1, null: true},
	x509.SHA256WithRSA:    {oid: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, hash: crypto.SHA256, null: true},
	x509.SHA384WithRSA:    {oid: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, hash: crypto.SHA384, null: true},
	x509.SHA512WithRSA:    {oid: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, hash: crypto.SHA512, null: true},
	x509.SHA256WithRSAPSS: {oid: oidPSS, hash: crypto.SHA256, pss: true},
	x509.SHA384WithRSAPSS: {oid: oidPSS, hash: crypto.SHA384, pss: true},
	x509.SHA512WithRSAPSS: {oid: oidPSS, hash: crypto.SHA512, pss: true},
	x509.ECDSAWithSHA1:    {oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}, hash: crypto.SHA1},
	x509.ECDSAWithSHA256:  {oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, hash: crypto.SHA256},
	x509.ECDSAWithSHA384:  {oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, hash: crypto.SHA384},
	x509.ECDSAWithSHA512:  {oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, hash: crypto.SHA512},
	x509.PureEd25519:      {oid: asn1.ObjectIdentifier{1, 3, 101, 112}},
}

// defaultAlgorithm returns the algorithm that a key is used with unless told otherwise.
func defaultAlgorithm(key crypto.Signer) x509.SignatureAlgorithm {
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA
	case *ecdsa.PublicKey:
		if pub.Curve.Params().BitSize > 256 {
			return x509.ECDSAWithSHA384
		}
		return x509.ECDSAWithSHA256
	case ed25519.PublicKey:
		return x509.PureEd25519
	}
	panic(fmt.Sprintf("ocsptest: cannot sign with a key of type %T", key))
}

// sha1Algorithm returns the algorithm with SHA-1 for a key, 0 if there is none.
func sha1Algorithm(key crypto.Signer) x509.SignatureAlgorithm {
	switch key.Public().(type) {
	case *rsa.PublicKey:
		return x509.SHA1WithRSA
	case *ecdsa.PublicKey:
		return x509.ECDSAWithSHA1
	}
	return 0
}

// signature signs data. That key and algorithm fit is for the key to judge.
func (a signatureAlgorithm) signature(data []byte, key crypto.Signer) []byte {
	var opts crypto.SignerOpts = a.hash
	if a.pss {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash}
	}
	var sig []byte
	var err error
	unenforced(func() {
		digest := data // Ed25519 signs the data itself
		if a.hash != 0 {
			digest = sum(a.hash, data)
		}
		sig, err = key.Sign(rand.Reader, digest, opts)
	})
	must(err)
	return sig
}

// addIdentifier writes the AlgorithmIdentifier of a signature.
func (a signatureAlgorithm) addIdentifier(b *cryptobyte.Builder, junk bool) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.oid)
		switch {
		case a.null:
			b.AddASN1NULL()
		case a.pss:
			addPSSParameters(b, a.hash)
		}
		addJunk(b, junk)
	})
}

// addPSSParameters writes RSASSA-PSS-params (RFC 4055, section 3.1) with one hash for everything
// and a salt as long as the hash.
func addPSSParameters(b *cryptobyte.Builder, hash crypto.Hash) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { addHash(b, hash) })
		b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidMGF1)
				addHash(b, hash)
			})
		})
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(hash.Size())) })
	})
}

// addHash writes the AlgorithmIdentifier of a hash.
func addHash(b *cryptobyte.Builder, hash crypto.Hash) {
	oid, ok := hashOIDs[hash]
	if !ok {
		panic("ocsptest: no CertID has the hash " + hash.String())
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1NULL()
	})
}

// sum hashes data.
func sum(hash crypto.Hash, data []byte) (digest []byte) {
	unenforced(func() {
		h := hash.New()
		h.Write(data)
		digest = h.Sum(nil)
	})
	return digest
}

// unenforced runs f where GODEBUG=fips140=only lets SHA-1 pass, which names certificates in OCSP
// and has to be produced here for clients to reject.
func unenforced(f func()) { fips140.WithoutEnforcement(f) }
