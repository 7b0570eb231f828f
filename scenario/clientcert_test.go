package scenario_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// mutual is a server that demands client certificates, and staples of them.
func mutual(ca *ocsptest.CA, server *tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:     []tls.Certificate{*server},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        ca.Pool(),
		VerifyConnection: staple.RequireStaple,
	}
}

// A client's certificate is stapled too, in TLS 1.3, whichever way the config
// comes by it.
//
// REQ C7
func TestClientCertificates(t *testing.T) {
	for _, tt := range []struct {
		name string
		base func(cert, other *tls.Certificate) *tls.Config
	}{
		{"Certificates", func(cert, _ *tls.Certificate) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{*cert}}
		}},
		{"several Certificates", func(cert, other *tls.Certificate) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{*other, *cert}}
		}},
		{"GetClientCertificate", func(cert, other *tls.Certificate) *tls.Config {
			return &tls.Config{
				Certificates:         []tls.Certificate{*other},
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
			}
		}},
		{"GetClientCertificate, files", func(cert, _ *tls.Certificate) *tls.Config {
			return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return testkit.Anew(t, cert), nil
			}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(ocsptest.Leaf{Names: []string{"client"}, Client: true})
				other := ocsptest.NewCA().Issue(ocsptest.Leaf{Names: []string{"stranger"}, Client: true, NoURL: true})
				s := testkit.Stapler(t, ca)
				server := mutual(ca, ca.Issue(ocsptest.Leaf{NoURL: true}))
				base := tt.base(cert, other)
				base.RootCAs, base.ServerName = ca.Pool(), "example.com"
				client := s.TLSConfig(base)
				if err := s.Prefetch(t.Context(), cert); err != nil {
					t.Fatal(err)
				}
				_, served, err := testkit.Talk(server, client)
				if err != nil {
					t.Fatal(err)
				}
				testkit.Proven(t, served, ca)

				client.MaxVersion = tls.VersionTLS12 // which has no place for it
				if _, _, err := testkit.Talk(server, client); !errors.Is(err, staple.ErrNoStaple) {
					t.Errorf("TLS 1.2: %v, want %v", err, staple.ErrNoStaple)
				}
				server.VerifyConnection = staple.VerifyStaple
				if _, served, err = testkit.Talk(server, client); err != nil || len(served.PeerCertificates) == 0 {
					t.Errorf("TLS 1.2, staple not required: %v, %d certificates", err, len(served.PeerCertificates))
				}

				client.MaxVersion = 0
				ca.Responder.Revoke(cert, 1, time.Time{})
				time.Sleep(time.Hour)
				if _, served, err = testkit.Talk(server, client); err != nil || len(served.OCSPResponse) > 0 {
					t.Errorf("revoked: %v, %d bytes stapled", err, len(served.OCSPResponse))
				}
			})
		})
	}
}

// A Must-Staple client certificate waits for its first response.
//
// REQ C5, REQ C7
func TestClientColdWait(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{Client: true, MustStaple: true})
		ca.Responder.SetDelay(2 * time.Second)
		s := testkit.Stapler(t, ca)
		client := testkit.ClientFor(ca, "example.com")
		client.GetClientCertificate = s.GetClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil })
		_, served, err := testkit.Talk(mutual(ca, ca.Issue(ocsptest.Leaf{NoURL: true})), client)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Proven(t, served, ca)
	})
}

// The server staples and judges the client; the same wrapped config serves as a
// client; both sides refuse what is revoked.
func TestBothSides(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{Template: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}})
		s := testkit.Stapler(t, ca)
		base := mutual(ca, cert)
		base.RootCAs, base.ServerName = ca.Pool(), "example.com"
		node := s.TLSConfig(base)
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		seen, served, err := testkit.Talk(node, node)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Proven(t, seen, ca)
		testkit.Proven(t, served, ca)
		ca.Responder.Revoke(cert, 1, time.Time{})
		time.Sleep(time.Hour)
		if _, _, err := testkit.Talk(node, node); !errors.Is(err, staple.ErrNoStaple) {
			t.Errorf("revoked: %v, want %v", err, staple.ErrNoStaple)
		}
	})
}

// With nothing to present a client presents nothing, as crypto/tls does.
func TestClientWithout(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		server := &tls.Config{Certificates: []tls.Certificate{*ca.Issue(ocsptest.Leaf{NoURL: true})}, ClientAuth: tls.RequestClientCert}
		failure := errors.New("no card in the reader")
		stranger := ca.Issue(ocsptest.Leaf{Client: true})
		for _, tt := range []struct {
			name   string
			client *tls.Config
			want   error
		}{
			{"nil config", s.TLSConfig(nil), nil},
			{"no certificates", s.TLSConfig(&tls.Config{}), nil},
			{"unsupported", s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{{Certificate: stranger.Certificate}}}), nil},
			{"nil source", &tls.Config{GetClientCertificate: s.GetClientCertificate(nil)}, nil},
			{"empty certificate", &tls.Config{GetClientCertificate: s.GetClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return new(tls.Certificate), nil
			})}, nil},
			{"error", s.TLSConfig(&tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return nil, failure
			}}), failure},
		} {
			tt.client.RootCAs, tt.client.ServerName = ca.Pool(), "example.com"
			_, served, err := testkit.Talk(server, tt.client)
			if !errors.Is(err, tt.want) || len(served.PeerCertificates) > 0 {
				t.Errorf("%s: %v, want %v; %d certificates presented", tt.name, err, tt.want, len(served.PeerCertificates))
			}
		}
		synctest.Wait()
	})
}

// Staple's copy may be stapled again: it carries what is current then, and the
// certificate that went in is as it was.
func TestStapleOfStapled(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetDelay(time.Minute / 8) // longer than anyone would wait
		s := testkit.Stapler(t, ca)
		if begun := time.Now(); s.Staple(cert) != cert || time.Since(begun) > 0 {
			t.Error("a certificate without a response is not returned as it is, at once")
		}
		time.Sleep(time.Minute)
		before := inventory(cert)
		first := s.Staple(cert)
		if again := s.Staple(first); again != first {
			t.Error("nothing changed, yet another copy")
		}
		if !testkit.Stapled(t, s, ca, first) {
			t.Fatal("not stapled")
		}
		time.Sleep(90 * time.Minute)
		second := s.Staple(first)
		if string(second.OCSPStaple) == string(first.OCSPStaple) || !testkit.Stapled(t, s, ca, second) {
			t.Error("the copy is not refreshed")
		}
		ca.Responder.Revoke(cert, 1, time.Time{})
		time.Sleep(90 * time.Minute)
		if got := s.Staple(s.Staple(second)); got.OCSPStaple != nil {
			t.Error("a revoked certificate keeps the response of its copy")
		}
		if inventory(cert) != before {
			t.Error("the certificate was written")
		}
	})
}
