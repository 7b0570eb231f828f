package staple_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/ocspstaple/staple"
)

// The index finds what was added and not removed, as a map does, while it grows
// and shrinks.
func TestIndex(t *testing.T) {
	x, want := staple.NewIndex(), make(map[int]bool)
	ders := make([][]byte, 5000)
	for i := range ders {
		ders[i] = make([]byte, 1)
	}
	most := 0
	for round := range 60_000 {
		i := rand.IntN(len(ders))
		switch add := round/15_000%2 == 0; { // grows, shrinks, and so on
		case add && !want[i]:
			x.Add(ders[i], i)
			want[i] = true
		case !add && want[i]:
			x.Remove(ders[i])
			delete(want, i)
		}
		i = rand.IntN(len(ders))
		if got, ok := x.Find(ders[i]); ok != want[i] || ok && got != i {
			t.Fatalf("found %v, %v, want %v, %v", got, ok, i, want[i])
		}
		most = max(most, x.Slots())
	}
	if n := x.Slots(); n > most/2 || most > 8*len(ders) {
		t.Errorf("%d slots for %d, and %d before", n, len(want), most)
	}
	if got := len(x.All()); got != len(want) {
		t.Errorf("%d in all, want %d", got, len(want))
	}
	if !want[0] {
		x.Add(ders[0], 0)
	}
	x.Remove(ders[0])
	x.Remove(ders[0]) // a second time is no harm
	if x.Has(ders[0]) {
		t.Error("found after it was removed")
	}
}

// REQ C6: who reads takes no lock, and what is there throughout is found
// throughout, whatever comes and goes.
func TestIndexConcurrent(t *testing.T) {
	x := staple.NewIndex()
	ders := make([][]byte, 500)
	for i := range ders {
		ders[i] = make([]byte, 1)
		x.Add(ders[i], i)
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
				if i := rand.IntN(len(ders)); !x.Has(ders[i]) {
					t.Errorf("%d is lost", i)
					return
				}
			}
		})
	}
	for range 20 {
		var guests [][]byte
		for range 2000 {
			der := make([]byte, 1)
			guests = append(guests, der)
			x.Add(der, -1)
		}
		for _, der := range guests {
			x.Remove(der)
		}
	}
	close(stop)
	wg.Wait()
}

// What is kept for each certificate fits its size class: see entry.
func TestSizes(t *testing.T) {
	if staple.EntrySize > 208 || staple.HeldSize > 96 {
		t.Errorf("an entry takes %d bytes, a response %d", staple.EntrySize, staple.HeldSize)
	}
}
