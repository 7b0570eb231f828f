package staple_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A simulation is a few processes that serve the same domains, with all that they use, and what
// the oracle knows of these. What is random in it comes from its seed, but for the jitter of the
// library.
type simulation struct {
	t           testing.TB
	rng         *rand.Rand // the test's goroutine alone uses it
	begun       time.Time
	steady      bool // no clock is ever set
	authorities []*authority
	origins     map[string]*origin // by URL
	domains     []*domain
	processes   []*process
	depot       *depot
	journal     []string   // the last operations
	every       []*process // those that were closed, too

	stopped chan struct{} // closed by stop: the test has failed, and would take minutes
	stop    func()

	shakes, stapled int // handshakes in which a staple was asked for, and those with one

	mu        sync.Mutex // guards the rest
	signed    map[statement]bool
	stored    map[string]*proof
	confirmed map[*subject]time.Time // when a responder, or who played it, last answered
}

// newSimulation makes two authorities, with three responders, and six domains.
func newSimulation(t testing.TB, seed uint64) *simulation {
	w := &simulation{t: t, rng: rand.New(rand.NewPCG(seed, 6960)), begun: time.Now(), origins: make(map[string]*origin),
		depot:  &depot{data: make(map[string][]byte), past: make(map[string][]byte), leases: make(map[string]tenure), mode: works},
		signed: make(map[statement]bool), stored: make(map[string]*proof), confirmed: make(map[*subject]time.Time)}
	w.stopped = make(chan struct{})
	w.stop = sync.OnceFunc(func() { close(w.stopped) })
	w.steady = w.rng.IntN(3) == 0
	for i := range 2 {
		ca := ocsptest.NewCA()
		a := &authority{ca: ca, pool: ca.Pool(), issued: make(map[string]*subject)}
		w.authorities = append(w.authorities, a)
		for j := range i + 1 {
			w.addOrigin(a, fmt.Sprintf("http://ocsp%d%d.example", i, j))
		}
	}
	for i := range 6 {
		d := &domain{name: fmt.Sprintf("domain%d.example", i), by: w.authorities[i%2], listed: w.rng.IntN(2) == 0, must: w.rng.IntN(3) == 0}
		for _, o := range d.by.origins {
			if len(d.urls) == 0 || w.rng.IntN(2) == 0 {
				d.urls = append(d.urls, o.url)
			}
		}
		w.issue(d)
		w.domains = append(w.domains, d)
	}
	for i := range 2 + w.rng.IntN(3) {
		w.processes = append(w.processes, w.start(fmt.Sprintf("p%d", i), new(clock), i < 2 || w.rng.IntN(2) == 0))
	}
	return w
}

func (w *simulation) addOrigin(a *authority, url string) {
	o := &origin{by: a, url: url, responder: a.ca.NewResponder(url), heard: make(map[*subject][][]byte)}
	o.responder.SetDelay(latency)
	o.responder.SetRetryAfter(pick(w, retryAfter))
	o.responder.SetEdit(func(spec *ocsptest.Spec) { w.signs(o, spec) })
	a.origins = append(a.origins, o)
	w.origins[url] = o
}

// pick returns one of all at random.
func pick[T any](w *simulation, all []T) T { return all[w.rng.IntN(len(all))] }

func (w *simulation) origin() *origin { return pick(w, pick(w, w.authorities).origins) }

// note writes an operation into the journal.
func (w *simulation) note(format string, args ...any) {
	if len(w.journal) == 40 {
		w.journal = w.journal[1:]
	}
	w.journal = append(w.journal, stamp(time.Now())+": "+fmt.Sprintf(format, args...))
}

// REQ B15, REQ C2, REQ C3, REQ C5, REQ E1, REQ E4, REQ E6, REQ E7, REQ E9, REQ E12: whatever
// happens, in whatever order, a staple is one that was signed for this certificate and has not
// ended, none is lost that need not be, no revocation is undone, staples come back after the
// last fault, and neither responders nor the store are kept busy. What is true an oracle says
// that has no code in common with the library.
//
// STAPLE_SEED is the first seed, and a subtest has the name of its own.
func TestRandomWorld(t *testing.T) {
	t.Parallel()
	seeds := uint64(3)
	switch {
	case testkit.RaceEnabled:
		seeds = 1
	case testkit.Long():
		seeds = 80
	}
	first := yearSeed(t)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newSimulation(t, seed).run() })
		})
	}
}

// run has some days pass.
func (w *simulation) run() {
	w.t.Cleanup(func() {
		for _, line := range w.journal {
			if w.t.Failed() {
				w.t.Log(line)
			}
		}
	})
	var weighted []func(*simulation)
	for _, op := range operations {
		weighted = append(weighted, slices.Repeat([]func(*simulation){op.do}, op.weight)...)
	}
	for range 120 {
		pick(w, weighted)(w)
		synctest.Wait()
		most := pick(w, []time.Duration{2 * time.Second, 2 * time.Minute, 20 * time.Minute, 2 * time.Hour})
		w.sleep(time.Duration(w.rng.Int64N(int64(most))))
	}
	w.calm()
	w.report()
}

// sleep lets d pass.
func (w *simulation) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.stopped:
		w.t.FailNow()
	}
}

// calm ends all faults. Then each certificate that is in use has its staple within the time that
// DESIGN's decision 4 has for it.
func (w *simulation) calm() {
	w.note("calm")
	w.depot.set(works)
	vagueFor := make(map[*domain]time.Duration) // how long an answer about a certificate may have delayed it, from now
	for _, o := range w.origins {
		w.setFault(o, ocsptest.FaultNone, false)
		o.responder.SetSign(ocsptest.Sign{})
		for _, d := range w.domains {
			if slices.Contains(d.urls, o.url) {
				vagueFor[d] = max(vagueFor[d], d.patience(true)-time.Since(o.vague))
			}
		}
	}
	for _, p := range w.processes {
		p.setClock(0)
		p.clearPreset()
		for _, d := range w.domains {
			p.shake(d)
			p.switchOn(d)
		}
	}
	begun := time.Now()
	for _, after := range []time.Duration{5 * time.Minute, 15 * time.Minute, time.Hour} {
		w.sleep(after + calmGrace - time.Since(begun))
		for _, d := range w.domains {
			if after < max(d.patience(false), vagueFor[d]) || d.now.revoked {
				continue
			}
			for _, p := range w.processes {
				p.mustCarry(d, fmt.Sprintf("%v after all faults", after))
			}
		}
	}
	w.checkDepot()
}

// checkDepot fails the test if a response that was just fetched is not in the depot.
func (w *simulation) checkDepot() {
	p := w.processes[0]
	for _, d := range w.domains {
		if err := p.s.Refresh(context.Background(), d.now.cert); err != nil || d.now.revoked {
			continue
		}
		p.mustCarry(d, "refreshed")
		time.Sleep(time.Second)
		if newest := p.newest(d); !newest.open() && !w.depot.valid(p)[d.now] {
			w.t.Errorf("%v, %v: %v is not in the depot", p, d.now, newest)
		}
	}
}

// calmGrace is how long it takes to notice that the clock was set, and an attempt beside one of
// another process, which has the lease.
const calmGrace = time.Minute + 30*time.Second

// patience is how long a pause between two attempts may be, after a failure of the responder or
// an answer about the certificate.
func (d *domain) patience(vague bool) time.Duration {
	switch {
	case vague && !d.must:
		return time.Hour
	case vague || !d.must:
		return 15 * time.Minute
	}
	return 5 * time.Minute
}

// switchOn has p staple for d again, if it does not.
func (p *process) switchOn(d *domain) {
	if !p.isOff(d) {
		return
	}
	p.w.mu.Lock()
	p.off[d.name] = false
	p.w.mu.Unlock()
	_ = p.s.Refresh(context.Background(), d.now.cert) // it may not have recovered yet
	p.settled(d)
}

// report prints figures, and fails the test where a responder or the depot was kept busy.
func (w *simulation) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var requests, calls int
	for _, p := range w.every {
		for _, n := range p.requests {
			requests = max(requests, n)
		}
		for minute, n := range p.calls {
			if calls = max(calls, n); n > mostCalls {
				w.t.Errorf("%v: %d calls of the depot in minute %d", p, n, minute)
			}
		}
	}
	w.t.Logf("%v: %d handshakes, %d with a staple; a process made at most %d requests about a certificate in an hour, and %d calls of the depot in a minute",
		time.Since(w.begun).Round(time.Hour), w.shakes, w.stapled, requests, calls)
}
