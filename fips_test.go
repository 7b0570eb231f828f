package staple_test

import (
	"crypto/fips140"
	"crypto/rand"
	"runtime/debug"
	"sync"
)

// In FIPS mode Go seeds its random generators from the jitter of the clock, which
// stands still in a synctest bubble, so that the first use of one there panics.
// This makes enough of them beforehand, for GODEBUG=fips140=only go test (without
// -race, under which a sync.Pool forgets at random).
func init() {
	if !fips140.Enabled() {
		return
	}
	debug.SetGCPercent(-1) // the pool that they live in is emptied by it
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { rand.Read(make([]byte, 1<<20)) })
	}
	wg.Wait()
}

// withoutFIPS is for what x/crypto/ocsp names by SHA-1.
var withoutFIPS = fips140.WithoutEnforcement
