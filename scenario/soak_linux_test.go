package scenario_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple/scenario/testkit"
)

const (
	// soakRate is how many handshakes a second are begun, where the machine keeps up.
	soakRate = 200
	// soakAtOnce is how many of them may be under way: beyond that none is begun.
	soakAtOnce = 128
	// soakGrowth and soakSlack bound the heap at the end of each quarter: so many times
	// that at the end of the first one, and so many bytes more. Half an hour has 5,000
	// certificates: 2 KB that each leaves behind are 10 MB. Two minutes have 350, and show
	// less: there Status alone tells of what was not forgotten.
	soakGrowth, soakSlack = 1.25, 3 << 20
	// soakFull is how long a soak is at least whose first quarter has all that there is at a
	// time, what the test itself remembers included.
	soakFull = 2 * time.Minute
	// soakFDs and soakGoroutines bound what there may be more at the end of a quarter: requests
	// that hang.
	soakFDs, soakGoroutines = 150, 300
)

// soakLength is STAPLE_SOAK, 2 minutes under STAPLE_LONG, else a few seconds, in which the
// test is tried more than the library.
func soakLength(t *testing.T) time.Duration {
	if s := os.Getenv("STAPLE_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if testkit.Long() {
		return 2 * time.Minute
	}
	return 3 * time.Second
}

// TestSoak is a server with many tenants on a bad day, in real time: 200 handshakes a second
// over TCP, responders that fail in every way, certificates that are replaced and
// revoked, tenants that come and go with CA and responder, stores that fail. Of the two
// Staplers one lives from beginning to end, and the other is closed and made reread all the
// time.
//
// No handshake fails. openssl, x/crypto/ocsp and the clock take each staple for what the CA
// said of that certificate. A handshake without a staple has a reason in what the test knows
// of its world: what the responders answered, and what the Stapler told before. The heap
// stays where it was, and in the end goroutines and file descriptors are gone.
//
// Nothing depends on how fast the machine is. STAPLE_SOAK is how long it takes, 30m say; it
// prints what it measured.
//
// REQ C2, REQ C3, REQ C4, REQ E1, REQ E2, REQ E6, REQ E7, REQ E11, REQ G5, REQ I4
func TestSoak(t *testing.T) {
	openssl := testkit.Program(t, "openssl")
	if err := exec.Command(openssl, "version").Run(); err != nil { // what runs programs and sockets is there from now on
		t.Fatal(err)
	}
	serveNobody(t)
	goroutines, fds := runtime.NumGoroutine(), countFDs(t)

	w := newSoak(t, soakLength(t))
	w.judge = startJudge(t, openssl)
	w.watch = startWatch()
	w.start()
	w.drive()
	w.stop()

	w.report()
	testkit.Eventually(t, time.Minute, fmt.Sprintf("goroutines and file descriptors as before: %d and %d", goroutines, fds), func() bool {
		return runtime.NumGoroutine() <= goroutines && countFDs(t) <= fds
	})
}

// countFDs returns how many file descriptors the process has.
func countFDs(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Error(err)
	}
	return len(entries) - 1 // that of the directory
}

// drive lets the time pass: it begins handshakes, has the world change, and measures. Each
// quarter ends with a measurement that counts.
func (w *soak) drive() {
	places := make(chan struct{}, soakAtOnce)
	pace := time.NewTicker(time.Second / soakRate)
	defer pace.Stop()
	change := time.NewTicker(100 * time.Millisecond)
	defer change.Stop()
	var shakes sync.WaitGroup
	defer shakes.Wait()
	const marks = 20
	begun := 0
	for next := 1; next <= marks; {
		select {
		case <-pace.C:
			for owed := int(time.Since(w.begun).Seconds() * soakRate); begun < owed; begun++ {
				select {
				case places <- struct{}{}:
				default: // the machine is slower
					continue
				}
				server, tenant, site, version := w.choose()
				shakes.Go(func() {
					defer func() { <-places }()
					w.shake(server, tenant, site, version)
				})
			}
		case <-change.C:
			w.change()
		}
		if mark := int(marks * time.Since(w.begun) / w.length); mark >= next {
			quarter := w.length >= soakFull && mark/(marks/4) > (next-1)/(marks/4)
			if quarter {
				shakes.Wait() // what they hold is not what is looked for
			}
			w.measure(quarter)
			next = mark + 1
		}
	}
}

// A soakSample is what was measured at one time.
type soakSample struct {
	at              time.Duration
	quarter         bool
	handshakes      int
	staples, judged int
	known           int // certificates in Status of the Stapler that lives
	goroutines, fds int
	heap, inUse     uint64 // bytes: of live objects, and of the spans that they are in
}

// measure takes a sample, after collecting what is garbage: twice, as what a cleanup held
// is free only then.
func (w *soak) measure(quarter bool) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := soakSample{at: time.Since(w.begun), quarter: quarter, goroutines: runtime.NumGoroutine(), fds: countFDs(w.t),
		heap: m.HeapAlloc, inUse: m.HeapInuse, judged: int(w.judge.judged.Load()), known: len(w.steady.now.Load().s.Status())}
	w.mu.Lock()
	s.handshakes, s.staples = w.handshakes, w.distinct
	live := w.relearned // by handshakes that had begun before
	for _, c := range w.certs {
		if c.fateLocked(w.steady.now.Load()).forgotten.IsZero() {
			live++
		}
	}
	w.mu.Unlock()
	w.samples = append(w.samples, s)
	if s.known > live {
		w.t.Errorf("after %v the Stapler tells of %d certificates; it was not told to forget %d", s.at, s.known, live)
	}
}

// report prints what was measured, and fails the test where the heap grew, or where there
// was too little to prove anything.
func (w *soak) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out strings.Builder
	fmt.Fprintf(&out, "%8s %10s %8s %8s %6s %10s %4s %9s %9s\n", "after", "handshakes", "staples", "openssl", "known", "goroutines", "fds", "heap KB", "inuse KB")
	var first soakSample
	for _, s := range w.samples {
		fmt.Fprintf(&out, "%8s %10d %8d %8d %6d %10d %4d %9d %9d\n", s.at.Round(time.Second), s.handshakes, s.staples, s.judged, s.known, s.goroutines, s.fds, s.heap>>10, s.inUse>>10)
		switch {
		case !s.quarter:
		case !first.quarter:
			first = s
		case float64(s.heap) > soakGrowth*float64(first.heap)+soakSlack:
			w.t.Errorf("after %v the heap has %d KB, after the first quarter it had %d KB", s.at, s.heap>>10, first.heap>>10)
		case s.fds > first.fds+soakFDs || s.goroutines > first.goroutines+soakGoroutines:
			w.t.Errorf("after %v there are %d file descriptors and %d goroutines, after the first quarter there were %d and %d",
				s.at, s.fds, s.goroutines, first.fds, first.goroutines)
		}
	}
	last := w.samples[len(w.samples)-1]
	fmt.Fprintf(&out, "%d handshakes, %.0f a second; %d distinct staples, all judged by openssl; %d tenants, %d certificates, %d Staplers\n",
		w.handshakes, float64(w.handshakes)/last.at.Seconds(), w.distinct, w.tenantsMade, w.certsMade, w.generations)
	fmt.Fprintf(&out, "%d requests answered rightly, %d with one of %d faults; the machine stood still for %v\n",
		w.right, w.wrong, len(w.played), w.watch.total().Round(time.Millisecond))
	reasons := make([]string, 0, len(w.reasons))
	for r := range w.reasons {
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b string) int { return w.reasons[b] - w.reasons[a] })
	for _, r := range reasons {
		fmt.Fprintf(&out, "%6.2f %% %s\n", 100*float64(w.reasons[r])/float64(w.handshakes), r)
	}
	w.t.Log("\n" + out.String())
	if stapled := w.reasons[reasonStapled]; w.length >= soakFull && (stapled == 0 || stapled == w.handshakes || w.wrong == 0 || w.generations < 3) {
		w.t.Errorf("%d of %d handshakes stapled, %d faults, %d Staplers: too few to prove anything", stapled, w.handshakes, w.wrong, w.generations)
	}
	if got := int(w.judge.judged.Load()); got != w.distinct {
		w.t.Errorf("openssl judged %d of %d staples", got, w.distinct)
	}
}

// A greeting is what a server says first: which Stapler served the handshake, and when it
// was asked for the certificate.
type greeting struct {
	generation int
	at         time.Time
}

func (g greeting) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(g.generation))
	return binary.BigEndian.AppendUint64(b, uint64(g.at.UnixNano()))
}

func decodeGreeting(b []byte) greeting {
	return greeting{int(binary.BigEndian.Uint64(b)), time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))}
}

// A watch notes when the machine stands still: what the library was given no time for is
// not held against it.
type watch struct {
	done    chan struct{}
	stopped sync.WaitGroup

	mu     sync.Mutex // guards the rest
	stalls []stall
	sum    time.Duration
}

type stall struct {
	at   time.Time
	last time.Duration
}

// watchEvery is how often a watch looks. What is longer by stallFrom is a stall: a request
// may have the second that the library gives it at least, and no more.
const (
	watchEvery = 100 * time.Millisecond
	stallFrom  = 400 * time.Millisecond
)

func startWatch() *watch {
	w := &watch{done: make(chan struct{})}
	w.stopped.Go(w.run)
	return w
}

func (w *watch) run() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-w.done:
			return
		}
		now := time.Now()
		if late := now.Sub(last) - watchEvery; late > stallFrom {
			w.mu.Lock()
			w.stalls = append(w.stalls, stall{now, late})
			w.sum += late
			w.mu.Unlock()
		}
		last = now
	}
}

func (w *watch) stop() {
	close(w.done)
	w.stopped.Wait()
}

// since returns how long the machine stood still since then.
func (w *watch) since(then time.Time) (sum time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range slices.Backward(w.stalls) {
		if s.at.Before(then) {
			break
		}
		sum += s.last
	}
	return sum
}

func (w *watch) total() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sum
}
