package schedule

import (
	stdheap "container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	day = 24 * hour
	ms  = second / 1000
)

// A world is a schedule with a driver and responders, in virtual time that its
// own loop has pass.
type world struct {
	t      testing.TB
	rng    *rand.Rand
	now    int64
	s      *Schedule[*cert]
	events events
	n      int // of events
	certs  int

	// What the test says.
	facts   func(*cert) Facts                                          // what preparing finds
	answer  func(c *cert, k Key, budget int64) (took int64, o Outcome) // what a responder does
	prepare int64                                                      // how long preparing takes

	// What was seen.
	held     map[*cert]Held
	requests []request
	kinds    [Misuse + 1]int
	inflight int
	peak     int
}

type request struct {
	at   int64
	cert int
	key  Key
	late bool // nobody waits for the answer
}

type event struct {
	at, order int64
	do        func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: 1_700_000_000 * second, held: make(map[*cert]Held)}
	w.s = New[*cert](Config{TTL: hour, Rand: w.rng.Int64N})
	w.facts = func(*cert) Facts { return Facts{Need: Wanted, InUse: true, MustStaple: true, Route: []Key{at(0)}} }
	return w
}

// at is the i-th responder.
func at(i int) Key {
	return Key{URL: fmt.Sprintf("http://ocsp%d.example", i), Issuer: "CA", Host: fmt.Sprintf("ocsp%d.example", i)}
}

// after has something happen.
func (w *world) after(d int64, do func()) {
	w.n++
	stdheap.Push(&w.events, event{w.now + d, int64(w.n), do})
}

// start adds certificates.
func (w *world) start(n int, u Urgency) (all []*cert) {
	for range n {
		c := &cert{id: w.certs}
		w.certs++
		all = append(all, c)
		w.do(w.s.Start(c, u, w.now))
	}
	return all
}

// runUntil has the time pass.
func (w *world) runUntil(end int64, done func() bool) {
	for !done() {
		next := w.s.Next(w.now)
		if len(w.events) > 0 && w.events[0].at <= next {
			next = w.events[0].at
		}
		if next > end {
			w.now = end
			return
		}
		w.now = max(w.now, next)
		if len(w.events) > 0 && w.events[0].at <= w.now {
			stdheap.Pop(&w.events).(event).do()
		} else {
			w.do(w.s.Run(w.now))
		}
	}
}

func (w *world) run(d int64) { w.runUntil(w.now+d, func() bool { return false }) }

func (w *world) do(actions []Action[*cert]) {
	for _, a := range actions {
		w.kinds[a.Kind]++
		switch a.Kind {
		case Prepare:
			w.after(w.prepare, func() { w.do(w.s.Prepared(a.Item, w.facts(a.Item), w.now)) })
		case Ask:
			w.ask(a)
		case Review:
			w.do(w.s.Reviewed(a.Item, w.now+day, w.facts(a.Item).InUse, w.now))
		case Misuse:
			w.t.Errorf("misuse: %v to %v", a.From, a.To)
		}
	}
}

func (w *world) ask(a Action[*cert]) {
	w.inflight++
	w.peak = max(w.peak, w.inflight)
	took, o := w.answer(a.Item, a.Responder.Key, a.Budget)
	r := request{at: w.now, cert: a.Item.id, key: a.Responder.Key}
	if took >= a.Budget {
		took, o = a.Budget, Outcome{Verdict: TimedOut}
		r.late = true
	}
	w.requests = append(w.requests, r)
	w.after(took, func() {
		w.inflight--
		if o.Verdict == Proof {
			if o.Held == (Held{}) {
				o.Held = w.response(4 * day)
			}
			w.held[a.Item] = o.Held
		}
		w.do(w.s.Answered(a, o, w.now))
	})
}

// response is one that was signed now, valid for d.
func (w *world) response(d int64) Held {
	from := w.now / second * second
	return Held{From: from, Until: from + d, Checked: w.now}
}

// stapled counts the certificates that have a valid response.
func (w *world) stapled(certs []*cert) (n int) {
	for _, c := range certs {
		if w.held[c].Until > w.now {
			n++
		}
	}
	return n
}

// untilStapled returns how long it takes until all certificates are stapled.
func (w *world) untilStapled(certs []*cert, most int64) time.Duration {
	w.t.Helper()
	begun := w.now
	w.runUntil(begun+most, func() bool { return w.stapled(certs) == len(certs) })
	if got := w.stapled(certs); got < len(certs) {
		w.t.Errorf("%d of %d stapled after %v", got, len(certs), time.Duration(w.now-begun))
	}
	return time.Duration(w.now - begun)
}

// late counts the requests that nobody waited for.
func (w *world) late() (n int) {
	for _, r := range w.requests {
		if r.late {
			n++
		}
	}
	return n
}

// A responder that answers in a time.
func always(took int64) func(*cert, Key, int64) (int64, Outcome) {
	return func(*cert, Key, int64) (int64, Outcome) { return took, Outcome{} }
}

const hangs = Never // how long a request takes that is not answered
