package staple

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/waiting"
)

// WithNow sets the clock, for tests of clock steps and suspend: the bubbles of
// testing/synctest can't set it apart from their timers.
func WithNow(now func() time.Time) Option { return func(o *options) { o.now = now } }

// SetNow is WithNow for a Stapler that is there already.
func (s *Stapler) SetNow(now func() time.Time) { s.opts.now = now }

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
	Never    int // entries without a response that no config lists
	UnderWay int // attempts
	StandBy  int // entries whose responders fail
}

// Sizes counts what s holds.
func (s *Stapler) Sizes() Sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := Sizes{Entries: s.cache.leaves.LenLocked(), Never: s.cache.never.Len()}
	for e := range s.cache.leaves.AllLocked {
		if e.more != nil {
			n.Extended++
		}
		if e.Phase().UnderWay() {
			n.UnderWay++
		}
		if e.Phase() == schedule.StandingBy {
			n.StandBy++
		}
	}
	return n
}

// Tick has the scheduler look at the clock, as its timer does.
func (s *Stapler) Tick() { s.tick() }

// Known reports whether cert is found by its address: without a hash, or the lock.
func (s *Stapler) Known(cert *tls.Certificate) bool { return s.cache.find(cert) != nil }

// Cold reports whether handshakes with cert look, with the lock, whether they have to wait.
func (s *Stapler) Cold(cert *tls.Certificate) bool { return s.cache.find(cert).cold.Load() }

// RefreshDue has the certificates refreshed now, as if that were due, and returns
// when each was.
func (s *Stapler) RefreshDue(certs ...*tls.Certificate) {
	var gates []*waiting.Gate
	s.mu.Lock()
	for _, cert := range certs {
		e := s.cache.find(cert)
		g, _ := e.edit().waiters.Gate(time.Now())
		gates = append(gates, g)
		s.doLocked(s.sched.Start(e, schedule.Routine, s.nanos()))
	}
	s.mu.Unlock()
	for _, g := range gates {
		g.Wait(time.Hour, s.ctx, s.ctx)
	}
}

// What the tests of verification see of it.

const (
	MaxReason = Reason(ocspresp.Last)
)
