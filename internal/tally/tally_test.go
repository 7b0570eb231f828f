package tally_test

import (
	"sync"
	"testing"

	"github.com/ocspstaple/staple/internal/tally"
)

// Nothing is lost where many count at the same time, and no kind counts for another.
func TestCounter(t *testing.T) {
	const workers, each = 8, 5000
	c := tally.New()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				tally.Add(c, new(int), uint8(i%2))
			}
		})
	}
	wg.Wait()
	for kind, want := range map[uint8]uint64{0: workers * each / 2, 1: workers * each / 2, 2: 0, tally.Kinds - 1: 0} {
		if got := c.Sum(kind); got != want {
			t.Errorf("kind %d: %d, want %d", kind, got, want)
		}
	}
}
