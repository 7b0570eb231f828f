package held

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"golang.org/x/crypto/ocsp"
)

// maxStaple is the longest response that is stapled. OpenSSL's clients take a
// CertificateStatus message (RFC 6066 §8) of one record, 2^14 bytes, and
// crypto/tls can't write one of 2^16 in TLS 1.3. The response shares the record
// with a handshake header of 4 bytes, the status type and a length of 3.
const maxStaple = 1<<14 - 4 - 1 - 3

// An Answer is a verified response, from a responder, the store or the certificate's
// source; or a 304, by which a responder says that nothing is newer.
type Answer struct {
	*ocspresp.Proof           // nil: a 304
	About           *Response // of a 304, what was held when it was asked for
	Responder       string    // its URL; of a record it may be unknown
	Received        int64     // Unix ns
	Checked         int64     // Unix ns
	MaxAge          time.Duration
	Validator       ocsphttp.Validator
	Took            time.Duration // of the exchange; 0: there was none
	Stored          bool          // it is from the store, or set by the source, and not to be written
}

// Rules are what a user may choose.
type Rules struct {
	TTL           time.Duration // how long a response without nextUpdate is served
	StapleRevoked bool
}

// Take returns what is held once a has come, and whether that is news, or h
// confirmed. It returns h itself if nothing changes. The same signed bytes that
// last no longer, a response that its delegate's certificate cuts short, and a 304 confirm h.
// The error is an [ocspresp.Error]: Replay, or TooLarge for TLS clients; h stays then.
// h must be what is held now: the caller has the lock from loading it to storing n.
func (h *Response) Take(a *Answer, rules Rules, now int64) (n *Response, news bool, err error) {
	if a.Proof == nil || h.repeatedBy(a) || h.cutShortBy(a, now) {
		if a.Proof == nil && a.About != nil && !h.SignedWith(a.About) {
			return h, false, nil // another has come meanwhile
		}
		if a.Checked <= h.Checked && h.Checked <= now { // else the clock was set back
			return h, false, nil
		}
		n = h.With(h.State)
		if h.State == Unknown { // it stands again
			n.State = Good
		}
		n.confirm(a, rules.TTL)
		n.Copy.Store(h.Copy.Load())
		return n, false, nil
	}
	if err := h.Replayed(a); err != nil {
		return h, false, err
	}
	oversized := len(a.Raw) > maxStaple
	if oversized && a.Status != ocsp.Revoked { // a revocation counts all the same
		return h, false, &ocspresp.Error{Reason: ocspresp.TooLarge, Err: fmt.Errorf("%d bytes, where TLS clients take %d", len(a.Raw), maxStaple)}
	}
	n = &Response{State: Good, staple: true, Open: a.NextUpdate.IsZero(), Produced: a.produced(), Raw: a.Raw,
		Until: Nanos(a.Limit.Unix()), ThisUpdate: a.ThisUpdate.Unix(), lasts: inSeconds(a.NextUpdate.Unix() - a.ThisUpdate.Unix())}
	if n.Open {
		n.lasts = inSeconds(a.Limit.Unix() - n.ThisUpdate)
	}
	if a.Status == ocsp.Revoked {
		n.State, n.staple = Revoked, rules.StapleRevoked && !oversized
	}
	n.confirm(a, rules.TTL)
	if n.State == Good && !n.valid(now) && h.State != Revoked && h.valid(now) {
		return h, false, nil // without nextUpdate, and received too long ago
	}
	return n, true, nil
}

// repeatedBy reports whether a has the same signed bytes as h. Another
// certificate of the same delegate that ends later is an improvement; one that
// ends sooner, which anyone on the path may have put there, is not.
func (h *Response) repeatedBy(a *Answer) bool {
	if h.Raw == nil || !a.SameSigned(h.Raw) {
		return false
	}
	limit := h.Until
	if h.Open {
		limit = Nanos(h.End())
	}
	return Nanos(a.Limit.Unix()) <= limit
}

// cutShortBy reports whether a is newer and good, and ends before h only because its
// delegate's certificate does. That may be an older certificate of the delegate, which
// anyone on the path may have put there; h is still good.
func (h *Response) cutShortBy(a *Answer, now int64) bool {
	return a.Status == ocsp.Good && h.State != Revoked && !h.Open && h.valid(now) &&
		Nanos(a.Limit.Unix()) < h.Until && Nanos(a.NextUpdate.Unix()) >= h.Until && h.Replayed(a) == nil
}

// confirm notes in h, which is not published yet, that a brought or confirmed it.
// Without nextUpdate it may be served for a TTL from now on.
func (h *Response) confirm(a *Answer, ttl time.Duration) {
	received := a.Received
	if h.Checked != 0 {
		received = h.Received()
	}
	h.Checked = a.Checked
	h.age = inSeconds((a.Checked - received) / int64(time.Second))
	h.maxAge = inSeconds(int64(a.MaxAge / time.Second))
	if a.Proof != nil && a.Responder != "" {
		h.modified, h.etag = a.Validator.Modified, a.Validator.ETag
	}
	if h.Open {
		h.Until = min(Nanos(h.End()), h.Checked+int64(ttl))
	}
}

// produced returns how long after thisUpdate the response was signed, in seconds.
func (a *Answer) produced() int32 {
	return int32(min(max(a.ProducedAt.Unix()-a.ThisUpdate.Unix(), math.MinInt32), math.MaxInt32))
}

// Replayed returns an error if a was signed before h, so that a replay never replaces it.
// Of two signed at one time the worse stays. The signed times alone decide: headers and
// records can be forged. The driver asks this of each body before an exchange ends, as a
// request past the caches may bring the newer one.
func (h *Response) Replayed(a *Answer) error {
	if h.Raw == nil {
		return nil
	}
	which, had, got := "thisUpdate", h.ThisUpdate, a.ThisUpdate.Unix()
	if got == had {
		which, had, got = "producedAt", had+int64(h.Produced), got+int64(a.produced())
	}
	switch {
	case got < had:
		return replay("%s %s is before %s", which, errtext.Stamp(time.Unix(got, 0)), errtext.Stamp(time.Unix(had, 0)))
	case got == had && h.State == Revoked && a.Status == ocsp.Good:
		return replay("of two responses of %s the one that says revoked stays", errtext.Stamp(time.Unix(got, 0)))
	}
	return nil
}

// OlderThan reports whether h was signed before other, or with it and does not say revoked as that
// does.
func (h *Response) OlderThan(other *Response) bool {
	return cmp.Or(cmp.Compare(h.ThisUpdate, other.ThisUpdate), cmp.Compare(h.Produced, other.Produced)) < 0 ||
		h.SignedWith(other) && other.State == Revoked && h.State != Revoked
}

// replay is a refusal for the signed times alone, which no header or record can change.
func replay(format string, args ...any) error {
	return &ocspresp.Error{Reason: ocspresp.Replay, Err: fmt.Errorf(format, args...)}
}
