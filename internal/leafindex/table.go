package leafindex

import "sync/atomic"

// table is a hash table of Refs. Finding takes no lock; everything else is guarded
// by the lock of the Index.
//
// It uses open addressing: 16 bytes for a certificate, where a sync.Map takes
// 100. The shards bound how long one resize takes.
type table[E any] struct {
	hash   func(*Ref[E]) uint64
	shards [1 << shardBits]shard[E]
	gone   *Ref[E] // stands where one was removed; its DER is empty
}

// 64 shards: one resize copies a 64th of the table, while the caller holds its lock.
// The high bits of a hash choose the shard, the low bits the slot in it.
const (
	shardBits = 6
	minSlots  = 8
)

// A shard is nil slots until the first Ref is added. At least a quarter of the slots
// are nil after that, so that each search ends. A removed Ref is replaced by gone and
// not by nil, which would end the search for those behind it. Slots are reused only
// by a resize.
type shard[E any] struct {
	slots atomic.Pointer[[]atomic.Pointer[Ref[E]]] // the length is a power of two
	live  int                                      // Refs in slots
	used  int                                      // live, and those that are gone
}

// shardOf returns where a Ref with hash h is.
func (t *table[E]) shardOf(h uint64) *shard[E] { return &t.shards[h>>(64-shardBits)] }

// find returns the entry of the first Ref from the place of h on for which match
// is true, or nil.
func (t *table[E]) find(h uint64, match func(*Ref[E]) bool) *E {
	p := t.shardOf(h).slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	for mask := uint64(len(slots) - 1); ; h++ {
		r := slots[h&mask].Load()
		if r == nil {
			return nil
		}
		if len(r.DER) > 0 && match(r) {
			return r.Of
		}
	}
}

// all yields everything in the table. A Ref that is added or removed before it returns may
// be yielded or not.
func (t *table[E]) all(yield func(*Ref[E]) bool) {
	for i := range t.shards {
		p := t.shards[i].slots.Load()
		if p == nil {
			continue
		}
		for i := range *p {
			if r := (*p)[i].Load(); r != nil && r != t.gone && !yield(r) {
				return
			}
		}
	}
}

// add adds r, which must not be in the table.
func (t *table[E]) add(r *Ref[E]) {
	h := t.hash(r)
	sh := t.shardOf(h)
	if p := sh.slots.Load(); p == nil || 4*(sh.used+1) > 3*len(*p) {
		t.resize(sh)
	}
	put(*sh.slots.Load(), h, r)
	sh.live++
	sh.used++
}

// put puts r into the first free slot from h on.
func put[E any](slots []atomic.Pointer[Ref[E]], h uint64, r *Ref[E]) {
	mask := uint64(len(slots) - 1)
	for slots[h&mask].Load() != nil {
		h++
	}
	slots[h&mask].Store(r)
}

// remove removes r, if it is there.
func (t *table[E]) remove(r *Ref[E]) {
	h := t.hash(r)
	sh := t.shardOf(h)
	p := sh.slots.Load()
	if p == nil {
		return
	}
	slots := *p
	for mask := uint64(len(slots) - 1); ; h++ {
		switch slots[h&mask].Load() {
		case nil:
			return
		case r:
			slots[h&mask].Store(t.gone)
			sh.live--
			if len(slots) > minSlots && 8*sh.live < len(slots) {
				t.resize(sh)
			}
			return
		}
	}
}

// resize copies what is left of sh into slots that suit its number. A reader of
// the old ones may miss what was added since, and asks under the lock.
func (t *table[E]) resize(sh *shard[E]) {
	n := minSlots
	for n < 2*(sh.live+1) {
		n *= 2
	}
	slots := make([]atomic.Pointer[Ref[E]], n)
	if old := sh.slots.Load(); old != nil {
		for i := range *old {
			if r := (*old)[i].Load(); r != nil && r != t.gone {
				put(slots, t.hash(r), r)
			}
		}
	}
	sh.used = sh.live
	sh.slots.Store(&slots)
}
