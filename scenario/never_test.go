package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
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
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) { neverBad(t, ca, fault) })
		})
	}
	for _, by := range []ocsptest.Signer{ocsptest.DelegateNoEKU, ocsptest.DelegateAnyEKU, ocsptest.DelegateExpired, ocsptest.DelegateNotYetValid,
		ocsptest.DelegateCritical, ocsptest.DelegateSHA1, ocsptest.DelegateOtherCA, ocsptest.DelegateOtherName, ocsptest.DelegateOfDelegate,
		ocsptest.DelegateMissing, ocsptest.LeafSigner, ocsptest.WrongKey} {
		t.Run("signed by "+by.String(), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
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
	s := testkit.Stapler(t, ca)
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	client := testkit.ClientFor(ca, "example.com")
	for range 6 {
		switch cs := testkit.MustTalk(t, cfg, client); {
		case len(cs.OCSPResponse) == 0:
		case heals[fault]:
			testkit.Proven(t, cs, ca)
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
	good := testkit.MustTalk(t, cfg, client)
	testkit.Proven(t, good, ca)
	ca.Responder.SetFault(fault)
	if fault == ocsptest.FaultNone {
		ca.Responder.SetFault(ocsptest.FaultWrongSigner)
	}
	asked := ca.Responder.Requests()
	var until time.Time // of what is held when the trouble begins
	for range 6 {
		until = s.Status()[0].NextUpdate
		time.Sleep(4 * time.Hour)
		cs := testkit.MustTalk(t, cfg, client)
		testkit.Proven(t, cs, ca)
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
	testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
	time.Sleep(time.Second)
	testkit.Unstapled(t, testkit.MustTalk(t, cfg, client))
	if st := s.Status()[0]; st.State != staple.StateExpired || st.Failures == 0 || st.Err == nil {
		t.Errorf("Status: %+v", st)
	}
	ca.Responder.ClearFaults()
	time.Sleep(3 * time.Hour)
	testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
}

// A certificate that is revoked while it is served stops being stapled at the
// next refresh, and what revoked it is not stapled either, unless that is
// wanted.
func TestRevokedWhileServed(t *testing.T) {
	for _, on := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := ca.Issue(ocsptest.Leaf{})
			s := testkit.Stapler(t, ca, staple.WithStapleRevoked(on))
			cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			synctest.Wait()
			client := testkit.ClientFor(ca, "example.com")
			testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
			ca.Responder.Revoke(cert, 1, time.Time{})
			time.Sleep(time.Hour)
			for range 100 {
				cs := testkit.MustTalk(t, cfg, client)
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

// REQ E4, REQ B15: a cache whose nodes differ in age answers with what is older than what is held,
// for hours. That costs one refresh an hour, as if it were unchanged, and not the retries of a failure.
func TestOlderNode(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		keep := testkit.List(t, s, cert)
		synctest.Wait()
		this := time.Now().Add(-12 * time.Hour)
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) {
			spec.ProducedAt = this
			for i := range spec.Singles {
				spec.Singles[i].ThisUpdate = this
			}
		})
		before := ca.Responder.Requests()
		time.Sleep(12 * time.Hour)
		if st := s.Status()[0]; st.State != staple.StateGood || testkit.Reason(st.Err) != staple.ReasonReplay {
			t.Errorf("%v, %v", st.State, st.Err)
		}
		if got := ca.Responder.Requests() - before; got < 12 || got > 32 { // 12 to 20 refreshes, and one past the caches an hour
			t.Errorf("%d requests in 12 hours", got)
		}
		runtime.KeepAlive(keep)
	})
}

// REQ B15: a response that is older than the one held never replaces it,
// whatever it says, and the same bytes again are no news.
func TestReplay(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var last staple.Event
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(e staple.Event) {
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
		if last.Kind != staple.EventFailed || testkit.Reason(last.Err) != staple.ReasonReplay {
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
		if err := s.Ready(); err != nil || !testkit.Stapled(t, s, ca, cert) {
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
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
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

// severals are good answers about the same certificate, under the same hash, that
// stand in a response beside a fresh one.
var severals = []struct {
	name       string
	this, next time.Duration // from now
	reason     staple.Reason // 0: it is stapled until next
}{
	{"expired", -4 * testkit.Day, -time.Hour, staple.ReasonExpired},
	{"about to expire", -4 * testkit.Day, time.Hour, 0},
	{"backwards", -4 * testkit.Day, -5 * testkit.Day, staple.ReasonNextUpdate},
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
					testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
						cert := ca.Issue(ocsptest.Leaf{})
						st := learned(t, ca, cert)
						body := beside(ca, cert, at, tc.this, tc.next)
						if err := staple.VerifyStaple(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf, ca.Cert}, OCSPResponse: body}); err != nil {
							t.Errorf("VerifyStaple: %v", err)
						}

						var opts []staple.Option
						switch from {
						case "network":
							ca.Responder.SetHook(func(w http.ResponseWriter, _ *http.Request, _ *big.Int) bool {
								testkit.AnswerWith(w, body)
								return true
							})
						case "store":
							key, _ := st.Only(t)
							st.Set(key, block("OCSP RESPONSE", body, time.Now()))
							opts = append(opts, staple.WithStore(st))
						case "source":
							cert.OCSPStaple = body
						}
						if from != "network" {
							ca.Responder.SetFault(ocsptest.FaultRefused)
						}
						s := testkit.Stapler(t, ca, opts...)
						testkit.List(t, s, cert)
						err := s.Prefetch(t.Context(), cert)
						if from == "network" && testkit.Reason(err) != tc.reason {
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

// REQ B15: a certificate without a responder whose source sets its staples stays revoked once
// one says so: an older one does not undo that.
func TestRevokedByTheSource(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s, cert := testkit.Stapler(t, ca), ca.Issue(ocsptest.Leaf{NoURL: true})
		good, revoked := *cert, *cert
		good.OCSPStaple = ca.Responder.Response(cert)
		time.Sleep(time.Minute)
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		revoked.OCSPStaple = ca.Responder.Response(cert)
		s.Staple(&revoked)
		time.Sleep(time.Second)
		_ = s.Refresh(t.Context(), &revoked)
		s.Staple(&good)
		time.Sleep(time.Second)
		if st := s.Status()[0]; st.State != staple.StateRevoked || s.Staple(&good).OCSPStaple != nil || !errors.Is(s.Ready(), staple.ErrRevoked) {
			t.Errorf("%+v", st)
		}
	})
}

// REQ B15: an older staple that the source had set does not replace the record of a revocation,
// which counts from when it is read, after one restart and after another.
func TestRecordOutlivesTheSource(t *testing.T) {
	for _, takes := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond} {
		for _, must := range []bool{false, true} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				st, cert := new(testkit.Shelf), ca.Issue(ocsptest.Leaf{MustStaple: must})
				own := *cert
				own.OCSPStaple = ca.Responder.Response(cert)
				time.Sleep(time.Minute)
				ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
				s := testkit.Stapler(t, ca, staple.WithStore(st))
				_ = s.Prefetch(t.Context(), cert)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				ca.Responder.SetFault(ocsptest.FaultRefused)
				st.Delay("Get", takes)
				for range 2 {
					s = testkit.Stapler(t, ca, staple.WithStore(st))
					s.Staple(&own)
					time.Sleep(time.Minute)
					if got := s.Staple(&own).OCSPStaple; takes < 100*time.Millisecond && got != nil {
						t.Errorf("Get takes %v, Must-Staple %v: stapled", takes, must)
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				st.Fail(nil)
				s = testkit.Stapler(t, ca, staple.WithStore(st))
				_ = s.Prefetch(t.Context(), cert)
				if state := s.Status()[0].State; state != staple.StateRevoked {
					t.Errorf("Get takes %v, Must-Staple %v: %v", takes, must, state)
				}
			})
		}
	}
}

// REQ E1: a staple that the source had set is in the store for others, once it is known that there is
// no newer record.
func TestOwnStapleIsStored(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		st, cert := new(testkit.Shelf), ca.Issue(ocsptest.Leaf{})
		st.Delay("Get", 50*time.Millisecond)
		own := *cert
		own.OCSPStaple = ca.Responder.Response(cert)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		testkit.Stapler(t, ca, staple.WithStore(st)).Staple(&own)
		time.Sleep(time.Second)
		other := testkit.Stapler(t, ca, staple.WithStore(st))
		other.Staple(cert)
		time.Sleep(time.Second)
		if other.Staple(cert).OCSPStaple == nil {
			t.Errorf("another process has no staple: %v", other.Ready())
		}
	})
}
