package held_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// What is held comes back from its record. A record names the responder, and with it a
// validator, for those who ask that one first.
//
// REQ E1
func TestRecord(t *testing.T) {
	a := answer(0)
	h := take(t, a)
	rec := h.Record("http://ocsp.example", &ocspresp.Issuer{Cert: &x509.Certificate{Raw: []byte("issuer")}})
	if string(rec.Issuer) != "issuer" || string(rec.Response) != string(a.Raw) || rec.Until != h.Until || rec.MaxAge != time.Hour {
		t.Errorf("%+v", rec)
	}
	if rec := h.Record("", nil); rec.Issuer != nil {
		t.Errorf("nobody knows the issuer: %q", rec.Issuer)
	}
	const ours, other = "http://ocsp.example", "http://other.example"
	for _, tt := range []struct {
		name      string
		urls      []string
		best      string
		etag      string
		responder string
		validator bool
	}{
		{"asked first", []string{ours, other}, ours, `"1"`, ours, true},
		{"listed second, and answered last", []string{other, ours}, ours, `"1"`, ours, true},
		{"asked second", []string{other, ours}, other, `"1"`, ours, false},
		{"listed first, and asked second", []string{ours, other}, other, `"1"`, ours, false},
		{"asked never", []string{other}, other, `"1"`, "", false},
		{"nobody is asked", nil, "", `"1"`, "", false},
		{"any response matches", []string{ours}, ours, "*", ours, false},
	} {
		rec.ETag = tt.etag
		got := held.Restore(rec, a.Proof, tt.urls, tt.best)
		if got.Responder != tt.responder || (got.Validator.ETag == tt.etag) != tt.validator || !got.Stored || got.Received != a.Received || got.Checked != a.Checked {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// A record with newer signed times always spares a request; one that was only checked
// does so eight times in a row, and not past half of the validity.
//
// REQ E5
func TestSpares(t *testing.T) {
	had, again, newer := take(t, answer(0)), take(t, answer(0, checked(hour))), take(t, answer(hour))
	resigned := take(t, answer(0, producedAt(time.Minute)))
	none := new(held.Response)
	for _, tt := range []struct {
		name   string
		h, had *held.Response
		spared uint8
		now    time.Duration
		want   bool
	}{
		{"nothing was held", had, none, 8, 3 * day, true},
		{"signed later", newer, had, 8, 3 * day, true},
		{"produced later", resigned, had, 8, 3 * day, true},
		{"checked", again, had, 0, hour, true},
		{"checked for the eighth time", again, had, 7, hour, true},
		{"checked for the ninth time", again, had, 8, hour, false},
		{"just before half of the validity", again, had, 0, 2*day - 1, true},
		{"at half of the validity", again, had, 0, 2 * day, false},
	} {
		if got := tt.h.Spares(tt.had, tt.spared, at(tt.now)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
