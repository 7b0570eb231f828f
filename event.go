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
)

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
