package issuers

import "weak"

// Interned holds values that others share, for as long as one of them has them.
// The zero Interned is ready.
type Interned[V any] struct {
	m     map[string]weak.Pointer[V]
	sweep int // len(m) at which dead ones are removed
}

// Get returns the value under key, nil if there is none.
func (t *Interned[V]) Get(key string) *V { return t.m[key].Value() }

// Put returns the value under key, which is v if there was none.
func (t *Interned[V]) Put(key string, v *V) *V {
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
		t.m = make(map[string]weak.Pointer[V])
	}
	t.m[key] = weak.Make(v)
	return v
}
