package scenario_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// stuck is code of the user's that hangs, whatever its context says.
type stuck struct {
	free chan struct{}
	once sync.Once
}

func (s *stuck) wait() { <-s.free }

func (s *stuck) release() { s.once.Do(func() { close(s.free) }) }

// stuckHandler is a slog.Handler that hangs.
type stuckHandler struct {
	slog.Handler
	*stuck
}

func (h stuckHandler) Handle(context.Context, slog.Record) error { h.wait(); return nil }

// Close while code that is not ours hangs: 5 s at most, and the error names it.
func TestCloseNamesWhatHangs(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts func(*stuck, *ocsptest.CA) []staple.Option
	}{
		{"HTTP client", func(h *stuck, ca *ocsptest.CA) []staple.Option {
			rt := testkit.RoundTripper(func(r *http.Request) (*http.Response, error) { h.wait(); return ca.Responder.RoundTrip(r) })
			return []staple.Option{staple.WithHTTPClient(&http.Client{Transport: rt})}
		}},
		{"store Get", func(h *stuck, _ *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithStore(stuckShelf(h, "Get"))}
		}},
		{"store Put", func(h *stuck, _ *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithStore(stuckShelf(h, "Put"))}
		}},
		{"store Lease", func(h *stuck, _ *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithStore(stuckShelf(h, "Lease"))}
		}},
		{"event function", func(h *stuck, _ *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithEventFunc(func(staple.Event) { h.wait() })}
		}},
		{"logger", func(h *stuck, _ *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithLogger(slog.New(stuckHandler{new(testkit.Logbook), h}))}
		}},
		{"WithResponders function", func(h *stuck, _ *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithResponders(func(*x509.Certificate) ([]string, bool) { h.wait(); return nil, true })}
		}},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			h := &stuck{free: make(chan struct{})}
			defer h.release()
			opts := append([]staple.Option{staple.WithHTTPClient(ca.Responder.Client())}, tc.opts(h, ca)...)
			s := staple.New(opts...)
			s.Staple(ca.Issue(ocsptest.Leaf{}))
			synctest.Wait()
			begun := time.Now()
			err := s.Close()
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("%s: Close took %v", tc.name, took)
			}
			if err == nil || !strings.Contains(err.Error(), tc.name+" (1)") {
				t.Errorf("%s: Close: %v", tc.name, err)
			}
			begun = time.Now()
			if err := s.Close(); err != nil || time.Since(begun) > 0 {
				t.Errorf("%s: second Close: %v, %v", tc.name, err, time.Since(begun))
			}
		})
	}
}

func stuckShelf(h *stuck, op string) staple.Store {
	m := &member{Shelf: new(testkit.Shelf), leases: new(leases)}
	m.Fail(func(_ context.Context, o string) error {
		if o == op {
			h.wait()
		}
		return nil
	})
	return m
}

// Close in the middle of a fetch ends it at once, and with it whoever waits:
// Prefetch with ErrClosed, a handshake without a staple.
func TestCloseDuringFetch(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultHang)
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, MustStaple: true})
		prefetched := make(chan error, 1)
		go func() {
			prefetched <- s.Prefetch(context.Background(), cert, ca.Issue(ocsptest.Leaf{Names: []string{"b.example"}}))
		}()
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
		shaken := make(chan tls.ConnectionState, 1)
		go func() { shaken <- testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.example")) }()
		time.Sleep(time.Second)
		select {
		case <-shaken:
			t.Fatal("the handshake did not wait")
		default:
		}
		begun := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		err := <-prefetched
		for _, want := range []string{"a.example", "b.example"} {
			if !errors.Is(err, staple.ErrClosed) || !strings.Contains(err.Error(), want) {
				t.Errorf("Prefetch: %v, want ErrClosed for %s", err, want)
			}
		}
		testkit.Unstapled(t, <-shaken)
		if took := time.Since(begun); took > 0 {
			t.Errorf("Close took %v", took)
		}
	})
}

// A response that was fetched is written before Close returns, if the store
// takes less than a second for it.
func TestCloseDuringStoreWrite(t *testing.T) {
	for _, d := range []time.Duration{900 * time.Millisecond, 3 * time.Second} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			st := new(testkit.Shelf)
			st.Fail(func(ctx context.Context, op string) error {
				if op != "Put" {
					return nil
				}
				select {
				case <-time.After(d):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(st))
			if err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{})); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if err := s.Close(); err != nil {
				t.Errorf("a write of %v: %v", d, err)
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("a write of %v: Close took %v", d, took)
			}
			if want := d < time.Second; (st.Puts == 1) != want {
				t.Errorf("a write of %v: %d records", d, st.Puts)
			}
		})
	}
}

// After Close: what is held is stapled until it expires, nobody is asked, what
// is new passes through, and Prefetch says so.
func TestAfterClose(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		st := new(testkit.Shelf)
		var events testkit.Ledger
		s := testkit.Stapler(t, ca, staple.WithStore(st), staple.WithEventFunc(func(e staple.Event) { events.Add(e.Kind) }))
		cert, late := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}}), ca.Issue(ocsptest.Leaf{Names: []string{"late.example"}, MustStaple: true})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
		source := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return late, nil })
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		n, before := ca.Responder.Requests(), len(events.All())
		for age := time.Duration(0); age < 100*time.Hour; age += 59 * time.Minute {
			cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "a.example"))
			if age < 96*time.Hour-time.Hour {
				testkit.Proven(t, cs, ca)
			} else if age > 96*time.Hour {
				testkit.Unstapled(t, cs)
			}
			cs, took2 := testkit.TimedTalk(t, &tls.Config{GetCertificate: source}, testkit.ClientFor(ca, "late.example"))
			testkit.Unstapled(t, cs)
			if took+took2 > 0 {
				t.Errorf("handshakes took %v and %v", took, took2)
			}
			time.Sleep(59 * time.Minute)
		}
		if got, _ := source(testkit.Asking("late.example")); got != late {
			t.Error("an unknown certificate was not passed through as it is")
		}
		err := s.Prefetch(context.Background(), late)
		if !errors.Is(err, staple.ErrClosed) || !strings.Contains(err.Error(), "late.example") {
			t.Errorf("Prefetch: %v", err)
		}
		if ca.Responder.Requests() != n || st.Puts != 1 || len(events.All()) != before {
			t.Errorf("after Close: %d requests, %d writes, events %v", ca.Responder.Requests()-n, st.Puts-1, events.All()[before:])
		}
		if s.Ready() == nil || len(s.Status()) != 1 || s.TLSConfig(nil) == nil {
			t.Errorf("Ready %v, Status %v", s.Ready(), s.Status())
		}
	})
}

// A Stapler that never knew a certificate has nothing to close.
func TestCloseUnused(t *testing.T) {
	s := staple.New()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}
