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
	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/internal/schedule"
	"golang.org/x/crypto/ocsp"
)

// An EventKind says what happened.
type EventKind uint8

const (
	// EventFetched: a new response, with status good, came: from a responder, the
	// store, or the source of the certificate.
	EventFetched EventKind = EventKind(notices.Fetched)
	// EventUnchanged: the responder was asked and had nothing new: a 304, the same
	// bytes, or once more that the certificate is revoked.
	EventUnchanged EventKind = EventKind(notices.Unchanged)
	// EventFailed: an attempt failed at all responders, or none could be made; Err
	// says why. The response in memory stays, and retries go on unless the
	// certificate has no issuer and names no URL for it, or has Must-Staple and
	// names no responder.
	EventFailed EventKind = EventKind(notices.Failed)
	// EventRevoked: a valid response says for the first time that the certificate is
	// revoked: once per revocation, not per refresh. Nothing is
	// stapled from now on, but see WithStapleRevoked. A revocation with reason
	// certificateHold at 1970-01-01 means that the certificate was never issued
	// (RFC 6960 §2.2).
	EventRevoked EventKind = EventKind(notices.Revoked)
	// EventExpiring: refreshes have failed for half of the time that the response
	// had left.
	EventExpiring EventKind = EventKind(notices.Expiring)
	// EventExpired: the response expired and nothing is stapled until an
	// attempt succeeds.
	EventExpired EventKind = EventKind(notices.Expired)
	// EventStored: the response in memory was written to the store.
	EventStored EventKind = EventKind(notices.Stored)
	// EventStoreFailed: it could not be written to the store; Err says why.
	EventStoreFailed EventKind = EventKind(notices.StoreFailed)
)

// String returns the name of the kind, in lower case.
func (k EventKind) String() string { return notices.Kind(k).String() }

// An Event is something that happened to one certificate. What it points to is
// shared and read-only.
type Event struct {
	Kind EventKind
	// Leaf is the certificate; nil if it does not parse.
	Leaf *x509.Certificate
	// Responder is the URL that answered, or that failed, the first if several did.
	// If no request was made it is the URL of the next request, or empty.
	Responder string
	// Duration is how long the exchange took that returned the response; 0 if it came from
	// the store or from the source of the certificate.
	Duration time.Duration
	// Response is the response that came, for EventFetched and EventRevoked; for
	// EventUnchanged it and Duration are what came, unless that was a 304.
	// Its fields are what this package verified: ocsp.ParseResponse was not called.
	Response *ocsp.Response
	// Err is the cause of a failure, or an [ErrRevoked] with time and reason;
	// errors.As finds a [*ResponseError] in it. For EventFetched and EventUnchanged
	// it has the errors of responders that failed before another one answered; nil
	// if none did. EventRevoked leaves those out.
	Err error
}

// notice is an event, a log record, or both, on its way to code that is not
// ours. The certificate that it is about is parsed on delivery.
//
// notifyLocked and log make one and post queues it. deliver calls the user's code, in
// the one goroutine of Stapler.outbox, in order and without a lock. A slow receiver
// delays other notices only; beyond maxNotices they are dropped and counted.
type notice struct {
	kind   EventKind // 0: a log record alone
	e      *entry
	held   *held.Response // at the time
	answer *held.Answer   // that came; empty: none
	err    error
	asked  string       // responder
	line   notices.Line // no Text: an event alone
}

// log queues a log record. A *entry among args stands for its certificate.
func (s *Stapler) log(level slog.Level, msg string, args ...any) {
	if s.opts.logger != nil {
		s.post(&notice{line: notices.Line{Level: level, Text: msg, Args: args}})
	}
}

// notifyLocked queues an event and its log record.
func (s *Stapler) notifyLocked(n *notice) {
	if s.opts.logger == nil && len(s.opts.events) == 0 {
		return
	}
	n.held, n.asked = n.e.held.Load(), n.e.url()
	if n.answer == nil {
		n.answer = new(held.Answer)
		if n.kind != EventStoreFailed { // its error is the store's: it names no responder, and may have methods
			if re, ok := errors.AsType[*ResponseError](n.err); ok && re.Responder != "" && re.Reason != ReasonIssuer {
				n.asked = re.Responder
			}
		}
	} else if n.answer.Responder != "" {
		n.asked = n.answer.Responder
	}
	if s.opts.logger != nil {
		s.writeLineLocked(n)
	}
	s.post(n)
}

// writeLineLocked sets the log record of an event, and notes when it is a warning.
func (s *Stapler) writeLineLocked(n *notice) {
	e, now, d, r := n.e, s.nanos(), n.e.details(), n.e.Best()
	facts := notices.Facts{Kind: notices.Kind(n.kind), MustStaple: e.must, Now: now, Learned: d.learned, Failing: e.FailingSince(), Warned: d.warned}
	facts.Good, facts.Revoked, facts.Stapled = n.held.State == held.Good, n.held.State == held.Revoked, n.held.StapleAt(now) != nil
	facts.Outage = r != nil && r.Failing() && r.Certificates() > 1 // failsLocked logs that for all of them

	if n.kind == EventFailed { // the error of a store is not looked into with the lock held
		facts.Cause = causeOf(n.err)
	}
	facts.StoreNews = n.kind == EventStoreFailed && s.records.News(records.Put)
	line, warned := facts.Line()
	if n.line = line; warned != d.warned {
		e.edit().warned = warned
	}
}

// causeOf returns what err, which ended an attempt, is to an operator.
func causeOf(err error) notices.Cause {
	is := func(target error) bool { return ocsphttp.Ours(err, func(e error) bool { return e == target }) }
	switch {
	case is(ErrNoResponder):
		return notices.NoResponder
	case ocsphttp.Ours(err, func(e error) bool { _, unusable := e.(*certinfo.UnsupportedError); return unusable }):
		return notices.UnusableIssuer
	case is(ErrNoIssuer):
		return notices.NoIssuer
	case verdict(err) == schedule.Certificate:
		return notices.NotKnown
	}
	return notices.Other
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
		ev := Event{Kind: n.kind, Leaf: leaf, Responder: n.asked, Duration: n.answer.Took, Err: n.err}
		if n.answer.Proof != nil {
			ev.Response = n.answer.Response()
		}
		for _, f := range s.opts.events {
			if err := s.guard("event function", func() { f(ev) }); err != nil {
				s.complain("event function", "event function panicked; the next event is delivered", err)
			}
		}
	}
	if n.line.Text != "" {
		_ = s.guard("logger", func() { s.record(n, leaf) }) // the logger's own panic can't be logged
	}
}

// record writes one log record.
func (s *Stapler) record(n *notice, leaf *x509.Certificate) {
	ctx := context.Background()
	if !s.opts.logger.Enabled(ctx, n.line.Level) {
		return
	}
	var attrs []slog.Attr
	if n.kind != 0 {
		r := notices.Record{Kind: notices.Kind(n.kind), Raw: n.e.DER, Leaf: leaf, Responder: n.asked, ThisUpdate: unix(n.held.ThisUpdate), Proof: n.answer.Proof, Err: n.err}
		if n.held.StapleAt(s.nanos()) != nil {
			r.ServedUntil = time.Unix(0, n.held.Until)
		}
		attrs = r.Attrs()
	}
	for i := 0; i+1 < len(n.line.Args); i += 2 {
		if e, ok := n.line.Args[i+1].(*entry); ok {
			attrs = append(attrs, notices.Certificate(e.DER, e.leafOf())...)
		} else if key, ok := n.line.Args[i].(string); ok {
			attrs = append(attrs, slog.Any(key, n.line.Args[i+1]))
		}
	}
	s.opts.logger.LogAttrs(ctx, n.line.Level, n.line.Text, attrs...)
}

// guard calls the user's code. If it hangs Close can name it; a panic is returned as
// an error.
func (s *Stapler) guard(what string, f func()) error {
	_, err := foreign.Call(&s.calls, what, func() (_ struct{}, err error) { f(); return })
	return fault(err)
}

// complain logs that the user's code failed: once a day for each kind, so that code
// which always fails does not fill the log.
func (s *Stapler) complain(what, msg string, err error, args ...any) {
	s.log(notices.Once(slog.LevelError, s.reported.First(what, s.nanos())), msg, append(args, "error", err)...)
}
