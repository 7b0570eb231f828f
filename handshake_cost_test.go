package staple_test

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// BenchmarkHandshake has full handshakes with a wrapped config beside those with
// one whose OCSPStaple is filled in by hand, in pairs: the median of the ratios
// of their rates, and its 95 % interval.
func BenchmarkHandshake(b *testing.B) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s := testkit.Stapler(b, ca)
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

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// hello is what a client sends that asks for a staple.
func hello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        name,
		Extensions:        []uint16{5},
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		CipherSuites:      []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
	}
}

// hookSource is a source of certificates, bare and wrapped.
type hookSource struct {
	name          string
	bare, wrapped getCertificate
	hello         *tls.ClientHelloInfo
}

// hookSources returns the sources that a server may have, warmed up.
func hookSources(tb testing.TB, opts ...staple.Option) []hookSource {
	tb.Helper()
	ca := ocsptest.NewCA()
	s := testkit.Stapler(tb, ca, opts...)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
	rsa := ca.Issue(ocsptest.Leaf{Names: []string{"b.example"}, KeyType: ocsptest.Ed25519})
	plain := ca.Issue(ocsptest.Leaf{NoURL: true})
	if err := s.Prefetch(context.Background(), cert, rsa, plain); err != nil {
		tb.Fatal(err)
	}
	one := &tls.Config{Certificates: []tls.Certificate{*cert}}
	two := &tls.Config{Certificates: []tls.Certificate{*rsa, *cert}}
	stable := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
	without := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return plain, nil }
	autocert := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: cert.Certificate, PrivateKey: cert.PrivateKey, Leaf: cert.Leaf}, nil
	}
	list := func(c *tls.Certificate) getCertificate {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, nil }
	}
	return []hookSource{
		{"listed", list(&one.Certificates[0]), s.TLSConfig(one).GetCertificate, hello("a.example")},
		{"stable", stable, s.GetCertificate(stable), hello("a.example")},
		{"autocert", autocert, s.GetCertificate(autocert), hello("a.example")},
		{"two_listed", func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &two.Certificates[1], h.SupportsCertificate(&two.Certificates[1])
		}, s.TLSConfig(two).GetCertificate, hello("a.example")},
		{"no_responder", without, s.GetCertificate(without), hello("a.example")},
		{"unknown_name", list(&two.Certificates[0]), s.TLSConfig(two).GetCertificate, hello("nobody.example")},
	}
}

var sink *tls.Certificate

// REQ C6: nothing is allocated beyond what the source does.
func TestHookAllocatesNothing(t *testing.T) {
	for _, src := range hookSources(t) {
		bare := testing.AllocsPerRun(100, func() { sink, _ = src.bare(src.hello) })
		if c, _ := src.wrapped(src.hello); c.OCSPStaple == nil && src.name != "no_responder" {
			t.Errorf("%s: no staple", src.name)
		}
		if got := testing.AllocsPerRun(100, func() { sink, _ = src.wrapped(src.hello) }) - bare; got != 0 {
			t.Errorf("%s: %v allocations beyond the source's %v", src.name, got, bare)
		}
	}
}

// REQ C6: a config that GetConfigForClient returns costs its copy and one hook.
func TestConfigForClientAllocates(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
	s := testkit.Stapler(t, ca)
	if err := s.Prefetch(context.Background(), cert); err != nil {
		t.Fatal(err)
	}
	inner := &tls.Config{Certificates: []tls.Certificate{*cert}}
	cfg := s.TLSConfig(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return inner, nil }})
	h := hello("a.example")
	got := testing.AllocsPerRun(100, func() {
		c, err := cfg.GetConfigForClient(h)
		if err == nil {
			sink, err = c.GetCertificate(h)
		}
		if err != nil || sink.OCSPStaple == nil {
			t.Fatal("no staple", err)
		}
	})
	if got != 2 {
		t.Errorf("%v allocations, want 2", got)
	}
}

// BenchmarkHook has our part alone: wrapped less bare, beside one time.Now.
func BenchmarkHook(b *testing.B) {
	b.Run("time.Now", func(b *testing.B) {
		for b.Loop() {
			_ = time.Now()
		}
	})
	for _, src := range hookSources(b) {
		for _, v := range []struct {
			name string
			hook getCertificate
		}{{"bare", src.bare}, {"wrapped", src.wrapped}} {
			b.Run(src.name+"/"+v.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink, _ = v.hook(src.hello)
				}
			})
		}
		b.Run(src.name+"/parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				h := *src.hello
				for pb.Next() {
					_, _ = src.wrapped(&h)
				}
			})
		})
	}
}
