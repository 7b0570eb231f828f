package staple

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/schedule"
)

// A Status is what is known of one certificate at one moment.
type Status struct {
	// Leaf is the certificate, shared and read-only; nil if it does not parse.
	Leaf *x509.Certificate
	// Responder is the URL that answered last or, if none did, the first one that
	// [WithResponders] or the certificate names, even if no request is made, because
	// of noRevAvail or a missing issuer. It is empty if none is named, or the
	// certificate was not read yet.
	Responder string
	State     State
	// MustStaple: the certificate has the TLS feature status_request (RFC 7633).
	MustStaple bool
	// ThisUpdate and NextUpdate are those of the response in memory, zero if there
	// is none. A response without nextUpdate has the time until which it is
	// served.
	ThisUpdate, NextUpdate time.Time
	// NextRefresh is when the next attempt is due, zero while one is under way and when
	// none will be made. It may be past: others of the responder's host are asked first.
	NextRefresh time.Time
	// LastSuccess is when a responder last gave, or confirmed, a response.
	LastSuccess time.Time
	// LastHandshake is when the certificate was last served by a hook or
	// [Stapler.Staple], to the minute, rounded down; zero: not yet.
	LastHandshake time.Time
	// Failures counts the attempts that failed since LastSuccess; Err is the error of
	// the last attempt, nil if it succeeded. For a revoked certificate Err is an
	// [ErrRevoked] with time and reason, joined with the error of a failed attempt.
	Failures int
	Err      error
}

// Stats counts since New.
type Stats struct {
	// Handshakes counts calls of hooks and of Staple by the State of what was served. A
	// handshake counts twice if GetConfigForClient of a wrapped config returns a wrapped
	// config.
	Handshakes [StateNone + 1]uint64
	// Requests counts HTTP requests sent, redirects and issuers included.
	Requests uint64
	// Failures counts attempts that failed at all responders.
	Failures uint64
	// EventsDropped counts events and log records that found the queue full.
	EventsDropped uint64
}

// Stats returns the counters. It does not block.
func (s *Stapler) Stats() Stats {
	st := Stats{Requests: s.requests.Load(), Failures: s.failures.Load(), EventsDropped: s.dropped.Load()}
	for state := range st.Handshakes {
		st.Handshakes[state] = s.served.Sum(uint8(state))
	}
	return st
}

// Status returns what is known of every certificate in use, sorted by name, from
// memory: it waits for nothing. In use is what a live config lists, and what had a
// handshake, was learned or was named to [Stapler.Prefetch] or [Stapler.Refresh]
// within the last 24 hours: what was replaced goes after a day, or by
// [Stapler.Forget]. Certificates of a GetCertificate source are unknown until
// their first handshake or Prefetch.
func (s *Stapler) Status() []Status {
	type row struct {
		name string
		Status
	}
	now := s.nanos()
	var rows []row
	var entries []*entry
	s.each(now, func(e *entry) {
		rows = append(rows, row{Status: e.statusLocked(now)})
		entries = append(entries, e)
	})
	for i, e := range entries { // parsing takes no lock
		rows[i].Leaf = e.leafOf()
		rows[i].name = certinfo.Name(e.DER, rows[i].Leaf)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.name, b.name) })
	out := make([]Status, len(rows))
	for i, r := range rows {
		out[i] = r.Status
	}
	return out
}

// each calls f with the entry of every certificate in use at now, under the lock.
func (s *Stapler) each(now int64, f func(*entry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range s.cache.leaves.AllLocked {
		if e.inUseLocked(now) {
			f(e)
		}
	}
}

func (e *entry) statusLocked(now int64) Status {
	h := e.held.Load()
	more := e.details()
	st := Status{State: State(h.At(now)), MustStaple: e.must, Failures: e.Failures(), Err: more.err}
	if h.Raw != nil && !h.Unneeded {
		st.ThisUpdate, st.NextUpdate = unix(h.ThisUpdate), unix(h.End())
		if h.Checked != 0 { // else a record does not say
			st.LastSuccess = time.Unix(0, h.Checked)
		}
		if h.Open {
			st.NextUpdate = time.Unix(0, h.Until)
		}
	}
	if due := e.NextAttempt(); due != schedule.Never {
		st.NextRefresh = time.Unix(0, due)
	}
	st.Responder = e.url()
	st.LastHandshake = unix(int64(e.seen.Load()) * 60)
	if st.State == StateRevoked {
		st.Err = e.revokedLocked(h)
		if more.err != nil {
			st.Err = errors.Join(st.Err, more.err)
		}
	}
	return st
}

// maxReasons is how many certificates an error of Ready names.
const maxReasons = 10

// Ready returns nil when every certificate in use that needs a staple has a valid
// one, and also when no certificate is known. Otherwise it joins one error for each
// certificate without a valid staple, which names it and says why: ten at most,
// Must-Staple first, then revoked ones, then expired ones. A revoked certificate is
// not ready, stapled or not. [Stapler.Status] says which certificates are in use: a
// replaced one is until a day after its last handshake, or until [Stapler.Forget].
// Ready reads memory only and does not block.
//
// Use it before a process takes its first traffic, and for alerts. Don't use it to
// remove running servers from service: when a responder fails, Ready fails on all of
// them at once, although they serve as before.
func (s *Stapler) Ready() error {
	now := s.nanos()
	var failed [severities][]error // the first of each, to be cut when all are known
	total := 0
	s.each(now, func(e *entry) {
		if err := e.problemLocked(now); err != nil {
			total++
			if f := &failed[e.severityLocked()]; len(*f) < maxReasons {
				*f = append(*f, errtext.About(e.DER, nil, err))
			}
		}
	})
	var errs []error
	for _, fs := range failed {
		some := fs[:min(len(fs), maxReasons-len(errs))]
		slices.SortFunc(some, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		errs = append(errs, some...)
	}
	if more := total - len(errs); more > 0 {
		errs = append(errs, fmt.Errorf("staple: and %d more certificates", more))
	}
	return errors.Join(errs...)
}

const severities = 4

// severityLocked has what clients refuse before what they may refuse.
func (e *entry) severityLocked() int {
	h := e.held.Load()
	switch {
	case e.must:
		return 0
	case h.State == held.Revoked:
		return 1
	case h.Raw != nil:
		return 2
	}
	return severities - 1
}
