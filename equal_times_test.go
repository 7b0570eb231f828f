package staple_test

import (
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// signedAt has a responder sign with fixed times, and without nextUpdate if open.
func signedAt(r *ocsptest.Responder, thisUpdate, produced time.Time, open bool) {
	r.SetEdit(func(spec *ocsptest.Spec) {
		spec.ProducedAt = produced
		for i := range spec.Singles {
			spec.Singles[i].ThisUpdate = thisUpdate
			if open {
				spec.Singles[i].NextUpdate = time.Time{}
			}
		}
	})
}

// REQ B15: of two responses of one thisUpdate the later producedAt counts, and of
// two signed at one time the worse: a good one from a cache does not undo a
// revocation of the same second.
func TestEqualTimes(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		this := time.Now()
		for _, step := range []struct {
			name     string
			revoked  bool
			produced time.Duration // after thisUpdate
			want     staple.State
			replay   bool
		}{
			{"good", false, 0, staple.StateGood, false},
			{"revoked, at the same time", true, 0, staple.StateRevoked, false},
			{"good, at the same time", false, 0, staple.StateRevoked, true},
			{"good, produced later", false, 3 * time.Second, staple.StateGood, false},
			{"good, produced before that", false, 2 * time.Second, staple.StateGood, true},
			{"revoked, produced before that", true, 2 * time.Second, staple.StateGood, true},
		} {
			signedAt(ca.Responder, this, this.Add(step.produced), false)
			if ca.Responder.SetGood(cert); step.revoked {
				ca.Responder.Revoke(cert, ocsp.KeyCompromise, this)
			}
			err := s.Refresh(t.Context(), cert)
			if got := s.Status()[0].State; got != step.want || (testkit.Reason(err) == staple.ReasonReplay) != step.replay {
				t.Errorf("%s: %v, %v", step.name, got, err)
			}
			time.Sleep(time.Second)
		}
	})
}

// REQ E9: what was checked by a clock that was set back since counts as checked when
// it is confirmed by the new time.
func TestRenewedAfterStepBack(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		signedAt(ca.Responder, time.Now().Add(-6*time.Hour), time.Now().Add(-6*time.Hour), false) // the same bytes each time
		ca.Responder.SetPresign(true)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, cert)
		c.step(-2 * time.Hour)
		if err := s.Refresh(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		if got := s.Status()[0].LastSuccess; !got.Equal(c.now()) {
			t.Errorf("last success %v, want now, %v", got, c.now())
		}
	})
}

// REQ C3, REQ E9: a response without nextUpdate is served for a TTL from its receipt.
// By a clock that was set back that is ahead, so it is not served until the responder
// was asked again.
func TestOpenAfterStepBack(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c := new(clock)
		signedAt(ca.Responder, time.Now().Add(-6*time.Hour), time.Now().Add(-6*time.Hour), true)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		s := testkit.Stapler(t, ca, staple.WithNow(c.now))
		testkit.MustFetch(t, s, cert)
		for _, step := range []struct {
			back    time.Duration
			stapled bool
		}{
			{4 * time.Minute, true}, // clocks differ by as much
			{2 * time.Minute, false},
		} {
			c.step(-step.back)
			if got := s.Staple(cert).OCSPStaple != nil; got != step.stapled {
				t.Errorf("%v back: stapled %v", step.back, got)
			}
		}
		time.Sleep(2 * time.Minute)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not asked again: %+v", s.Status()[0])
		}
	})
}
