package issuers

// MaxOfPeer is how many certificates of the issuer's name OfPeer tries.
const MaxOfPeer = maxOfPeer

// Interned holds the issuers of a Finder.
type Interned[V any] = interned[V]

// Len returns how many values t has a place for, dead ones included.
func (t *interned[V]) Len() int { return len(t.m) }
