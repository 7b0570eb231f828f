package staple

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/exchange"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

// The life of an attempt. The schedule says what is to be done (doLocked). A worker
// prepares the certificate: see prepare.go. The schedule then names a responder (ask):
// the exchange is made without the lock, its answer verified and installed, and its
// outcome reported to the schedule, which returns the next action, such as a failed
// attempt (failedLocked). endLocked releases those that wait.
//
// A function that ends in Locked runs with Stapler.mu held and does no I/O. Others take
// it for moments; none holds it during an exchange, a download or a call of the store.

type (
	action    = schedule.Action[*entry]
	responder = schedule.Responder[*entry]
)

const (
	// maxWorkers is how many certificates are prepared at once: that waits for
	// a store at most, so it may be more than there are processors.
	maxWorkers = 32
	// lostKeeps is how long a call that outlives its context keeps its place at a
	// responder.
	lostKeeps = 10 * time.Second
	// clientCode names calls of the RoundTripper, for people.
	clientCode = "HTTP client"
)

// doLocked does what the schedule says, and sets the timer for the next action. It does
// not block: what may take time is queued or gets a goroutine. What it calls may have
// further actions, and then calls it again.
func (s *Stapler) doLocked(actions []action) {
	for _, a := range actions {
		switch a.Kind {
		case schedule.Prepare:
			s.prepareLocked(a)
		case schedule.Ask:
			s.calls.Go(func() { s.ask(a) })
		case schedule.Failed:
			s.failedLocked(a)
		case schedule.Expiring:
			s.notifyLocked(&notice{kind: EventExpiring, e: a.Item, err: a.Item.details().err})
		case schedule.Expired:
			s.expiredLocked(a.Item)
		case schedule.Review:
			s.reviewLocked(a.Item, a.Overslept)
		case schedule.Fails:
			s.failsLocked(a.Responder)
		case schedule.Recovers:
			s.recoversLocked(a.Responder)
		case schedule.Misuse:
			s.log(slog.LevelError, "this is a defect of the library: a change of phase that is not allowed was planned for a certificate; it is retried in a minute; please report it",
				"certificate", a.Item, "from", a.From, "to", a.To)
		}
	}
	s.armLocked()
}

// prepareLocked queues a for a worker.
func (s *Stapler) prepareLocked(a action) {
	m, begun := a.Item.edit(), new(atomic.Bool)
	prepare := func() {
		if !begun.Swap(true) {
			s.prepare(a)
		}
	}
	m.begun, m.errs, m.prepare = s.nanos(), nil, prepare
	switch {
	case a.Urgency > schedule.Routine:
		s.work.AddUrgent(prepare)
	case a.Item.held.Load().Raw != nil: // new certificates, however many, must not let it expire
		s.work.AddRefresh(prepare)
	default:
		s.work.Add(prepare)
	}
}

// hastenLocked has an attempt made for e now. One that waits for a worker goes to the urgent
// ones: thousands may be before it, and somebody waits.
func (s *Stapler) hastenLocked(e *entry, u schedule.Urgency) {
	if e.Phase() == schedule.Preparing && e.more.prepare != nil {
		s.work.AddUrgent(e.more.prepare)
		e.more.prepare = nil
	}
	s.doLocked(s.sched.Start(e, u, s.nanos()))
}

// armLocked sets the timer for what is due next, a minute ahead at most. An earlier time
// that is set stays: tick then finds nothing due and sets the next.
func (s *Stapler) armLocked() {
	now := s.nanos()
	next := s.sched.Next(now)
	if s.closed || next == schedule.Never || s.armed <= next && s.armed > now {
		return
	}
	s.armed = next
	s.timer.Reset(time.Duration(max(next-now, 0)))
}

// tick is called by the timer. It handles the signals that handshakes left, and starts
// what is due by the clock as it is now.
func (s *Stapler) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = 0
	if s.closed {
		return
	}
	for w := s.signals.Swap(nil); w != nil; w = w.next {
		w.e.signalled.Store(false)
		if !w.e.gone() {
			s.handleSignalLocked(w.e, w.cert)
		}
	}
	s.doLocked(s.sched.Run(s.nanos()))
}

// ask makes one exchange and reports what came of it, in a goroutine of its own. The
// schedule bounds how many are in flight. A response is installed before it is
// reported, as the refresh is planned by what e then holds.
func (s *Stapler) ask(a action) {
	e, r := a.Item, a.Responder
	got, left, err := s.exchange(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now, late := s.nanos(), s.sched.Late(a)
	if err == nil && !e.gone() && e.Need() != schedule.Off { // it may have been switched off meanwhile
		err = s.installLocked(e, got, now)
	}
	outcome := schedule.Outcome{Verdict: verdict(err), RetryAfter: int64(retryHint(err)), Hangs: left != nil}
	switch {
	case reasonOf(err) == ReasonReplay && e.held.Load().Current(now):
		// The response held is the newest, and nothing is urgent: nodes of a cache differ in age.
		outcome.RetryAfter = int64(s.opts.ttl)
	case err == nil:
		outcome.Held = e.held.Load().Scheduled()
		if got.Proof != nil {
			e.flags.spared = 0
		} else if e.flags.spared < held.MaxUnsigned { // a 304 brought nothing signed either
			e.flags.spared++
		}
	case now < held.Nanos(e.notBefore): // what is said of it now says nothing
		outcome.Verdict = schedule.Nothing
	}
	if outcome.Verdict != schedule.Nothing {
		dataOf(r).err = err // it is why others are not asked about
	}
	if err != nil && !late {
		m := e.edit()
		m.errs = append(m.errs, err)
	}
	actions := s.sched.Answered(a, outcome, now)
	if err == nil && r != e.Best() { // its validator is of no use with another
		e.held.Store(e.held.Load().WithoutValidator())
	}
	switch {
	case e.gone():
	case err == nil && late: // the attempt that is under way may end with it
		if e.more != nil {
			e.more.err = nil
		}
		s.settleLocked(e)
	case err == nil:
		s.endLocked(e, nil)
	}
	s.doLocked(actions)
	if left != nil {
		s.calls.Go(func() { s.outlive(a, left) })
	}
}

// outlive releases the place of a call that outlives its context after lostKeeps: a
// RoundTripper that ignores contexts must not take all places of a responder for good.
// The call counts as lost until it returns, and too many of these end all requests.
func (s *Stapler) outlive(a action, left <-chan struct{}) {
	timer := time.NewTimer(lostKeeps)
	defer timer.Stop()
	select {
	case <-left:
	case <-timer.C:
	}
	s.mu.Lock()
	if !s.closed {
		s.doLocked(s.sched.Returned(a, s.nanos()))
	}
	s.mu.Unlock()
}

// failedLocked ends an attempt that failed. The response that e holds stays. Where that
// has expired, or there is none, the state becomes what the responder last said.
func (s *Stapler) failedLocked(a action) {
	e, now := a.Item, s.nanos()
	m := e.edit()
	m.learned = min(m.learned, now) // the clock may have been set back
	// A record that was read meanwhile, and needs no refresh, makes the attempt a success.
	if m.restored && a.Urgency < schedule.Unconditional && !e.Phase().UnderWay() && s.fresh(e.held.Load(), now) {
		s.doLocked(s.sched.Start(e, schedule.Routine, now))
		return
	}
	e.doubtLocked(m.errs)
	err := errors.Join(m.errs...)
	switch {
	case err != nil:
	case a.Responder != nil:
		err = &ResponseError{Responder: a.Responder.URL, Reason: ReasonUnavailable, Err: dataOf(a.Responder).err}
	default:
		err = &ResponseError{Responder: e.url(), Reason: ReasonTimeout}
	}
	s.failures.Add(1)
	if r := e.Best(); r != nil && r.Failing() {
		s.warnLocked(r)
	}
	if h := e.held.Load(); !h.Current(now) && h.State != held.Revoked && !h.Unneeded {
		state := held.Pending
		if ocsphttp.Ours(err, func(e error) bool { return e == ErrUnknown }) {
			state = held.Unknown
		} else if h.Raw != nil {
			state = held.Good // that is to say expired
		}
		if state != h.State {
			e.held.Store(h.With(state))
		}
	}
	s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
	s.endLocked(e, err)
}

// endLocked ends an attempt and releases all that wait for it. err is why it failed;
// nil if it did not, or if no response is needed.
func (s *Stapler) endLocked(e *entry, err error) {
	now := s.nanos()
	if !e.held.Load().Current(now) {
		e.flags.tried = true
	}
	e.cold.Store(false)
	if m := e.more; m != nil { // it is there while an attempt is under way
		m.err, m.errs, m.prepare, m.restored, m.patience = err, nil, nil, false, 0
		m.waiters.Ended(err)
	}
	s.cache.sortLocked(e)
	s.settleLocked(e)
	e.trimLocked(now)
}

// expiredLocked follows a response that is not served any more. Handshakes may wait
// again, as for a new certificate.
func (s *Stapler) expiredLocked(e *entry) {
	if e.gone() { // since the schedule said so
		return
	}
	if e.Need() == schedule.None { // it was the source's own staple
		s.neededLocked(e, false)
		return
	}
	if e.Need() != schedule.Hopeless { // else no attempt follows
		s.startOverLocked(e)
	}
	s.notifyLocked(&notice{kind: EventExpired, e: e, err: e.details().err})
}

// responderData is what the driver keeps of a responder, guarded by Stapler.mu.
type responderData struct {
	memory ocsphttp.Memory // of how to ask it
	tries  ocsphttp.Tries  // for the sake of its probes
	err    error           // what came of the last request
	failed int64           // Unix ns: when it began to fail
	warned int64           // Unix ns
}

// dataOf returns the data of r, allocating it if needed. The lock is held.
func dataOf(r *responder) *responderData {
	d, ok := r.Data.(*responderData)
	if !ok {
		d = new(responderData)
		r.Data = d
	}
	return d
}

// failsLocked follows a responder that began to fail.
func (s *Stapler) failsLocked(r *responder) {
	dataOf(r).failed = s.nanos()
	s.warnLocked(r)
}

// warnLocked logs that r fails: above debug level once a day, for all its certificates.
func (s *Stapler) warnLocked(r *responder) {
	now, d, warning := s.nanos(), dataOf(r), slog.LevelDebug
	d.failed = min(d.failed, now)                               // the clock may have been set back
	if r.Certificates() > 1 && !notices.Lately(d.warned, now) { // with one certificate its own events suffice
		warning, d.warned = slog.LevelWarn, now
	}
	s.log(warning, "OCSP responder fails and is asked rarely until it recovers; responses in memory are served until they expire; check the responder and the way to it",
		"responder", certinfo.Clip(r.URL), "certificates", r.Certificates(), "error", d.err)
}

// recoversLocked logs that a responder works again.
func (s *Stapler) recoversLocked(r *responder) {
	now, d, level := s.nanos(), dataOf(r), slog.LevelDebug
	if d.warned >= d.failed {
		level, d.warned = slog.LevelInfo, 0 // the next outage is logged again
	}
	s.log(level, "OCSP responder works again", "responder", certinfo.Clip(r.URL), "certificates", r.Certificates(), "failed_for", time.Duration(now-d.failed).Round(time.Second))
}

// exchange makes the request of a. A request for the same certificate that is in flight
// is shared: it may be of an entry that was dropped and learned again meanwhile. If the
// budget ends first, left is closed when the exchange returns; otherwise it is nil.
func (s *Stapler) exchange(a action) (got *held.Answer, left <-chan struct{}, err error) {
	e, u := a.Item, a.Responder.URL
	key := string(e.DER) + u
	if a.Urgency == schedule.Unconditional {
		key += fmt.Sprint(" past caches ", s.unshared.Add(1)) // an earlier one may be out, and answered before the call
	}
	h := e.held.Load() // a 304 confirms it, and another entry may hold another
	key += fmt.Sprint(" ", h.Raw != nil, h.ThisUpdate, h.Produced)
	got, left, err = s.exchanges.AttemptFor(s.ctx, time.Duration(a.Budget), clientCode, key, func(ctx context.Context, judging *atomic.Bool) (*held.Answer, error) {
		return s.request(ctx, a, judging)
	})
	if left != nil {
		return nil, left, &ResponseError{Responder: u, Reason: ReasonTimeout, Err: context.DeadlineExceeded}
	}
	return got, nil, fault(err)
}

// request makes the exchange of a, and notes what was learned of how to ask. It runs
// without the lock, on what was copied under it.
func (s *Stapler) request(ctx context.Context, a action, judging *atomic.Bool) (*held.Answer, error) {
	e, r := a.Item, a.Responder
	x := exchange.Exchange{URL: r.URL, Hash: s.opts.hash, Now: s.now, Judging: judging}
	if s.opts.fixedTTL {
		x.MaxAge = s.opts.ttl
	}
	s.mu.Lock()
	d, now, tries := dataOf(r), s.nanos(), e.details().tries
	x.Subject, x.Held = e.subject(), e.held.Load()
	if x.Subject.Issuer == nil { // the clock was set back while it was prepared
		s.mu.Unlock()
		return nil, ErrNoIssuer
	}
	probe, valid := r.Failing(), x.Held.Current(now)
	if probe { // it stands for all certificates of r
		tries = d.tries
	}
	x.First, x.May = d.memory.Plan(&tries, valid, now)
	if x.Held.Ending(now) {
		x.Refused = ocspresp.Reason(reasonOf(e.details().err))
	}
	if a.Urgency == schedule.Unconditional {
		x.First |= ocsphttp.PastCaches
	} else if r == e.Best() && e.flags.spared < held.MaxUnsigned { // whoever forged the validator hides what is newer
		x.Condition = x.Held.Condition(now)
	}
	s.mu.Unlock()
	got, learned, err := x.Ask(ctx, s.web)
	s.mu.Lock()
	d.memory.Learn(&tries, x.First, learned, s.nanos())
	if probe {
		d.tries = tries
	} else if tries != e.details().tries {
		e.edit().tries = tries
	}
	s.mu.Unlock()
	return got, refused(r.URL, err)
}

// handleSignalLocked handles the signal of a handshake that served e with cert: the source may
// have set a staple, mended the chain, or brought the certificate into use again.
func (s *Stapler) handleSignalLocked(e *entry, cert *tls.Certificate) {
	s.nominateLocked(e, cert)
	s.rechainLocked(e, cert.Certificate[1:], schedule.Urgent)
	s.reviewLocked(e, false)
}

// nominateLocked has a worker judge the staple that the source set, once for its bytes.
func (s *Stapler) nominateLocked(e *entry, cert *tls.Certificate) {
	if s.cache.nominateLocked(e, cert.OCSPStaple) {
		s.rechainLocked(e, cert.Certificate[1:], schedule.Urgent) // without a staple the chain was of no use
		s.judgeLocked(e)
	}
}

// judgeLocked has a worker do what prepare does for a staple that the source set.
func (s *Stapler) judgeLocked(e *entry) {
	s.work.AddUrgent(func() { s.readLeaf(e); s.judge(e, schedule.Unread) })
}
