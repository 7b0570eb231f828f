//go:build unix

package staple_test

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
)

// BenchmarkIdle has the share of one core that a Stapler takes in which nothing
// is due, over a minute.
func BenchmarkIdle(b *testing.B) {
	y := newYard(b)
	certs := y.issue(b, certificates(100_000), false)
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: y}), staple.WithTTL(24*time.Hour))
	defer s.Close()
	warm(b, s, certs)
	debug.FreeOSMemory() // what the warm-up left behind
	for b.Loop() {
		before := cpu(b)
		<-time.After(time.Minute)
		b.ReportMetric(100*float64(cpu(b)-before)/float64(time.Minute), "%core")
	}
	runtime.KeepAlive(certs)
}

// cpu returns the processor time that the process has taken.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
