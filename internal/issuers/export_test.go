package issuers

// Len returns how many values t has a place for, dead ones included.
func (t *Interned[V]) Len() int { return len(t.m) }
