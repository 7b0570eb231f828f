package testkit

import (
	"context"
	"encoding/pem"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

// Long reports whether tests may take minutes: STAPLE_LONG is set, as in CI, and there is
// no race detector, under which each of them takes ten times as long.
func Long() bool { return os.Getenv("STAPLE_LONG") != "" && !RaceEnabled }

// Program returns the path of the first of these programs that is installed. Where
// none is it skips the test; where CI is set, which may skip nothing, it fails.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		for _, path := range []string{name, "/usr/sbin/" + name} { // where Debian has servers
			if path, err := exec.LookPath(path); err == nil {
				return path
			}
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed, and CI is set", names[0])
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}

// Eventually waits for what takes its time, within a limit.
func Eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not in time: ", what)
		}
	}
}

// WritePEM writes a file with these blocks, and returns its path.
func WritePEM(t testing.TB, path, kind string, ders ...[]byte) string {
	t.Helper()
	var data []byte
	for _, der := range ders {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// HeapBytes returns what is allocated once everything that can go has gone: a collection
// clears what weak pointers, cleanups and pools kept for the next one.
func HeapBytes() float64 {
	for range 3 {
		runtime.GC()
		runtime.Gosched()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
