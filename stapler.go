// Package staple gives any crypto/tls server fresh, verified OCSP staples.
//
// A [Stapler] wraps a [tls.Config], or any GetCertificate function, and fills
// OCSPStaple (RFC 6066 §8) of the certificates that it serves:
//
//	s := staple.New()
//	defer s.Close()
//	srv.TLSConfig = s.TLSConfig(cfg) // autocert's, a static keypair's, any you have
//
// # What it promises
//
// A handshake does not wait for the network: the response is in memory. There
// are two exceptions, both bounded, in which concurrent handshakes share one
// request: the first response of a Must-Staple certificate, or the first after one expired
// ([WithColdWait]), and the store, the first time that a certificate is served ([WithStore]).
//
// A stapled response proves, at the moment of the handshake, that exactly the
// certificate that is served is good. Responses are verified by the rules of
// strict clients (RFC 6960 §3.2, RFC 9919 §3.2). A response that is refused, for
// one of the [Reason]s, is not stapled; the last good response stays in use until
// it expires.
//
// Responses are refreshed in the background long before they expire: after an
// hour ([WithTTL]) or about half of their validity. In an outage the response in memory
// is served until it expires, and retries go on.
//
// An attempt takes 10 s at most and tries up to four responders: the next one 2 s
// after the one before (1 s while a handshake waits), or at once when that fails.
// The first valid response is used. A request is repeated at once in another way if
// the answer suggests one: by POST if a GET got an unusable answer, with the other
// CertID hash if the certificate is not known, past caches if the answer has expired or
// is refused again. If a GET over a connection got no answer, the next attempt uses POST.
//
// The first retry follows within a second. The pauses between retries grow with the
// duration of the outage, up to 5 minutes for a Must-Staple certificate, 15 minutes for
// others, and 2 hours for one without a handshake for a day; where the responder works and
// does not know the certificate, up to 15 minutes, 1 hour and 2 hours. A responder that
// failed for five certificates in a row, or for all that name it, gets one request at a
// time; those that fail at one host share two a minute.
//
// Certificates that name no responder, as most public ones today, pass through
// untouched, silently, at the cost of one lookup.
//
// # Errors
//
// The package fails no handshake. Errors are in [Stapler.Status], [Stapler.Ready]
// and [Event]s; [WithLogger] logs those that an operator must act on. Invalid
// input passes through: for a nil or empty certificate hooks return what the source
// returned; [Stapler.Prefetch] returns an error. A leaf that does not parse is
// served and logged once; its state is [StateNone]. Responder URLs other
// than http and https, such as ldap, are ignored. Without the issuer's certificate
// no request can be made: the error is [ErrNoIssuer] (see [WithIssuers]).
//
// The user's code (stores, loggers, callbacks) runs outside handshakes. While a
// [Store] hangs, requests are made without it. Events and log records for slow code
// wait in a queue; those that overflow it are counted ([Stats]). Panics are logged.
//
// # Ownership
//
// What the caller passes in is not modified: configs and certificates are copied
// before they are changed. Certificates are identified by their bytes, and found by the
// address of these: never change them. All methods may be called concurrently.
package staple

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/tally"
	"github.com/ocspstaple/staple/internal/tlschoice"
	"github.com/ocspstaple/staple/internal/waiting"
)

const (
	// closeWait is how long Close waits for code that is not ours.
	closeWait = 5 * time.Second
	// putGrace is how much of closeWait a write to the store may take.
	putGrace = time.Second
	// maxNotices is how many events and log records may wait for slow code.
	maxNotices = 1024

	extStatusRequest = 5 // RFC 6066 §8
	acmeProtocol     = "acme-tls/1"
)

// A Stapler keeps OCSP responses for certificates and staples them. Make one
// with [New] and share it among all servers of a process.
type Stapler struct {
	opts      options
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	putCtx    context.Context // ends a little later
	endPut    context.CancelFunc
	calls     foreign.Calls
	exchanges foreign.Shared[*held.Answer] // requests about a certificate
	issuers   issuers.Finder
	records   *records.Access // nil without a store
	web       *ocsphttp.Client
	served    *tally.Counter         // handshakes, by State
	requests  atomic.Uint64          // sent
	failures  atomic.Uint64          // of attempts
	dropped   atomic.Uint64          // events
	unshared  atomic.Uint64          // exchanges that are shared with no other
	outbox    foreign.Queue          // of events and log records
	work      foreign.Queue          // certificates to be prepared
	writes    foreign.Queue          // to the store
	unread    records.Later[*entry]  // whose records were not read in time
	signals   atomic.Pointer[signal] // from handshakes, the last one first
	warned    atomic.Bool
	reported  notices.Daily // failures of the user's code

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
	s := &Stapler{opts: resolveOptions(opts), cache: newCache(), served: tally.New()}
	s.sched = schedule.New[*entry](schedule.Config{TTL: int64(s.opts.ttl), FixedTTL: s.opts.fixedTTL, Rand: rand.Int64N})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.putCtx, s.endPut = context.WithCancel(context.Background())
	s.outbox = foreign.Queue{Calls: &s.calls, Max: maxNotices}
	s.work = foreign.Queue{Calls: &s.calls, Workers: maxWorkers}
	s.writes = foreign.Queue{Calls: &s.calls, Workers: maxWriters}
	s.unread = records.Later[*entry]{Calls: &s.calls, Context: s.ctx, Read: s.readAgain}
	s.web = &ocsphttp.Client{HTTP: s.opts.client, Default: s.opts.ownClient, Requests: &s.requests, Now: s.now}
	if s.opts.store != nil {
		s.records = &records.Access{Store: s.opts.store, Sharing: foreign.Shared[[]byte]{Calls: &s.calls}, Reads: s.ctx, Writes: s.putCtx, Now: s.now, Slow: s.storeSlow}
	}
	s.exchanges = foreign.Shared[*held.Answer]{Calls: &s.calls, Unbound: true, MaxLost: foreign.MaxHung} // the schedule bounds the rest
	s.issuers = issuers.Finder{Configured: s.opts.issuers, Get: s.web.Get, Context: s.ctx, Sharing: foreign.Shared[*ocspresp.Issuer]{Calls: &s.calls, Unbound: true}, Now: s.now}
	s.timer = time.AfterFunc(time.Hour, s.tick)
	s.timer.Stop()
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
// or the client sends no server name. A nil next returns no certificate.
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
	tally.Add(s.served, hello, uint8(state))
	return cert, nil
}

// GetClientCertificate returns a hook for tls.Config.GetClientCertificate that
// staples what next returns. Client certificates carry staples in TLS 1.3 alone (RFC 9846
// §4.4.2.1), where each handshake may wait ([WithColdWait]): whether the server asks for
// staples is not known. A nil next presents no certificate.
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
		tally.Add(s.served, cri, uint8(state))
		return cert, nil
	}
}

// Staple returns cert with the current response: cert itself, if there is nothing to
// change, or a copy, which is shared and read-only. It never blocks; a certificate that is
// not known yet comes back as it is, and its response is requested in the background.
// Staple(Staple(c)) carries the response that is current then. nil stays nil.
func (s *Stapler) Staple(cert *tls.Certificate) *tls.Certificate {
	if empty(cert) {
		return cert
	}
	c, state := s.serve(s.lookup(cert), cert)
	tally.Add(s.served, cert, uint8(state))
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
		if minute-last >= int32(inUse/time.Minute) {
			s.signal(e, cert) // it can wait less from now on
		}
	}
	if now-int64(time.Second) > e.Due() {
		s.signal(e, cert) // the timer slept through a suspend, or the clock was set
	}
	staple := h.StapleAt(now)
	if staple == nil && e.noIssuer.Load() && len(cert.Certificate) > 1 {
		s.signal(e, cert) // the chain may have been mended
	}
	if len(cert.OCSPStaple) > 0 {
		if tlschoice.SameSlice(cert.OCSPStaple, staple) {
			return cert
		}
		if e.judged.Load() != &cert.OCSPStaple[0] {
			s.signal(e, cert) // not sent until it is judged: then it is what e holds
		}
	} else if staple == nil {
		return cert
	}
	c := h.Copy.Load()
	if c != nil && tlschoice.SameSlice(c.OCSPStaple, staple) && tlschoice.Same(c, cert) {
		return c
	}
	own := *cert
	own.OCSPStaple = staple
	h.Copy.Store(&own)
	return &own
}

// A signal asks the driver to check an entry that a handshake served with cert.
type signal struct {
	e    *entry
	cert *tls.Certificate
	next *signal
}

// signal queues one for the driver. It takes no lock. An entry has one at most.
func (s *Stapler) signal(e *entry, cert *tls.Certificate) {
	if !e.signalled.CompareAndSwap(false, true) {
		return
	}
	w := &signal{e: e, cert: cert}
	for w.next = s.signals.Load(); !s.signals.CompareAndSwap(w.next, w); w.next = s.signals.Load() {
	}
	s.timer.Reset(0) // tick takes it
}

// wait delays a handshake that would have no staple: until the store was read for a
// new certificate, and during the first attempt, if mustWait allows that.
func (s *Stapler) wait(ctx context.Context, e *entry) {
	if ctx == nil {
		ctx = context.Background()
	}
	for begun, again := time.Now(), true; again; {
		g, d := s.waitFor(e, begun)
		again = d > 0 && g.Wait(d, ctx, s.ctx)
	}
}

// waitFor returns how long a handshake that began to wait for e at begun goes on to.
func (s *Stapler) waitFor(e *entry, begun time.Time) (*waiting.Gate, time.Duration) {
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
	g, first := e.edit().waiters.Gate(begun)
	if first && e.Phase() != schedule.Deferred { // the attempt under way is urgent from now on
		s.hastenLocked(e, schedule.Urgent)
	}
	return g, g.Left(d, begun, time.Now())
}

// now is the wall clock, as opts has it at each use.
func (s *Stapler) now() time.Time { return s.opts.now() }

// nanos is the wall clock. Every limit and due time is one of these.
func (s *Stapler) nanos() int64 { return s.opts.now().UnixNano() }
