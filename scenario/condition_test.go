package scenario_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ E1: what came from the store is not written back.
func TestRestartWritesNothing(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		synctest.Wait()
		before := st.Puts
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		s.Staple(cert)
		time.Sleep(time.Second)
		synctest.Wait()
		if !testkit.Stapled(t, s, ca, cert) || st.Puts != before {
			t.Errorf("%d writes after a restart", st.Puts-before)
		}
	})
}

// REQ C4, REQ A5: a staple that the source set is judged once the issuer is known, also
// where the chain without it was served before.
func TestStapleOfSourceWaitsForItsIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		cert.OCSPStaple = ca.Responder.Response(cert)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		lone := *cert
		lone.Certificate = cert.Certificate[:1]
		s := testkit.Stapler(t, ca)
		s.Staple(&lone)
		time.Sleep(time.Second)
		if got := s.Status()[0].State; got != staple.StatePending {
			t.Fatalf("without the issuer: %v", got)
		}
		s.Staple(cert)
		time.Sleep(time.Second)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("the source's staple is not used: %+v", s.Status()[0])
		}
	})
}
