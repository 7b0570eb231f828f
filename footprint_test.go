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
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// Entries die: with the certificate, or after a week without a use.
func TestEntriesDie(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		store := newYearStore()
		s := testkit.Stapler(t, ca, staple.WithStore(store))
		used, idle, brief := testkit.LeafFor(ca, "used"), testkit.LeafFor(ca, "idle"), ca.Issue(ocsptest.Leaf{NotAfter: time.Now().Add(2 * testkit.Day)})
		kept := testkit.LeafFor(ca, "kept")
		testkit.List(t, s, kept)
		if err := s.Prefetch(context.Background(), used, idle, brief); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			time.Sleep(testkit.Day)
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
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-90 * testkit.Day), NotAfter: time.Now().Add(-testkit.Day)})
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
func heap() float64 { return testkit.HeapBytes() / (1 << 20) }

// Memory is flat over 100,000 rotations, ten minutes apart, of what a source
// returns, or of what is listed in configs.
func TestRotationsForget(t *testing.T) {
	if fips140.Enabled() {
		return // the tests do without garbage collection then: see fips_test.go
	}
	rotations := 100_000
	if !testkit.Long() {
		rotations = 5_000
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
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: net}), staple.WithTTL(30*testkit.Day))
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var sizes []int
	var heaps []float64
	for tenth := range 10 {
		ca := ocsptest.NewCA() // another, for the fake keeps what it issued
		ca.Responder.SetValidity(60 * testkit.Day)
		net.set(ca.Responder)
		stapledNow := 0
		for i := range rotations / 10 {
			cert := ca.Issue(ocsptest.Leaf{Serial: big.NewInt(int64(tenth)<<32 + int64(i) + 1), Key: ca.Key(), NotAfter: time.Now().Add(90 * testkit.Day)})
			hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
			if listed {
				hook = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}).GetCertificate
			}
			for range 2 {
				got, err := hook(testkit.Asking("example.com"))
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

// REQ E4: no goroutine and no timer of its own for a certificate.
func TestGoroutines(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := testkit.Leaves(ca, 10_000)
		before := runtime.NumGoroutine()
		testkit.MustFetch(t, s, certs...)
		synctest.Wait()
		if got := runtime.NumGoroutine(); got > before+3 {
			t.Errorf("%d goroutines with 10,000 idle certificates, %d before", got, before)
		}
		if got := s.Sizes(); got.UnderWay+got.StandBy > 0 {
			t.Errorf("sizes %+v", got)
		}
	})
}

// REQ D4: certificates without a responder, more than there are places for, do
// not push each other out at each handshake.
func TestManyWithoutResponder(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		certs := make([]*tls.Certificate, 10_010)
		for i := range certs {
			certs[i] = ca.Issue(ocsptest.Leaf{Key: ca.Key(), NoURL: true})
		}
		for range 2 {
			for _, cert := range certs {
				if s.Staple(cert) != cert {
					t.Fatal("a certificate without a responder is not passed through")
				}
			}
			time.Sleep(time.Second)
		}
		if n := testing.AllocsPerRun(100, func() { s.Staple(certs[len(certs)-1]) }); n > 0 {
			t.Errorf("%v allocations for one without a place", n)
		}
		if got := s.Sizes().Entries; got != 10_000 {
			t.Errorf("%d entries", got)
		}
		for i, cert := range certs {
			if s.Known(cert) != (i < 10_000) {
				t.Fatalf("certificate %d: known %v: the first 10,000 have the places", i, s.Known(cert))
			}
		}
		// One with Must-Staple, or with a responder, gets a place all the same.
		must := ca.Issue(ocsptest.Leaf{NoURL: true, MustStaple: true})
		if s.Staple(must); !s.Known(must) {
			t.Error("nobody is told of one with Must-Staple")
		}
		cert := ca.Issue(ocsptest.Leaf{})
		s.Staple(cert)
		time.Sleep(time.Second)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("one with a responder is not stapled")
		}
	})
}

// REQ G5: one that needs nothing costs an entry and no more, whatever chain it comes with.
func TestNeedsNothingWithAnotherChain(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s, cert := testkit.Stapler(t, ca), ca.Issue(ocsptest.Leaf{NoURL: true})
		testkit.List(t, s, cert)
		time.Sleep(time.Second)
		if n := s.Sizes(); n.Extended != 0 {
			t.Fatalf("%+v", n)
		}
		again := *cert
		again.Certificate = append([][]byte{cert.Certificate[0]}, ca.Cert.Raw, ca.Cert.Raw)
		if err := s.Prefetch(t.Context(), &again); err != nil {
			t.Error(err)
		}
		if n := s.Sizes(); n.Extended != 0 {
			t.Errorf("%+v", n)
		}
	})
}

// REQ G5: what two configs list stays listed while one of them is there.
func TestListedTwice(t *testing.T) {
	if fips140.Enabled() {
		return // the tests do without garbage collection then: see fips_test.go
	}
	ca := ocsptest.NewCA()
	ca.Responder.SetFault(ocsptest.FaultRefused)
	s := testkit.Stapler(t, ca)
	both, second := testkit.LeafFor(ca, "both.test"), testkit.LeafFor(ca, "second.test")
	unlisted := func(cert *tls.Certificate) bool {
		s.Forget(cert)
		before := s.Sizes().Never
		s.Staple(cert)
		return s.Sizes().Never > before
	}
	stays := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*both}})
	goes := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*both, *second}})
	if unlisted(second) {
		t.Error("not listed, though its config is there")
	}
	runtime.KeepAlive(goes)
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for range 1000 {
		if runtime.GC(); unlisted(second) {
			break
		}
		<-retry.C
	}
	if !unlisted(second) || unlisted(both) {
		t.Errorf("listed by the config that is gone: %v; by the one that is there: %v", !unlisted(second), !unlisted(both))
	}
	runtime.KeepAlive(stays)
}
