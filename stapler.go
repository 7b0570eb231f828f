// Package staple gives any crypto/tls server fresh, verified OCSP staples.
//
// A [Stapler] wraps a [tls.Config], or any GetCertificate function, and fills
// OCSPStaple (RFC 6066 §8) of what it serves:
//
//	s := staple.New()
//	defer s.Close()
//	srv.TLSConfig = s.TLSConfig(cfg) // autocert's, a static keypair's, any you have
//
// # What it promises
//
// A handshake never waits for the network: it reads what is in memory. The
// exceptions are bounded, and shared by all handshakes that wait: the first
// response of a certificate with Must-Staple ([WithColdWait]), and one read of
// the store at the first sight of a certificate ([WithStore]).
//
// What is stapled is proven good, at the moment of the handshake, for exactly
// the certificate that is served. Responses are verified as strict clients do
// it (RFC 6960 §3.2, RFC 9919 §3.2); whatever is refused, for whichever
// [Reason], is not stapled, and the last good response stays until it expires.
//
// Responses are refreshed in the background long before they expire: after an
// hour ([WithTTL]) or half of their validity. In an outage what is held is
// served until it expires, and retries go on.
//
// An attempt takes 10 s at most. It asks the certificate's responders, four at most:
// each 2 s after the one before (1 s while a handshake waits), or at once when that
// fails. The first valid response wins. A responder is asked again at once where its
// answer says how to do better: by POST where a GET brought nothing of use, with the
// other CertID hash where it does not know the certificate, past all caches where the
// response has expired. Where a GET got no answer the next attempt is a POST.
//
// After a failed attempt the next one follows within a second. Pauses grow with the
// time that it has failed, to 5 minutes for a Must-Staple certificate and 15 minutes for
// others. While a responder fails for all its certificates one at a time is tried.
//
// Certificates that name no responder, as most public ones today, pass through
// untouched, silently, at the cost of one lookup.
//
// # Errors
//
// Nothing here fails a handshake. What goes wrong is in [Stapler.Status],
// [Stapler.Ready] and [Event]s; [WithLogger] logs what an operator must act on.
// Bad input passes through: for a nil or empty certificate hooks return what
// the source returned, and [Stapler.Prefetch] an error. A leaf that does not
// parse is served as it is and logged once, [StateNone]. URLs in it other than
// http and https, such as ldap, count as none. Without the issuer nothing is
// asked: it is looked for as [WithIssuers] says, else it is an [ErrNoIssuer].
//
// Code that is not ours runs off the handshake: while a [Store] hangs responders
// are asked without it, a slow logger or event function has a queue, whose
// overflow is counted ([Stats]), and what panics is logged.
//
// # Ownership
//
// What the caller passes in is never written: configs and certificates are
// copied before they are changed. Certificates are known by their bytes, which
// must not be changed while they are served. All methods may be called
// concurrently.
package staple

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
)

const (
	// closeWait is how long Close waits for code that is not ours.
	closeWait = 5 * time.Second
	// maxNotices is how many events and log records may wait for slow code.
	maxNotices = 1024
	// putGrace is how much of that a write to the store may take.
	putGrace = time.Second

	extStatusRequest = 5 // RFC 6066 §8
	acmeProtocol     = "acme-tls/1"
)

var errEmpty = errors.New("is nil or empty")

// A Stapler keeps OCSP responses for certificates and staples them. Make one
// with [New] and share it among all servers of a process.
type Stapler struct {
	opts      options
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	putCtx    context.Context // ends a little later
	endPut    context.CancelFunc
	calls     foreign.Calls
	exchanges foreign.Shared[*answer] // requests about a certificate
	downloads foreign.Shared[[]byte]  // of issuers
	issuers   issuers.Finder
	records   *records.Access // nil without a store
	web       *ocsphttp.Client
	stats     counters
	outbox    foreign.Queue         // of events and log records
	work      foreign.Queue         // certificates to be prepared
	writes    foreign.Queue         // to the store
	unread    records.Later[*entry] // whose records were not read in time
	words     atomic.Pointer[word]  // from handshakes, the last one first
	lost      atomic.Int32          // calls of the RoundTripper that outlived their context
	warned    atomic.Bool

	complainMu sync.Mutex       // guards complained
	complained map[string]int64 // Unix ns: when a failure of each kind of the user's code was last told

	mu        sync.Mutex // guards the rest; never held over I/O or code that is not ours
	closed    bool
	cache     cache
	sched     *schedule.Schedule[*entry]
	timer     *time.Timer
	armed     int64                    // Unix ns for which timer is set
	forgotten map[uint64]*atomic.Int32 // entry.listings of what Forget dropped, by entry.id
}

// New returns a Stapler. It starts nothing until it knows a certificate. When
// it is no longer needed, call [Stapler.Close].
func New(opts ...Option) *Stapler {
	s := &Stapler{opts: resolveOptions(opts), cache: newCache(), complained: make(map[string]int64)}
	s.sched = newSchedule(&s.opts)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.putCtx, s.endPut = context.WithCancel(context.Background())
	s.outbox = foreign.Queue{Calls: &s.calls, Max: maxNotices}
	s.work = foreign.Queue{Calls: &s.calls, Workers: maxWorkers}
	s.writes = foreign.Queue{Calls: &s.calls, Workers: maxWriters}
	s.unread = records.Later[*entry]{Calls: &s.calls, Context: s.ctx, Read: s.readAgain}
	s.web = &ocsphttp.Client{HTTP: s.opts.client, Default: s.opts.ownClient, Requests: &s.stats.requests, Now: s.now}
	if s.opts.store != nil {
		s.records = &records.Access{Store: s.opts.store, Calls: &s.calls, Reads: s.ctx, Writes: s.putCtx, Now: s.now, Slow: s.storeSlow}
	}
	s.exchanges.Calls, s.exchanges.Unbound = &s.calls, true // the schedule bounds them
	s.downloads.Calls, s.downloads.Unbound = &s.calls, true // the Finder does
	s.issuers = issuers.Finder{Configured: s.opts.issuers, Get: s.download, Context: s.ctx, Sharing: &s.downloads, Now: s.now}
	s.timer = time.AfterFunc(time.Hour, s.tick)
	s.timer.Stop()
	s.stats.seed = maphash.MakeSeed()
	return s
}

// Close stops everything in the background. It waits up to 5 s for code that
// is not ours (Store, RoundTripper, callbacks) and returns an error that names
// what hangs. Wrapped configs go on with the responses that they hold until
// those expire; certificates that become known later pass through. Calling it
// again returns nil at once.
func (s *Stapler) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.timer.Stop()
	s.work.Close()
	for e := range s.cache.leaves.AllLocked {
		e.cold.Store(false)
		s.settleLocked(e)
	}
	s.mu.Unlock()
	s.cancel()
	grace := time.AfterFunc(putGrace, s.endPut)
	defer grace.Stop()
	defer s.endPut()
	err := s.calls.Wait(closeWait)
	if err != nil {
		err = fmt.Errorf("staple: close: %w", err)
	}
	if s.opts.ownClient {
		s.opts.client.CloseIdleConnections()
	}
	return err
}

// GetCertificate returns a hook for tls.Config.GetCertificate that staples
// what next returns. Unlike [Stapler.TLSConfig] it leaves the config's
// Certificates alone: crypto/tls serves those by itself where next returns nil,
// or the client sends no server name. A nil next finds nothing.
func (s *Stapler) GetCertificate(next func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if next == nil {
			return nil, nil
		}
		cert, err := next(hello)
		return s.answer(hello, cert, err)
	}
}

// answer staples what a source returned for hello.
func (s *Stapler) answer(hello *tls.ClientHelloInfo, cert *tls.Certificate, err error) (*tls.Certificate, error) {
	if err != nil || empty(cert) || challenge(hello) {
		return cert, err
	}
	e := s.lookup(cert)
	if e != nil && e.cold.Load() && hello != nil && slices.Contains(hello.Extensions, extStatusRequest) {
		s.wait(hello.Context(), e)
	}
	cert, state := s.serve(e, cert)
	served(s, hello, state)
	return cert, nil
}

// GetClientCertificate returns a hook for tls.Config.GetClientCertificate that
// staples what next returns. Client certificates carry staples in TLS 1.3
// alone (RFC 9846 §4.4.2.1). A nil next presents no certificate.
func (s *Stapler) GetClientCertificate(next func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(cri *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if next == nil {
			return new(tls.Certificate), nil
		}
		cert, err := next(cri)
		if err != nil || empty(cert) {
			return cert, err
		}
		e := s.lookup(cert)
		if e != nil && e.cold.Load() && cri != nil && cri.Version >= tls.VersionTLS13 {
			s.wait(cri.Context(), e)
		}
		cert, state := s.serve(e, cert)
		served(s, cri, state)
		return cert, nil
	}
}

// Staple returns cert with the current response: cert itself, if there is
// nothing to change, or a copy. It never blocks; a certificate that is not
// known yet comes back as it is and is fetched for. Staple(Staple(c)) carries
// the response that is current then. nil stays nil.
func (s *Stapler) Staple(cert *tls.Certificate) *tls.Certificate {
	if empty(cert) {
		return cert
	}
	c, state := s.serve(s.lookup(cert), cert)
	served(s, cert, state)
	return c
}

func empty(cert *tls.Certificate) bool {
	return cert == nil || len(cert.Certificate) == 0 || len(cert.Certificate[0]) == 0
}

// challenge reports whether a CA is validating a domain (RFC 8737): the
// certificate that answers it is seen once.
func challenge(hello *tls.ClientHelloInfo) bool {
	return hello != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeProtocol
}

// lookup returns the entry for cert; nil if there is no room for one.
func (s *Stapler) lookup(cert *tls.Certificate) *entry {
	if e := s.cache.find(cert); e != nil {
		return e
	}
	id := s.cache.leaves.ID(cert.Certificate[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.learnLocked(cert, id, schedule.Urgent) // a handshake may wait for it
	return e
}

// serve returns cert with what e holds for it now, and the state of that. It is
// all of our part in a handshake that finds a response: no lock, no allocation,
// no byte of the certificate read.
func (s *Stapler) serve(e *entry, cert *tls.Certificate) (*tls.Certificate, State) {
	if e == nil {
		if len(cert.OCSPStaple) == 0 || s.ctx.Err() != nil {
			return cert, StatePending
		}
		own := *cert // nobody has judged the staple that the source set
		own.OCSPStaple = nil
		return &own, StatePending
	}
	now := s.nanos()
	h := e.held.Load()
	return s.stapled(e, h, cert, now), State(h.At(now))
}

// stapled is serve for a certificate that is known.
func (s *Stapler) stapled(e *entry, h *held.Response, cert *tls.Certificate, now int64) *tls.Certificate {
	if minute, last := minuteOf(now), e.seen.Load(); last != minute {
		e.seen.Store(minute)
		if last != 0 && minute-last >= int32(inUse/time.Minute) {
			s.tell(e, cert) // it can wait less from now on
		}
	}
	if now-int64(time.Second) > e.Due() {
		s.tell(e, cert) // the timer slept through a suspend, or the clock was set
	}
	staple := h.StapleAt(now)
	if staple == nil && e.lone.Load() && len(cert.Certificate) > 1 {
		s.tell(e, cert) // the chain may have been mended
	}
	if len(cert.OCSPStaple) > 0 {
		if sameSlice(cert.OCSPStaple, staple) {
			return cert
		}
		if e.judged.Load() != &cert.OCSPStaple[0] {
			s.tell(e, cert) // not sent until it is judged: then it is what e holds
		}
	} else if staple == nil {
		return cert
	}
	c := h.Copy.Load()
	if c != nil && sameSlice(c.OCSPStaple, staple) && same(c, cert) {
		return c
	}
	own := *cert
	own.OCSPStaple = staple
	h.Copy.Store(&own)
	return &own
}

// A word is from a handshake to the driver: have a look at this entry, which was
// served with this certificate.
type word struct {
	e    *entry
	cert *tls.Certificate
	next *word
}

// tell leaves a word. It takes no lock: one word is enough until it is heard.
func (s *Stapler) tell(e *entry, cert *tls.Certificate) {
	if !e.said.CompareAndSwap(false, true) {
		return
	}
	w := &word{e: e, cert: cert}
	for w.next = s.words.Load(); !s.words.CompareAndSwap(w.next, w); w.next = s.words.Load() {
	}
	s.timer.Reset(0) // tick hears it
}

// settleLocked lets everyone go on who waits for e: handshakes, Prefetch, Refresh.
func (s *Stapler) settleLocked(e *entry) {
	m := e.more
	if m == nil {
		return
	}
	if m.gate != nil {
		close(m.gate.open)
		m.gate = nil
	}
	if len(m.turns) > 0 {
		m.turns = slices.DeleteFunc(m.turns, waiter.stepLocked)
		s.cache.sortLocked(e)
	}
}

// wait holds a handshake that would have no staple: while the store is read
// at the first sight of the certificate, and while the first fetch is in
// flight, if the certificate is one to wait for.
func (s *Stapler) wait(ctx context.Context, e *entry) {
	var done <-chan struct{}
	if ctx != nil {
		done = ctx.Done()
	}
	for begun := time.Now(); ; {
		g, d := s.waitFor(e, begun)
		if d <= 0 {
			return
		}
		timer := time.NewTimer(d)
		select {
		case <-g.open:
		case <-timer.C:
		case <-done:
		case <-s.ctx.Done():
		}
		timer.Stop()
		if done != nil && ctx.Err() != nil || s.ctx.Err() != nil {
			return
		}
	}
}

// waitFor returns how long a handshake waits for e, from when it began to, or
// from when the first did.
func (s *Stapler) waitFor(e *entry, begun time.Time) (*gate, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !e.Phase().UnderWay() || e.flags.tried || e.held.Load().Current(s.nanos()) {
		return nil, 0
	}
	d := s.opts.mustWait(e.must || !e.flags.read && certinfo.MayMustStaple(e.DER))
	if s.opts.store != nil && !e.flags.loaded {
		d = max(d, records.Soon)
	}
	if d == 0 {
		return nil, 0
	}
	g := e.gateLocked()
	if g.since.IsZero() {
		g.since = begun
		if e.Phase() != schedule.Deferred { // the attempt under way is urgent from now on
			s.doLocked(s.sched.Start(e, schedule.Urgent, s.nanos()))
		}
	}
	return g, d - max(time.Since(g.since), time.Since(begun))
}

// now is the wall clock.
func (s *Stapler) now() time.Time { return s.opts.now() }

// nanos is the wall clock. Every limit and due time is one of these.
func (s *Stapler) nanos() int64 { return s.opts.now().UnixNano() }

type counters struct {
	seed                        maphash.Seed
	handshakes                  [8]tally // one of them is counted in: see served
	requests, failures, dropped atomic.Uint64
}

// tally fills a cache line, so that processors that count in two of them don't
// take it from each other.
type tally struct {
	by [StateNone + 1]atomic.Uint64
	_  [64 - 8*(StateNone+1)]byte
}

// served counts a handshake. What stands for it, its ClientHelloInfo say, is
// hashed by its address to spread those that go on at the same time.
func served[T any](s *Stapler, handshake *T, state State) {
	c := &s.stats.handshakes
	c[maphash.Comparable(s.stats.seed, handshake)%uint64(len(c))].by[state].Add(1)
}

// issuerWait is how much of an attempt's time the search for the issuer may take.
// What hangs there is to be told from a responder that does.
const issuerWait = 7500 * time.Millisecond

// download gets what is at u, the issuer's certificate.
func (s *Stapler) download(ctx context.Context, u string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, issuerWait)
	defer cancel()
	body, err := s.web.Get(ctx, u)
	if err != nil {
		return nil, unanswered(u, err)
	}
	return body, nil
}
