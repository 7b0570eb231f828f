package statuspage

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/certinfo"
)

// A Report is what the handler answers as JSON. Times are RFC 3339, in UTC.
type Report struct {
	// Time is when the report was made.
	Time time.Time `json:"time"`
	// States counts all certificates in use by state, whatever was asked for: see
	// [staple.Stapler.Status].
	States map[string]int `json:"states"`
	// Failing counts, of these, the ones whose last attempt failed, or for which none can
	// be made (no issuer, Must-Staple without a responder), whatever their state.
	Failing int `json:"failing"`
	// Certificates are those that were asked for, worst first: Must-Staple ones
	// without a valid staple, revoked, expired and unknown ones, then what else
	// fails, though it may still be good. Equals are in order of nextUpdate, those
	// that have none first.
	Certificates []Certificate `json:"certificates"`
}

// A Certificate is one of a Report. Unknown values are left out.
type Certificate struct {
	// Names are its DNS names and IP addresses. If it has none this is one text of its URIs,
	// e-mail addresses, subject or serial number, whichever it has first.
	Names []string `json:"names"`
	// Serial is the serial number and Fingerprint the SHA-256 of the
	// certificate, in hexadecimal. Of a serial number that is longer than 200 digits
	// these are the first, and three dots.
	Serial      string `json:"serial,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// NotAfter is when the certificate expires.
	NotAfter *time.Time `json:"not_after,omitempty"`
	// State is one of good, pending, revoked, unknown, expired and none.
	State      string `json:"state"`
	MustStaple bool   `json:"must_staple"`
	Responder  string `json:"responder,omitempty"`
	// ThisUpdate, NextUpdate, NextRefresh, LastSuccess and LastHandshake are those
	// of [staple.Status].
	ThisUpdate    *time.Time `json:"this_update,omitempty"`
	NextUpdate    *time.Time `json:"next_update,omitempty"`
	NextRefresh   *time.Time `json:"next_refresh,omitempty"`
	LastSuccess   *time.Time `json:"last_success,omitempty"`
	LastHandshake *time.Time `json:"last_handshake,omitempty"`
	// Failures counts attempts since the last success, Error is the last one's,
	// and Reason its [staple.Reason], if it has one.
	Failures int    `json:"failures"`
	Error    string `json:"error,omitempty"`
	Reason   string `json:"reason,omitempty"`

	state   staple.State
	missing bool // Must-Staple, and without a valid staple
	fails   bool
	cause   string
	leaf    *x509.Certificate
}

// failing is what a query has in place of a state for those that fail.
const failing = "failing"

// order has the states by how much they need somebody.
var order = []staple.State{staple.StateRevoked, staple.StateExpired, staple.StateUnknown, staple.StatePending, staple.StateGood, staple.StateNone}

// query is what a request asks for.
type query struct{ state, text, page string }

func newReport(all []staple.Status, q query, now time.Time) *Report {
	r := &Report{Time: now, States: make(map[string]int), Certificates: []Certificate{}}
	for _, state := range order {
		r.States[state.String()] = 0
	}
	for _, st := range all {
		r.States[st.State.String()]++
		if fails(st) {
			r.Failing++
		}
		if !q.wants(st) {
			continue
		}
		if c := newCertificate(st, now); c.matches(q.text) {
			r.Certificates = append(r.Certificates, c)
		}
	}
	slices.SortStableFunc(r.Certificates, func(a, b Certificate) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), at(a.NextUpdate).Compare(at(b.NextUpdate)))
	})
	return r
}

// wants reports whether q asks for certificates such as st.
func (q query) wants(st staple.Status) bool {
	return q.state == "" || q.state == st.State.String() || q.state == failing && fails(st)
}

// fails reports whether the last attempt failed, or none can be made. The error of a revoked
// certificate says that it is, and that of one that needs no staple why it needs none.
func fails(st staple.Status) bool {
	return st.Failures > 0 || st.Err != nil && st.State != staple.StateRevoked && st.State != staple.StateNone
}

// rank says how much somebody is needed: the less, the more.
func (c *Certificate) rank() int {
	switch {
	case c.missing: // clients refuse it, now
		return 0
	case c.state == staple.StateRevoked:
		return 1
	case c.state == staple.StateExpired:
		return 2
	case c.state == staple.StateUnknown:
		return 3
	case c.fails: // even if it is still good
		return 4
	}
	return 5 + slices.Index(order, c.state)
}

func newCertificate(st staple.Status, now time.Time) Certificate {
	c := Certificate{Names: []string{"certificate that does not parse"}, State: st.State.String(), state: st.State, MustStaple: st.MustStaple,
		Responder: st.Responder, ThisUpdate: certinfo.JSONTimeOrNil(st.ThisUpdate), NextUpdate: certinfo.JSONTimeOrNil(st.NextUpdate), NextRefresh: certinfo.JSONTimeOrNil(st.NextRefresh),
		LastSuccess: certinfo.JSONTimeOrNil(st.LastSuccess), LastHandshake: certinfo.JSONTimeOrNil(st.LastHandshake), Failures: st.Failures, leaf: st.Leaf}
	if leaf := st.Leaf; leaf != nil {
		sum := sha256.Sum256(leaf.Raw)
		c.Fingerprint = hex.EncodeToString(sum[:])
		c.Serial, c.NotAfter = certinfo.SerialText(leaf), certinfo.JSONTimeOrNil(leaf.NotAfter)
		c.Names = certinfo.AllNames(leaf)
	}
	expired := c.NotAfter != nil && now.After(*c.NotAfter) // no staple would help it
	c.fails = fails(st)
	c.missing = c.MustStaple && c.state != staple.StateGood && !expired
	if st.Err != nil {
		c.Error, c.cause = st.Err.Error(), explain(st.Err, st.Responder)
	}
	var re *staple.ResponseError
	if errors.As(st.Err, &re) {
		c.Reason = re.Reason.String()
	}
	return c
}

// matches reports whether c has text in what people look for.
func (c *Certificate) matches(text string) bool {
	text = strings.ToLower(text)
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return text == "" || in(c.Serial) || in(c.Responder) || slices.ContainsFunc(c.Names, in)
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
