package staple

import "sync/atomic"

// A ref says that the bytes of a leaf, at this address, are those of an entry.
// It keeps them alive, so no address is reused while it is in the index.
type ref struct {
	der []byte
	of  *entry
}

// index is a hash table of refs. Finding takes no lock; everything else is
// guarded by Stapler.mu.
//
// Its addressing is open, for its size: it takes 16 bytes for a certificate
// where a sync.Map takes 100. Its shards bound how long it takes one that grows.
type index struct {
	hash   func(*ref) uint64
	shards [1 << shardBits]shard
	gone   *ref // stands where one was removed
}

const (
	shardBits = 6
	minSlots  = 8
)

type shard struct {
	slots atomic.Pointer[[]atomic.Pointer[ref]] // the length is a power of two
	live  int                                   // refs in slots
	used  int                                   // live, and those that are gone
}

// shardOf returns where a ref with hash h is.
func (x *index) shardOf(h uint64) *shard { return &x.shards[h>>(64-shardBits)] }

// find returns the first ref that is placed from h on and for which is is true, or nil.
func (x *index) find(h uint64, is func(*ref) bool) *ref {
	p := x.shardOf(h).slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	for mask := uint64(len(slots) - 1); ; h++ {
		if r := slots[h&mask].Load(); r == nil || len(r.der) > 0 && is(r) {
			return r
		}
	}
}

// allLocked yields everything in the index.
func (x *index) allLocked(yield func(*ref) bool) {
	for i := range x.shards {
		p := x.shards[i].slots.Load()
		if p == nil {
			continue
		}
		for i := range *p {
			if r := (*p)[i].Load(); r != nil && r != x.gone && !yield(r) {
				return
			}
		}
	}
}

// addLocked adds r, which must not be in the index.
func (x *index) addLocked(r *ref) {
	h := x.hash(r)
	sh := x.shardOf(h)
	if p := sh.slots.Load(); p == nil || 4*(sh.used+1) > 3*len(*p) {
		x.resizeLocked(sh)
	}
	put(*sh.slots.Load(), h, r)
	sh.live++
	sh.used++
}

// put puts r into the first free slot from h on.
func put(slots []atomic.Pointer[ref], h uint64, r *ref) {
	mask := uint64(len(slots) - 1)
	for slots[h&mask].Load() != nil {
		h++
	}
	slots[h&mask].Store(r)
}

// removeLocked removes r, if it is there.
func (x *index) removeLocked(r *ref) {
	h := x.hash(r)
	sh := x.shardOf(h)
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
			slots[h&mask].Store(x.gone)
			sh.live--
			if len(slots) > minSlots && 8*sh.live < len(slots) {
				x.resizeLocked(sh)
			}
			return
		}
	}
}

// resizeLocked copies what is left of sh into slots that suit its number. Who
// reads the old ones meanwhile may miss what is new, and asks under the lock.
func (x *index) resizeLocked(sh *shard) {
	n := minSlots
	for n < 2*(sh.live+1) {
		n *= 2
	}
	slots := make([]atomic.Pointer[ref], n)
	if old := sh.slots.Load(); old != nil {
		for i := range *old {
			if r := (*old)[i].Load(); r != nil && r != x.gone {
				put(slots, x.hash(r), r)
			}
		}
	}
	sh.used = sh.live
	sh.slots.Store(&slots)
}
