package issuers

// MaxOfPeer is how many certificates of the issuer's name OfPeer tries.
const MaxOfPeer = maxOfPeer

// Len returns how many values t has a place for, dead ones included.
func (t *Interned[V]) Len() int { return len(t.m) }
