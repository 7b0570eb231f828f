package notices_test

import (
	"fmt"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/notices"
)

const (
	minute = int64(time.Minute)
	day    = 24 * 60 * minute
	now    = 20_000 * day

	debug = slog.LevelDebug
	info  = slog.LevelInfo
	warn  = slog.LevelWarn
	fault = slog.LevelError
)

// The facts of the tables, in short.
type facts = notices.Facts

// messages has every message, and each case of each.
var messages = []struct {
	facts facts
	level slog.Level
	text  string
}{
	{facts{}, debug, "OCSP event"},
	{facts{Kind: notices.Fetched, Good: true, Stapled: true}, debug, "OCSP response fetched"},
	{facts{Kind: notices.Unchanged, Good: true, Stapled: true}, debug, "OCSP response confirmed, nothing new"},
	{facts{Kind: notices.Stored}, debug, "OCSP response stored"},

	{facts{Kind: notices.StoreFailed, StoreNews: true}, warn, "OCSP response could not be stored, it is served from memory; check the store"},
	{facts{Kind: notices.StoreFailed}, debug, "OCSP response could not be stored, it is served from memory; check the store"},

	{facts{Kind: notices.Revoked, Revoked: true}, fault, "certificate is revoked; replace it"},
	{facts{Kind: notices.Revoked, Revoked: true, Stapled: true, MustStaple: true}, fault, "certificate is revoked; replace it"},

	{facts{Kind: notices.Expiring, Good: true, Stapled: true}, warn, "OCSP response expires soon and refreshes fail; check the responder and the way to it"},
	{facts{Kind: notices.Expiring, Good: true, Stapled: true, Outage: true}, debug, "OCSP response expires soon and refreshes fail"},
	{facts{Kind: notices.Expiring, Good: true, Stapled: true, MustStaple: true}, warn,
		"OCSP response of a Must-Staple certificate expires soon and refreshes fail, after that clients will refuse it; check the responder and the way to it"},
	{facts{Kind: notices.Expiring, Good: true, Stapled: true, MustStaple: true, Outage: true}, warn,
		"OCSP response of a Must-Staple certificate expires soon and refreshes fail, after that clients will refuse it; check the responder and the way to it"},
	{facts{Kind: notices.Expired, Good: true}, fault, "OCSP response has expired, nothing is stapled; check the responder and the way to it"},
	{facts{Kind: notices.Expired, Good: true, Outage: true}, fault, "OCSP response has expired, nothing is stapled; check the responder and the way to it"},
	{facts{Kind: notices.Expired, Good: true, MustStaple: true}, fault,
		"OCSP response of a Must-Staple certificate has expired, clients will refuse it; check the responder and the way to it"},

	{facts{Kind: notices.Failed}, warn, "no OCSP response for the certificate, nothing is stapled; retries go on, check the responder and the way to it"},
	{facts{Kind: notices.Failed, Good: true}, warn, "no OCSP response for the certificate, nothing is stapled; retries go on, check the responder and the way to it"},
	{facts{Kind: notices.Failed, Outage: true}, debug, "no OCSP response for the certificate, its responder fails"},
	{facts{Kind: notices.Failed, MustStaple: true}, fault, "Must-Staple certificate has no valid OCSP response, clients will refuse it; retries go on, check the responder and the way to it"},
	{facts{Kind: notices.Failed, MustStaple: true, Outage: true, Cause: notices.NotKnown, Learned: now}, fault,
		"Must-Staple certificate has no valid OCSP response, clients will refuse it; retries go on, check the responder and the way to it"},
	{facts{Kind: notices.Failed, Good: true, Stapled: true, MustStaple: true, Outage: true}, debug, "OCSP refresh failed; the response in memory is served until it expires"},
	{facts{Kind: notices.Failed, Revoked: true, Stapled: true}, debug, "OCSP refresh failed; the response in memory is served until it expires"},
	{facts{Kind: notices.Failed, Revoked: true, MustStaple: true}, debug, "OCSP refresh failed; the certificate stays revoked"},

	{facts{Kind: notices.Failed, Cause: notices.NotKnown, Learned: now - 15*minute + 1}, debug, "OCSP responder does not know the certificate yet"},
	{facts{Kind: notices.Failed, Cause: notices.NotKnown, Learned: now + day}, debug, "OCSP responder does not know the certificate yet"},
	{facts{Kind: notices.Failed, Cause: notices.NotKnown, Learned: now - 15*minute}, warn,
		"no OCSP response for the certificate, nothing is stapled; retries go on, check the responder and the way to it"},
	{facts{Kind: notices.Failed, Learned: now}, warn, "no OCSP response for the certificate, nothing is stapled; retries go on, check the responder and the way to it"},

	{facts{Kind: notices.Failed, Cause: notices.NoResponder}, warn, "WithResponders function named no URL that can be asked; have it return http or https URLs"},
	{facts{Kind: notices.Failed, Cause: notices.NoResponder, Good: true, Stapled: true, MustStaple: true}, warn,
		"WithResponders function named no URL that can be asked; have it return http or https URLs"},
	{facts{Kind: notices.Failed, Cause: notices.NoResponder, MustStaple: true}, fault,
		"Must-Staple certificate has no OCSP responder, clients will refuse it; replace it, or name one with WithResponders"},
	{facts{Kind: notices.Failed, Cause: notices.NoIssuer, Stapled: true, Outage: true}, warn,
		"issuer of the certificate not found, nothing is stapled; add it to the chain or use WithIssuers"},
	{facts{Kind: notices.Failed, Cause: notices.NoIssuer, MustStaple: true}, fault,
		"issuer of the Must-Staple certificate not found, clients will refuse it; add it to the chain or use WithIssuers"},
	{facts{Kind: notices.Failed, Cause: notices.UnusableIssuer, Revoked: true}, warn,
		"issuer of the certificate can't be used, as crypto/x509 does not support its algorithm; nothing is stapled; have the CA use RSA, ECDSA over P-256 to P-521 or Ed25519"},
	{facts{Kind: notices.Failed, Cause: notices.UnusableIssuer, MustStaple: true}, fault,
		"issuer of the Must-Staple certificate can't be used, as crypto/x509 does not support its algorithm; clients will refuse the certificate; replace it"},
}

func TestMessages(t *testing.T) {
	for _, tt := range messages {
		tt.facts.Now = now
		l, warned := tt.facts.Line()
		if l.Level != tt.level || l.Text != tt.text || l.Args != nil {
			t.Errorf("%+v:\ngot  %v %q %v,\nwant %v %q", tt.facts, l.Level, l.Text, l.Args, tt.level, tt.text)
		}
		want := int64(0)
		if tt.level > info && tt.facts.Kind != notices.StoreFailed {
			want = now
		}
		if warned != want {
			t.Errorf("%+v: warned at %d, want %d", tt.facts, warned, want)
		}
	}
}

// No facts have a message that is not in the table.
func TestMessagesAreAll(t *testing.T) {
	known := make(map[string]bool)
	for _, tt := range messages {
		known[fmt.Sprint(tt.level, tt.text)] = true
	}
	for n := range 1 << 7 * 10 * 6 {
		bit := func(i int) bool { return n>>i&1 != 0 }
		f := facts{Kind: notices.Kind(n >> 7 % 10), Cause: notices.Cause(n >> 7 / 10), Now: now,
			Good: bit(0), Revoked: bit(1), Stapled: bit(2), MustStaple: bit(3), Outage: bit(4), StoreNews: bit(5)}
		if bit(6) {
			f.Learned = now
		}
		if l, _ := f.Line(); !known[fmt.Sprint(l.Level, l.Text)] {
			t.Errorf("%+v: %v %q is not in the table", f, l.Level, l.Text)
		}
	}
}

// A warning is given once a day, an expiry always, and the end of what was warned
// about once.
func TestLimit(t *testing.T) {
	lately, ahead := now-day+1, now+1
	for _, tt := range []struct {
		name   string
		facts  facts
		level  slog.Level
		warned int64
		args   []any
	}{
		{"first failure", facts{Kind: notices.Failed, Failing: now - day}, warn, now, nil},
		{"failure, warned lately", facts{Kind: notices.Failed, Warned: lately}, debug, lately, nil},
		{"failure, warned at this moment", facts{Kind: notices.Failed, Warned: now}, debug, now, nil},
		{"failure, warned a day ago", facts{Kind: notices.Failed, Warned: now - day}, warn, now, nil},
		{"failure, the clock was set back", facts{Kind: notices.Failed, Warned: ahead}, warn, now, nil},
		{"failure that costs nothing", facts{Kind: notices.Failed, Stapled: true, Warned: now - day}, debug, now - day, nil},
		{"expires soon, warned lately", facts{Kind: notices.Expiring, Warned: lately}, debug, lately, nil},
		{"revoked, warned lately", facts{Kind: notices.Revoked, Warned: lately}, debug, lately, nil},
		{"expired, warned lately", facts{Kind: notices.Expired, Warned: lately}, fault, now, nil},
		{"store fails, warned lately", facts{Kind: notices.StoreFailed, StoreNews: true, Warned: lately}, warn, lately, nil},
		{"store fails again", facts{Kind: notices.StoreFailed, Warned: lately}, debug, lately, nil},
		{"stored", facts{Kind: notices.Stored, Good: true, Warned: lately}, debug, lately, nil},
		{"success", facts{Kind: notices.Fetched, Good: true, Failing: now - minute}, debug, 0, nil},
		{"success after a warning", facts{Kind: notices.Fetched, Good: true, Warned: lately, Failing: now - 90*minute - 1}, info, 0, []any{"failed_for", 90 * time.Minute}},
		{"success after an old warning", facts{Kind: notices.Fetched, Good: true, Warned: 1, Failing: now - minute}, info, 0, []any{"failed_for", time.Minute}},
		{"success after a suspend", facts{Kind: notices.Fetched, Good: true, Warned: lately}, info, 0, nil},
		{"nothing new after a warning", facts{Kind: notices.Unchanged, Good: true, Warned: lately, Failing: now - minute}, info, 0, []any{"failed_for", time.Minute}},
		{"revocation confirmed after a warning", facts{Kind: notices.Unchanged, Revoked: true, Warned: lately, Failing: now - minute}, debug, lately, nil},
	} {
		tt.facts.Now = now
		l, warned := tt.facts.Line()
		if l.Level != tt.level || warned != tt.warned || !reflect.DeepEqual(l.Args, tt.args) {
			t.Errorf("%s: %v, warned at %d, %v; want %v, %d, %v", tt.name, l.Level, warned-now, l.Args, tt.level, tt.warned-now, tt.args)
		}
	}
}

func TestKindString(t *testing.T) {
	for k, want := range map[notices.Kind]string{0: "none", notices.Fetched: "fetched", notices.Unchanged: "unchanged", notices.Failed: "failed", notices.Revoked: "revoked",
		notices.Expiring: "expiring", notices.Expired: "expired", notices.Stored: "stored", notices.StoreFailed: "store failed", notices.StoreFailed + 1: "unknown"} {
		if got := k.String(); got != want {
			t.Errorf("Kind(%d): %q, want %q", k, got, want)
		}
	}
}
