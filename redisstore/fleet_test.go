package redisstore_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/redisstore"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// stapler returns one of a fleet, a process of its own as Redis sees it.
func stapler(t *testing.T, n *node, rt http.RoundTripper, opts ...staple.Option) *staple.Stapler {
	t.Helper()
	s := staple.New(append([]staple.Option{staple.WithHTTPClient(&http.Client{Transport: rt}),
		staple.WithStore(redisstore.New(n.client(t), ""))}, opts...)...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// warnings counts what is logged of a store that did not answer in time. Who
// says so asks without it for 5 s.
type warnings struct{ atomic.Int32 }

func (w *warnings) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("store is slow")) {
		w.Add(1)
	}
	return len(line), nil
}

// REQ E5: 50 Staplers that share a Redis refresh 20 times and ask 21 times at
// most, whether the responder has news each time, says 304, or sends the same
// bytes again. The first is asked for 20 times what it takes to be due.
//
// That holds while Redis answers in time, which it may not on a busy machine: the
// test of this name in the root package has the same in virtual time.
func TestFleetAsksOnce(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(r *ocsptest.Responder){
		"news":       func(*ocsptest.Responder) {},
		"304":        func(r *ocsptest.Responder) { r.SetPresign(true) },
		"same bytes": func(r *ocsptest.Responder) { r.SetPresign(true); r.SetHeader("ETag"); r.SetHeader("Last-Modified") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			ca := ocsptest.NewCA()
			ca.Responder.SetHeader("Cache-Control") // the TTL decides alone
			ca.Responder.SetHeader("Expires")
			prepare(ca.Responder)
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
			const ttl, refreshes = 500 * time.Millisecond, 20
			var fleet []*staple.Stapler
			var slow warnings
			log := staple.WithLogger(slog.New(slog.NewTextHandler(&slow, nil)))
			begun := time.Now()
			for range 50 {
				s := stapler(t, n, ca.Responder, staple.WithTTL(ttl), log)
				if err := s.Prefetch(t.Context(), cert); err != nil {
					t.Fatal(err)
				}
				fleet = append(fleet, s)
			}
			testkit.Eventually(t, 45*time.Second, "20 refreshes", func() bool {
				for _, s := range fleet {
					if len(s.Staple(cert).OCSPStaple) == 0 {
						t.Fatal("no staple")
					}
				}
				return ca.Responder.Requests() >= 1+refreshes
			})
			// A refresh comes three quarters of a TTL after the one before at the
			// earliest: more requests than that had more than one who asked.
			const apart = ttl * 3 / 4
			alone := time.Duration(slow.Load()) * (5*time.Second/apart + 1)
			if got := time.Since(begun); got < (refreshes-alone)*apart {
				t.Errorf("%d requests in %v: some were made twice", ca.Responder.Requests(), got)
			}
			if news := name == "news"; !news && ca.Responder.Requests() == 0 {
				t.Error("nobody asked")
			}
			last := ca.Responder.Requests()
			for _, s := range fleet {
				testkit.Eventually(t, 45*time.Second, "everyone has it", func() bool { return s.Status()[0].LastSuccess.After(begun.Add(ttl)) })
			}
			t.Logf("%d requests in %v, Redis slow for %d", last, time.Since(begun).Round(time.Millisecond), slow.Load())
		})
	}
}

// A holder of the lease that is killed in mid-fetch is replaced after its lease.
func TestHolderKilled(t *testing.T) {
	if addr := os.Getenv("STAPLE_HOLDER"); addr != "" {
		hold(t, addr)
		return
	}
	t.Parallel()
	n := newNode(t)
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	child := exec.Command(os.Args[0], "-test.run=^TestHolderKilled$")
	file := t.TempDir() + "/cert.pem"
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(file, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	child.Env = append(os.Environ(), "STAPLE_HOLDER="+n.addr, "STAPLE_CERT="+file)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	client := n.client(t)
	leases := func() int { return len(client.Keys(context.Background(), "staple:lease:*").Val()) }
	testkit.Eventually(t, 45*time.Second, "the child has the lease", func() bool { return leases() == 1 })
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	s := stapler(t, n, ca.Responder)
	s.Staple(cert)
	if leases() != 1 || ca.Responder.Requests() != 0 {
		t.Errorf("%d leases, %d requests: the lease ended with its holder", leases(), ca.Responder.Requests())
	}
	testkit.Eventually(t, 45*time.Second, "the next one asks", func() bool { return len(s.Staple(cert).OCSPStaple) > 0 })
	if got := ca.Responder.Requests(); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

// hold takes the lease and asks a responder that never answers.
func hold(t *testing.T, addr string) {
	n := &node{addr: addr}
	var chain [][]byte
	data, err := os.ReadFile(os.Getenv("STAPLE_CERT"))
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	s := stapler(t, n, hang{})
	s.Staple(&tls.Certificate{Certificate: chain})
	<-context.Background().Done()
}

type hang struct{}

func (hang) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// Redis stopped and started again costs no staple: servers ask for themselves
// meanwhile, and store again what they get afterwards.
func TestStoppedAndStarted(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	ca := ocsptest.NewCA()
	ca.Responder.SetHeader("Cache-Control")
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	var fetched, stored atomic.Int64
	s := stapler(t, n, ca.Responder, staple.WithTTL(500*time.Millisecond), staple.WithEventFunc(func(ev staple.Event) {
		switch ev.Kind {
		case staple.EventFetched:
			fetched.Add(1)
		case staple.EventStored:
			stored.Add(1)
		}
	}))
	if err := s.Prefetch(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	more := func(counter *atomic.Int64, what string) {
		before := counter.Load()
		testkit.Eventually(t, 45*time.Second, what, func() bool {
			if len(s.Staple(cert).OCSPStaple) == 0 {
				t.Fatal("no staple")
			}
			return counter.Load() >= before+2
		})
	}
	more(&stored, "stored with Redis there")
	n.stop()
	more(&fetched, "refreshed without Redis")
	n.start(t, "redis-server", "valkey-server")
	more(&stored, "stored again")
	fresh := stapler(t, n, hang{}) // a new server, and a responder that is down
	if err := fresh.Prefetch(t.Context(), cert); err != nil {
		t.Errorf("a new server has nothing: %v", err)
	}
}
