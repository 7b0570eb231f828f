package testkit

import (
	"crypto/fips140"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

// Main is a TestMain. It fails the run if a goroutine of this module outlives the
// tests: whatever was closed must be gone. It exits the process.
func Main(m *testing.M) {
	makeRandom()
	code := m.Run()
	if left := leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines that outlive the tests:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of the goroutines with this module in them, after
// giving those that are about to end the time to do so.
func leaked() (left string) {
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for range 1000 {
		if left = ours(); left == "" {
			return ""
		}
		<-retry.C
	}
	return left
}

// ours returns the stacks of the goroutines with this module in them.
func ours() string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*n)
		n = runtime.Stack(buf, true)
	}
	buf = buf[:n]
	var left []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "ocspstaple/staple") && !strings.Contains(g, "TestMain") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// makeRandom makes random generators beforehand. In FIPS mode Go seeds them from the
// jitter of the clock, which stands still in a synctest bubble, so that the first
// use of one there panics. They serve GODEBUG=fips140=only go test (without -race,
// under which a sync.Pool forgets at random).
func makeRandom() {
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
