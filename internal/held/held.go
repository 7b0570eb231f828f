// Package held has what is known of a certificate's status at one moment, and the
// rules by which an answer takes its place: only what is proven and newer does, and
// nothing outlives what it rests on.
//
// The root keeps a [Response] for each certificate behind an atomic pointer. A
// handshake loads it and calls [Response.StapleAt]; the driver calls [Response.Take]
// with its lock held, and stores the result. There is no lock, clock or I/O here. A
// Response is not written once it is published, but for Copy.
//
// held.go has the snapshot, answer.go the rules, record.go its form in a store. Every
// limit is wall time: a monotonic reading would stop in suspend.
package held

import (
	"crypto/tls"
	"math"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

// A State is what is known, in the order of the root's State, which is converted from
// it.
type State uint8

const (
	Pending State = iota // no response yet
	Good
	Revoked
	Unknown // no valid response, and the responder last said that it does not know the certificate
	Expired // of At alone: a Response stays Good past its end
	None    // of At alone: needs none, see Unneeded
)

// A Response is an immutable snapshot of the newest proven response, or of why there is
// none. There is one for each certificate, so times are kept relative to ThisUpdate
// and Checked in 32 bits where they fit.
type Response struct {
	State      State
	Unneeded   bool   // nothing is served, as nothing is needed; what was proven stays known
	Open       bool   // it has no nextUpdate
	staple     bool   // Raw may be stapled while it is current
	Produced   int32  // s from thisUpdate to producedAt
	maxAge     uint32 // s: what the responder's cache headers ask for
	age        uint32 // s from its receipt to Checked
	lasts      uint32 // s from thisUpdate to nextUpdate, or if it is open to the end of what it rests on
	modified   uint32 // of the validator, as is etag: from the responder that confirmed it last
	etag       string
	Raw        []byte                          // DER; nil: none
	Until      int64                           // Unix ns: not served from then on
	Checked    int64                           // Unix ns: when a responder last confirmed it
	ThisUpdate int64                           // Unix s
	Copy       atomic.Pointer[tls.Certificate] // the last certificate served, stapled
}

// With returns a copy of h in another state. Copy is not taken along: it is what was
// served in the old one.
func (h *Response) With(s State) *Response {
	return &Response{State: s, Unneeded: h.Unneeded, staple: h.staple, Open: h.Open, maxAge: h.maxAge, Produced: h.Produced, age: h.age, lasts: h.lasts,
		modified: h.modified, etag: h.etag, Raw: h.Raw, Until: h.Until, Checked: h.Checked, ThisUpdate: h.ThisUpdate}
}

// Needed returns a copy of h for a certificate that needs a response, or none. What was
// proven stays in it: a switch may be turned back, and the clock may be wrong by which the
// certificate has expired.
func (h *Response) Needed(needed bool) *Response {
	n := h.With(h.State)
	n.Unneeded = !needed
	return n
}

// Stands reports whether h is worth serving where no response is needed: it is valid, or says
// revoked.
func (h *Response) Stands(now int64) bool {
	return h.State == Revoked || h.valid(now)
}

// WithoutValidator returns h, or a copy that makes no request conditional: the
// validator is another responder's.
func (h *Response) WithoutValidator() *Response {
	if h.Validator() == (ocsphttp.Validator{}) {
		return h
	}
	n := h.With(h.State)
	n.etag, n.modified = "", 0
	return n
}

// Validator returns that of the responder which confirmed h last.
func (h *Response) Validator() ocsphttp.Validator {
	return ocsphttp.Validator{ETag: h.etag, Modified: h.modified}
}

// Condition makes a request conditional on h being out of date. Where h is Ending the
// zero Validator does not: a cache that goes on with 304 would be no help, and a forged
// 304 would cost a gap.
func (h *Response) Condition(now int64) ocsphttp.Validator {
	if h.Ending(now) {
		return ocsphttp.Validator{}
	}
	return h.Validator()
}

// Ending reports whether h is in the last eighth of its life, or has ended.
func (h *Response) Ending(now int64) bool {
	_, length := h.span()
	return !h.Current(now) || h.Until-now < length/8
}

// Current reports whether the response may be served at now.
func (h *Response) Current(now int64) bool { return !h.Unneeded && h.valid(now) }

func (h *Response) valid(now int64) bool {
	if h.Raw == nil || now >= h.Until {
		return false
	}
	// Without nextUpdate the limit counts from receipt. If that is in the future, the clock was set back.
	return !h.Open || now >= h.Checked-int64(ocspresp.ClockSkew)
}

// At returns the state of what is served at now. A revocation has no end: a certificate
// that was revoked stays so, whatever the response's nextUpdate.
func (h *Response) At(now int64) State {
	switch {
	case h.Unneeded:
		return None
	case h.State == Good && !h.valid(now):
		return Expired
	case h.State == Unknown && h.valid(now): // that was said by a clock that was ahead
		return Good
	}
	return h.State
}

// Lapsed returns an [ocspresp.ErrExpired] that says when h ended. last is the error of
// the last attempt; it may be nil.
func (h *Response) Lapsed(last error) error {
	until, errs := h.Until, []error{ocspresp.ErrExpired} // not h, which has the private key in Copy
	if last != nil {
		errs = []error{last, ocspresp.ErrExpired}
	}
	return errtext.Of(func() string {
		text := ocspresp.ErrExpired.Error() + " at " + errtext.Stamp(time.Unix(0, until))
		if last != nil {
			text += "; the last attempt: " + errtext.Bare(last)
		}
		return text
	}, errs...)
}

// StapleAt returns what to staple at now: nil for nothing.
func (h *Response) StapleAt(now int64) []byte {
	if h.staple && h.Current(now) {
		return h.Raw
	}
	return nil
}

// span returns the time in which h is proof, and its length, in ns.
func (h *Response) span() (start, length int64) {
	start = Nanos(h.ThisUpdate)
	if h.Open { // counted from its receipt
		start = h.Checked
	}
	return start, h.Until - start
}

// Scheduled returns what the schedule has to know of h.
func (h *Response) Scheduled() schedule.Held {
	if h.Raw == nil || h.Unneeded {
		return schedule.Held{}
	}
	from, _ := h.span()
	return schedule.Held{From: from, Until: h.Until, Checked: h.Checked, MaxAge: int64(h.MaxAge()), Length: h.signedFor(), Open: h.Open, Silent: h.State == Revoked}
}

// signedFor returns the time from thisUpdate to nextUpdate in ns, 0 if there is none.
func (h *Response) signedFor() int64 {
	if h.Open {
		return 0
	}
	return int64(h.lasts) * int64(time.Second)
}

// End returns nextUpdate, or if h is open the end of the first thing that it rests on,
// in Unix s.
func (h *Response) End() int64 { return h.ThisUpdate + int64(h.lasts) }

// Received returns when h came, in Unix ns; later confirmations do not change it. A store
// keeps it, so that it is known after a restart.
func (h *Response) Received() int64 { return h.Checked - int64(h.age)*int64(time.Second) }

// MaxAge returns what the responder's cache headers ask for: a hint for the schedule,
// which bounds it.
func (h *Response) MaxAge() time.Duration { return time.Duration(h.maxAge) * time.Second }

// inSeconds returns n within what a uint32 holds.
func inSeconds(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// Nanos returns a time in Unix seconds as one in ns, where that has an end: private
// PKIs have certificates until 9999-12-31 (RFC 5280 §4.1.2.5).
func Nanos(sec int64) int64 {
	return min(max(sec, 0), math.MaxInt64/int64(time.Second)-1) * int64(time.Second)
}
