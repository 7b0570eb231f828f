package staple

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
)

const (
	slogDebug = slog.LevelDebug
	slogInfo  = slog.LevelInfo
	slogWarn  = slog.LevelWarn
	slogError = slog.LevelError

	// grace is how long after it was first seen a certificate may be unknown to its
	// responder without a warning: CAs publish with a delay.
	grace = 15 * time.Minute
	// warnEach is how often a failure that lasts is logged above debug level.
	warnEach = 24 * time.Hour

	clientCode = "HTTP client" // calls of the RoundTripper
)

// notice is an event, a log record, or both, on its way to code that is not
// ours. What has to be parsed for it is parsed on delivery.
//
// notifyLocked and log make one and post queues it. deliver calls the user's code, in
// the one goroutine of Stapler.outbox, in order and without a lock. A slow receiver
// delays other notices only; beyond maxNotices they are dropped and counted.
type notice struct {
	kind   EventKind // 0: a log record alone
	e      *entry
	held   *held.Response // at the time
	answer *held.Answer
	err    error
	asked  string // responder
	level  slog.Level
	msg    string // "": an event alone
	args   []any
}

// log queues a log record. A *entry among args stands for its certificate.
func (s *Stapler) log(level slog.Level, msg string, args ...any) {
	if s.opts.logger != nil {
		s.post(&notice{level: level, msg: msg, args: args})
	}
}

// notifyLocked queues an event and its log record.
func (s *Stapler) notifyLocked(n *notice) {
	if s.opts.logger == nil && len(s.opts.events) == 0 {
		return
	}
	n.held = n.e.held.Load()
	n.asked = n.e.url()
	if n.answer != nil && n.answer.Responder != "" {
		n.asked = n.answer.Responder
	}
	var re *ResponseError
	if n.answer == nil && errors.As(n.err, &re) && re.Responder != "" && re.Reason != ReasonIssuer {
		n.asked = re.Responder
	}
	if s.opts.logger != nil {
		s.messageLocked(n)
	}
	s.post(n)
}

// messageLocked sets the message and level of an event's log record. Failures that an
// operator must act on are above debug level once per certificate and day.
func (s *Stapler) messageLocked(n *notice) {
	now := s.nanos()
	e := n.e
	valid := n.held.StapleAt(now) != nil
	n.level, n.msg = slogDebug, "OCSP event"
	loud := func(level slog.Level, msg string) {
		n.msg = msg
		if !recent(e.details().warned, now, warnEach) || n.kind == EventExpired {
			n.level, e.edit().warned = level, now
		}
	}
	switch n.kind {
	case EventFetched:
		n.msg = "OCSP response fetched"
		n.recoveredLocked(now)
	case EventUnchanged:
		n.msg = "OCSP response confirmed, nothing new"
		if n.held.State == held.Good {
			n.recoveredLocked(now)
		}
	case EventStored:
		n.msg = "OCSP response stored"
	case EventStoreFailed:
		n.msg = "OCSP response could not be stored, it is served from memory; check the store"
		n.level = s.storeLevel(records.Put)
	case EventRevoked:
		loud(slogError, "certificate is revoked; replace it")
	case EventExpiring, EventExpired:
		expiryMessage(n, loud)
	case EventFailed:
		s.failureMessage(n, valid, now, loud)
	}
}

// recoveredLocked puts an event at info if a failure was logged before it. A response
// that expired in a suspend was no outage, which would have begun with a failure.
func (n *notice) recoveredLocked(now int64) {
	if n.e.details().warned == 0 {
		return
	}
	n.level, n.e.more.warned = slogInfo, 0
	if from := n.e.more.failing; from != 0 {
		n.args = []any{"failed_for", time.Duration(now - from).Round(time.Second)}
	}
}

// expiryMessage sets the message of a response that expires. Messages are constant;
// docs/operations.md explains each, and a test compares the two.
func expiryMessage(n *notice, loud func(slog.Level, string)) {
	switch {
	case n.kind == EventExpiring && n.e.must:
		loud(slogWarn, "OCSP response of a Must-Staple certificate expires soon and refreshes fail, after that clients will refuse it; check the responder and the way to it")
	case n.kind == EventExpiring && n.e.outage():
		n.msg = "OCSP response expires soon and refreshes fail"
	case n.kind == EventExpiring:
		loud(slogWarn, "OCSP response expires soon and refreshes fail; check the responder and the way to it")
	case n.e.must:
		loud(slogError, "OCSP response of a Must-Staple certificate has expired, clients will refuse it; check the responder and the way to it")
	default:
		loud(slogError, "OCSP response has expired, nothing is stapled; check the responder and the way to it")
	}
}

// failureMessage sets the message of a failed attempt: what clients see, and what the
// operator can do. In an outage of several certificates warnLocked speaks for all.
func (s *Stapler) failureMessage(n *notice, valid bool, now int64, loud func(slog.Level, string)) {
	switch {
	case errors.Is(n.err, ErrNoResponder) && (valid || !n.e.must):
		loud(slogWarn, "WithResponders function named no URL that can be asked; have it return http or https URLs")
	case errors.Is(n.err, ErrNoResponder):
		loud(slogError, "Must-Staple certificate has no OCSP responder, clients will refuse it; replace it, or name one with WithResponders")
	case unsupported(n.err) && n.e.must:
		loud(slogError, "issuer of the Must-Staple certificate can't be used, as crypto/x509 does not support its algorithm; clients will refuse the certificate; replace it")
	case unsupported(n.err):
		loud(slogWarn, "issuer of the certificate can't be used, as crypto/x509 does not support its algorithm; nothing is stapled; have the CA use RSA, ECDSA over P-256 to P-521 or Ed25519")
	case errors.Is(n.err, ErrNoIssuer) && n.e.must:
		loud(slogError, "issuer of the Must-Staple certificate not found, clients will refuse it; add it to the chain or use WithIssuers")
	case errors.Is(n.err, ErrNoIssuer):
		loud(slogWarn, "issuer of the certificate not found, nothing is stapled; add it to the chain or use WithIssuers")
	case valid:
		n.msg = "OCSP refresh failed; the response in memory is served until it expires"
	case n.held.State == held.Revoked:
		n.msg = "OCSP refresh failed; the certificate stays revoked"
	case n.e.must:
		loud(slogError, "Must-Staple certificate has no valid OCSP response, clients will refuse it; retries go on, check the responder and the way to it")
	case n.e.outage():
		n.msg = "no OCSP response for the certificate, its responder fails"
	case verdict(n.err) == schedule.Certificate && now-n.e.details().learned < int64(grace):
		n.msg = "OCSP responder does not know the certificate yet"
	default:
		loud(slogWarn, "no OCSP response for the certificate, nothing is stapled; retries go on, check the responder and the way to it")
	}
}

// outage reports whether the responder of e fails for others, too: failsLocked logs
// that once for all of them.
func (e *entry) outage() bool {
	r := e.Best()
	return r != nil && r.Failing() && r.Certificates() > 1
}

// unsupported reports whether an algorithm is why there is no issuer.
func unsupported(err error) bool {
	_, is := errors.AsType[*certinfo.UnsupportedError](err)
	return is
}

// post queues n. It never blocks.
func (s *Stapler) post(n *notice) {
	if !s.outbox.Add(func() { s.deliver(n) }) {
		s.dropped.Add(1)
	}
}

// deliver calls the event functions and the logger with n. One that panics is logged,
// and one that hangs stops delivery and nothing else; Close names it.
func (s *Stapler) deliver(n *notice) {
	var leaf *x509.Certificate
	if n.e != nil {
		leaf = n.e.leafOf()
	}
	if n.kind != 0 && len(s.opts.events) > 0 {
		ev := Event{Kind: n.kind, Leaf: leaf, Responder: n.asked, Err: n.err}
		if n.answer != nil {
			ev.Duration = n.answer.Took
			if n.answer.Proof != nil {
				ev.Response = n.answer.Response()
			}
		}
		for _, f := range s.opts.events {
			_, err := guard(s, "event function", func() (any, error) { f(ev); return nil, nil })
			if err != nil {
				s.complain("event function", "event function panicked; the next event is delivered", err)
			}
		}
	}
	if n.msg != "" && s.opts.logger != nil {
		_, _ = guard(s, "logger", func() (any, error) { s.record(n, leaf); return nil, nil }) // the logger's own panic can't be logged
	}
}

// record writes one log record.
func (s *Stapler) record(n *notice, leaf *x509.Certificate) {
	ctx := context.Background()
	if !s.opts.logger.Enabled(ctx, n.level) {
		return
	}
	var attrs []slog.Attr
	if n.kind != 0 {
		attrs = s.eventAttrs(n, leaf)
	}
	for i := 0; i+1 < len(n.args); i += 2 {
		key, _ := n.args[i].(string)
		if e, ok := n.args[i+1].(*entry); ok {
			attrs = append(attrs, certAttrs(e, e.leafOf())...)
			continue
		}
		attrs = append(attrs, slog.Any(key, n.args[i+1]))
	}
	s.opts.logger.LogAttrs(ctx, n.level, n.msg, attrs...)
}

// eventAttrs returns the attributes that apply to an event. docs/operations.md
// explains them, and a test compares the two.
func (s *Stapler) eventAttrs(n *notice, leaf *x509.Certificate) []slog.Attr {
	attrs := append([]slog.Attr{slog.String("event", n.kind.String())}, certAttrs(n.e, leaf)...)
	attrs = append(attrs, slog.String("responder", n.asked))
	if n.held.Raw != nil {
		attrs = append(attrs, slog.Time("this_update", unix(n.held.ThisUpdate)))
	}
	stapled := n.held.StapleAt(s.nanos()) != nil
	attrs = append(attrs, slog.Bool("stapled", stapled))
	if stapled {
		attrs = append(attrs, slog.Time("served_until", time.Unix(0, n.held.Until)))
	}
	if a := n.answer; a != nil && a.Proof != nil && n.kind == EventRevoked {
		attrs = append(attrs, slog.Time("revoked_at", a.RevokedAt), slog.String("revocation_reason", ocspresp.ReasonCode(a.Reason)),
			slog.Bool("never_issued", a.NotIssued()))
	}
	if n.err != nil {
		attrs = append(attrs, slog.Any("error", n.err))
	}
	return attrs
}

// certAttrs name a certificate, as nameOf does.
func certAttrs(e *entry, leaf *x509.Certificate) []slog.Attr {
	if leaf == nil {
		return []slog.Attr{slog.String("certificate", certinfo.Name(e.DER, nil))}
	}
	return []slog.Attr{slog.String("certificate", certinfo.Legible(certinfo.Names(leaf))), slog.String("serial", leaf.SerialNumber.Text(16))}
}

// guard calls the user's code. If it hangs Close can name it; a panic is returned as
// an error.
func guard[T any](s *Stapler, what string, f func() (T, error)) (T, error) {
	v, err := foreign.Call(&s.calls, what, f)
	return v, fault(err)
}

// complain logs that the user's code failed: once a day for each kind, so that code
// which always fails does not fill the log.
func (s *Stapler) complain(what, msg string, err error, args ...any) {
	now, level := s.nanos(), slogError
	s.complainMu.Lock()
	if recent(s.complained[what], now, warnEach) {
		level = slogDebug
	} else {
		s.complained[what] = now
	}
	s.complainMu.Unlock()
	s.log(level, msg, append(args, "error", err)...)
}

// storeLevel returns the level at which a failed operation of the store is logged.
func (s *Stapler) storeLevel(op records.Op) slog.Level {
	if s.records.News(op) {
		return slogWarn
	}
	return slogDebug
}

// recent reports whether at, in Unix ns, is less than span before now: what is
// ahead was noted by a clock that was set back since.
func recent(at, now int64, span time.Duration) bool { return at <= now && now-at < int64(span) }
