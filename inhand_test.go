package staple_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ C4: a staple that the source set, of the length of ours, is not sent until
// it is judged.
func TestOwnStapleOfSameLength(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		c := *cert
		c.OCSPStaple = slices.Clone(s.Staple(cert).OCSPStaple)
		c.OCSPStaple[len(c.OCSPStaple)-1] ^= 1
		if got := s.Staple(&c); got == &c || !testkit.Stapled(t, s, ca, &c) {
			t.Error("the source's broken staple is sent")
		}
	})
}

// REQ C3: once ours has expired the copy that carried it is not served.
func TestExpiredCopy(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		c := *cert
		c.OCSPStaple = []byte("junk")
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		if s.Staple(&c).OCSPStaple == nil {
			t.Fatal("not stapled")
		}
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		time.Sleep(5 * testkit.Day)
		if got := s.Staple(&c); got.OCSPStaple != nil {
			t.Errorf("%d bytes stapled, state %v", len(got.OCSPStaple), s.Status()[0].State)
		}
	})
}

// The same key, another chain: the one in hand is served.
func TestChainInHand(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		cross := ca.CrossSign(ocsptest.NewCA())
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		c := *cert
		c.Certificate = [][]byte{cert.Certificate[0], cross.Raw}
		s.Staple(cert)
		if got := s.Staple(&c); &got.Certificate[1][0] != &cross.Raw[0] {
			t.Error("another chain is served")
		}
	})
}

// A longer slice at the address of a leaf is another certificate.
func TestLongerSlice(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		buf := append(slices.Clone(cert.Certificate[0]), 0)
		short, long := *cert, *cert
		short.Certificate = [][]byte{buf[:len(buf)-1], cert.Certificate[1]}
		long.Certificate = [][]byte{buf, cert.Certificate[1]}
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, &short)
		if s.Staple(&short).OCSPStaple == nil || s.Staple(&long).OCSPStaple != nil {
			t.Error("taken for each other")
		}
	})
}

// Four servers of a process, for HTTP, mail and so on, that each parsed the same
// files by itself are all served without a hash and without the lock.
//
// REQ C6
func TestCopiesAreKnown(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca)
		var certs []*tls.Certificate
		var servers []*tls.Config
		for range 4 {
			certs = append(certs, testkit.Anew(t, cert))
			servers = append(servers, testkit.List(t, s, certs[len(certs)-1]))
		}
		synctest.Wait()
		for i, server := range servers {
			if got, err := server.GetCertificate(testkit.Asking("example.com")); err != nil || got.OCSPStaple == nil {
				t.Errorf("server %d: not stapled: %v", i, err)
			}
		}
		for i, cert := range certs {
			if !s.Known(cert) {
				t.Errorf("server %d: known by its bytes alone", i)
			}
		}
	})
}

// What is prefetched again takes no more memory than before: not 200 bytes more
// for each of a million.
func TestPrefetchAgain(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		certs := testkit.Leaves(ca, 10)
		s := testkit.Stapler(t, ca)
		for range 2 {
			testkit.MustFetch(t, s, certs...)
			if n := s.Sizes().Extended; n != 0 {
				t.Errorf("%d of %d take more than they need", n, len(certs))
			}
		}
	})
}

// A source that brings new bytes each time makes nothing grow.
func TestFreshBytesEachTime(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	s := testkit.Stapler(t, ca)
	testkit.MustFetch(t, s, cert)
	before := testkit.HeapBytes()
	for range 20_000 {
		c := *cert
		c.Certificate = [][]byte{slices.Clone(cert.Certificate[0]), cert.Certificate[1]}
		s.Staple(&c)
	}
	if grown := testkit.HeapBytes() - before; grown > 1<<20 {
		t.Errorf("grown by %.0f bytes", grown)
	}
	runtime.KeepAlive(s)
}

// REQ C2: an entry that died is not found by any of its addresses: a certificate
// that comes back is stapled.
func TestAliasesDie(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		other := *cert
		other.Certificate = [][]byte{slices.Clone(cert.Certificate[0]), cert.Certificate[1]}
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		s.Staple(&other)
		time.Sleep(9 * testkit.Day)
		s.Staple(&other)
		for range 6 {
			time.Sleep(testkit.Day)
			if s.Staple(&other).OCSPStaple == nil {
				t.Error("not stapled after it came back")
			}
		}
	})
}

// What is served is what the source returned, but for the staple.
func TestFieldsInHand(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{KeyType: ocsptest.Ed25519})
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		for name, change := range map[string]func(*tls.Certificate){
			"Leaf":       func(c *tls.Certificate) { c.Leaf = nil },
			"SCTs":       func(c *tls.Certificate) { c.SignedCertificateTimestamps = [][]byte{{1}} },
			"algorithms": func(c *tls.Certificate) { c.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.Ed25519} },
		} {
			c := *cert
			change(&c)
			s.Staple(cert)
			got := s.Staple(&c)
			if (got.Leaf != c.Leaf) || len(got.SignedCertificateTimestamps) != len(c.SignedCertificateTimestamps) || len(got.SupportedSignatureAlgorithms) != len(c.SupportedSignatureAlgorithms) {
				t.Errorf("%s: another certificate is served", name)
			}
		}
	})
}

// REQ C4: what is stapled are the bytes that were judged, whatever the source
// does with its buffer afterwards.
func TestStapleBufferReused(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := *ca.Issue(ocsptest.Leaf{NoURL: true})
		cert.OCSPStaple = ca.Responder.Response(&cert)
		s := testkit.Stapler(t, ca)
		s.Staple(&cert)
		time.Sleep(time.Second)
		clear(cert.OCSPStaple)
		bare := cert
		bare.OCSPStaple = nil
		if !testkit.Stapled(t, s, ca, &bare) {
			t.Error("the source's staple is not used")
		}
	})
}

// A source that brings its staple in a new buffer each time does not have it
// judged at each handshake; nor one that has several in turns, as behind it there
// may be a fleet, each member with its own.
func TestStapleJudgedOnce(t *testing.T) {
	for _, n := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				asked := 0
				s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { asked++; return nil, true }))
				cert := *ca.Issue(ocsptest.Leaf{})
				staples := make([][]byte, n)
				for i := range staples {
					staples[i] = ca.Responder.Response(&cert)
					time.Sleep(time.Second) // the next is another
				}
				cert.OCSPStaple = staples[0]
				testkit.MustFetch(t, s, &cert)
				before := asked
				for i := range 100 * n {
					again := cert
					again.OCSPStaple = bytes.Clone(staples[i%n])
					s.Staple(&again)
					time.Sleep(time.Millisecond)
				}
				if asked > before+n+1 { // once again after each refresh
					t.Errorf("judged %d times more", asked-before)
				}
			})
		})
	}
}
