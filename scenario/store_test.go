package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// slow returns a fault that takes d for op, or for every operation.
func slow(d time.Duration, op string) func(context.Context, string) error {
	return func(_ context.Context, o string) error {
		if op == "" || op == o {
			time.Sleep(d)
		}
		return nil
	}
}

// learned returns a store with the record of cert, as a process before left it.
func learned(t *testing.T, ca *ocsptest.CA, certs ...*tls.Certificate) *testkit.Shelf {
	t.Helper()
	st := new(testkit.Shelf)
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(st))
	if err := s.Prefetch(context.Background(), certs...); err != nil && !errors.Is(err, staple.ErrRevoked) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(st.Data) != len(certs) {
		t.Fatalf("%d records after Close, want %d", len(st.Data), len(certs))
	}
	ca.Responder.ResetCounts()
	return st
}

// REQ E1, REQ C5: a restart with the responder down staples from the first
// handshake, listed certificate or source, if the store answers within 100 ms.
func TestRestartStaplesFromTheStore(t *testing.T) {
	for _, age := range []time.Duration{time.Minute, 40 * time.Hour, 95 * time.Hour} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
			st := learned(t, ca, cert)
			time.Sleep(age)
			ca.Responder.SetFault(ocsptest.FaultRefused)
			st.Fail(slow(90*time.Millisecond, "Get"))
			for name, base := range map[string]*tls.Config{
				"listed": {Certificates: []tls.Certificate{*cert}},
				"source": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }},
			} {
				s := testkit.Stapler(t, ca, staple.WithStore(st))
				cs, took := testkit.TimedTalk(t, s.TLSConfig(base), testkit.ClientFor(ca, "a.example"))
				testkit.Proven(t, cs, ca)
				if took > 100*time.Millisecond {
					t.Errorf("%s, %v old: the first handshake took %v", name, age, took)
				}
				if err := s.Ready(); err != nil {
					t.Errorf("%s, %v old: %v", name, age, err)
				}
				if st := s.Status()[0]; !st.LastSuccess.Equal(st.ThisUpdate) && time.Since(st.LastSuccess) < age {
					t.Errorf("%s, %v old: LastSuccess %v, but nobody was asked", name, age, st.LastSuccess)
				}
			}
			synctest.Wait()
			if got := ca.Responder.Requests(); got != 0 && age < time.Hour {
				t.Errorf("%d requests though what is stored is %v old", got, age)
			} else if got == 0 && age > time.Hour {
				t.Errorf("nobody was asked though what is stored is %v old", age)
			}
		})
	}
}

// REQ E1: what is stored past its time is not served.
func TestRestartAfterExpiry(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, MustStaple: true})
		st := learned(t, ca, cert)
		time.Sleep(96*time.Hour + time.Second)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		cs := testkit.MustTalk(t, s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}), testkit.ClientFor(ca, "a.example"))
		testkit.Unstapled(t, cs)
		ca.Responder.SetFault(ocsptest.FaultNone)
		time.Sleep(time.Minute)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("no staple after the responder came back")
		}
	})
}

// REQ G2, REQ E1: revoked stays revoked over a restart, whoever is down.
func TestRevokedStaysRevoked(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		st := learned(t, ca, cert)
		ca.Responder.SetFault(ocsptest.FaultHang)
		var events testkit.Ledger
		s := testkit.Stapler(t, ca, staple.WithStore(st), staple.WithEventFunc(func(e staple.Event) { events.Add(e.Kind) }))
		cs := testkit.MustTalk(t, s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}), testkit.ClientFor(ca, "a.example"))
		testkit.Unstapled(t, cs)
		synctest.Wait()
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) || !slices.Contains(events.All(), "revoked") {
			t.Errorf("Ready %v, events %v", err, events.All())
		}
	})
}

// A good response from before the revocation does not come back by the store,
// and is replaced there.
func TestStoreCannotUndoARevocation(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		key, old := st.Only(t)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		time.Sleep(30 * time.Minute)
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) {
			t.Fatal(err)
		}
		for range 50 {
			st.Set(key, forge(t, old, map[string]string{"Checked": time.Now().Format(time.RFC3339Nano)}))
			time.Sleep(30 * time.Minute)
			if s.Staple(cert).OCSPStaple != nil || !errors.Is(s.Ready(), staple.ErrRevoked) {
				t.Fatal("a stored response undid a revocation")
			}
		}
		time.Sleep(2 * time.Hour)
		if _, now := st.Only(t); !bytes.Contains(now, []byte("BEGIN")) || statusIn(t, ca, cert, now) != ocsp.Revoked {
			t.Error("the replay was not replaced in the store")
		}
	})
}

// statusIn returns the status that a record holds.
func statusIn(t testing.TB, ca *ocsptest.CA, cert *tls.Certificate, record []byte) int {
	t.Helper()
	block, _ := pem.Decode(record)
	if block == nil || block.Type != "OCSP RESPONSE" {
		t.Fatalf("no record: %.100q", record)
	}
	r, err := ocsp.ParseResponseForCert(block.Bytes, cert.Leaf, ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// forge returns a record with other headers.
func forge(t testing.TB, record []byte, headers map[string]string) []byte {
	t.Helper()
	block, _ := pem.Decode(record)
	if block == nil {
		t.Fatalf("no record: %.100q", record)
	}
	maps.Copy(block.Headers, headers)
	return pem.EncodeToMemory(block)
}

// A write that hangs past its time and succeeds in the end does not pass for
// the write of what came later: or a restart would find a revoked
// certificate's good response.
func TestLateWriteDoesNotHideANewerOne(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(16 * time.Second)
		cert := ca.Issue(ocsptest.Leaf{})
		st := new(testkit.Shelf)
		var once sync.Once
		st.Fail(func(_ context.Context, op string) error {
			if op == "Put" {
				once.Do(func() { time.Sleep(9 * time.Second) }) // whatever the context says
			}
			return nil
		})
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		time.Sleep(8500 * time.Millisecond)
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) {
			t.Fatalf("no refresh while the write hung: %v", err)
		}
		ca.Responder.SetFault(ocsptest.FaultRefused)
		time.Sleep(time.Second)
		_, data := st.Only(t)
		if got := statusIn(t, ca, cert, data); got != ocsp.Revoked {
			t.Errorf("the store holds status %d, want revoked", got)
		}
	})
}

// Any error of Get is a miss: the root can't know autocert's ErrCacheMiss.
func TestMissIsNoWarning(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithStore(new(testkit.Shelf)), staple.WithLogger(log.Logger()))
		if err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if loud := log.Loud(); len(loud) > 0 {
			t.Errorf("logged: %q", loud)
		}
	})
}

// REQ E8, REQ G3: a store that fails, in whatever way, delays nothing beyond the
// one read of 100 ms, loses no staple, and costs one warning a day.
func TestBadStoreDelaysNothing(t *testing.T) {
	free := func() {}
	ways := map[string]func(t *testing.T) func(context.Context, string) error{
		"fails": func(*testing.T) func(context.Context, string) error { return fails(errors.New("shelf: disk on fire")) },
		"panics": func(*testing.T) func(context.Context, string) error {
			return func(context.Context, string) error { panic("shelf") }
		},
		"slow": func(*testing.T) func(context.Context, string) error { return slow(time.Minute, "") },
		"waits": func(*testing.T) func(context.Context, string) error {
			return func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		},
		"hangs": func(t *testing.T) func(context.Context, string) error {
			hung := make(chan struct{})
			free = func() { close(hung) }
			return func(context.Context, string) error { <-hung; return nil }
		},
		"lease panics": func(*testing.T) func(context.Context, string) error {
			return func(_ context.Context, op string) error {
				if op == "Lease" {
					panic("shelf")
				}
				return nil
			}
		},
		"lease hangs": func(*testing.T) func(context.Context, string) error { return slow(time.Hour, "Lease") },
	}
	for name, way := range ways {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			free = func() {}
			st := &member{Shelf: new(testkit.Shelf), leases: new(leases)}
			st.Fail(way(t))
			var log testkit.Logbook
			s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(st), staple.WithLogger(log.Logger()))
			ca.Responder.SetDelay(300 * time.Millisecond)
			checkUndelayed(t, ca, s, name)
			time.Sleep(10 * time.Hour)
			if loud := log.Loud(); len(loud) > 2 || len(loud) == 0 && !strings.HasPrefix(name, "lease p") {
				t.Errorf("%s: %d warnings %q, want one for each operation that fails", name, len(loud), loud)
			}
			free()
			time.Sleep(2 * time.Hour)
			if err := s.Close(); err != nil && name != "slow" && name != "lease hangs" {
				t.Errorf("%s: %v", name, err)
			}
			time.Sleep(2 * time.Hour) // what is slow comes to its end
		})
	}
}

func fails(err error) func(context.Context, string) error {
	return func(context.Context, string) error { return err }
}

// checkUndelayed makes cold handshakes with a plain and a Must-Staple
// certificate, then warm ones for two days' worth of refreshes.
func checkUndelayed(t *testing.T, ca *ocsptest.CA, s *staple.Stapler, name string) {
	t.Helper()
	plain := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
	must := ca.Issue(ocsptest.Leaf{Names: []string{"b.example"}, MustStaple: true})
	hook := s.GetCertificate(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "a.example" {
			return plain, nil
		}
		return must, nil
	})
	cfg := &tls.Config{GetCertificate: hook}
	if _, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "a.example")); took > 100*time.Millisecond {
		t.Errorf("%s: a plain certificate's cold handshake took %v", name, took)
	}
	cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "b.example"))
	testkit.Proven(t, cs, ca)
	// The read, the lease and the exchange.
	if limit := 1400 * time.Millisecond; took > limit {
		t.Errorf("%s: a Must-Staple certificate's cold handshake took %v, want at most %v", name, took, limit)
	}
	for range 40 {
		time.Sleep(10 * time.Minute)
		for _, sni := range []string{"a.example", "b.example"} {
			cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, sni))
			testkit.Proven(t, cs, ca)
			if took > 0 {
				t.Errorf("%s: a warm handshake took %v", name, took)
			}
		}
	}
}

// curious is an error of a user's store. Its methods are the user's code.
type curious struct{ asked *atomic.Int32 }

func (curious) Error() string   { return "disk full" }
func (e curious) Is(error) bool { e.asked.Add(1); return false }

// What a failed write returns is logged and not looked into: its methods may call
// the Stapler, whose lock is held.
func TestStoreErrorIsOpaque(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		st, asked := new(testkit.Shelf), new(atomic.Int32)
		st.Fail(func(_ context.Context, op string) error {
			if op == "Put" {
				return curious{asked}
			}
			return nil
		})
		s := testkit.Stapler(t, ca, staple.WithStore(st), staple.WithLogger(new(testkit.Logbook).Logger()))
		if err := s.Prefetch(background, ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := asked.Load(); n != 0 {
			t.Errorf("the error was asked %d times what it is", n)
		}
	})
}

// A record that does not say when it was checked makes no success of 1970.
func TestRecordWithoutTimes(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := testkit.LeafFor(ca, "a.example.com")
		st := learned(t, ca, cert)
		key, data := st.Only(t)
		st.Set(key, regexp.MustCompile(`(?m)^(Checked|Received):.*\n`).ReplaceAll(data, nil))
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, s, cert)
		time.Sleep(time.Minute)
		if got := s.Status()[0]; got.State != staple.StateGood || !got.LastSuccess.IsZero() {
			t.Errorf("%+v", got)
		}
	})
}
