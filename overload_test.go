package staple_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// over returns a Stapler that reaches ca's responders over a network.
func over(t testing.TB, network http.RoundTripper) *staple.Stapler {
	t.Helper()
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: network}))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// untilCarrying returns how long it takes until all of certs are stapled, a
// minute more than most at the longest.
func untilCarrying(t testing.TB, s *staple.Stapler, certs []*tls.Certificate, most time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	for testkit.Carrying(s, certs) < len(certs) {
		if time.Since(begun) > most+time.Minute {
			t.Errorf("%d of %d stapled after %v: %v", testkit.Carrying(s, certs), len(certs), time.Since(begun), s.Ready())
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begun)
}

// A queue is a responder that serves one caller at a time, as "openssl ocsp" does: also
// those who have gone.
type queue struct {
	to     http.RoundTripper
	serves time.Duration

	mu             sync.Mutex // guards the rest
	free           time.Time
	requests, gone int
}

func (q *queue) RoundTrip(req *http.Request) (*http.Response, error) {
	q.mu.Lock()
	q.requests++
	now := time.Now()
	if q.free.Before(now) {
		q.free = now
	}
	q.free = q.free.Add(q.serves)
	turn := time.NewTimer(q.free.Sub(now))
	q.mu.Unlock()
	defer turn.Stop()
	select {
	case <-turn.C:
		return q.to.RoundTrip(req)
	case <-req.Context().Done():
		q.mu.Lock()
		q.gone++
		q.mu.Unlock()
		return nil, req.Context().Err()
	}
}

// counts returns how many requests came, and how many of them nobody waited for, and
// begins to count anew.
func (q *queue) counts() (requests, gone int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	requests, gone = q.requests, q.gone
	q.requests, q.gone = 0, 0
	return requests, gone
}

// REQ E14: a responder that serves one caller at a time is not driven into a
// collapse, when it is met first and when it has had little to do.
func TestOneCallerAtATime(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		const n, serves = 150, 700 * time.Millisecond
		q := &queue{to: ca.Responder, serves: serves}
		ca.Responder.SetValidity(4 * day)
		s := over(t, q)
		for round := range 2 {
			certs := testkit.Leaves(ca, n)
			testkit.List(t, s, certs...)
			took := untilCarrying(t, s, certs, n*serves*13/10)
			requests, gone := q.counts()
			t.Logf("round %d: %d certificates after %v, %d of %d requests for nobody", round, n, took, gone, requests)
			if most := n * serves * 13 / 10; took > most {
				t.Errorf("round %d: took %v, want %v", round, took, most)
			}
			if gone*10 > requests {
				t.Errorf("round %d: %d of %d requests for nobody, want a tenth", round, gone, requests)
			}
			idle := 3 * time.Hour
			if testkit.Long() {
				idle = 7 * day
			}
			time.Sleep(idle)
			if got := testkit.Carrying(s, certs); got < n {
				t.Errorf("round %d: %d of %d stapled after %v", round, got, n, idle)
			}
			q.counts()
		}
	})
}

// REQ E4: a healthy responder is not slowed down: 32 answers of 20 ms at once are what is
// needed for 1,000, and a second is for finding out that it bears them.
func TestThousandAtHealthy(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		const n, takes = 1000, 20 * time.Millisecond
		ca.Responder.SetDelay(takes)
		certs := testkit.Leaves(ca, n)
		s := testkit.Stapler(t, ca)
		testkit.List(t, s, certs...)
		took := untilCarrying(t, s, certs, time.Minute)
		t.Logf("%d certificates after %v, %d requests at once", n, took, ca.Responder.Peak())
		if most := n/32*takes + time.Second; took > most || ca.Responder.Peak() > 32 || ca.Responder.Requests() > n {
			t.Errorf("%v, %d at once, %d in all; want %v, 32, %d", took, ca.Responder.Peak(), ca.Responder.Requests(), most, n)
		}
	})
}

// REQ A3, REQ A11, REQ C5: several responders are asked as RFC 8305 says, and the first proof
// wins, while a handshake waits and while nobody does. What is held never lapses.
func TestSeveralRespondersInTime(t *testing.T) {
	t.Parallel()
	const dead = 0
	for _, tc := range []struct {
		name         string
		takes        []time.Duration // to answer
		most, shaken time.Duration   // until it is stapled: where nobody waits, where a handshake does
	}{
		{"first 2 s, second dead", []time.Duration{2 * time.Second, dead}, 2 * time.Second, 2 * time.Second},
		{"first 1.5 s of three", []time.Duration{1500 * time.Millisecond, dead, dead}, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{"both 6 s", []time.Duration{6 * time.Second, 6 * time.Second}, 6 * time.Second, 6 * time.Second},
		{"first dead", []time.Duration{dead, 20 * time.Millisecond}, 2020 * time.Millisecond, 1020 * time.Millisecond},
		{"three dead", []time.Duration{dead, dead, dead, 20 * time.Millisecond}, 6020 * time.Millisecond, 3020 * time.Millisecond},
		{"three dead, the last slow", []time.Duration{dead, dead, dead, 3 * time.Second}, 9 * time.Second, 6 * time.Second},
	} {
		for _, shakes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s handshake %v", tc.name, shakes), func(t *testing.T) {
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
					var all []*ocsptest.Responder
					var urls []string
					for _, takes := range tc.takes {
						r := ca.NewResponder("")
						r.SetDelay(takes)
						if takes == dead {
							r.SetFault(ocsptest.FaultHang)
						}
						all, urls = append(all, r), append(urls, r.URL())
					}
					cert := ca.Issue(ocsptest.Leaf{MustStaple: true, Key: ca.Key(), URLs: urls})
					s := testkit.Network(t, all)
					begun, most := time.Now(), tc.most
					cfg := testkit.List(t, s, cert)
					if shakes {
						most = tc.shaken
						got, err := cfg.GetCertificate(asking("example.com"))
						waited := time.Since(begun)
						if err != nil || waited > min(5*time.Second, most) || most <= 5*time.Second && got.OCSPStaple == nil {
							t.Errorf("a handshake waited %v, error %v, %d bytes", waited, err, len(got.OCSPStaple))
						}
					}
					untilCarrying(t, s, []*tls.Certificate{cert}, most)
					if took := time.Since(begun); took > most+10*time.Millisecond {
						t.Errorf("stapled after %v, want %v", took, most)
					}
					for range 24 * 4 {
						time.Sleep(15 * time.Minute)
						if st := s.Status()[0]; !testkit.Stapled(t, s, ca, cert) || time.Since(st.LastSuccess) > 90*time.Minute {
							t.Fatalf("not kept fresh: %+v", st)
						}
					}
				})
			})
		}
	}
}

// REQ A3, REQ A11: a first responder that is dead keeps nobody from the second.
func TestFirstDeadForMany(t *testing.T) {
	t.Parallel()
	faults := []ocsptest.Fault{ocsptest.FaultHang, ocsptest.FaultRefused, ocsptest.FaultHTTP500}
	if !testkit.Long() {
		faults = faults[:1]
	}
	for _, fault := range faults {
		for _, must := range []bool{false, true} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				a, b := ca.NewResponder(""), ca.NewResponder("")
				a.SetFault(fault)
				b.SetDelay(20 * time.Millisecond)
				certs := make([]*tls.Certificate, 500)
				for i := range certs {
					certs[i] = ca.Issue(ocsptest.Leaf{Key: ca.Key(), MustStaple: must, URLs: []string{a.URL(), b.URL()}})
				}
				s := testkit.Network(t, []*ocsptest.Responder{a, b})
				testkit.List(t, s, certs...)
				took := untilCarrying(t, s, certs, time.Minute)
				t.Logf("%v, Must-Staple %v: 500 certificates after %v", fault, must, took)
				if took > 15*time.Second {
					t.Errorf("%v, Must-Staple %v: 500 certificates after %v, want 15 s", fault, must, took)
				}
			})
		}
	}
}

// REQ I2: a thousand certificates of a private CA that name an honest CA's responder delay a
// new certificate of the honest CA by a second at most, whatever it answers to them.
func TestPrivateCAAtHonestResponder(t *testing.T) {
	t.Parallel()
	answers := map[string]func(w http.ResponseWriter, req *http.Request, unknown []byte){
		"404":     func(w http.ResponseWriter, _ *http.Request, _ []byte) { http.Error(w, "no", http.StatusNotFound) },
		"400":     func(w http.ResponseWriter, _ *http.Request, _ []byte) { http.Error(w, "no", http.StatusBadRequest) },
		"unknown": func(w http.ResponseWriter, _ *http.Request, unknown []byte) { testkit.AnswerWith(w, unknown) },
		"hangs":   func(_ http.ResponseWriter, req *http.Request, _ []byte) { <-req.Context().Done() },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testkit.Bubble(t, func(t *testing.T, honest *ocsptest.CA) {
				const takes = 50 * time.Millisecond
				private := ocsptest.NewCA()
				strangers := make([]*tls.Certificate, 1000)
				serials := make(map[string]bool, len(strangers))
				for i := range strangers {
					strangers[i] = private.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: private.Key(), URLs: []string{honest.Responder.URL()}})
					serials[strangers[i].Leaf.SerialNumber.String()] = true
				}
				unknown := honest.Responder.Build(strangers[0], func(spec *ocsptest.Spec) {
					spec.Status, spec.Singles[0].Status = ocsp.Success, ocsp.Unknown
				})
				honest.Responder.SetDelay(takes)
				honest.Responder.SetHook(func(w http.ResponseWriter, req *http.Request, serial *big.Int) bool {
					if serial == nil || !serials[serial.String()] {
						return false
					}
					answer(w, req, unknown)
					return true
				})
				s := testkit.Stapler(t, honest)
				testkit.List(t, s, strangers...)
				times := []time.Duration{0, time.Second, 10 * time.Second, 5 * time.Minute, day}
				if !testkit.Long() {
					times = times[:4]
				}
				for _, after := range times {
					time.Sleep(after)
					cert := testkit.LeafFor(honest, "honest.example.com")
					testkit.List(t, s, cert)
					if took := untilCarrying(t, s, []*tls.Certificate{cert}, time.Minute); took > takes+time.Second {
						t.Errorf("%v later an honest certificate is stapled after %v", after, took)
					}
				}
				if got := testkit.Carrying(s, strangers); got > 0 {
					t.Errorf("%d of the private CA's are stapled", got)
				}
			})
		})
	}
}

// REQ I3: 5,000 hosts that hang take half of the requests in flight at most, and keep nobody
// from a responder that has proven something.
func TestThousandsOfHostsHang(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var mu sync.Mutex // guards inFlight, peak
		var inFlight, peak int
		s := over(t, testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			if !strings.HasPrefix(req.URL.Host, "hangs") {
				return ca.Responder.RoundTrip(req)
			}
			mu.Lock()
			inFlight++
			peak = max(peak, inFlight)
			mu.Unlock()
			<-req.Context().Done()
			mu.Lock()
			inFlight--
			mu.Unlock()
			return nil, req.Context().Err()
		}))
		testkit.MustFetch(t, s, testkit.LeafFor(ca, "first.example.com"))
		hosts := 1000
		if testkit.Long() {
			hosts = 5000
		}
		hanging := make([]*tls.Certificate, hosts)
		for i := range hanging {
			hanging[i] = ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key(), MustStaple: true, URLs: []string{fmt.Sprintf("http://hangs%d.example", i)}})
		}
		testkit.List(t, s, hanging...)
		for range 6 {
			time.Sleep(7 * time.Second)
			cert := testkit.LeafFor(ca, "next.example.com")
			testkit.List(t, s, cert)
			if took := untilCarrying(t, s, []*tls.Certificate{cert}, time.Minute); took > time.Second {
				t.Errorf("at a responder that works it took %v, want a second", took)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if peak != 128 {
			t.Errorf("%d requests in flight at hosts that hang, want half of 256", peak)
		}
	})
}

// REQ I3: nor are more than 256 in flight where all have proven something before.
func TestProvenHostsHang(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var mu sync.Mutex // guards the rest
		var hang bool
		var inFlight, peak int
		s := over(t, testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			stuck := hang
			inFlight++
			peak = max(peak, inFlight)
			mu.Unlock()
			defer func() {
				mu.Lock()
				inFlight--
				mu.Unlock()
			}()
			if stuck {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			return ca.Responder.RoundTrip(req)
		}))
		certs := make([]*tls.Certificate, 600)
		for i := range certs {
			certs[i] = ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key(), URLs: []string{fmt.Sprintf("http://ocsp%d.example", i)}})
		}
		testkit.MustFetch(t, s, certs...)
		mu.Lock()
		hang = true
		mu.Unlock()
		go func() { _ = s.Refresh(t.Context(), certs...) }()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if peak != 256 {
			t.Errorf("%d requests in flight, want 256", peak)
		}
	})
}

// REQ I6, REQ E11: where one request in ten hangs and a response lasts 4 s, nothing is stapled for 2 %
// of the time at most.
func TestOneRequestInTenHangs(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 20} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var mu sync.Mutex // guards rng
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			ca.Responder.SetValidity(4 * time.Second)
			ca.Responder.SetDelay(30 * time.Millisecond)
			s := over(t, testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				hangs := rng.IntN(10) == 0
				mu.Unlock()
				if hangs {
					<-req.Context().Done()
					return nil, req.Context().Err()
				}
				return ca.Responder.RoundTrip(req)
			}))
			certs := testkit.Leaves(ca, n)
			testkit.List(t, s, certs...)
			untilCarrying(t, s, certs, 20*time.Second)
			const samples = 4_000
			lost := 0
			for range samples {
				time.Sleep(97 * time.Millisecond)
				lost += n - testkit.Carrying(s, certs)
			}
			share := 100 * float64(lost) / float64(samples*n)
			t.Logf("%d certificates: %.2f %% of the time without a staple", n, share)
			if share > 2 {
				t.Errorf("%d certificates: %.2f %% of the time without a staple, want 2 %%", n, share)
			}
		})
	}
}

// REQ E13: eight certificates that are not valid yet do not have their responder taken for broken,
// whatever it says of them, and are stapled from 5 minutes before they are valid.
func TestNotValidYetSaysNothing(t *testing.T) {
	t.Parallel()
	for _, fault := range []ocsptest.Fault{ocsptest.FaultNone, ocsptest.FaultHTTP500, ocsptest.FaultUnauthorized} {
		t.Run(fault.String(), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				var book testkit.Logbook
				s := testkit.Stapler(t, ca, staple.WithLogger(book.Logger()))
				from := time.Now().Add(3 * time.Hour)
				certs := make([]*tls.Certificate, 8)
				for i := range certs {
					certs[i] = ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key(), NotBefore: from})
					ca.Responder.SetFaultFor(certs[i], fault)
				}
				testkit.List(t, s, certs...)
				time.Sleep(time.Until(from.Add(-5*time.Minute - time.Second)))
				if got := ca.Responder.Requests(); got > 0 {
					t.Errorf("%d requests before anyone may know of them", got)
				}
				time.Sleep(2 * time.Second)
				if got, want := testkit.Carrying(s, certs), 8; fault == ocsptest.FaultNone && got != want {
					t.Errorf("%d stapled 5 minutes before they are valid, want %d", got, want)
				}
				time.Sleep(time.Until(from.Add(-time.Second)))
				if got := ca.Responder.Requests(); got < 8 {
					t.Errorf("%d requests, too few to prove anything", got)
				}
				if slices.ContainsFunc(book.All(), func(r slog.Record) bool { return strings.Contains(r.Message, "responder fails") }) {
					t.Error("the responder is taken for broken")
				}
				other := testkit.LeafFor(ca, "other.example.com")
				if err := s.Prefetch(t.Context(), other); err != nil {
					t.Error(err)
				}
				ca.Responder.ClearFaults()
				time.Sleep(most(5*time.Minute, false))
				if got := testkit.Carrying(s, certs); got != 8 {
					t.Errorf("%d stapled when they are valid: %v", got, s.Ready())
				}
			})
		})
	}
}

// REQ E12: a responder that fails for the one certificate that it has is asked about five of a thousand
// that come later, and what is in flight with these.
func TestThousandAtOneThatFails(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(20 * time.Millisecond)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca)
		testkit.List(t, s, testkit.LeafFor(ca, "first.example.com"))
		time.Sleep(10 * time.Minute)
		ca.Responder.ResetCounts()
		testkit.List(t, s, testkit.Leaves(ca, 1000)...)
		time.Sleep(10 * time.Second)
		if got := ca.Responder.Requests(); got < 4 || got > 10 {
			t.Errorf("%d requests, want five and what was in flight with them", got)
		}
	})
}
