package leafindex_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/ocspstaple/staple/internal/leafindex"
)

// kept is what a user of an Index keeps for a leaf.
type kept struct {
	leafindex.Ref[kept]
	id      uint64
	aliases []*leafindex.Ref[kept]
}

func newIndex() *leafindex.Index[kept] {
	return leafindex.New(func(k *kept) uint64 { return k.id })
}

func add(x *leafindex.Index[kept], der []byte) *kept {
	k := &kept{id: x.ID(der)}
	k.DER, k.Of = der, k
	x.AddLocked(&k.Ref)
	return k
}

// findBytes looks for a copy of der.
func findBytes(x *leafindex.Index[kept], der []byte) *kept {
	return x.FindBytesLocked(x.ID(der), slices.Clone(der))
}

// leaves returns n that differ, of a few bytes each.
func leaves(n int) [][]byte {
	ders := make([][]byte, n)
	for i := range ders {
		ders[i] = []byte{byte(i), byte(i >> 8), byte(i >> 16), 0x30}
	}
	return ders
}

// The index finds what was added and not removed, as a map does, while it grows
// and shrinks: by the address, and by the bytes.
func TestIndex(t *testing.T) {
	x, want := newIndex(), make(map[int]*kept)
	ders := leaves(5000)
	most := 0
	for round := range 60_000 {
		i := rand.IntN(len(ders))
		switch adding := round/15_000%2 == 0; { // grows, shrinks, and so on
		case adding && want[i] == nil:
			want[i] = add(x, ders[i])
		case !adding && want[i] != nil:
			x.RemoveLocked(&want[i].Ref, nil)
			delete(want, i)
		}
		i = rand.IntN(len(ders))
		if got, copied := x.Find(ders[i]), findBytes(x, ders[i]); got != want[i] || copied != want[i] {
			t.Fatalf("found %p, by its bytes %p, want %p", got, copied, want[i])
		}
		most = max(most, x.Slots())
	}
	if n := x.Slots(); n > most/2 || most > 8*len(ders) {
		t.Errorf("%d slots for %d, and %d before", n, len(want), most)
	}
	got := 0
	for k := range x.AllLocked {
		if i := int(k.DER[0]) | int(k.DER[1])<<8; want[i] != k {
			t.Errorf("%d is in all", i)
		}
		got++
	}
	if got != len(want) || x.LenLocked() != len(want) {
		t.Errorf("%d in all, %d counted, want %d", got, x.LenLocked(), len(want))
	}
	for range x.AllLocked {
		break // no harm
	}
}

// One ID for two leaves, which a hash may give, does not make them one.
func TestSameID(t *testing.T) {
	x := leafindex.New(func(*kept) uint64 { return 7 })
	ders := leaves(20)
	for _, der := range ders {
		add(x, der)
	}
	for _, der := range ders {
		if k := x.FindBytesLocked(7, slices.Clone(der)); k == nil || &k.DER[0] != &der[0] {
			t.Errorf("found %v for %v", k, der)
		}
	}
	if k := x.FindBytesLocked(7, []byte("other")); k != nil {
		t.Errorf("found %v for other bytes", k.DER)
	}
}

// A copy of a leaf is found by its address once it was met. Of those that a
// source makes anew each time the last few are, and nothing grows.
//
// REQ C6
func TestAliases(t *testing.T) {
	x, der := newIndex(), []byte("leaf")
	k := add(x, der)
	known := 0
	for n := range 10_000 {
		alias := slices.Clone(der)
		if x.Find(alias) != nil {
			t.Fatal("found before it was met")
		}
		k.aliases = x.AliasLocked(k.aliases, alias, k)
		if x.Find(alias) != k || x.Find(der) != k {
			t.Fatalf("copy %d: not found by its address", n)
		}
		if known = len(k.aliases); known != min(n+1, leafindex.MaxAliases) {
			t.Fatalf("%d aliases after %d copies", known, n+1)
		}
	}
	for _, r := range k.aliases {
		if x.Find(r.DER) != k {
			t.Error("one of the last copies is not found")
		}
	}
	if n := x.Slots(); n > 64*2*8 { // by twice as much as little in every shard
		t.Errorf("%d slots for %d addresses", n, known+1)
	}
	x.RemoveLocked(&k.Ref, k.aliases)
	x.RemoveLocked(&k.Ref, k.aliases[:1]) // a second time is no harm
	for _, der := range append([][]byte{der}, k.aliases[0].DER, k.aliases[1].DER) {
		if x.Find(der) != nil || findBytes(x, der) != nil {
			t.Error("found after it was removed")
		}
	}
}

// Two leaves in one buffer, at one address, are two.
func TestSliceOfBuffer(t *testing.T) {
	x, buf := newIndex(), []byte("a leaf and more")
	short, long := buf[:6], buf
	first := add(x, short)
	if x.Find(long) != nil || findBytes(x, long) != nil {
		t.Error("found before it was added")
	}
	second := add(x, long)
	check := func(when string, wantShort, wantLong *kept) {
		t.Helper()
		if x.Find(short) != wantShort || x.Find(long) != wantLong || findBytes(x, short) != wantShort || findBytes(x, long) != wantLong {
			t.Errorf("%s: taken for each other", when)
		}
	}
	check("both", first, second)
	for _, der := range leaves(5000) { // has all tables made anew
		add(x, der)
	}
	check("among many", first, second)
	x.RemoveLocked(&first.Ref, nil)
	check("one is removed", nil, second)
}

// REQ C6: who reads takes no lock, and what is there throughout is found
// throughout, whatever comes and goes.
func TestConcurrent(t *testing.T) {
	x, ders := newIndex(), leaves(500)
	for _, der := range ders {
		add(x, der)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i := rand.IntN(len(ders)); x.Find(ders[i]) == nil {
					t.Errorf("%d is lost", i)
					return
				}
			}
		})
	}
	for range 20 {
		var guests []*kept
		for i := range 2000 {
			guests = append(guests, add(x, []byte{byte(i), byte(i >> 8), 1}))
		}
		for _, k := range guests {
			x.RemoveLocked(&k.Ref, nil)
		}
	}
	close(stop)
	wg.Wait()
}

// REQ C6: finding allocates nothing.
func TestFindAllocatesNothing(t *testing.T) {
	x, ders := newIndex(), leaves(100)
	for _, der := range ders {
		add(x, der)
	}
	unknown := []byte("unknown")
	if n := testing.AllocsPerRun(100, func() {
		if x.Find(ders[50]) == nil || x.Find(unknown) != nil {
			t.Error("found the wrong one")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
