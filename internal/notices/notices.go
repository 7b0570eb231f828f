// Package notices has what an operator is told of an event: the message of its log
// record, the level, the attributes, and how often a failure that lasts is told.
//
// The root makes [Facts] of each event, with its lock held, and keeps the [Line] that
// follows from them; it writes the line later, with the attributes of a [Record]. Nothing
// here logs, parses, waits or reads a clock, and [Daily] alone has a lock.
//
// Read notices.go first: message and the two functions that it calls are the table of all
// messages. record.go has the attributes, daily.go the limit. docs/operations.md explains
// messages and attributes to operators, and a test of the root compares.
package notices

import (
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
)

// A Kind says what happened, in the order of the root's EventKind, which is converted
// from it and documents each.
type Kind uint8

const (
	Fetched     Kind = iota + 1 // a new response, which is good
	Unchanged                   // nothing newer than the response held
	Failed                      // an attempt, at all responders
	Revoked                     // for the first time
	Expiring                    // half of the time left was spent on failures
	Expired                     // and nothing is stapled
	Stored                      // the response held
	StoreFailed                 // the response held could not be stored
)

// names are what docs/operations.md lists under Events.
var names = [...]string{"none", "fetched", "unchanged", "failed", "revoked", "expiring", "expired", "stored", "store failed"}

// String returns the name of the kind, in lower case: the attribute "event".
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// A Cause is why an attempt failed, as far as the operator's next step depends on it.
type Cause uint8

const (
	Other          Cause = iota // the network, the responder, or what it answered
	NoResponder                 // nobody to ask
	NoIssuer                    // the issuer was not found
	UnusableIssuer              // it was, and crypto/x509 does not support its algorithm
	NotKnown                    // the responder does not know the certificate
)

// grace is how long after it was first seen a certificate may be unknown to its
// responder without a warning: CAs publish with a delay.
const grace = 15 * time.Minute

// Facts are what the line of an event depends on. Times are Unix ns, and 0 is none.
type Facts struct {
	Kind       Kind
	Cause      Cause // of Failed
	Good       bool  // what the response held says, or said before it expired
	Revoked    bool  // what the response held says
	Stapled    bool  // the response held is stapled
	MustStaple bool  // clients refuse the certificate without a staple
	Outage     bool  // its responder fails for others, too, and a line tells that for all
	StoreNews  bool  // of StoreFailed: the store has not failed before, or not lately

	Now     int64
	Learned int64 // when the certificate was first seen
	Failing int64 // when attempts began to fail
	Warned  int64 // when the last warning about the certificate was given
}

// A Line is a log record. Its text is a constant, so that operators can search for it and
// alert on it; what differs from one record to the next is in the attributes.
type Line struct {
	Level slog.Level
	Text  string
	Args  []any // keys and values, after the attributes of the Record
}

// Line returns the log record of an event, and the new value of Warned. A warning is
// given once per certificate and day, and goes to debug level in between; an expiry,
// which happens once, is always told. A success that ends what was warned about is at info.
func (f *Facts) Line() (l Line, warned int64) {
	l.Level, l.Text = f.message()
	switch {
	case f.Kind == StoreFailed:
		// The store has a limit of its own, StoreNews: it fails for all certificates at once.
	case f.recovers():
		l.Level = slog.LevelInfo
		// A response that expired in a suspend was no outage, which begins with a failure.
		if f.Failing != 0 {
			l.Args = []any{"failed_for", time.Duration(f.Now - f.Failing).Round(time.Second)}
		}
		return l, 0
	case l.Level < slog.LevelWarn:
	case f.Kind != Expired && Lately(f.Warned, f.Now):
		l.Level = slog.LevelDebug
	default:
		return l, f.Now
	}
	return l, f.Warned
}

// recovers reports whether the event ends what was warned about. A revocation that is
// confirmed is the end of nothing.
func (f *Facts) recovers() bool {
	return f.Warned != 0 && (f.Kind == Fetched || f.Kind == Unchanged && f.Good)
}

// message returns the message of an event, and its level where nothing was told lately.
// Levels above info are for what an operator must act on: error where clients refuse the
// certificate or a staple was lost, warn for the rest.
func (f *Facts) message() (slog.Level, string) {
	switch f.Kind {
	case Fetched:
		return slog.LevelDebug, "OCSP response fetched"
	case Unchanged:
		return slog.LevelDebug, "OCSP response confirmed, nothing new"
	case Failed:
		return f.failed()
	case Revoked:
		return slog.LevelError, "certificate is revoked; replace it"
	case Expiring, Expired:
		return f.expires()
	case Stored:
		return slog.LevelDebug, "OCSP response stored"
	case StoreFailed:
		return Once(slog.LevelWarn, f.StoreNews), "OCSP response could not be stored, it is served from memory; check the store"
	}
	return slog.LevelDebug, "OCSP event"
}

// expires is the part of message for a response that expires, or has. An expiry is
// told for each certificate in an outage of several, too: its staple is gone.
func (f *Facts) expires() (slog.Level, string) {
	switch {
	case f.Kind == Expired && f.MustStaple:
		return slog.LevelError, "OCSP response of a Must-Staple certificate has expired, clients will refuse it; check the responder and the way to it"
	case f.Kind == Expired:
		return slog.LevelError, "OCSP response has expired, nothing is stapled; check the responder and the way to it"
	case f.MustStaple:
		return slog.LevelWarn, "OCSP response of a Must-Staple certificate expires soon and refreshes fail, after that clients will refuse it; check the responder and the way to it"
	case f.Outage: // as in failed
		return slog.LevelDebug, "OCSP response expires soon and refreshes fail"
	}
	return slog.LevelWarn, "OCSP response expires soon and refreshes fail; check the responder and the way to it"
}

// failed is the part of message for an attempt that failed. It says what clients see, and
// what the operator can do. The order of the cases counts.
func (f *Facts) failed() (slog.Level, string) {
	switch {
	// No retry mends these, so they are told even while a response is stapled.
	case f.Cause == NoResponder && (f.Stapled || !f.MustStaple):
		return slog.LevelWarn, "WithResponders function named no URL that can be asked; have it return http or https URLs"
	case f.Cause == NoResponder:
		return slog.LevelError, "Must-Staple certificate has no OCSP responder, clients will refuse it; replace it, or name one with WithResponders"
	case f.Cause == UnusableIssuer && f.MustStaple:
		return slog.LevelError, "issuer of the Must-Staple certificate can't be used, as crypto/x509 does not support its algorithm; clients will refuse the certificate; replace it"
	case f.Cause == UnusableIssuer:
		return slog.LevelWarn, "issuer of the certificate can't be used, as crypto/x509 does not support its algorithm; nothing is stapled; have the CA use RSA, ECDSA over P-256 to P-521 or Ed25519"
	case f.Cause == NoIssuer && f.MustStaple:
		return slog.LevelError, "issuer of the Must-Staple certificate not found, clients will refuse it; add it to the chain or use WithIssuers"
	case f.Cause == NoIssuer:
		return slog.LevelWarn, "issuer of the certificate not found, nothing is stapled; add it to the chain or use WithIssuers"
	// Clients see no change: Expiring tells in time if that goes on.
	case f.Stapled:
		return slog.LevelDebug, "OCSP refresh failed; the response in memory is served until it expires"
	case f.Revoked:
		return slog.LevelDebug, "OCSP refresh failed; the certificate stays revoked"
	// Clients refuse the certificate, so neither an outage nor a new certificate excuses it.
	case f.MustStaple:
		return slog.LevelError, "Must-Staple certificate has no valid OCSP response, clients will refuse it; retries go on, check the responder and the way to it"
	// One line of the responder stands for all of its certificates.
	case f.Outage:
		return slog.LevelDebug, "no OCSP response for the certificate, its responder fails"
	case f.Cause == NotKnown && f.Now-f.Learned < int64(grace):
		return slog.LevelDebug, "OCSP responder does not know the certificate yet"
	}
	return slog.LevelWarn, "no OCSP response for the certificate, nothing is stapled; retries go on, check the responder and the way to it"
}

// Passes returns the log record of a certificate that needs nothing. leaf is nil, and
// unreadable says why, if it does not parse.
func Passes(leaf *x509.Certificate, unreadable error) Line {
	switch {
	case unreadable != nil:
		return Line{slog.LevelWarn, "certificate does not parse, nothing is stapled; look at it with openssl x509, and replace it", []any{"error", unreadable}}
	case leaf != nil && certinfo.NoRevAvail(leaf) && len(leaf.OCSPServer) > 0:
		return Line{slog.LevelWarn, "certificate says both noRevAvail and where its OCSP responder is; it is not asked (RFC 9608 §4)", nil}
	}
	return Line{slog.LevelDebug, "certificate names no OCSP responder, nothing is stapled", nil}
}
