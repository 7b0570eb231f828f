package staple_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// REQ B15: a response that is older than the one held never replaces it,
// whatever it says, and the same bytes again are no news.
func TestReplay(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var last staple.Event
		s := stapler(t, ca, staple.WithEventFunc(func(e staple.Event) {
			if e.Kind <= staple.EventRevoked {
				last = e
			}
		}))
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		held := s.Staple(cert).OCSPStaple

		backdated := func(spec *ocsptest.Spec) {
			for i := range spec.Singles {
				spec.Singles[i].ThisUpdate = spec.Singles[i].ThisUpdate.Add(-3 * time.Hour)
			}
			spec.ProducedAt = spec.ProducedAt.Add(-3 * time.Hour)
		}
		ca.Responder.SetEdit(backdated)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		if last.Kind != staple.EventFailed || reason(last.Err) != staple.ReasonReplay {
			t.Errorf("an older response: %v, %v", last.Kind, last.Err)
		}
		if !bytes.Equal(s.Staple(cert).OCSPStaple, held) {
			t.Error("an older response replaced a newer one")
		}

		ca.Responder.SetEdit(nil)
		ca.Responder.Revoke(cert, ocsp.CertificateHold, time.Now())
		time.Sleep(2 * time.Hour)
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) || s.Staple(cert).OCSPStaple != nil {
			t.Fatalf("revoked: Ready says %v", err)
		}
		ca.Responder.SetGood(cert)
		ca.Responder.SetEdit(backdated)
		time.Sleep(2 * time.Hour)
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) || s.Staple(cert).OCSPStaple != nil {
			t.Errorf("an older good response undid a revocation: Ready says %v", err)
		}
		ca.Responder.SetEdit(nil) // the hold is lifted
		time.Sleep(3 * time.Hour)
		if err := s.Ready(); err != nil || !stapled(t, s, ca, cert) {
			t.Errorf("after the hold was lifted: %v", err)
		}

		ca.Responder.SetPresign(true)
		ca.Responder.SetHeader("Cache-Control", "max-age=60")
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if last.Kind != staple.EventUnchanged {
			t.Errorf("the same bytes again: %v, %v", last.Kind, last.Err)
		}
		if got := s.Status()[0].Failures; got != 0 {
			t.Errorf("%d failures", got)
		}
	})
}

// REQ B15: a revocation is remembered for a week without a handshake, though
// nobody is told of it for so long: an older good response does not undo it.
func TestRevocationIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		s.Staple(cert)
		time.Sleep(6 * 24 * time.Hour)
		if err := s.Ready(); err != nil || len(s.Status()) > 0 {
			t.Errorf("of a certificate that was replaced: %v", err)
		}
		ca.Responder.SetGood(cert)
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) { // from a cache
			spec.Singles[0].ThisUpdate = spec.Singles[0].ThisUpdate.Add(-7 * 24 * time.Hour)
			spec.Singles[0].NextUpdate = spec.Singles[0].NextUpdate.Add(7 * 24 * time.Hour)
		})
		for range 12 {
			if s.Staple(cert).OCSPStaple != nil {
				t.Fatal("an older good response undid a revocation")
			}
			time.Sleep(time.Hour)
		}
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) {
			t.Errorf("it is served again: %v", err)
		}
	})
}
