package leafindex

// Slots counts the places in the table of addresses.
func (x *Index[E]) Slots() (n int) {
	for i := range x.byAddr.shards {
		if p := x.byAddr.shards[i].slots.Load(); p != nil {
			n += len(*p)
		}
	}
	return n
}

// MaxAliases is maxAliases.
const MaxAliases = maxAliases
