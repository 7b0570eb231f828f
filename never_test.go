package staple_test

import (
	"bytes"
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// heals are the faults that a right request, or a second one, gets around, or
// that nothing is left of in what is stapled.
var heals = map[ocsptest.Fault]bool{
	ocsptest.FaultGETRefused:      true, // POST
	ocsptest.FaultRedirect:        true,
	ocsptest.FaultStaleCache:      true, // no-cache
	ocsptest.FaultEndlessBody:     true, // reading ends with the response
	ocsptest.FaultPadded20K:       true, // unsigned, as the three that follow
	ocsptest.FaultPadded70K:       true,
	ocsptest.FaultPadded120K:      true,
	ocsptest.FaultJunkCertificate: true,
}

// Whatever a responder does, a handshake succeeds, and carries nothing or what
// is proven good, by x/crypto/ocsp and the clock: when it has done nothing else
// since the start, and when it did better before. In the latter case the good
// response stays until it ends and not a second longer, and when the responder
// is well again so are the handshakes.
//
// REQ B1-B14, C3, C4, E2, E7 (seen from the client)
func TestNeverBad(t *testing.T) {
	t.Parallel()
	for _, fault := range ocsptest.Faults() {
		t.Run(fault.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, ca *ocsptest.CA) { neverBad(t, ca, fault) })
		})
	}
	for _, by := range []ocsptest.Signer{ocsptest.DelegateNoEKU, ocsptest.DelegateAnyEKU, ocsptest.DelegateExpired, ocsptest.DelegateNotYetValid,
		ocsptest.DelegateCritical, ocsptest.DelegateSHA1, ocsptest.DelegateOtherCA, ocsptest.DelegateOtherName, ocsptest.DelegateOfDelegate,
		ocsptest.DelegateMissing, ocsptest.LeafSigner, ocsptest.WrongKey} {
		t.Run("signed by "+by.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetSign(ocsptest.Sign{By: by})
				neverBad(t, ca, ocsptest.FaultNone)
			})
		})
	}
}

// neverBad plays a fault; FaultNone is for a responder that is set up badly.
func neverBad(t *testing.T, ca *ocsptest.CA, fault ocsptest.Fault) {
	ca.Responder.SetFault(fault)
	cert := ca.Issue(ocsptest.Leaf{})
	s := stapler(t, ca)
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	client := clientFor(ca, "example.com")
	for range 6 {
		switch cs := mustTalk(t, cfg, client); {
		case len(cs.OCSPResponse) == 0:
		case heals[fault]:
			proven(t, cs, ca)
		default:
			t.Fatal("cold: a response that proves nothing is stapled")
		}
		time.Sleep(time.Hour)
	}
	if heals[fault] != (s.Ready() == nil) {
		t.Errorf("Ready: %v", s.Ready())
	}

	ca.Responder.ClearFaults()
	ca.Responder.SetSign(ocsptest.Sign{})
	time.Sleep(3 * time.Hour)
	good := mustTalk(t, cfg, client)
	proven(t, good, ca)
	ca.Responder.SetFault(fault)
	if fault == ocsptest.FaultNone {
		ca.Responder.SetFault(ocsptest.FaultWrongSigner)
	}
	asked := ca.Responder.Requests()
	var until time.Time // of what is held when the trouble begins
	for range 6 {
		until = s.Status()[0].NextUpdate
		time.Sleep(4 * time.Hour)
		cs := mustTalk(t, cfg, client)
		proven(t, cs, ca)
		if !heals[fault] && fault != ocsptest.FaultNotModified && !bytes.Equal(cs.OCSPResponse, good.OCSPResponse) {
			t.Fatal("the good response was replaced")
		}
	}
	if ca.Responder.Requests() == asked {
		t.Error("no refresh in a day")
	}
	if heals[fault] {
		return
	}
	time.Sleep(time.Until(until) - time.Second)
	proven(t, mustTalk(t, cfg, client), ca)
	time.Sleep(time.Second)
	unstapled(t, mustTalk(t, cfg, client))
	if st := s.Status()[0]; st.State != staple.StateExpired || st.Failures == 0 || st.Err == nil {
		t.Errorf("Status: %+v", st)
	}
	ca.Responder.ClearFaults()
	time.Sleep(3 * time.Hour)
	proven(t, mustTalk(t, cfg, client), ca)
}

// A certificate that is revoked while it is served stops being stapled at the
// next refresh, and what revoked it is not stapled either, unless that is
// wanted.
func TestRevokedWhileServed(t *testing.T) {
	for _, on := range []bool{false, true} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := ca.Issue(ocsptest.Leaf{})
			s := stapler(t, ca, staple.WithStapleRevoked(on))
			cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			synctest.Wait()
			client := clientFor(ca, "example.com")
			proven(t, mustTalk(t, cfg, client), ca)
			ca.Responder.Revoke(cert, 1, time.Time{})
			time.Sleep(time.Hour)
			for range 100 {
				cs := mustTalk(t, cfg, client)
				if err := staple.RequireStaple(cs); err == nil {
					t.Fatal("a revoked certificate is shown as good")
				}
				if (len(cs.OCSPResponse) > 0) != on {
					t.Fatalf("%d bytes stapled, WithStapleRevoked(%v)", len(cs.OCSPResponse), on)
				}
				time.Sleep(time.Hour)
			}
		})
	}
}
