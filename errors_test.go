package staple_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"golang.org/x/crypto/ocsp"
)

// REQ B12
func TestReasonString(t *testing.T) {
	seen := map[string]bool{}
	for r := staple.Reason(1); r <= staple.MaxReason; r++ {
		s := r.String()
		if s == "" || seen[s] {
			t.Errorf("Reason %d: got %q, want a text of its own", r, s)
		}
		seen[s] = true
	}
	for _, r := range []staple.Reason{0, staple.MaxReason + 1, 255} {
		if got := r.String(); got != "no reason" {
			t.Errorf("Reason %d: got %q", r, got)
		}
	}
}

func TestResponseError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		raw := p.staple(ocsp.Good, time.Hour)
		time.Sleep(time.Hour)
		_, err := staple.Verify(raw, p.leaf, p.ca)
		if want := `staple: "peer.test" (serial 2): OCSP response: expired: nextUpdate 2000-01-01T01:00:00Z`; err == nil || err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		if !errors.Is(err, staple.ErrExpired) || errors.Is(err, staple.ErrUnknown) {
			t.Errorf("%v: got another sentinel than ErrExpired", err)
		}
	})
	e := &staple.ResponseError{Responder: "http://ocsp.example", Reason: staple.ReasonTryLater}
	if want := "staple: OCSP responder http://ocsp.example: OCSP error status tryLater"; e.Error() != want {
		t.Errorf("got %q, want %q", e, want)
	}
}
