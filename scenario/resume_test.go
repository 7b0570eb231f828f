package scenario_test

import (
	"crypto/tls"
	"fmt"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A pocket keeps the session of the last handshake; shut, the one that it has.
type pocket struct {
	session *tls.ClientSessionState
	shut    bool
}

func (p *pocket) Get(string) (*tls.ClientSessionState, bool) { return p.session, p.session != nil }

func (p *pocket) Put(_ string, s *tls.ClientSessionState) {
	if !p.shut {
		p.session = s
	}
}

var versions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// eachVersion runs f for TLS 1.2 and 1.3 with a wrapped config that resumes,
// whose certificate is listed or comes by GetConfigForClient.
func eachVersion(t *testing.T, perClient bool, f func(t *testing.T, cfg, inner, client *tls.Config)) {
	for _, v := range versions {
		t.Run(tls.VersionName(v), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(ocsptest.Leaf{})
				s := testkit.Stapler(t, ca)
				inner := &tls.Config{Certificates: []tls.Certificate{*cert}}
				base := inner
				if perClient {
					base = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return inner, nil }}
				}
				client := testkit.ClientFor(ca, "example.com")
				client.MaxVersion, client.ClientSessionCache = v, new(pocket)
				client.VerifyConnection = staple.RequireStaple
				cfg := s.TLSConfig(base)
				if err := s.Prefetch(t.Context(), cert); err != nil {
					t.Fatal(err)
				}
				f(t, cfg, inner, client)
			})
		})
	}
}

// A session is resumed through a wrapped config, and the client has the staple
// of its first handshake.
func TestResumption(t *testing.T) {
	for _, perClient := range []bool{false, true} {
		t.Run(fmt.Sprint("GetConfigForClient ", perClient), func(t *testing.T) {
			eachVersion(t, perClient, func(t *testing.T, cfg, _, client *tls.Config) {
				first := testkit.MustTalk(t, cfg, client)
				for range 3 {
					cs := testkit.MustTalk(t, cfg, client)
					if !cs.DidResume {
						t.Error("not resumed")
					}
					if string(cs.OCSPResponse) != string(first.OCSPResponse) || len(cs.OCSPResponse) == 0 {
						t.Errorf("%d bytes of staple, want the %d of the first handshake", len(cs.OCSPResponse), len(first.OCSPResponse))
					}
				}
			})
		})
	}
}

// Session ticket keys set on the config that TLSConfig returned, or on one that
// GetConfigForClient returns, are rotated and withdrawn as without us.
func TestSessionTicketKeys(t *testing.T) {
	for _, perClient := range []bool{false, true} {
		t.Run(fmt.Sprint("GetConfigForClient ", perClient), func(t *testing.T) {
			eachVersion(t, perClient, func(t *testing.T, cfg, inner, client *tls.Config) {
				keys := cfg
				if perClient {
					keys = inner
				}
				k1, k2, k3 := [32]byte{1}, [32]byte{2}, [32]byte{3}
				keys.SetSessionTicketKeys([][32]byte{k1})
				testkit.MustTalk(t, cfg, client)
				client.ClientSessionCache.(*pocket).shut = true // a ticket under k1 from now on
				for _, step := range []struct {
					keys [][32]byte
					want bool
				}{
					{[][32]byte{k1}, true},
					{[][32]byte{k2, k1}, true}, // rotated
					{[][32]byte{k3, k2, k1}, true},
					{[][32]byte{k3, k2}, false}, // withdrawn
					{[][32]byte{k1}, true},
				} {
					keys.SetSessionTicketKeys(step.keys)
					for range 2 {
						if got := testkit.MustTalk(t, cfg, client).DidResume; got != step.want {
							t.Errorf("keys %v: resumed %v, want %v", step.keys, got, step.want)
						}
					}
				}
			})
		})
	}
}

// Tickets can be disabled on the copy as on any config.
func TestTicketsDisabled(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, cfg, _, client *tls.Config) {
		cfg.SessionTicketsDisabled = true
		for range 2 {
			if testkit.MustTalk(t, cfg, client).DidResume {
				t.Error("resumed")
			}
		}
	})
}
