package notices

import (
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// A Record is what the log record of an event says besides its [Line]. It is made
// on delivery, off the root's lock, as the certificate may have to be parsed for it.
type Record struct {
	Kind        Kind
	Raw         []byte            // DER of the certificate
	Leaf        *x509.Certificate // nil: Raw does not parse
	Responder   string            // its URL
	ThisUpdate  time.Time         // of the response held when it happened; zero: none
	ServedUntil time.Time         // zero: nothing is stapled
	Proof       *ocspresp.Proof   // what came; nil: nothing
	Err         error
}

// Attrs returns the attributes that apply to the event.
func (r *Record) Attrs() []slog.Attr {
	// docs/operations.md lists them, and a test compares: alerts are built on these names.
	attrs := append([]slog.Attr{slog.String("event", r.Kind.String())}, Certificate(r.Raw, r.Leaf)...)
	attrs = append(attrs, slog.String("responder", certinfo.Clip(r.Responder)))
	if !r.ThisUpdate.IsZero() {
		attrs = append(attrs, slog.Time("this_update", r.ThisUpdate))
	}
	attrs = append(attrs, slog.Bool("stapled", !r.ServedUntil.IsZero()))
	if !r.ServedUntil.IsZero() {
		attrs = append(attrs, slog.Time("served_until", r.ServedUntil))
	}
	// The CA's reason for a revocation is told once: Unchanged, which confirms it, would
	// repeat that every hour.
	if p := r.Proof; p != nil && r.Kind == Revoked {
		attrs = append(attrs, slog.Time("revoked_at", p.RevokedAt), slog.String("revocation_reason", ocspresp.ReasonCode(p.Reason)),
			slog.Bool("never_issued", p.NotIssued()))
	}
	if r.Err != nil {
		attrs = append(attrs, slog.Any("error", r.Err))
	}
	return attrs
}

// Certificate returns the attributes that name a certificate, as [certinfo.Name] does.
// leaf is nil if raw does not parse. Names may hold anything, of any length: line breaks
// in them would forge log lines.
func Certificate(raw []byte, leaf *x509.Certificate) []slog.Attr {
	if leaf == nil {
		return []slog.Attr{slog.String("certificate", certinfo.Name(raw, nil))}
	}
	return []slog.Attr{slog.String("certificate", certinfo.Clip(certinfo.Names(leaf))), slog.String("serial", certinfo.SerialText(leaf))}
}
