//go:build unix

package staple_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// BenchmarkIdle has the share of one core that a Stapler takes in which nothing
// is due, over a minute.
func BenchmarkIdle(b *testing.B) {
	y := newYard(b)
	certs := y.issue(b, certificates(100_000), false)
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: y}), staple.WithTTL(24*time.Hour))
	defer s.Close()
	warm(b, s, certs)
	debug.FreeOSMemory() // what the warm-up left behind
	for b.Loop() {
		before := cpu(b)
		<-time.After(time.Minute)
		b.ReportMetric(100*float64(cpu(b)-before)/float64(time.Minute), "%core")
	}
	runtime.KeepAlive(certs)
}

// cpu returns the processor time that the process has taken.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkRefresh has a refresh over a real connection, beside an HTTP round
// trip with the same bytes and a verification of their signature: the processor
// time of both, on both ends, and how many times the floor's ours is.
func BenchmarkRefresh(b *testing.B) {
	for _, by := range []ocsptest.Signer{ocsptest.Direct, ocsptest.Delegated} {
		name := map[ocsptest.Signer]string{ocsptest.Direct: "direct", ocsptest.Delegated: "delegated"}[by]
		b.Run(name, func(b *testing.B) {
			ca := ocsptest.NewCA()
			ca.Responder.SetSign(ocsptest.Sign{By: by})
			var raw []byte
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/ocsp-response")
				_, _ = w.Write(raw)
			}))
			defer srv.Close()
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, URLs: []string{srv.URL}})
			raw = ca.Responder.Response(cert)
			s := staple.New(staple.WithHTTPClient(srv.Client()))
			defer s.Close()
			warm(b, s, []tls.Certificate{*cert})
			resp, err := ocsp.ParseResponse(raw, nil)
			if err != nil {
				b.Fatal(err)
			}
			signer := ca.Cert
			if resp.Certificate != nil {
				signer = resp.Certificate
			}
			roundTrip := func() { verifiedTrip(b, srv, resp, signer) }
			refresh := func() { s.RefreshDue(cert) }
			const some = 200
			var floor, ours time.Duration
			for b.Loop() {
				floor += cpuOf(b, some, roundTrip)
				ours += cpuOf(b, some, refresh)
			}
			b.ReportMetric(float64(floor.Nanoseconds())/float64(b.N)/some, "ns/floor")
			b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N)/some, "ns/refresh")
			b.ReportMetric(float64(ours)/float64(floor), "x_floor")
		})
	}
}

// cpuOf returns the processor time of n calls of f.
func cpuOf(b *testing.B, n int, f func()) time.Duration {
	before := cpu(b)
	for range n {
		f()
	}
	return cpu(b) - before
}

// verifiedTrip asks srv and verifies the signature of a response.
func verifiedTrip(b *testing.B, srv *httptest.Server, resp *ocsp.Response, signer *x509.Certificate) {
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		b.Fatal(err)
	}
	res.Body.Close()
	if err := resp.CheckSignatureFrom(signer); err != nil {
		b.Fatal(err)
	}
}
