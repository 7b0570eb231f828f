package waiting

import (
	"time"

	"github.com/ocspstaple/staple/internal/schedule"
)

// joinWithin is how young an attempt is that is as good for a Prefetch as one that
// begins now.
const joinWithin = time.Second

// Facts are what is known of a certificate at one moment.
type Facts struct {
	// Settled: a Prefetch has nothing to wait for. There is a valid response, or the
	// certificate is revoked, or it needs no response.
	Settled bool
	// Problem is the error of a Prefetch that ends now; nil if all is well.
	Problem error
	// Final: a Prefetch expects nothing of further attempts. No issuer can be found,
	// say, or the certificate is not valid yet.
	Final bool
	// Dropped is why nothing more comes of the certificate; nil while it is kept.
	Dropped error
	// UnderWay: an attempt is, and is not left to another process.
	UnderWay bool
	// Began is when the attempt under way did, in Unix ns.
	Began int64
	// Impatient: the attempt under way may read the store with less patience than an
	// attempt for a call.
	Impatient bool
}

// A Call is a Prefetch or a Refresh. Set the first fields, Add its certificates, and wait
// for Over.
type Call[T any] struct {
	Refresh bool  // else Prefetch
	Retry   bool  // a Prefetch: it goes on until its context ends
	Begun   int64 // Unix ns
	// Turns has one for each certificate, in the order in which they were added. They
	// are read without the lock once Over is closed, or each was ended.
	Turns []*Turn[T]

	left int // turns that are not done
	over chan struct{}
}

// Urgency returns that of the attempts that are made for c.
func (c *Call[T]) Urgency() schedule.Urgency {
	if c.Refresh {
		return schedule.Unconditional
	}
	return schedule.Forced
}

// Add adds a turn, for its first step. made: the attempt under way was begun for c.
func (c *Call[T]) Add(of T, made bool) *Turn[T] {
	t := &Turn[T]{Of: of, call: c}
	if made {
		t.own, t.ends = true, 1
	}
	c.Turns = append(c.Turns, t)
	c.left++
	return t
}

// Over returns a channel that is closed when all turns are done. Call it once, after the last
// Add.
func (c *Call[T]) Over() <-chan struct{} {
	c.over = make(chan struct{})
	if c.left == 0 {
		close(c.over)
	}
	return c.over
}

// A Turn is the part of a call that is about one certificate.
type Turn[T any] struct {
	Of   T
	Done bool
	Err  error // what came of it; before Done, of the last attempt

	call *Call[T]
	own  bool // an attempt that counts was begun, or follows the one under way
	ends int8 // attempts that have to end before the next step
}

// ended notes that an attempt ended.
func (t *Turn[T]) ended(err error) {
	t.ends--
	t.Err = err
}

// deferred is called when the attempt under way, of urgency u, is left to another process.
// A Refresh wants it made here all the same: then it is its own. A Prefetch has less
// patience than an attempt that it joined, and as much as the retries that follow its own.
func (t *Turn[T]) deferred(u schedule.Urgency) schedule.Urgency {
	switch c := t.call; {
	case c.Refresh:
		t.ends = 1
		return c.Urgency()
	case !t.own && u < c.Urgency():
		return c.Urgency()
	}
	return schedule.Routine
}

// Step makes the next step of t. An attempt has to be started with the urgency that it
// returns, unless that is Routine. done: the step was the last one.
//
// The order of the cases counts. A Prefetch takes what it finds, however it came there;
// a Refresh wants an attempt of its own. Only after that of a Prefetch failed does its
// failure count.
func (t *Turn[T]) Step(f Facts) (start schedule.Urgency, done bool) {
	switch c := t.call; {
	case f.Settled && !c.Refresh:
		t.finish(f.Problem)
	case f.Dropped != nil:
		t.finish(f.Dropped)
	case t.ends > 0:
	case !t.own:
		start = t.start(&f)
	case c.Refresh:
		t.finish(t.Err)
	case c.Retry && !f.Final:
		t.ends = 1 // the next one that the schedule plans
	default:
		t.finish(f.Problem)
	}
	return start, t.Done
}

// start notes that an attempt begins for t, and returns its urgency. Where one is under
// way it is raised. A Refresh has it followed by its own. A Prefetch goes along with it:
// what it brings is good. Only if it failed, and is old or was impatient, does the
// Prefetch have its own follow.
func (t *Turn[T]) start(f *Facts) schedule.Urgency {
	t.own, t.ends = true, 1
	switch {
	case !f.UnderWay:
	case t.call.Refresh:
		t.ends = 2
	default:
		t.own = !f.Impatient && t.call.Begun-f.Began < int64(joinWithin)
		return schedule.Urgent
	}
	return t.call.Urgency()
}

// finish ends t with err, and its call with the last turn.
func (t *Turn[T]) finish(err error) {
	t.Done, t.Err = true, err
	if t.call.left--; t.call.left == 0 && t.call.over != nil {
		close(t.call.over)
	}
}
