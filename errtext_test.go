package staple_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// once fails the test unless the text of err says the package's name once, and
// each of the parts once, in their order, on one line.
func once(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", parts)
		return
	}
	text, at := err.Error(), 0
	if strings.Count(text, "staple: ") != 1 || !strings.HasPrefix(text, "staple: ") || strings.Contains(text, "\n") {
		t.Errorf("not one line with one prefix: %q", text)
	}
	for _, part := range parts {
		i := strings.Index(text, part)
		if strings.Count(text, part) != 1 || i < at {
			t.Errorf("%q: want %q once, and in this order", text, parts)
		}
		at = i
	}
}

// REQ G1: an error that wraps others repeats neither the package's name nor the
// responder's, and is found in all the ways that they are.
func TestErrorSaysThingsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		ca.Responder.SetFault(ocsptest.FaultHTTP503)
		certs := leaves(ca, 100)
		err := s.Prefetch(background, certs...) // the responder fails for some, and is not asked about the rest
		spared := slices.DeleteFunc(err.(interface{ Unwrap() []error }).Unwrap(), func(err error) bool { return reason(err) != staple.ReasonUnavailable })
		if len(spared) < 50 {
			t.Fatalf("%d not asked about: %v", len(spared), err)
		}
		once(t, spared[0], `.example.com" (serial `, ca.Responder.URL(), "responder unavailable, not asked: ", "unexpected HTTP status: 503")

		other := ocsptest.NewCA()
		other.Responder.SetFault(ocsptest.FaultTryLater)
		err = stapler(t, other).Prefetch(background, other.Issue(ocsptest.Leaf{URLs: []string{"http://a.example", "http://b.example"}}))
		once(t, err, "http://a.example: ", "; ", "http://b.example: ")
	})
}

// The errors of Prefetch that no responder is to blame for.
func TestPrefetchErrorTexts(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		err := s.Prefetch(background, cert, nil, ca.Issue(ocsptest.Leaf{WithoutIssuer: true}))
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != 2 || lines[0] != "staple: certificate 1 is nil or empty" || !strings.Contains(lines[1], "): issuer certificate not found, wanted ") {
			t.Errorf("%q", lines)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		err = s.Prefetch(background, ca.Issue(ocsptest.Leaf{Names: []string{"b.example"}}))
		once(t, err, `"b.example" (serial `, "): closed")
		if !errors.Is(err, staple.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	})
}

// REQ B13: how and when a certificate was revoked is not lost after the event.
func TestRevocationIsDescribed(t *testing.T) {
	for _, tc := range []struct {
		reason int
		at     time.Time
		want   string
	}{
		{ocsp.KeyCompromise, time.Date(1999, 12, 24, 18, 0, 0, 0, time.UTC), "keyCompromise since 1999-12-24T18:00:00Z"},
		{ocsp.CertificateHold, time.Unix(0, 0), "certificateHold since 1970-01-01: the CA never issued it"},
	} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := stapler(t, ca)
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
			ca.Responder.Revoke(cert, tc.reason, tc.at)
			check := func(fails bool) {
				t.Helper()
				got := s.Prefetch(background, cert)
				for what, err := range map[string]error{"Prefetch": got, "Ready": s.Ready(), "Status": s.Status()[0].Err} {
					if !errors.Is(err, staple.ErrRevoked) || reason(err) != staple.ReasonRevoked {
						t.Errorf("%s: %v: not ErrRevoked, or reason %v", what, err, reason(err))
					}
					if what != "Status" || !fails {
						once(t, err, ca.Responder.URL()+": status revoked: "+tc.want)
					}
				}
			}
			check(false)
			ca.Responder.SetFault(ocsptest.FaultTryLater)
			time.Sleep(20 * time.Hour)
			if st := s.Status()[0]; st.Failures == 0 || !strings.Contains(st.Err.Error(), "tryLater") || !strings.Contains(st.Err.Error(), tc.want) {
				t.Errorf("%d failures, %v", st.Failures, st.Err)
			}
			check(true)
		})
	}
}

// REQ E7: what has expired is that, whatever the last attempt failed of.
func TestExpiredIsBoth(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		mustFetch(t, s, cert)
		ca.Responder.SetFault(ocsptest.FaultUnauthorized)
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		for _, err := range []error{s.Ready(), s.Prefetch(background, cert)} {
			if !errors.Is(err, staple.ErrExpired) || reason(err) != staple.ReasonUnauthorized {
				t.Errorf("%v, want ErrExpired and why", err)
			}
			once(t, err, `"a.example"`, "has expired at 2000-01-0", "; the last attempt: OCSP responder "+ca.Responder.URL(), "unauthorized")
		}
	})
}

// REQ D2, REQ G1: Ready names first what clients refuse, then what they may.
func TestReadyInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		know := func(l ocsptest.Leaf, names ...string) (certs []*tls.Certificate) {
			for _, name := range names {
				l.Names = []string{name}
				certs = append(certs, ca.Issue(l))
			}
			_ = s.Prefetch(background, certs...)
			return certs
		}
		list(t, s, know(ocsptest.Leaf{}, "expired-b", "expired-a")...)
		revoked := ca.Issue(ocsptest.Leaf{Names: []string{"revoked"}})
		ca.Responder.Revoke(revoked, ocsp.Superseded, time.Time{})
		list(t, s, revoked)
		_ = s.Prefetch(background, revoked)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		time.Sleep(100 * time.Hour)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		know(ocsptest.Leaf{}, "new-f", "new-c", "new-b", "new-e", "new-a", "new-d")
		know(ocsptest.Leaf{MustStaple: true}, "must-b", "must-a")
		var names []string
		for line := range strings.SplitSeq(s.Ready().Error(), "\n") {
			_, rest, _ := strings.Cut(line, `"`)
			name, _, _ := strings.Cut(rest, `"`)
			names = append(names, name)
		}
		if len(names) != 11 || !slices.Equal(names[:5], []string{"must-a", "must-b", "revoked", "expired-a", "expired-b"}) ||
			!strings.HasPrefix(names[5], "new-") || !slices.IsSorted(names[5:10]) {
			t.Errorf("%q", names)
		}
	})
}

// What came instead of a response is shown as far as it fits into a line.
func TestWhatCameIsShown(t *testing.T) {
	for f, want := range map[ocsptest.Fault]string{
		ocsptest.FaultJunkBody:      ": malformed response: OCSPResponse, in 300 bytes that begin \"",
		ocsptest.FaultTrailingAfter: " bytes that begin \"0\\x82\\x0",
		ocsptest.FaultNotModified:   ": unexpected HTTP status: 304 Not Modified\n",
		ocsptest.FaultSHA1Signature: "weak signature algorithm: ECDSA with SHA-1 (OID 1.2.840.10045.4.1)\n",
	} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetFault(f)
			err := stapler(t, ca).Prefetch(background, ca.Issue(ocsptest.Leaf{}))
			if got := fmt.Sprintln(err); !strings.Contains(got, want) || strings.ContainsFunc(strings.TrimSpace(got), func(c rune) bool { return c < ' ' || c > '~' }) || len(got) > 500 {
				t.Errorf("%v: %q, want %q in it", f, got, want)
			}
		})
	}
}

// REQ C7: whoever verifies a peer's staple learns from the error whose it was.
func TestVerifyStapleNamesThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, tlsFeature())
		stranger := newPeer(t)
		unverified := p.state(p.staple(ocsp.Good, week))
		unverified.PeerCertificates, unverified.VerifiedChains = unverified.PeerCertificates[:1], nil
		for what, cs := range map[string]tls.ConnectionState{
			"no OCSP staple":               p.state(nil),
			"issuer certificate not found": unverified,
			"OCSP response: status revoked: unspecified since 2000-01-01T00:00:00Z": p.state(p.staple(ocsp.Revoked, week)),
			"OCSP response: issuerKeyHash of another issuer: serial 02":             p.state(stranger.staple(ocsp.Good, week)),
		} {
			for _, check := range []func(tls.ConnectionState) error{staple.VerifyStaple, staple.RequireStaple} {
				if want, err := `staple: "peer.test" (serial 2): `+what, check(cs); err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
			}
		}
	})
}
