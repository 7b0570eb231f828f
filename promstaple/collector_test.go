package promstaple_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/promstaple"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// No label grows with the certificates, or tells what is in a URL beside the
// host, and none breaks a scrape.
func TestResponderLabel(t *testing.T) {
	urls := map[string]string{ // by the names of certificates
		"a": "http://OCSP.example/s/gts/0001", "b": "http://ocsp.example/s/gts/0002?x=y", "c": "http://user:secret@ocsp.example:8080/",
		"d": "http://[::1]:99/", "e": "http://%ff.example/", "f": "http://a b/\x7f", "g": "HTTP:///path", "h": "http://\xff\xfe/",
	}
	responders := func(leaf *x509.Certificate) ([]string, bool) { return []string{urls[leaf.DNSNames[0]]}, true }
	bubble(t, func(t *testing.T, w *world) {
		for name := range urls {
			w.know(ocsptest.Leaf{Names: []string{name}})
		}
		got := make(map[string]bool)
		for name, series := range w.scrape(t) {
			for labels := range series {
				if _, responder, ok := strings.Cut(labels, "responder="); ok && name != "staple_fetch_duration_seconds_bucket" {
					got[responder] = true
				}
			}
		}
		want := map[string]bool{"ocsp.example": true, "ocsp.example:8080": true, "[::1]:99": true, "?.example": true, "invalid": true, "none": true, "?": true}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if _, err := url.Parse(urls["f"]); err == nil {
			t.Error("there is no invalid URL among them")
		}
	}, staple.WithResponders(responders))
}

// Options are those of staple.New, and one more changes none of them.
func TestOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		var events int // read after synctest.Wait
		opts := make([]staple.Option, 0, 8)
		opts = append(opts, nil, staple.WithHTTPClient(ca.Responder.Client()), staple.WithEventFunc(func(staple.Event) { events++ }))
		one, other := newWorld(t, ca, opts...), newWorld(t, ca, opts...)
		if len(opts) != 3 || opts[:4][3] != nil {
			t.Error("New wrote into the caller's options")
		}
		one.know(ocsptest.Leaf{})
		synctest.Wait()
		if events != 1 {
			t.Errorf("%d events, want 1", events)
		}
		one.want(t, "staple_attempts_total", "outcome=fetched,responder=R 1")
		other.want(t, "staple_attempts_total")
	})
}

// Several Staplers share a registry under labels of their own, and can't
// without. After Close there is a scrape still.
func TestSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		reg := prometheus.NewPedanticRegistry()
		for _, name := range []string{"a", "b"} {
			s, metrics := promstaple.New(staple.WithHTTPClient(ca.Responder.Client()))
			prometheus.WrapRegistererWith(prometheus.Labels{"stapler": name}, reg).MustRegister(metrics)
			if err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{})); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for metric, want := range map[string]int{"staple_certificates": 24, "staple_response_remaining_ratio": 2, "staple_store_writes_total": 4} {
			if n, err := testutil.GatherAndCount(reg, metric); n != want || err != nil {
				t.Errorf("%s: %d series, %v, want %d", metric, n, err, want)
			}
		}
		plain := prometheus.NewRegistry()
		for i := range 2 {
			s, metrics := promstaple.New()
			if err := plain.Register(metrics); (err == nil) != (i == 0) {
				t.Errorf("Stapler %d without a label: %v", i, err)
			}
			s.Close()
		}
	})
}

// Scrapes, handshakes and events go on at the same time.
func TestConcurrent(t *testing.T) {
	ca := ocsptest.NewCA()
	s, metrics := promstaple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(metrics)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 10 {
				_ = s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{Key: ca.Key()}))
			}
		})
		group.Go(func() {
			for range 20 {
				if _, err := reg.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n, err := testutil.GatherAndCount(reg, "staple_certificates"); n != 12 || err != nil {
		t.Errorf("%d series, %v", n, err)
	}
}

// BenchmarkScrape is the cost of a scrape per certificate, which came with its
// Leaf or without.
func BenchmarkScrape(b *testing.B) {
	b.Run("leaf", func(b *testing.B) { benchmarkScrape(b, true) })
	b.Run("parsed", func(b *testing.B) { benchmarkScrape(b, false) })
}

func benchmarkScrape(b *testing.B, leaf bool) {
	ca := ocsptest.NewCA()
	s, metrics := promstaple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics)
	const n = 1000
	var certs []*tls.Certificate
	key := ca.Key()
	for i := range n {
		cert := ca.Issue(ocsptest.Leaf{Key: key, Names: []string{fmt.Sprintf("%d.example", i)}})
		if !leaf {
			cert.Leaf = nil
		}
		certs = append(certs, cert)
	}
	if err := s.Prefetch(b.Context(), certs...); err != nil {
		b.Fatal(err)
	}
	for _, cert := range certs { // what was served is kept with its Leaf
		s.Staple(cert)
	}
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/cert")
}
