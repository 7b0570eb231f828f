package scenario_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// shop is a set of certificates of one CA, for the shapes that a source has.
type shop struct {
	ca            *ocsptest.CA
	www, rsa, api *tls.Certificate // www and rsa are for one name
}

func newShop(ca *ocsptest.CA) *shop {
	return &shop{
		ca:  ca,
		www: ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}}),
		rsa: ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, KeyType: ocsptest.RSA2048}),
		api: ca.Issue(ocsptest.Leaf{Names: []string{"*.api.example.com"}}),
	}
}

func onlyRSA(c *tls.Config) *tls.Config {
	c.MaxVersion = tls.VersionTLS12
	c.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	return c
}

// Every certificate that a wrapped config serves carries the staple that is
// for exactly that one, whichever way the config comes by it.
//
// REQ C1, REQ C2
func TestSources(t *testing.T) {
	type source func(t *testing.T, s *shop) *tls.Config
	one := func(_ *testing.T, s *shop) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{*s.www}} }
	several := func(_ *testing.T, s *shop) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{*s.www, *s.rsa, *s.api}}
	}
	autocert := func(_ *testing.T, s *shop) *tls.Config {
		return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: s.www.Certificate, PrivateKey: s.www.PrivateKey, Leaf: s.www.Leaf}, nil
		}}
	}
	files := func(t *testing.T, s *shop) *tls.Config {
		return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return testkit.Anew(t, s.www), nil }}
	}
	noLeaf := func(_ *testing.T, s *shop) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: s.www.Certificate, PrivateKey: s.www.PrivateKey}}}
	}
	perClient := func(inner source) source {
		return func(t *testing.T, s *shop) *tls.Config {
			c := inner(t, s)
			return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c, nil }}
		}
	}
	both := func(_ *testing.T, s *shop) *tls.Config { // the source knows one name, the list the other
		return &tls.Config{Certificates: []tls.Certificate{*s.api}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if h.ServerName == "www.example.com" {
				return s.www, nil
			}
			return nil, nil
		}}
	}
	fallThrough := func(_ *testing.T, s *shop) *tls.Config { // GetConfigForClient has no opinion
		return &tls.Config{Certificates: []tls.Certificate{*s.www}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }}
	}
	for _, tt := range []struct {
		name   string
		source source
		sni    string
		rsa    bool
		want   func(*shop) *tls.Certificate
	}{
		{"one", one, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"one, no SNI", one, "", false, func(s *shop) *tls.Certificate { return s.www }},
		{"one, no Leaf", noLeaf, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"several", several, "v1.api.example.com", false, func(s *shop) *tls.Certificate { return s.api }},
		{"several, ECDSA", several, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"several, RSA", several, "www.example.com", true, func(s *shop) *tls.Certificate { return s.rsa }},
		{"several, RSA, no SNI", several, "", true, func(s *shop) *tls.Certificate { return s.rsa }},
		{"several, no SNI", several, "", false, func(s *shop) *tls.Certificate { return s.www }},
		{"GetCertificate, autocert", autocert, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"GetCertificate, files", files, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"GetCertificate, no SNI", autocert, "", false, func(s *shop) *tls.Certificate { return s.www }},
		{"both, from the source", both, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"both, from the list", both, "v1.api.example.com", false, func(s *shop) *tls.Certificate { return s.api }},
		{"both, no SNI", both, "", false, func(s *shop) *tls.Certificate { return s.api }},
		{"GetConfigForClient, one", perClient(one), "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"GetConfigForClient, several", perClient(several), "www.example.com", true, func(s *shop) *tls.Certificate { return s.rsa }},
		{"GetConfigForClient, autocert", perClient(autocert), "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
		{"GetConfigForClient, nil", fallThrough, "www.example.com", false, func(s *shop) *tls.Certificate { return s.www }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				goods := newShop(ca)
				s := testkit.Stapler(t, ca)
				cfg := s.TLSConfig(tt.source(t, goods))
				client := testkit.ClientFor(ca, tt.sni)
				if tt.rsa {
					client = onlyRSA(client)
				}
				testkit.MustTalk(t, cfg, client) // the first handshake of a source is the first that is known of it
				synctest.Wait()
				asked := ca.Responder.Requests()
				for range 8 {
					cs := testkit.MustTalk(t, cfg, client)
					if want := tt.want(goods).Leaf; !cs.PeerCertificates[0].Equal(want) {
						t.Fatalf("served %v, want %v", cs.PeerCertificates[0].Subject, want.Subject)
					}
					testkit.Proven(t, cs, ca)
				}
				synctest.Wait()
				if n := ca.Responder.Requests(); n != asked || n != len(s.Status()) {
					t.Errorf("%d requests for %d certificates, %d of them in the first handshake", n, len(s.Status()), asked)
				}
			})
		})
	}
}

// After a renewal the new certificate never carries the old one's staple, and
// has its own as soon as it is there.
//
// REQ C2
func TestSourceRenews(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		old := ca.Issue(ocsptest.Leaf{})
		renewed := ca.Issue(ocsptest.Leaf{Key: old.PrivateKey.(crypto.Signer)})
		current := old
		s := testkit.Stapler(t, ca)
		cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current, nil }})
		client := testkit.ClientFor(ca, "example.com")
		if err := s.Prefetch(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		before := testkit.MustTalk(t, cfg, client)
		testkit.Proven(t, before, ca)
		ca.Responder.SetDelay(time.Second)
		current = renewed
		testkit.Unstapled(t, testkit.MustTalk(t, cfg, client)) // the old one's response would abort it: RFC 6066 §8
		time.Sleep(2 * time.Second)
		after := testkit.MustTalk(t, cfg, client)
		testkit.Proven(t, after, ca)
		if bytes.Equal(before.OCSPResponse, after.OCSPResponse) {
			t.Error("the old one's response with the new certificate")
		}
		current = old // rolled back
		testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
	})
}

// loose is a key that can't be compared.
type loose struct {
	crypto.Signer
	_ []int
}

// The certificate served is the one in hand: a key that the source opened anew
// signs, whatever its type, and a chain that it changed is sent.
func TestServesWhatIsInHand(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cross := ca.CrossSign(ocsptest.NewCA())
		for _, kind := range []ocsptest.KeyType{ocsptest.ECDSAP256, ocsptest.Ed25519} {
			cert := ca.Issue(ocsptest.Leaf{KeyType: kind})
			signer := cert.PrivateKey.(crypto.Signer)
			opened := 0
			s := testkit.Stapler(t, ca)
			cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				c := *cert
				switch opened++; opened % 4 {
				case 0, 3:
					c.PrivateKey = loose{Signer: signer}
				case 1:
					c.PrivateKey = &loose{Signer: signer}
				case 2:
					c.Certificate = [][]byte{cert.Certificate[0], cross.Raw}
				}
				return &c, nil
			}})
			if err := s.Prefetch(t.Context(), cert); err != nil {
				t.Fatal(err)
			}
			for range 12 {
				cs := testkit.MustTalk(t, cfg, testkit.ClientFor(ca, ""))
				if len(cs.OCSPResponse) == 0 {
					t.Error("not stapled")
				}
				if got, want := cs.PeerCertificates[1].Equal(cross), opened%4 == 2; got != want {
					t.Errorf("handshake %d: the other chain %v, want %v", opened, got, want)
				}
			}
			if got, _ := cfg.GetCertificate(testkit.Asking("")); got.PrivateKey == cert.PrivateKey { // the 13th: a *loose
				t.Error("signs with a key that is not the one in hand")
			}
		}
	})
}

// What needs no staple passes through as it is, and nobody is told.
//
// REQ D3, REQ D4
func TestPassesThrough(t *testing.T) {
	for _, tt := range []struct {
		name string
		leaf ocsptest.Leaf
		loud int
	}{
		{"no URL", ocsptest.Leaf{NoURL: true}, 0},
		{"ldap", ocsptest.Leaf{URLs: []string{"ldap://ldap.example/cn=ca?x"}}, 0},
		{"self-signed", ocsptest.Leaf{SelfSigned: true}, 0},
		{"noRevAvail", ocsptest.Leaf{NoRevAvail: true, NoURL: true}, 0},
		{"noRevAvail with a URL", ocsptest.Leaf{NoRevAvail: true}, 1},
		{"expired", ocsptest.Leaf{NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				var log testkit.Logbook
				cert := ca.Issue(tt.leaf)
				s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
				hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
				for range 3 {
					if got, err := hook(testkit.Asking("example.com")); got != cert || err != nil {
						t.Fatalf("got %p, %v, want %p, untouched", got, err, cert)
					}
					synctest.Wait()
				}
				time.Sleep(300 * time.Hour)
				if err := s.Ready(); err != nil {
					t.Errorf("not ready: %v", err)
				}
				if n := ca.Responder.Requests(); n != 0 {
					t.Errorf("%d requests", n)
				}
				if got := log.Loud(); len(got) != tt.loud {
					t.Errorf("logged %q", got)
				}
			})
		})
	}
}

// A certificate of a few days is treated as any: with a URL it is stapled.
//
// REQ D5
func TestShortLived(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{NotAfter: time.Now().Add(72 * time.Hour)})
		s := testkit.Stapler(t, ca)
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(70 * time.Hour)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("not stapled two hours before its end")
		}
	})
}

// The challenge of acme-tls/1 is none of our business.
//
// REQ D4
func TestChallengeUntouched(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca)
		cfg := s.TLSConfig(&tls.Config{
			NextProtos:     []string{"acme-tls/1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
		})
		client := testkit.ClientFor(ca, "example.com")
		client.NextProtos = []string{"acme-tls/1"}
		for range 3 {
			testkit.Unstapled(t, testkit.MustTalk(t, cfg, client))
			synctest.Wait()
		}
		if n, known := ca.Responder.Requests(), len(s.Status()); n+known != 0 {
			t.Errorf("%d requests, %d certificates known", n, known)
		}
		client.NextProtos = nil
		testkit.MustTalk(t, cfg, client)
		synctest.Wait()
		testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
	})
}
