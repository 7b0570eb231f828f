package staple

import (
	"time"
)

// WithNow sets the clock, for tests of clock steps and suspend: the bubbles of
// testing/synctest can't set it apart from their timers.
func WithNow(now func() time.Time) Option { return func(o *options) { o.now = now } }

// Sizes says how much a Stapler holds.
type Sizes struct {
	Entries  int // certificates
	Timed    int // elements of the scheduler's heap
	Never    int // entries without a response that no config lists
	Queued   int // entries that wait for a responder, or stand by
	InFlight int // requests
}

// Sizes counts what s holds.
func (s *Stapler) Sizes() Sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := Sizes{Entries: s.cache.n, Timed: len(s.timers), Never: s.cache.waiting.n + s.cache.idle.n}
	for _, p := range s.responders.m {
		if r := p.Value(); r != nil {
			n.Queued += r.queued()
			n.InFlight += r.inflight
		}
	}
	return n
}

// Tick has the scheduler look at the clock, as its timer does.
func (s *Stapler) Tick() { s.tick() }

// RetryAfter is the pause after a failure for a certificate whose response has
// the given validity, of which some is left.
func RetryAfter(validity, left time.Duration, backoff uint8, hint time.Duration) time.Duration {
	const now = int64(1 << 60)
	h := &held{raw: []byte{0}, nextUpdate: 1, until: now + int64(left)}
	h.thisUpdate = (h.until - int64(validity)) / int64(time.Second)
	return time.Duration(h.retryAfter(now, backoff, hint))
}
