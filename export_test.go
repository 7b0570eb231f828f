package staple

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"time"
	"unsafe"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// WithNow sets the clock, for tests of clock steps and suspend: the bubbles of
// testing/synctest can't set it apart from their timers.
func WithNow(now func() time.Time) Option { return func(o *options) { o.now = now } }

// WithProxy sets the default client with a proxy, which net/http reads from
// the environment once in a process.
func WithProxy(proxy string) Option {
	c := ocsphttp.DefaultClient()
	c.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
	return func(o *options) { o.client, o.ownClient = c, true }
}

// Sizes says how much a Stapler holds.
type Sizes struct {
	Entries  int // certificates
	Extended int // entries with what most do without
	Timed    int // elements of the scheduler's heap
	Never    int // entries without a response that no config lists
	Queued   int // entries that wait for a responder, or stand by
	InFlight int // requests
}

// Sizes counts what s holds.
func (s *Stapler) Sizes() Sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := Sizes{Entries: s.cache.leaves.LenLocked(), Timed: len(s.timers), Never: s.cache.waiting.n + s.cache.idle.n}
	for e := range s.cache.leaves.AllLocked {
		if e.more != nil {
			n.Extended++
		}
	}
	for r := range s.responders.All {
		n.Queued += r.queued() + len(r.forced)
		n.InFlight += r.inflight
	}
	return n
}

// Tick has the scheduler look at the clock, as its timer does.
func (s *Stapler) Tick() { s.tick() }

// RetryAfter is the pause after a failure for a certificate whose response has
// the given validity, of which some is left.
func RetryAfter(validity, left time.Duration, backoff uint8, hint time.Duration) time.Duration {
	const now = int64(1 << 60)
	h := &held{raw: []byte{0}, until: now + int64(left)}
	h.thisUpdate = (h.until - int64(validity)) / int64(time.Second)
	return time.Duration(h.retryAfter(now, backoff, hint))
}

// EntrySize is the size of what is kept for each certificate, and HeldSize that
// of what is kept for each response.
const (
	EntrySize = unsafe.Sizeof(entry{})
	HeldSize  = unsafe.Sizeof(held{})
)

// Known reports whether cert is found by its address: without a hash, or the lock.
func (s *Stapler) Known(cert *tls.Certificate) bool { return s.cache.find(cert) != nil }

// RefreshDue has the certificates refreshed now, as if that were due, and returns
// when each was.
func (s *Stapler) RefreshDue(certs ...*tls.Certificate) {
	var gates []*gate
	s.mu.Lock()
	for _, cert := range certs {
		e := s.cache.find(cert)
		gates = append(gates, e.gateLocked())
		s.startLocked(e, false)
		s.moveLocked(e)
	}
	s.mu.Unlock()
	for _, g := range gates {
		<-g.open
	}
}
