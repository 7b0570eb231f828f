package issuers

import (
	"crypto/sha256"
	"weak"
)

// A digest is the SHA-256 of what something is known by. That may be anybody's, and of any
// length, and stays when the value has gone.
type digest = [sha256.Size]byte

// interned holds values that others share, for as long as one of them has them.
// The zero interned is ready. It has no lock: its owner guards it.
//
// Pointers are weak, so an issuer goes with the last certificate that has it, and
// nobody counts references. Keys of dead values stay until Put sweeps, which it does
// when their number has doubled: the cost per Put is constant on average.
type interned[V any] struct {
	m     map[digest]weak.Pointer[V]
	sweep int // len(m) at which dead ones are removed
}

// Get returns the value under key, nil if there is none.
func (t *interned[V]) Get(key digest) *V { return t.m[key].Value() }

// Put returns the value under key, which is v if there was none. The caller must
// keep what it returns, and not v.
func (t *interned[V]) Put(key digest, v *V) *V {
	if old := t.Get(key); old != nil {
		return old
	}
	if len(t.m) >= t.sweep {
		for k, p := range t.m {
			if p.Value() == nil {
				delete(t.m, k)
			}
		}
		t.sweep = 2*len(t.m) + 64
	}
	if t.m == nil {
		t.m = make(map[digest]weak.Pointer[V])
	}
	t.m[key] = weak.Make(v)
	return v
}
