package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"golang.org/x/crypto/ocsp"
)

// A Report is what -json prints. The doc comment of the package says what its
// members mean: they are stable.
type Report struct {
	Verdict     Verdict      `json:"verdict"`
	Reason      string       `json:"reason"`
	Time        time.Time    `json:"time"`
	Server      string       `json:"server"`
	Address     string       `json:"address,omitempty"`
	TLSVersion  string       `json:"tls_version,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Staple      *Staple      `json:"staple,omitempty"`
	Refusals    []Refusal    `json:"refusals"`
	Answer      *Answer      `json:"answer,omitempty"`
}

// A Verdict says whether somebody has to act.
type Verdict string

const (
	VerdictGood       Verdict = "good"
	VerdictNoneNeeded Verdict = "none needed"
	VerdictBad        Verdict = "bad"
	VerdictUnknown    Verdict = "unknown"
)

// A Certificate is what the server presents.
type Certificate struct {
	Names          []string  `json:"names"`
	Serial         string    `json:"serial"`
	Issuer         string    `json:"issuer"`
	NotAfter       time.Time `json:"not_after"`
	MustStaple     bool      `json:"must_staple"`
	Responders     []string  `json:"responders"`
	ChainLength    int       `json:"chain_length"`
	ChainHasIssuer bool      `json:"chain_has_issuer"`
	Trusted        bool      `json:"trusted"`
	TrustError     string    `json:"trust_error,omitempty"`
}

// A Staple is what the server staples.
type Staple struct {
	Status      string     `json:"status"`
	Proven      bool       `json:"proven"`
	Error       string     `json:"error,omitempty"`
	ThisUpdate  *time.Time `json:"this_update,omitempty"`
	NextUpdate  *time.Time `json:"next_update,omitempty"`
	AgeSeconds  *int64     `json:"age_seconds,omitempty"`
	LeftPercent *int       `json:"left_percent,omitempty"`
	Size        int        `json:"size"`
	SignedBy    string     `json:"signed_by,omitempty"`
	Signer      string     `json:"signer,omitempty"`
	Hash        string     `json:"hash,omitempty"`
}

// A Refusal says which clients refuse the handshake, and why.
type Refusal struct {
	Clients string `json:"clients"`
	Why     string `json:"why"`
}

// An Answer is what the responder says.
type Answer struct {
	Responder    string     `json:"responder"`
	Status       string     `json:"status,omitempty"`
	ThisUpdate   *time.Time `json:"this_update,omitempty"`
	NextUpdate   *time.Time `json:"next_update,omitempty"`
	Milliseconds int64      `json:"milliseconds"`
	Error        string     `json:"error,omitempty"`
}

// exitStatus is that of the command.
func (r *Report) exitStatus() int {
	switch r.Verdict {
	case VerdictGood, VerdictNoneNeeded:
		return exitGood
	case VerdictBad:
		return exitBad
	}
	return exitUnknown
}

// statusName names a status of package ocsp.
func statusName(status int) string {
	switch status {
	case ocsp.Good:
		return "good"
	case ocsp.Revoked:
		return "revoked"
	}
	return "unknown"
}

// line returns the text of err on one line, fit to print: much of it comes from
// the network.
func line(err error) string {
	if err == nil {
		return ""
	}
	return certinfo.Legible(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// text is the report for people: aligned lines, one fact each.
func (r *Report) text() string {
	var b strings.Builder
	row := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	row("server", "%s at %s, %s", r.Server, r.Address, r.TLSVersion)
	r.Certificate.rows(row, r.Time)
	if r.Staple == nil {
		row("staple", "none")
	} else {
		r.Staple.rows(row, r.Time)
	}
	for _, refusal := range r.Refusals {
		row("clients", "refused by %s: %s", refusal.Clients, refusal.Why)
	}
	if len(r.Refusals) == 0 && r.Staple != nil && r.Staple.Proven {
		row("clients", "all take it")
	}
	if r.Answer != nil {
		r.Answer.rows(row)
	}
	row("result", "%s: %s", resultNames[r.Verdict], r.Reason)
	return b.String()
}

var resultNames = map[Verdict]string{
	VerdictGood: "good", VerdictNoneNeeded: "none needed", VerdictBad: "not good", VerdictUnknown: "could not tell",
}

type rowFunc func(label, format string, args ...any)

func (c *Certificate) rows(row rowFunc, now time.Time) {
	names := c.Names
	if len(names) > 5 {
		names = append(names[:5:5], fmt.Sprintf("and %d more", len(names)-5))
	}
	row("names", "%s", strings.Join(names, ", "))
	row("serial", "%s", c.Serial)
	row("issuer", "%s", c.Issuer)
	row("expires", "%s", moment(c.NotAfter, now))
	row("must-staple", "%s", map[bool]string{true: "yes", false: "no"}[c.MustStaple])
	for _, url := range c.Responders {
		row("responder", "%s", url)
	}
	if len(c.Responders) == 0 {
		row("responder", "none is named")
	}
	row("chain", "%s, %s the issuer", many(c.ChainLength, "certificate"), map[bool]string{true: "with", false: "without"}[c.ChainHasIssuer])
	if c.Trusted {
		row("trusted", "yes")
	} else {
		row("trusted", "no: %s", c.TrustError)
	}
}

func (s *Staple) rows(row rowFunc, now time.Time) {
	switch {
	case s.Error == "":
		row("staple", "%s", s.Status)
	case s.Proven:
		row("staple", "%s: %s", s.Status, s.Error)
	default:
		row("staple", "%s, not proven: %s", s.Status, s.Error)
	}
	if s.ThisUpdate != nil {
		row("this update", "%s", moment(*s.ThisUpdate, now))
	}
	switch {
	case s.LeftPercent != nil:
		row("next update", "%s, %d %% of its life left", moment(*s.NextUpdate, now), *s.LeftPercent)
	case s.ThisUpdate != nil:
		row("next update", "none is said")
	}
	row("size", "%s", many(s.Size, "byte"))
	if s.SignedBy != "" {
		row("signed by", "%s, %s", s.SignedBy, s.Signer)
	}
	if s.Hash != "" {
		row("cert id", "%s", s.Hash)
	}
}

func (a *Answer) rows(row rowFunc) {
	switch {
	case a.Status == "":
		row("asked", "%s, no usable answer after %d ms: %s", a.Responder, a.Milliseconds, a.Error)
		return
	case a.Error == "":
		row("asked", "%s answered in %d ms: %s", a.Responder, a.Milliseconds, a.Status)
	default:
		row("asked", "%s answered in %d ms: %s: %s", a.Responder, a.Milliseconds, a.Status, a.Error)
	}
	if a.ThisUpdate != nil {
		next := "no next update"
		if a.NextUpdate != nil {
			next = "next update " + stamp(*a.NextUpdate)
		}
		row("", "this update %s, %s", stamp(*a.ThisUpdate), next)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// moment says when t is, and how far that is from now.
func moment(t, now time.Time) string {
	if d := t.Sub(now); d > 0 {
		return stamp(t) + ", in " + length(d)
	}
	return stamp(t) + ", " + length(now.Sub(t)) + " ago"
}

// length rounds a duration down to what people count in.
func length(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return many(int(d/(24*time.Hour)), "day")
}

// many is a number of things, in plain English.
func many(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
