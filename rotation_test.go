package staple_test

import (
	"context"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
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
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		gone, used, listed := leafFor(ca, "gone.example.com"), leafFor(ca, "used.example.com"), leafFor(ca, "listed.example.com")
		serve := func(get getCertificate) {
			if c, err := get(asking("x.example.com")); err != nil || c.OCSPStaple != nil {
				t.Fatalf("got %v, a staple of %d bytes", err, len(c.OCSPStaple))
			}
		}
		for _, c := range []struct {
			name  string
			cert  *tls.Certificate
			until time.Duration // not ready; 0 for longer than a week
		}{{"replaced", gone, 26 * time.Hour}, {"served", used, 0}, {"listed", listed, 0}} {
			ca.Responder.Revoke(c.cert, ocsp.KeyCompromise, time.Now().Add(-time.Minute))
			s := stapler(t, ca)
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
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		old, renewed := leafFor(ca, "a.example.com"), leafFor(ca, "a.example.com")
		var mu sync.Mutex
		current := old
		s := stapler(t, ca)
		cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			c := *current
			return &c, nil
		}})
		serve := func(want *tls.Certificate) bool {
			cert, err := cfg.GetCertificate(asking("a.example.com"))
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
		proven(t, mustTalk(t, cfg, clientFor(ca, "a.example.com")), ca)
		swap(renewed)
		time.Sleep(8 * day)
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
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		other := ocsptest.NewCA()
		ec := ca.Issue(ocsptest.Leaf{Names: []string{"a.example.com"}, Serial: big.NewInt(77)})
		rsa := other.Issue(ocsptest.Leaf{Names: []string{"a.example.com"}, Serial: big.NewInt(77), KeyType: ocsptest.RSA2048})
		s := network(t, []*ocsptest.Responder{ca.Responder, other.Responder})
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*ec, *rsa}, MaxVersion: tls.VersionTLS12})
		if err := s.Prefetch(context.Background(), ec, rsa); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			ca    *ocsptest.CA
			suite uint16
		}{{ca, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, {other, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}} {
			client := clientFor(tc.ca, "a.example.com")
			client.CipherSuites, client.MaxVersion = []uint16{tc.suite}, tls.VersionTLS12
			proven(t, mustTalk(t, cfg, client), tc.ca)
		}
	})
}

// REQ C2: a config that is swapped at run time, with handshakes all the while.
func TestConfigSwap(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		var mu sync.Mutex
		var cfg *tls.Config
		server := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			return cfg, nil
		}}
		for range 20 {
			cert := leafFor(ca, "a.example.com")
			next := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			if err := s.Prefetch(context.Background(), cert); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			cfg = next
			mu.Unlock()
			cs := mustTalk(t, server, clientFor(ca, "a.example.com"))
			proven(t, cs, ca)
			if got, want := cs.PeerCertificates[0].SerialNumber, cert.Leaf.SerialNumber; got.Cmp(want) != 0 {
				t.Errorf("serial %v, want that of the new config, %v", got, want)
			}
			time.Sleep(time.Hour)
		}
	})
}

// Entries die: with the certificate, or after a week without a use.
func TestEntriesDie(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		store := newYearStore()
		s := stapler(t, ca, staple.WithStore(store))
		used, idle, brief := leafFor(ca, "used"), leafFor(ca, "idle"), ca.Issue(ocsptest.Leaf{NotAfter: time.Now().Add(2 * day)})
		kept := leafFor(ca, "kept")
		list(t, s, kept)
		if err := s.Prefetch(context.Background(), used, idle, brief); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			time.Sleep(day)
			s.Staple(used)
			if time.Now().Before(brief.Leaf.NotAfter) {
				s.Staple(brief)
			}
		}
		if got := s.Sizes(); got.Entries != 2 {
			t.Errorf("sizes %+v, want the used and the listed one", got)
		}
		n := 0
		store.m.Range(func(any, any) bool { n++; return true })
		if n != 3 {
			t.Errorf("%d records, want 3: that of the expired certificate goes", n)
		}
	})
}

// What had expired when it was learned goes after an hour or two without a
// handshake: a source that still has such certificates makes nothing grow.
func TestExpiredDoesNotStay(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-90 * day), NotAfter: time.Now().Add(-day)})
		for range 6 {
			s.Staple(cert)
			time.Sleep(55 * time.Minute)
			if got := s.Sizes().Entries; got != 1 {
				t.Errorf("%d entries while it is used, want 1", got)
			}
		}
		time.Sleep(2 * time.Hour)
		if got := s.Sizes(); got.Entries != 0 {
			t.Errorf("sizes %+v, want none once it is not used", got)
		}
	})
}

// heap returns what is allocated, in MiB, once everything that can go is gone. Cleanups
// run in the runtime's goroutine, outside of any bubble: collecting twice, with
// a turn for it in between, is enough for those of one rotation or more ago.
func heap() float64 { return heapBytes() / (1 << 20) }

func heapBytes() float64 {
	for range 3 {
		runtime.GC()
		runtime.Gosched()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// Memory is flat over 100,000 rotations, ten minutes apart, of what a source
// returns, or of what is listed in configs.
func TestRotationsForget(t *testing.T) {
	if fips140.Enabled() {
		return // the tests do without garbage collection then: see fips_test.go
	}
	rotations := 100_000
	if !long() || raceEnabled {
		rotations = 8_000
	}
	for _, listed := range []bool{false, true} {
		t.Run(fmt.Sprintf("listed %v", listed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rotate(t, rotations, listed) })
		})
	}
}

func rotate(t *testing.T, rotations int, listed bool) {
	net := new(exchangeable)
	// Asked about once, for this is about what is kept.
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: net}), staple.WithTTL(30*day))
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var sizes []int
	var heaps []float64
	for tenth := range 10 {
		ca := ocsptest.NewCA() // another, for the fake keeps what it issued
		ca.Responder.SetValidity(60 * day)
		net.set(ca.Responder)
		stapledNow := 0
		for i := range rotations / 10 {
			cert := ca.Issue(ocsptest.Leaf{Serial: big.NewInt(int64(tenth)<<32 + int64(i) + 1), Key: ca.Key(), NotAfter: time.Now().Add(90 * day)})
			hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
			if listed {
				hook = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}).GetCertificate
			}
			for range 2 {
				got, err := hook(asking("example.com"))
				if err != nil {
					t.Fatal(err)
				}
				if exactlyBytes(t, got, cert) {
					stapledNow++
				}
				time.Sleep(5 * time.Minute)
			}
			if listed && i%500 == 0 {
				runtime.GC() // or nobody knows that a config is gone
			}
		}
		if stapledNow < rotations/10-1 {
			t.Fatalf("%d stapled of %d rotations", stapledNow, rotations/10)
		}
		net.set(nil)
		heaps, sizes = append(heaps, heap()), append(sizes, s.Sizes().Entries)
	}
	t.Logf("%d rotations, listed %v: entries %v, heap in MiB %.1f", rotations, listed, sizes, heaps)
	// A week of rotations, and what GC and the daily look leave for two days more.
	if last := sizes[len(sizes)-1]; last > 10*24*6 {
		t.Errorf("%d entries after %d rotations", last, rotations)
	}
	if first, last := heaps[2], heaps[len(heaps)-1]; last > first*1.25+4 {
		t.Errorf("heap grew from %.1f MiB to %.1f MiB", first, last)
	}
}

// exactlyBytes is exactly without the signature, which costs too much here.
func exactlyBytes(t testing.TB, cert, want *tls.Certificate) bool {
	t.Helper()
	if cert.OCSPStaple == nil {
		return false
	}
	r, err := ocsp.ParseResponse(cert.OCSPStaple, nil)
	if err != nil || r.SerialNumber.Cmp(want.Leaf.SerialNumber) != 0 {
		t.Fatalf("a foreign staple: %v", err)
	}
	return true
}

// exchangeable is a network of one responder, which may be another by and by.
type exchangeable struct {
	mu sync.Mutex // guards r
	r  *ocsptest.Responder
}

func (x *exchangeable) set(r *ocsptest.Responder) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.r = r
}

// RoundTrip implements http.RoundTripper.
func (x *exchangeable) RoundTrip(req *http.Request) (*http.Response, error) {
	x.mu.Lock()
	r := x.r
	x.mu.Unlock()
	if r == nil {
		return nil, errors.New("no network")
	}
	return r.RoundTrip(req)
}
