package scenario_test

import (
	"context"
	"crypto/tls"
	"math/big"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// exactly returns whether a staple came with what the hook served, and fails
// the test if it is for any other certificate than the one with it.
func exactly(t testing.TB, ca *ocsptest.CA, cert, want *tls.Certificate) bool {
	t.Helper()
	if string(cert.Certificate[0]) != string(want.Certificate[0]) {
		t.Fatal("another certificate is served")
	}
	if cert.OCSPStaple == nil {
		return false
	}
	r, err := ocsp.ParseResponseForCert(cert.OCSPStaple, want.Leaf, ca.Cert)
	if err != nil || r.SerialNumber.Cmp(want.Leaf.SerialNumber) != 0 {
		t.Fatalf("a foreign staple: %v", err)
	}
	return true
}

// A revoked certificate that was replaced is in the way of Ready for a day, and
// not for a week; one that is served, or listed, for good.
func TestRevokedAndReplaced(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		gone, used, listed := testkit.LeafFor(ca, "gone.example.com"), testkit.LeafFor(ca, "used.example.com"), testkit.LeafFor(ca, "listed.example.com")
		serve := func(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
			if c, err := get(testkit.Asking("x.example.com")); err != nil || c.OCSPStaple != nil {
				t.Fatalf("got %v, a staple of %d bytes", err, len(c.OCSPStaple))
			}
		}
		for _, c := range []struct {
			name  string
			cert  *tls.Certificate
			until time.Duration // not ready; 0 for longer than a week
		}{{"replaced", gone, 26 * time.Hour}, {"served", used, 0}, {"listed", listed, 0}} {
			ca.Responder.Revoke(c.cert, ocsp.KeyCompromise, time.Now().Add(-time.Minute))
			s := testkit.Stapler(t, ca)
			base := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.cert, nil }}
			if c.name == "listed" {
				base = &tls.Config{Certificates: []tls.Certificate{*c.cert}}
			}
			cfg := s.TLSConfig(base)
			serve(cfg.GetCertificate)
			ready := time.Duration(0)
			for i := range 8 * 24 {
				time.Sleep(time.Hour)
				if c.name == "served" {
					serve(cfg.GetCertificate)
				}
				if ready == 0 && s.Ready() == nil {
					ready = time.Duration(i+1) * time.Hour
				}
			}
			if ready > c.until || (ready == 0) != (c.until == 0) || ready != 0 && ready < 24*time.Hour {
				t.Errorf("%s: ready after %v, want %v", c.name, ready, c.until)
			}
			runtime.KeepAlive(cfg)
		}
	})
}

// REQ C2: a certificate that is renewed by a source as autocert's, which makes
// a new *tls.Certificate at each handshake, never has its predecessor's staple,
// nor does one that comes back have any but its own.
func TestRenewal(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		old, renewed := testkit.LeafFor(ca, "a.example.com"), testkit.LeafFor(ca, "a.example.com")
		var mu sync.Mutex
		current := old
		s := testkit.Stapler(t, ca)
		cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			c := *current
			return &c, nil
		}})
		serve := func(want *tls.Certificate) bool {
			cert, err := cfg.GetCertificate(testkit.Asking("a.example.com"))
			if err != nil {
				t.Fatal(err)
			}
			return exactly(t, ca, cert, want)
		}
		swap := func(c *tls.Certificate) {
			mu.Lock()
			defer mu.Unlock()
			current = c
		}
		serve(old)
		synctest.Wait()
		if !serve(old) {
			t.Fatal("not stapled")
		}
		ca.Responder.SetDelay(time.Second)
		swap(renewed)
		if serve(renewed) {
			t.Error("a staple before there can be one")
		}
		time.Sleep(2 * time.Second)
		if !serve(renewed) {
			t.Error("not stapled after the renewal")
		}
		swap(old) // rolled back
		if !serve(old) {
			t.Error("not stapled at once after the rollback")
		}
		testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.example.com")), ca)
		swap(renewed)
		time.Sleep(8 * testkit.Day)
		serve(renewed)
		time.Sleep(time.Second)
		swap(old) // which was forgotten meanwhile
		if serve(old) {
			t.Error("an entry outlived a week in which nobody used it")
		}
		time.Sleep(2 * time.Second)
		if !serve(old) {
			t.Error("not stapled after it came back")
		}
	})
}

// REQ C2: of an RSA and an ECDSA certificate for one name, and with one serial
// number, each has its own staple.
func TestPair(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		other := ocsptest.NewCA()
		ec := ca.Issue(ocsptest.Leaf{Names: []string{"a.example.com"}, Serial: big.NewInt(77)})
		rsa := other.Issue(ocsptest.Leaf{Names: []string{"a.example.com"}, Serial: big.NewInt(77), KeyType: ocsptest.RSA2048})
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder, other.Responder})
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*ec, *rsa}, MaxVersion: tls.VersionTLS12})
		if err := s.Prefetch(context.Background(), ec, rsa); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			ca    *ocsptest.CA
			suite uint16
		}{{ca, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, {other, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}} {
			client := testkit.ClientFor(tc.ca, "a.example.com")
			client.CipherSuites, client.MaxVersion = []uint16{tc.suite}, tls.VersionTLS12
			testkit.Proven(t, testkit.MustTalk(t, cfg, client), tc.ca)
		}
	})
}

// REQ C2: a config that is swapped at run time, with handshakes all the while.
func TestConfigSwap(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		var mu sync.Mutex
		var cfg *tls.Config
		server := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			return cfg, nil
		}}
		for range 20 {
			cert := testkit.LeafFor(ca, "a.example.com")
			next := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			if err := s.Prefetch(context.Background(), cert); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			cfg = next
			mu.Unlock()
			cs := testkit.MustTalk(t, server, testkit.ClientFor(ca, "a.example.com"))
			testkit.Proven(t, cs, ca)
			if got, want := cs.PeerCertificates[0].SerialNumber, cert.Leaf.SerialNumber; got.Cmp(want) != 0 {
				t.Errorf("serial %v, want that of the new config, %v", got, want)
			}
			time.Sleep(time.Hour)
		}
	})
}
