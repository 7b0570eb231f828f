package tlschoice

import (
	"crypto/ed25519"
	"crypto/tls"
	"reflect"
)

// Same reports whether a and b differ in their staple at most, by identity: a
// source that reopened its key, or has a new chain, must be served what it
// returns now. Anything that is expensive to compare counts as different: a copy is
// then made for that handshake, which is correct and costs an allocation.
//
// It looks at every field of tls.Certificate but OCSPStaple. A field that a later Go
// adds has to be added here.
func Same(a, b *tls.Certificate) bool {
	return a.Leaf == b.Leaf && sameKey(a.PrivateKey, b.PrivateKey) &&
		sameChain(a.Certificate, b.Certificate) &&
		sameChain(a.SignedCertificateTimestamps, b.SignedCertificateTimestamps) &&
		SameSlice(a.SupportedSignatureAlgorithms, b.SupportedSignatureAlgorithms)
}

// SameSlice reports whether a and b are one slice, or both empty. It compares
// addresses, which takes the same time for any length.
func SameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// sameChain compares the elements by identity, too: a source may put the same
// certificates into a new outer slice at every handshake.
func sameChain(a, b [][]byte) bool {
	if SameSlice(a, b) {
		return true // one array: what is changed in it shows in both
	}
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !SameSlice(a[i], b[i]) {
			return false
		}
	}
	return true
}

// sameKey never uses == on a key that may be uncomparable, which panics. Keys are
// pointers, or Ed25519's slices; a key of another type is never the same.
func sameKey(a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if x, ok := a.(ed25519.PrivateKey); ok {
		y, ok := b.(ed25519.PrivateKey)
		return ok && SameSlice(x, y)
	}
	return reflect.TypeOf(a).Kind() == reflect.Pointer && a == b
}
