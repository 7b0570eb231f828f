package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// figures are what one child measured, by name.
type figures map[string]float64

// A measurement is made in a process of its own, which it can leave as it likes.
type measurement struct {
	name  string
	n     int           // certificates
	delay time.Duration // of the responder
	must  bool          // Must-Staple
	run   func(context.Context, subject, *world, string) (figures, error)
}

var measurements = []measurement{
	{"get/1", 1, 0, false, measureGet},
	{"get/10000", 10_000, 0, false, measureGet},
	{"get/100000", 100_000, 0, false, measureGet},
	{"handshake", 1, 0, false, measureHandshake},
	{"herd", 1, 20 * time.Millisecond, true, measureHerd},
	{"warm-up", 1000, 20 * time.Millisecond, false, measureWarmUp},
}

// measure runs one measurement for one subject.
func measure(sub subject, m measurement) (figures, error) {
	dir, remove, err := tempDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	w, err := newWorld(m.n, m.delay, m.must)
	if err != nil {
		return nil, err
	}
	defer w.srv.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return m.run(ctx, sub, w, dir)
}

// heap returns the bytes in live objects.
func heap() float64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// begin starts a subject and waits until it staples all that it serves.
func begin(ctx context.Context, sub subject, w *world, dir string) (getCertificate, error) {
	get, ready, err := sub.start(ctx, w, dir)
	if err == nil && ready != nil {
		err = ready()
	}
	return get, err
}

// measureGet has what the hook costs, serial and parallel, with names at random,
// and what all of it takes in memory beyond the floor's certificates, which
// include the response.
func measureGet(ctx context.Context, sub subject, w *world, dir string) (figures, error) {
	for _, cert := range w.certs { // signed beforehand: the heap has them all the same
		if _, err := w.response(cert.Leaf.SerialNumber); err != nil {
			return nil, err
		}
	}
	before := heap()
	get, err := begin(ctx, sub, w, dir)
	if err != nil {
		return nil, err
	}
	raw := 0.0
	hellos := make([]*tls.ClientHelloInfo, len(w.names))
	for i, at := range rand.Perm(len(w.names)) {
		hellos[i] = hello(w.names[at])
		c, err := get(hellos[i])
		if err != nil || c == nil || len(c.OCSPStaple) == 0 {
			return nil, fmt.Errorf("%s: no staple for %s: %v", sub.name, w.names[at], err)
		}
		raw += float64(len(c.OCSPStaple))
	}
	n := float64(len(w.certs))
	w.srv.CloseClientConnections()
	after := heap() - float64(len(hellos))*helloBytes()
	out := figures{}
	if len(w.certs) > 1 {
		out["heap B/cert"] = (after - before - raw) / n
	}
	serial := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			_, _ = get(hellos[i%len(hellos)])
		}
	})
	parallel := testing.Benchmark(func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := rand.IntN(len(hellos)); pb.Next(); i++ {
				_, _ = get(hellos[i%len(hellos)])
			}
		})
	})
	nobody := hello("nobody.example.net")
	unknown := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			_, _ = get(nobody)
		}
	})
	out["serial ns"], out["allocs"], out["B"] = perOp(serial), float64(serial.AllocsPerOp()), float64(serial.AllocedBytesPerOp())
	out["parallel ns"], out["unknown ns"] = perOp(parallel), perOp(unknown)
	return out, nil
}

func perOp(r testing.BenchmarkResult) float64 { return float64(r.T.Nanoseconds()) / float64(r.N) }

// helloBytes is what one of our own hellos takes.
func helloBytes() float64 {
	before := heap()
	all := make([]*tls.ClientHelloInfo, 10_000)
	for i := range all {
		all[i] = hello("site.example.com")
	}
	after := heap()
	runtime.KeepAlive(all)
	return (after - before) / float64(len(all))
}

// measureHandshake has full handshakes over loopback, in turns with those of the
// floor in the same process: by themselves they differ less by subject than from
// one moment to the next.
func measureHandshake(ctx context.Context, sub subject, w *world, dir string) (figures, error) {
	floor, err := begin(ctx, subjects[0], w, dir)
	if err != nil {
		return nil, err
	}
	get, err := begin(ctx, sub, w, dir)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(w.ca)
	out := figures{}
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		client := &tls.Config{RootCAs: roots, ServerName: w.names[0], MaxVersion: version, VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.OCSPResponse) == 0 {
				return errors.New("no staple")
			}
			return nil
		}}
		ratio, err := inTurns(get, floor, client)
		if err != nil {
			return nil, err
		}
		out[tls.VersionName(version)] = ratio
	}
	return out, nil
}

// inTurns returns the median of the ratio of the rates of two hooks.
func inTurns(a, b getCertificate, client *tls.Config) (float64, error) {
	const pairs, each = 25, 60
	ratios := make([]float64, pairs)
	for i := range ratios {
		var rates [2]float64
		for k := range 2 {
			at := (i + k) % 2 // who is first takes turns, too
			rate, err := handshakes(&tls.Config{GetCertificate: []getCertificate{a, b}[at], SessionTicketsDisabled: true}, client, each)
			if err != nil {
				return 0, err
			}
			rates[at] = rate
		}
		ratios[i] = rates[0] / rates[1]
	}
	slices.Sort(ratios)
	return ratios[pairs/2], nil
}

func handshakes(server, client *tls.Config, n int) (rate float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
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
			return 0, err
		}
		c.Close()
	}
	return float64(n) / time.Since(begun).Seconds(), nil
}

// measureHerd starts a subject and sends 10,000 handshakes at once to its hook,
// with a Must-Staple certificate whose response it does not have yet.
func measureHerd(ctx context.Context, sub subject, w *world, dir string) (figures, error) {
	begun := time.Now()
	get, _, err := sub.start(ctx, w, dir)
	if err != nil {
		return nil, err
	}
	started := time.Since(begun)
	var stapled atomic.Int64
	var wg sync.WaitGroup
	for range 10_000 {
		wg.Go(func() {
			if c, err := get(hello(w.names[0])); err == nil && c != nil && len(c.OCSPStaple) > 0 {
				stapled.Add(1)
			}
		})
	}
	wg.Wait()
	return figures{"stapled %": float64(stapled.Load()) / 100, "requests": float64(w.requests.Load()),
		"start ms": started.Seconds() * 1000, "all ms": time.Since(begun).Seconds() * 1000}, nil
}

// measureWarmUp has the time until all certificates are stapled.
func measureWarmUp(ctx context.Context, sub subject, w *world, dir string) (figures, error) {
	begun := time.Now()
	if _, err := begin(ctx, sub, w, dir); err != nil {
		return nil, err
	}
	return figures{"s": time.Since(begun).Seconds(), "requests": float64(w.requests.Load())}, nil
}
