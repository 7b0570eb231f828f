package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
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
)

// leases is what a fleet shares besides its records.
type leases struct {
	mu sync.Mutex // guards by
	by map[string]lease
}

type lease struct {
	holder *member
	until  time.Time
}

// member is a Store and Leaser of one process, over what the fleet shares.
type member struct {
	*testkit.Shelf
	leases *leases
	asked  int // calls of Lease; guarded by leases.mu
}

func (m *member) Lease(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	m.leases.mu.Lock()
	m.asked++
	m.leases.mu.Unlock()
	if err := m.Begin(ctx, "Lease"); err != nil {
		return false, err
	}
	m.leases.mu.Lock()
	defer m.leases.mu.Unlock()
	if l := m.leases.by[key]; l.holder != m && time.Now().Before(l.until) {
		return false, nil
	}
	if m.leases.by == nil {
		m.leases.by = make(map[string]lease)
	}
	m.leases.by[key] = lease{m, time.Now().Add(ttl)}
	return true, nil
}

// calls returns how often the lease was asked for.
func (m *member) calls() int {
	m.leases.mu.Lock()
	defer m.leases.mu.Unlock()
	return m.asked
}

// fleet returns n Staplers that share a store.
func fleet(t *testing.T, ca *ocsptest.CA, n int) (fleet []*staple.Stapler, members []*member) {
	st, ls := new(testkit.Shelf), new(leases)
	for range n {
		m := &member{Shelf: st, leases: ls}
		fleet = append(fleet, testkit.Stapler(t, ca, staple.WithStore(m)))
		members = append(members, m)
	}
	return fleet, members
}

// REQ E5: a fleet asks once, the first time and at each refresh, whatever kind
// of news there is; and none of its cold handshakes goes without a staple.
func TestFleetAsksOnce(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*ocsptest.Responder){
		"fresh responses":           func(*ocsptest.Responder) {},
		"304":                       func(r *ocsptest.Responder) { r.SetPresign(true); r.SetHeader("Cache-Control", "max-age=600") },
		"the same bytes":            func(r *ocsptest.Responder) { r.SetPresign(true); noCaching(r) },
		"all due at the same time":  func(r *ocsptest.Responder) { r.SetHeader("Cache-Control", "max-age=7200") },
		"validity of two hours":     func(r *ocsptest.Responder) { r.SetValidity(2 * time.Hour) },
		"responses that do not end": func(r *ocsptest.Responder) { r.SetNoNextUpdate(true) },
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			set(ca.Responder)
			ca.Responder.SetDelay(200 * time.Millisecond)
			staplers, _ := fleet(t, ca, 50)
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, MustStaple: true})
			coldAtOnce(t, ca, staplers, cert)
			refreshed := make([]int, len(staplers))
			last := make([]time.Time, len(staplers))
			for round := 0; least(refreshed) < 21; round++ { // the first fetch and 20 refreshes
				for i, s := range staplers {
					if at := s.Status()[0].LastSuccess; !at.Equal(last[i]) {
						last[i] = at
						refreshed[i]++
					}
					if i == round%len(staplers) && !testkit.Stapled(t, s, ca, cert) {
						t.Fatalf("%s: a member of the fleet has no staple", name)
					}
				}
				if time.Sleep(5 * time.Minute); round > 12*100 {
					t.Fatalf("%s: %v refreshes in 100 hours", name, refreshed)
				}
			}
			t.Logf("%s: 50 Staplers, 20 refreshes each, %d exchanges in %v", name, ca.Responder.Requests(), time.Since(ca.Responder.Log()[0].Time))
			most := 21
			if name == "304" || name == "the same bytes" { // each has a look by itself after eight records that say so: REQ I4
				most += 50 * 20 / 9
			}
			if got := ca.Responder.Requests(); got > most {
				t.Errorf("%s: %d exchanges for 50 Staplers and 20 refreshes each, want at most %d", name, got, most)
			}
		})
	}
}

func noCaching(r *ocsptest.Responder) {
	for _, h := range []string{"ETag", "Last-Modified", "Expires", "Cache-Control"} {
		r.SetHeader(h)
	}
}

func least(n []int) int {
	low := n[0]
	for _, v := range n {
		low = min(low, v)
	}
	return low
}

// coldAtOnce makes the first handshake with every Stapler at one time.
func coldAtOnce(t *testing.T, ca *ocsptest.CA, staplers []*staple.Stapler, cert *tls.Certificate) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(staplers))
	for i, s := range staplers {
		cfg := &tls.Config{GetCertificate: s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })}
		wg.Go(func() {
			cs, _, err := testkit.Talk(cfg, testkit.ClientFor(ca, "a.example"))
			if err == nil {
				err = testkit.Judge(cs, ca)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := ca.Responder.Requests(); got != 1 {
		t.Errorf("%d requests for %d cold Staplers, want 1", got, len(staplers))
	}
}

// The holder of the lease dies in the middle of its request: the others ask
// when its lease ends, and not before.
func TestLeaseHolderDies(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		staplers, members := fleet(t, ca, 10)
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultHang)
		staplers[0].Staple(cert)
		time.Sleep(time.Second)
		for _, s := range staplers[1:] {
			s.Staple(cert)
		}
		time.Sleep(time.Second)
		if err := staplers[0].Close(); err != nil {
			t.Error(err)
		}
		ca.Responder.SetFault(ocsptest.FaultNone)
		time.Sleep(20 * time.Second)
		log := ca.Responder.Log()
		if len(log) != 2 {
			t.Fatalf("%d requests, want 2", len(log))
		}
		if gap := log[1].Time.Sub(log[0].Time); gap < 15*time.Second || gap > 18*time.Second {
			t.Errorf("asked again after %v, want the 15 s of the lease", gap)
		}
		for i, s := range staplers[1:] {
			if !testkit.Stapled(t, s, ca, cert) {
				t.Errorf("member %d has no staple: %v", i+1, s.Ready())
			}
			if m := members[i+1]; m.calls() > 12 {
				t.Errorf("member %d asked %d times for the lease in 20 s", i+1, m.calls())
			}
		}
	})
}

// REQ C5: who waits for what another process is to store waits no longer than
// for a responder, however often the store is read meanwhile.
func TestColdWaitWithoutTheLease(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		staplers, _ := fleet(t, ca, 2)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, MustStaple: true})
		ca.Responder.SetFault(ocsptest.FaultHang)
		staplers[0].Staple(cert)
		synctest.Wait()
		cfg := &tls.Config{GetCertificate: staplers[1].GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })}
		cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "a.example"))
		testkit.Unstapled(t, cs)
		if took < 5*time.Second || took > 5100*time.Millisecond {
			t.Errorf("the first handshake took %v, want 5 s", took)
		}
		for range 5 {
			if _, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "a.example")); took > 0 {
				t.Errorf("a later handshake took %v", took)
			}
		}
		ca.Responder.SetFault(ocsptest.FaultNone)
		time.Sleep(20 * time.Second)
		testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.example")), ca)
	})
}

// A Leaser that fails keeps nobody from asking.
func TestLeaseErrorCountsAsHeld(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		staplers, members := fleet(t, ca, 5)
		members[0].Fail(func(_ context.Context, op string) error {
			if op == "Lease" {
				return errors.New("redis: connection refused")
			}
			return nil
		})
		ca.Responder.SetDelay(100 * time.Millisecond)
		cert := ca.Issue(ocsptest.Leaf{})
		for _, s := range staplers {
			s.Staple(cert)
		}
		time.Sleep(200 * time.Millisecond)
		if got := ca.Responder.Requests(); got != 5 {
			t.Errorf("%d requests of 5 Staplers whose Leaser fails, want 5", got)
		}
	})
}

// deny is a Leaser whose lease is always somebody else's.
// Who never gets the lease asks without: after two of its terms if there is
// nothing to lose, and in time if there is.
func TestLeaseDenied(t *testing.T) {
	for _, validity := range []time.Duration{4 * time.Second, time.Minute, 4 * testkit.Day} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetValidity(validity)
			s := testkit.Stapler(t, ca, staple.WithStore(testkit.Denying{Shelf: new(testkit.Shelf)}))
			cert := ca.Issue(ocsptest.Leaf{})
			begun := time.Now()
			if err := s.Prefetch(t.Context(), cert); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took < 29*time.Second || took > 40*time.Second {
				t.Errorf("the first response came after %v, want two terms of the lease", took)
			}
			if lost := unstapledFor(s, cert, max(10*time.Minute, 2*validity), max(validity/80, 50*time.Millisecond)); lost > 0 {
				t.Errorf("validity %v: without a staple for %v", validity, lost)
			}
		})
	}
}

// taken is a Leaser whose lease is somebody else's while it is set.
type taken struct {
	*testkit.Shelf
	atomic.Bool
}

func (l *taken) Lease(context.Context, string, time.Duration) (bool, error) { return !l.Load(), nil }

// What waits for the lease, and goes on early because the source brings another
// staple or the chain, is not lost when its wait would have ended: not in the
// queue of a busy responder either.
func TestDeferredGoesOnEarly(t *testing.T) {
	for name, bring := range map[string]func(*tls.Certificate){
		"staple": func(c *tls.Certificate) { c.OCSPStaple = []byte("another") },
		"chain":  func(c *tls.Certificate) { c.Certificate[0] = bytes.Clone(c.Certificate[0]) }, // which finds its entry by the bytes
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				l := &taken{Shelf: new(testkit.Shelf)}
				s := testkit.Network(t, []*ocsptest.Responder{ca.Responder}, staple.WithStore(l))
				cert := ca.Issue(ocsptest.Leaf{IssuerURLs: []string{ca.Responder.IssuerURL("der")}})
				bare := *cert
				bare.Certificate = cert.Certificate[:1]
				ca.Responder.SetDelay(2 * time.Second)
				testkit.Carrying(s, testkit.Leaves(ca, 64)) // twice as many as are asked about at once
				time.Sleep(10 * time.Millisecond)
				l.Store(true)
				s.Staple(&bare)
				time.Sleep(50 * time.Millisecond)
				l.Store(false)
				again := *cert
				again.Certificate = slices.Clone(cert.Certificate)
				bring(&again)
				s.Staple(&again)
				time.Sleep(time.Minute)
				if !testkit.Stapled(t, s, ca, cert) {
					t.Errorf("not stapled after a minute, %d requests: %v", ca.Responder.Count("", cert), s.Ready())
				}
			})
		})
	}
}

// unstapledFor returns for how long of d cert has no staple.
func unstapledFor(s *staple.Stapler, cert *tls.Certificate, d, step time.Duration) (lost time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(step) {
		if s.Staple(cert).OCSPStaple == nil {
			lost += step
		}
	}
	return lost
}

// cutOff returns two Staplers that share a store and leases; the first reaches
// the responder until cut is set.
func cutOff(t *testing.T, ca *ocsptest.CA) (off, on *staple.Stapler, cut *atomic.Bool) {
	st, ls := new(testkit.Shelf), new(leases)
	cut = new(atomic.Bool)
	rt := testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if cut.Load() {
			return nil, errors.New("no route to host")
		}
		return ca.Responder.RoundTrip(r)
	})
	off = testkit.Stapler(t, ca, staple.WithStore(&member{Shelf: st, leases: ls}), staple.WithHTTPClient(&http.Client{Transport: rt}))
	on = testkit.Stapler(t, ca, staple.WithStore(&member{Shelf: st, leases: ls}))
	return off, on, cut
}

// A member that has the lease and is cut off from the responder costs the
// others no staple, however short it lasts.
func TestLeaseHolderIsCutOff(t *testing.T) {
	for _, validity := range []time.Duration{4 * time.Second, 10 * time.Second, time.Minute, 15 * time.Minute} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetValidity(validity)
			off, on, cut := cutOff(t, ca)
			cert := ca.Issue(ocsptest.Leaf{})
			if err := errors.Join(off.Prefetch(t.Context(), cert), on.Prefetch(t.Context(), cert)); err != nil {
				t.Fatal(err)
			}
			cut.Store(true)
			if lost := unstapledFor(on, cert, max(10*validity, 10*time.Minute), 50*time.Millisecond); lost > 0 {
				t.Errorf("validity %v: without a staple for %v", validity, lost)
			}
		})
	}
}

// Who fails leaves the lease to others when it ends, and does not renew it.
func TestLeaseIsPassedOn(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		off, on, cut := cutOff(t, ca)
		cert := ca.Issue(ocsptest.Leaf{})
		cut.Store(true)
		off.Staple(cert)
		synctest.Wait()
		begun := time.Now()
		if err := on.Prefetch(t.Context(), cert); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("the other had a response after %v, want the 15 s of the lease", took)
		}
		time.Sleep(30 * time.Second)
		if !testkit.Stapled(t, off, ca, cert) {
			t.Error("the one that is cut off does not have what the other stored")
		}
	})
}

// In an outage each of the fleet asks less often than it would alone, its leases
// go round, and Prefetch of a process without the lease comes to an end.
func TestFleetInAnOutage(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		staplers, members := fleet(t, ca, 20)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		var wg sync.WaitGroup
		errs := make([]error, len(staplers))
		start := time.Now()
		for i, s := range staplers {
			wg.Go(func() {
				errs[i] = s.Prefetch(context.Background(), cert)
			})
		}
		wg.Wait()
		for i, err := range errs {
			if r := testkit.Reason(err); r != staple.ReasonHTTPStatus || !strings.Contains(err.Error(), "a.example") {
				t.Errorf("member %d: %v", i, err)
			}
		}
		if took := time.Since(start); took > 40*time.Second {
			t.Errorf("the last Prefetch took %v, want at most two leases", took)
		}
		begun := ca.Responder.Requests()
		time.Sleep(10 * time.Minute)
		asked := 0
		for _, m := range members {
			asked += m.calls()
		}
		rate := fmt.Sprintf("%d requests, then %d in 10 minutes; %d calls of Lease by 20 members", begun, ca.Responder.Requests()-begun, asked)
		t.Log(rate)
		if n := ca.Responder.Requests() - begun; n > 120 || asked > 3000 { // alone each asks 9 times
			t.Errorf("%s: want at most 6 requests of each, and no polling", rate)
		}
		ca.Responder.SetFault(ocsptest.FaultNone)
		time.Sleep(time.Hour)
		for i, s := range staplers {
			if !testkit.Stapled(t, s, ca, cert) {
				t.Errorf("member %d has no staple an hour after the outage: %v", i, s.Ready())
			}
		}
	})
}

// What this process stored itself is no refresh: each time that one is due a
// responder is asked, and LastSuccess says when that was.
func TestOwnRecordIsNoRefresh(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithStore(new(testkit.Shelf)))
		cert := ca.Issue(ocsptest.Leaf{})
		testkit.MustFetch(t, s, cert)
		for range 50 {
			due := s.Status()[0].NextRefresh
			n := ca.Responder.Requests()
			time.Sleep(time.Until(due) + time.Second)
			if got := ca.Responder.Requests(); got != n+1 {
				t.Fatalf("%d requests when a refresh was due, want 1", got-n)
			}
			if log := ca.Responder.Log(); !s.Status()[0].LastSuccess.Equal(log[len(log)-1].Time) {
				t.Errorf("LastSuccess %v, the last request %v", s.Status()[0].LastSuccess, log[len(log)-1].Time)
			}
		}
	})
}
