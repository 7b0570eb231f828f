package staple

import (
	"hash/maphash"
	"sync/atomic"
)

// A ref says that the bytes of a leaf, at this address, are those of an entry.
// It keeps them alive, so no address is reused while it is in the index.
type ref struct {
	der []byte
	of  *entry
}

// index finds entries by the address of the leaf's bytes. find takes no lock;
// everything else is guarded by Stapler.mu.
//
// It is a hash table with open addressing, where a sync.Map would do as well
// but for its size: that takes 100 bytes for a certificate, this 16. Its shards
// bound how long it takes one that grows.
type index struct {
	seed   maphash.Seed
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

func newIndex() index { return index{seed: maphash.MakeSeed(), gone: new(ref)} }

// at returns where der is searched from.
func (x *index) at(der []byte) (*shard, uint64) {
	h := maphash.Comparable(x.seed, &der[0])
	return &x.shards[h>>(64-shardBits)], h
}

// find returns what stands in the index for the address of der, or nil.
func (x *index) find(der []byte) *ref {
	sh, h := x.at(der)
	p := sh.slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	for mask := uint64(len(slots) - 1); ; h++ {
		r := slots[h&mask].Load()
		if r == nil || len(r.der) > 0 && &r.der[0] == &der[0] {
			return r
		}
	}
}

// addLocked adds r, whose address must not be in the index.
func (x *index) addLocked(r *ref) {
	sh, h := x.at(r.der)
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
	sh, h := x.at(r.der)
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
				_, h := x.at(r.der)
				put(slots, h, r)
			}
		}
	}
	sh.used = sh.live
	sh.slots.Store(&slots)
}
