package scenario_test

import (
	"crypto"
	"crypto/tls"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// kinds of caches.
const (
	heeds  = iota // it lets requests with no-cache pass
	deaf          // it does not, as many of CDNs
	noPost        // it lets requests with no-cache pass, and no POST
	caches
)

// cached returns a Stapler that reaches ca's responder by a cache, which sets the responder
// to what it holds (true) or to what is true by now, at each request. It holds GETs.
func cached(t *testing.T, ca *ocsptest.CA, kind int, set func(held bool)) *staple.Stapler {
	next := ca.Responder.Client().Transport
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if kind == noPost && r.Method == http.MethodPost {
			return &http.Response{StatusCode: http.StatusMethodNotAllowed, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
		set(r.Method == http.MethodGet && (kind == deaf || r.Header.Get("Cache-Control") != "no-cache"))
		return next.RoundTrip(r)
	})}))
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// refused are answers that a cache may keep. FaultNone stands for a signed "unknown".
var refused = []ocsptest.Fault{ocsptest.FaultNone, ocsptest.FaultExpired, ocsptest.FaultUnauthorized, ocsptest.FaultTryLater,
	ocsptest.FaultSigRequired, ocsptest.FaultBrokenSignature, ocsptest.FaultWrongSerial, ocsptest.FaultWrongSigner,
	ocsptest.FaultDelegateExpired, ocsptest.FaultDelegateMissing, ocsptest.FaultInternalError, ocsptest.FaultWrongKeyHash}

// REQ A9, REQ E16: what a cache holds is asked for past it, also where the cache heeds no
// request: nothing for long where nothing is held, and no gap where something is.
func TestRefusedFromACache(t *testing.T) {
	t.Parallel()
	for _, f := range refused {
		for kind := range caches {
			for _, holds := range []bool{true, false} {
				if kind == noPost && f == ocsptest.FaultInternalError {
					continue // POST is asked for by that
				}
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
					ca.Responder.SetValidity(4 * time.Hour)
					cert, stale := ca.Issue(ocsptest.Leaf{}), !holds
					s := cached(t, ca, kind, func(held bool) {
						ca.Responder.SetFault(ocsptest.FaultNone)
						ca.Responder.SetGood(cert)
						switch {
						case !held || !stale:
						case f == ocsptest.FaultNone:
							ca.Responder.SetUnknown(cert)
						default:
							ca.Responder.SetFault(f)
						}
					})
					if holds {
						testkit.MustFetch(t, s, cert)
						stale = true
					} else {
						testkit.List(t, s, cert)
						time.Sleep(20 * time.Minute)
					}
					for minute := range 48 * 60 {
						synctest.Wait()
						if s.Staple(cert).OCSPStaple == nil {
							t.Fatalf("%v, cache %d, held a response %v: no staple after %d minutes: %v", f, kind, holds, minute, s.Ready())
						}
						time.Sleep(time.Minute)
					}
				})
			}
		}
	}
}

// A certificate that is a minute old is "unauthorized" once, and known when it is asked for
// under the other hash. That says nothing of other certificates: what is stapled under
// SHA-256 some clients refuse.
func TestHashOfOneCertificate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) { // one forged answer, the first of all: an hour, and a refresh
		certs := testkit.Leaves(ca, 10)
		s := testkit.Stapler(t, ca)
		ca.Responder.Script(ocsptest.FaultUnauthorized)
		testkit.MustFetch(t, s, certs[0])
		cfg := testkit.List(t, s, certs...)
		time.Sleep(3 * time.Hour)
		for _, cert := range certs {
			if r, err := ocsp.ParseResponse(s.Staple(cert).OCSPStaple, ca.Cert); err != nil || r.IssuerHash != crypto.SHA1 {
				t.Errorf("stapled under %v, %v", r.IssuerHash, err)
			}
		}
		runtime.KeepAlive(cfg)
	})
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		known, fresh := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, known)
		ca.Responder.Script(ocsptest.FaultUnauthorized)
		testkit.MustFetch(t, s, fresh)
		time.Sleep(2 * time.Hour)
		for name, cert := range map[string]*tls.Certificate{"known": known, "fresh": fresh} {
			if r, err := ocsp.ParseResponse(s.Staple(cert).OCSPStaple, ca.Cert); err != nil || r.IssuerHash != crypto.SHA1 {
				t.Errorf("the one that was %s is stapled under %v, %v", name, r.IssuerHash, err)
			}
		}
	})
}
