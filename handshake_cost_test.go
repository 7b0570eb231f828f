package staple_test

import (
	"crypto/tls"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// BenchmarkHandshake has full handshakes with a wrapped config beside those with
// one whose OCSPStaple is filled in by hand, in pairs: the median of the ratios
// of their rates, and its 95 % interval.
func BenchmarkHandshake(b *testing.B) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s := stapler(b, ca)
	warm(b, s, []tls.Certificate{*cert})
	filled := *cert
	filled.OCSPStaple = s.Staple(cert).OCSPStaple
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		client := &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example.com", MaxVersion: version, VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.OCSPResponse) == 0 {
				return staple.ErrNoStaple
			}
			return nil
		}}
		wrapped := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true})
		byHand := &tls.Config{Certificates: []tls.Certificate{filled}, SessionTicketsDisabled: true}
		b.Run(tls.VersionName(version), func(b *testing.B) {
			const some = 100 // handshakes in one half of a pair
			var ratios []float64
			for b.Loop() {
				// Each half goes first every other time.
				first, second := handshakes(b, byHand, client, some), handshakes(b, wrapped, client, 2*some)
				first += handshakes(b, byHand, client, some)
				ratios = append(ratios, float64(first)/float64(second))
			}
			lo, median, hi := interval(ratios)
			b.ReportMetric(median, "ratio")
			b.ReportMetric(lo, "ratio_lo")
			b.ReportMetric(hi, "ratio_hi")
			b.ReportMetric(float64(len(ratios)), "pairs")
		})
	}
}

// handshakes returns how long n of them take, over loopback.
func handshakes(tb testing.TB, server, client *tls.Config, n int) time.Duration {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = tls.Server(c, server).Handshake()
			c.Close()
		}
	}()
	begun := time.Now()
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			err = tls.Client(c, client).Handshake()
		}
		if err != nil {
			tb.Fatal(err)
		}
		c.Close()
	}
	return time.Since(begun)
}

// interval returns the median of values and its 95 % confidence interval, by
// ranks: it takes no distribution for granted.
func interval(values []float64) (lo, median, hi float64) {
	slices.Sort(values)
	n := float64(len(values))
	half := 1.96 * math.Sqrt(n) / 2
	at := func(rank float64) float64 { return values[int(min(max(rank, 0), n-1))] }
	return at(math.Floor(n/2 - half)), at(n / 2), at(math.Ceil(n/2 + half))
}
