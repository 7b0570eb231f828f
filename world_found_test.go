package staple_test

import (
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// What TestRandomWorld has found, each alone.

// REQ E4: a responder whose delegate's certificate has ended is asked no more than any that fails,
// though its last response, which ended with that, was valid for a second.
func TestDelegateEnds(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, NotAfter: time.Now().Add(6 * time.Hour)})
		s, cert := testkit.Stapler(t, ca), testkit.LeafFor(ca, "a.example")
		testkit.MustFetch(t, s, cert)
		for hour := range 10 {
			ca.Responder.ResetCounts()
			time.Sleep(time.Hour)
			if got := ca.Responder.Requests(); got > 100 {
				t.Errorf("hour %d: %d requests", hour, got)
			}
		}
	})
}

// REQ E7, REQ E12: nor is it given less time to answer once it has another delegate.
func TestSlowAfterDelegateEnds(t *testing.T) {
	for range 20 { // how long the last response was valid depends on the jitter
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetDelay(3 * time.Second)
			ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, NotAfter: time.Now().Add(6 * time.Hour)})
			s, cert := testkit.Stapler(t, ca), testkit.LeafFor(ca, "a.example")
			testkit.MustFetch(t, s, cert)
			time.Sleep(7 * time.Hour)
			ca.Responder.SetSign(ocsptest.Sign{})
			time.Sleep(time.Hour)
			if !testkit.Stapled(t, s, ca, cert) {
				st := s.Status()[0]
				t.Errorf("an hour after there is another delegate: %v, failed %d times: %v", st.State, st.Failures, st.Err)
			}
		})
	}
}

// REQ E3: a staple of the source that takes the place of a response which lasts longer is refreshed
// before it ends.
func TestShorterStapleOfTheSource(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(10 * testkit.Day)
		ca.Responder.SetPresign(true) // with a max-age of 5 days
		s, cert := testkit.Stapler(t, ca), testkit.LeafFor(ca, "a.example")
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Hour)
		ca.Responder.SetValidity(2 * time.Hour)
		own := *cert
		own.OCSPStaple = ca.Responder.Response(cert)
		s.Staple(&own)
		for hour := range 12 {
			time.Sleep(time.Hour)
			if !testkit.Stapled(t, s, ca, cert) {
				t.Fatalf("no staple after %d hours: %+v", hour+1, s.Status()[0])
			}
		}
	})
}

// REQ E9, REQ E12: a certificate that was out of use by a clock that was ahead is retried as one in
// use once that is set, which takes a minute to be noticed.
func TestOutOfUseByAClockAhead(t *testing.T) {
	for range 20 { // the pause may happen to end soon
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			c, cert := new(clock), ca.Issue(ocsptest.Leaf{MustStaple: true})
			s := testkit.Stapler(t, ca, staple.WithNow(c.now))
			ca.Responder.SetFault(ocsptest.FaultTryLater)
			s.Staple(cert)
			time.Sleep(time.Hour)
			c.step(2 * testkit.Day)
			time.Sleep(3 * time.Hour)
			c.step(-2 * testkit.Day)
			s.Staple(cert)
			ca.Responder.ClearFaults()
			time.Sleep(6*time.Minute + 10*time.Second)
			if s.Staple(cert).OCSPStaple == nil {
				st := s.Status()[0]
				t.Errorf("the next attempt in %v, after %d: %v", st.NextRefresh.Sub(c.now()), st.Failures, st.Err)
			}
		})
	}
}
