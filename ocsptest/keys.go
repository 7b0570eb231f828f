package ocsptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
)

// A KeyType is the kind of key pair made for a certificate. The zero value is [ECDSAP256].
type KeyType uint8

// The kinds of keys.
const (
	ECDSAP256 KeyType = iota // ECDSA on P-256, the default: quick to make and to sign with
	ECDSAP384                // ECDSA on P-384
	RSA2048                  // RSA of 2,048 bits: slow to make, up to a second
	Ed25519                  // Ed25519, which x/crypto/ocsp cannot verify
)

// String returns the name of the type, such as "ECDSA P-256".
func (t KeyType) String() string {
	switch t {
	case ECDSAP256:
		return "ECDSA P-256"
	case ECDSAP384:
		return "ECDSA P-384"
	case RSA2048:
		return "RSA 2048"
	case Ed25519:
		return "Ed25519"
	}
	return fmt.Sprintf("KeyType(%d)", uint8(t))
}

// newKey makes a key pair. Each type of private key that it returns is a crypto.Signer.
func newKey(t KeyType) crypto.Signer {
	var key crypto.Signer
	var err error
	switch t {
	case ECDSAP256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("no such key type: %v", t)
	}
	must(err)
	return key
}

// typeOf returns the type of a key, so that a wrong one can be of the same type and is not given
// away by it.
func typeOf(key crypto.Signer) KeyType {
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		return RSA2048
	case ed25519.PublicKey:
		return Ed25519
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P384() {
			return ECDSAP384
		}
	}
	return ECDSAP256
}

// must panics: only for what cannot fail unless the test itself is set up wrongly.
func must(err error) {
	if err != nil {
		panic("ocsptest: " + err.Error())
	}
}
