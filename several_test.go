package staple_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// severals are good answers about the same certificate, under the same hash, that
// stand in a response beside a fresh one.
var severals = []struct {
	name       string
	this, next time.Duration // from now
	reason     staple.Reason // 0: it is stapled until next
}{
	{"expired", -4 * day, -time.Hour, staple.ReasonExpired},
	{"about to expire", -4 * day, time.Hour, 0},
	{"backwards", -4 * day, -5 * day, staple.ReasonNextUpdate},
}

// beside returns a response with two answers for cert, the other one at an index.
func beside(ca *ocsptest.CA, cert *tls.Certificate, at int, this, next time.Duration) []byte {
	return ca.Responder.Build(cert, func(s *ocsptest.Spec) {
		other := s.Singles[0]
		other.ThisUpdate, other.NextUpdate = time.Now().Add(this), time.Now().Add(next)
		s.Singles = slices.Insert(s.Singles, at, other)
	})
}

// REQ B3, REQ C3: there are clients that take the first answer for the
// certificate: what is stapled lasts no longer than each of them, wherever the
// response came from. VerifyStaple itself takes the newest.
func TestSeveralAnswers(t *testing.T) {
	for _, tc := range severals {
		for at := range 2 {
			for _, from := range []string{"network", "store", "source"} {
				t.Run(fmt.Sprint(tc.name, " ", at, " ", from), func(t *testing.T) {
					bubble(t, func(t *testing.T, ca *ocsptest.CA) {
						cert := ca.Issue(ocsptest.Leaf{})
						st := learned(t, ca, cert)
						body := beside(ca, cert, at, tc.this, tc.next)
						if err := staple.VerifyStaple(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf, ca.Cert}, OCSPResponse: body}); err != nil {
							t.Errorf("VerifyStaple: %v", err)
						}

						var opts []staple.Option
						switch from {
						case "network":
							ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, _ *big.Int) bool { answerWith(w, body); return true })
						case "store":
							key, _ := st.only(t)
							st.set(key, block("OCSP RESPONSE", body, time.Now()))
							opts = append(opts, staple.WithStore(st))
						case "source":
							cert.OCSPStaple = body
						}
						if from != "network" {
							ca.Responder.SetFault(ocsptest.FaultRefused)
						}
						s := stapler(t, ca, opts...)
						list(t, s, cert)
						err := s.Prefetch(t.Context(), cert)
						if from == "network" && reason(err) != tc.reason {
							t.Errorf("Prefetch: %v, want %v", err, tc.reason)
						}
						if got := s.Staple(cert).OCSPStaple != nil; got != (tc.reason == 0) {
							t.Errorf("stapled %v: %v", got, s.Ready())
						}
						time.Sleep(time.Hour - time.Nanosecond)
						if got := s.Staple(cert).OCSPStaple != nil; got != (tc.reason == 0) {
							t.Errorf("an hour later: stapled %v: %v", got, s.Ready())
						}
						time.Sleep(time.Nanosecond)
						if s.Staple(cert).OCSPStaple != nil {
							t.Error("stapled when one of the answers has ended")
						}
					})
				})
			}
		}
	}
}
