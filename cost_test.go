package staple_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// BenchmarkHeap has what a certificate costs in memory beyond its response and
// what the source holds, once each has been served, and what a collection of
// garbage costs among so many.
func BenchmarkHeap(b *testing.B) {
	for _, v := range []struct {
		name         string
		listed, leaf bool
	}{{"source", false, false}, {"listed", true, false}, {"source_with_leaf", false, true}} {
		b.Run(v.name, func(b *testing.B) {
			y := newYard(b)
			certs := y.issue(b, certificates(100_000), v.leaf)
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: y}))
			defer s.Close()
			before, begun := testkit.HeapBytes(), time.Now()
			base := &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				i, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(h.ServerName, "site"), ".example.com"))
				return &certs[i], err
			}}
			if v.listed {
				base = &tls.Config{Certificates: certs}
			}
			cfg := s.TLSConfig(base)
			warm(b, s, certs)
			took, raw := time.Since(begun), 0
			for i := range certs {
				c, err := cfg.GetCertificate(hello(siteName(i)))
				if err != nil || len(c.OCSPStaple) == 0 {
					b.Fatal("no staple", err)
				}
				raw += len(c.OCSPStaple)
			}
			n := float64(len(certs))
			per := (testkit.HeapBytes() - before - float64(raw)) / n
			for b.Loop() {
				runtime.GC()
			}
			b.ReportMetric(per, "B/cert")
			b.ReportMetric(float64(raw)/n, "B/response")
			b.ReportMetric(float64(took.Microseconds())/n, "µs/warm-up")
			runtime.KeepAlive(cfg)
			runtime.KeepAlive(certs)
		})
	}
}

// BenchmarkWarmUp has certificates stapled from cold, beside what can't be
// saved: each response signed and verified, each leaf parsed and its signature
// verified. x_floor is the ratio of the CPU time of both, on all processors.
func BenchmarkWarmUp(b *testing.B) {
	y := newYard(b)
	n := certificates(100_000)
	certs := y.issue(b, n, false)
	for b.Loop() {
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: y}))
		begun := time.Now()
		warm(b, s, certs)
		took := time.Since(begun)
		begun = time.Now()
		y.floor(b, certs)
		floor := time.Since(begun)
		s.Close()
		b.ReportMetric(float64(took.Microseconds())/float64(n), "µs/cert")
		b.ReportMetric(float64(floor.Microseconds())/float64(n), "µs/floor")
		b.ReportMetric(float64(took)/float64(floor), "x_floor")
	}
}

// floor does for each certificate what a warm-up can't do without.
func (y *yard) floor(tb testing.TB, certs []tls.Certificate) {
	var wg sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := worker; i < len(certs); i += runtime.GOMAXPROCS(0) {
				leaf, err := x509.ParseCertificate(certs[i].Certificate[0])
				if err == nil {
					err = y.ca.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature)
				}
				var raw []byte
				if err == nil {
					raw, err = y.sign(leaf.SerialNumber)
				}
				if err == nil {
					_, err = ocsp.ParseResponseForCert(raw, leaf, y.ca) // verifies
				}
				if err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkSlowResponder has 1,000 certificates stapled from cold by a responder
// that takes 20 ms for each.
func BenchmarkSlowResponder(b *testing.B) {
	ca := ocsptest.NewCA()
	ca.Responder.SetDelay(20 * time.Millisecond)
	var certs []tls.Certificate
	for i := range 1000 {
		certs = append(certs, *ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key()}))
	}
	for b.Loop() {
		s := testkit.Stapler(b, ca)
		warm(b, s, certs)
	}
}

// BenchmarkHerd has 10,000 handshakes at once wait for the first response of a
// certificate.
func BenchmarkHerd(b *testing.B) {
	ca := ocsptest.NewCA()
	ca.Responder.SetDelay(20 * time.Millisecond)
	for b.Loop() {
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
		s := testkit.Stapler(b, ca)
		get := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
		before := ca.Responder.Requests()
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				if c, err := get(hello("www.example.com")); err != nil || len(c.OCSPStaple) == 0 {
					b.Error("no staple", err)
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(ca.Responder.Requests()-before), "requests")
	}
}

// BenchmarkRandomAccess has our part in a handshake with one of many
// certificates, at random, beside a map lookup and time.Now: wrapped less bare,
// by those of floor.
func BenchmarkRandomAccess(b *testing.B) {
	y := newYard(b)
	certs := y.issue(b, certificates(100_000), false)
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: y}))
	defer s.Close()
	warm(b, s, certs)
	names, byName := make([]string, len(certs)), make(map[string]*tls.Certificate, len(certs))
	for i := range certs {
		names[i] = siteName(i)
		byName[names[i]] = &certs[i]
	}
	order := mathrand.Perm(len(certs))
	i := 0
	next := func() int { i++; return order[i%len(order)] }
	index := 0
	at := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certs[index], nil }
	wrapped := s.GetCertificate(at)
	h := hello("www.example.com")
	for range certs { // each is served once
		index = next()
		if c, _ := wrapped(h); len(c.OCSPStaple) == 0 {
			b.Fatal("no staple")
		}
	}
	b.Run("floor", func(b *testing.B) {
		for b.Loop() {
			sink = byName[names[next()]]
			_ = time.Now()
		}
	})
	for _, v := range []struct {
		name string
		get  getCertificate
	}{{"bare", at}, {"wrapped", wrapped}} {
		b.Run(v.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				index = next()
				sink, _ = v.get(h)
			}
		})
	}
}

// BenchmarkTick shows that a look at the clock costs the same for any number
// of certificates.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ca := ocsptest.NewCA()
			s := testkit.Stapler(b, ca)
			testkit.MustFetch(b, s, testkit.Leaves(ca, n)...)
			for b.Loop() {
				s.Tick()
			}
		})
	}
}

// A yard is a CA with a responder in memory that remembers nothing, so that what
// is measured beside it is ours: ocsptest counts and logs.
type yard struct {
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	requests atomic.Int64
}

func newYard(tb testing.TB) *yard {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	y := &yard{key: key, ca: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "yard"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * testkit.Day)}}
	der, err := x509.CreateCertificate(rand.Reader, y.ca, y.ca, key.Public(), key)
	if err == nil {
		y.ca, err = x509.ParseCertificate(der)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return y
}

// issue makes n certificates with one key, on all processors.
func (y *yard) issue(tb testing.TB, n int, leaf bool) []tls.Certificate {
	tb.Helper()
	certs := make([]tls.Certificate, n)
	var wg sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := worker; i < n; i += runtime.GOMAXPROCS(0) {
				t := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 1<<40), DNSNames: []string{siteName(i)},
					OCSPServer: []string{"http://ocsp.example"}, NotBefore: y.ca.NotBefore, NotAfter: y.ca.NotAfter}
				der, err := x509.CreateCertificate(rand.Reader, t, y.ca, y.key.Public(), y.key)
				if err != nil {
					tb.Error(err)
					return
				}
				certs[i] = tls.Certificate{Certificate: [][]byte{der, y.ca.Raw}, PrivateKey: y.key}
				if leaf {
					certs[i].Leaf, _ = x509.ParseCertificate(der)
				}
			}
		})
	}
	wg.Wait()
	return certs
}

func siteName(i int) string { return fmt.Sprintf("site%d.example.com", i) }

// sign makes the response about a serial number.
func (y *yard) sign(serial *big.Int) ([]byte, error) {
	now := time.Now().Truncate(time.Second)
	return ocsp.CreateResponse(y.ca, y.ca, ocsp.Response{Status: ocsp.Good, SerialNumber: serial, IssuerHash: crypto.SHA1,
		ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(7 * testkit.Day)}, y.key)
}

// RoundTrip answers as responders do, with headers for caches.
func (y *yard) RoundTrip(req *http.Request) (*http.Response, error) {
	y.requests.Add(1)
	escaped := req.URL.EscapedPath()
	path, err := url.PathUnescape(escaped[strings.LastIndexByte(escaped, '/')+1:])
	if err != nil {
		return nil, err
	}
	der, err := base64.StdEncoding.DecodeString(path)
	if err != nil {
		return nil, err
	}
	asked, err := ocsp.ParseRequest(der)
	if err != nil {
		return nil, err
	}
	body, err := y.sign(asked.SerialNumber)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Content-Type": {"application/ocsp-response"}, "Etag": {fmt.Sprintf("\"%040X\"", asked.SerialNumber)},
		"Last-Modified": {time.Now().UTC().Format(http.TimeFormat)}, "Cache-Control": {"max-age=3600, public, no-transform, must-revalidate"}}
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)), Request: req}, nil
}

// certificates is how many a benchmark has to do with: STAPLE_CERTS sets it.
func certificates(most int) int {
	if n, err := strconv.Atoi(os.Getenv("STAPLE_CERTS")); err == nil && n > 0 {
		return n
	}
	return most
}

// warm has s know all of certs.
func warm(tb testing.TB, s *staple.Stapler, certs []tls.Certificate) {
	tb.Helper()
	all := make([]*tls.Certificate, len(certs))
	for i := range certs {
		all[i] = &certs[i]
	}
	if err := s.Prefetch(context.Background(), all...); err != nil {
		tb.Fatal(err)
	}
}
