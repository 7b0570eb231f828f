package scenario_test

import (
	"context"
	"crypto/tls"
	"errors"
	"math/big"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ A6: a responder that refuses GET and answers POST is asked by POST,
// though the first certificate is one that it does not know yet.
func TestUnknownOverPost(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultGETRefused)
		young, must := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{MustStaple: true})
		ca.Responder.SetUnauthorized(young)
		s := testkit.Stapler(t, ca)
		if err := s.Prefetch(context.Background(), young); testkit.Reason(err) != staple.ReasonUnauthorized {
			t.Errorf("the young one: %v, want what POST says of it", err)
		}
		if err := s.Prefetch(context.Background(), must); err != nil {
			t.Errorf("another one: %v", err)
		}
		if n := ca.Responder.Count(http.MethodGet, must); n > 0 {
			t.Errorf("%d GETs after POST was answered", n)
		}
	})
}

// REQ A6, A2: what answers POST and SHA-256 alone is found out in one attempt.
func TestPostAndOtherHash(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultGETRefused)
		ca.Responder.SetCertIDs(ocsptest.SHA256Only)
		cert := ca.Issue(ocsptest.Leaf{})
		if err := testkit.Stapler(t, ca).Prefetch(context.Background(), cert); err != nil {
			t.Error(err)
		}
		if got := ca.Responder.Requests(); got != 3 {
			t.Errorf("%d requests, want GET, POST, and POST with the other hash", got)
		}
	})
}

// REQ E4, E8: certificates whose issuer is not found say nothing of a
// responder, which is not asked about them: its breaker stays as it is.
func TestNoIssuerInOutage(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		certs := testkit.Leaves(ca, 60)
		for range 40 {
			certs = append(certs, ca.Issue(ocsptest.Leaf{Key: ca.Key(), WithoutIssuer: true, IssuerURLs: []string{"http://gone.example/ca.der"}}))
		}
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder})
		testkit.List(t, s, certs...)
		time.Sleep(24 * time.Hour)
		if got := ca.Responder.Requests(); got > 260 { // a probe each quarter of an hour, by GET and by POST
			t.Errorf("%d requests in 24 hours of an outage", got)
		}
		ca.Responder.ClearFaults()
		time.Sleep(16 * time.Minute)
		if got := testkit.Carrying(s, certs[:60]); got != 60 {
			t.Errorf("%d of 60 stapled after it", got)
		}
	})
}

// REQ E7: all certificates come back with the first of their responders that
// does, wherever they stand by.
func TestSecondRecovers(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		a, b := ca.NewResponder(""), ca.NewResponder("")
		a.SetFault(ocsptest.FaultRefused)
		b.SetFault(ocsptest.FaultRefused)
		certs := make([]*tls.Certificate, 200)
		for i := range certs {
			certs[i] = ca.Issue(ocsptest.Leaf{Key: ca.Key(), URLs: []string{a.URL(), b.URL()}})
		}
		s := testkit.Network(t, []*ocsptest.Responder{a, b})
		testkit.List(t, s, certs...)
		time.Sleep(12 * time.Hour)
		b.ClearFaults()
		for range 3 * 60 * 6 {
			time.Sleep(10 * time.Second)
			if testkit.Carrying(s, certs) > 0 {
				break
			}
		}
		time.Sleep(10 * time.Second)
		if got := testkit.Carrying(s, certs); got != len(certs) {
			t.Errorf("%d of %d stapled soon after the first", got, len(certs))
		}
	})
}

// A responder's Retry-After has no say in when another is asked.
func TestPatienceOfOne(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		a, b := ca.NewResponder(""), ca.NewResponder("")
		a.SetFault(ocsptest.FaultHTTP503)
		a.SetRetryAfter("3600")
		b.Script(ocsptest.FaultReset)
		cert := ca.Issue(ocsptest.Leaf{URLs: []string{a.URL(), b.URL()}})
		s := testkit.Network(t, []*ocsptest.Responder{a, b})
		if s.Prefetch(context.Background(), cert) == nil {
			t.Fatal("no error")
		}
		time.Sleep(5 * time.Second)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("not stapled 5 s after the second responder came back")
		}
	})
}

// REQ C5: handshakes that wait see the answer of the second responder while the
// first one hangs.
func TestFirstHangs(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		a, b := ca.NewResponder(""), ca.NewResponder("")
		a.SetFault(ocsptest.FaultHang)
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true, URLs: []string{a.URL(), b.URL()}})
		s := testkit.Network(t, []*ocsptest.Responder{a, b})
		cfg := testkit.List(t, s, cert)
		testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")), ca)
	})
}

// A RoundTripper that never returns costs a responder its places for a while,
// not for good.
func TestLostPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		var calls atomic.Int32
		stop := make(chan struct{})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if calls.Add(1) <= 32 {
				<-stop // whatever the context says
				return nil, errors.New("late")
			}
			return ca.Responder.RoundTrip(r)
		})}))
		certs := testkit.Leaves(ca, 200)
		testkit.List(t, s, certs...)
		time.Sleep(time.Hour) // one probe at a time
		if got := testkit.Carrying(s, certs); got != len(certs) {
			t.Errorf("%d of %d stapled", got, len(certs))
		}
		close(stop)
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// REQ G2: what is fetched says which responders failed before.
func TestEventOfSecond(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		a, b := ca.NewResponder(""), ca.NewResponder("")
		a.SetFault(ocsptest.FaultHTTP404)
		var events []staple.Event
		s := testkit.Network(t, []*ocsptest.Responder{a, b}, staple.WithEventFunc(func(e staple.Event) { events = append(events, e) }))
		testkit.MustFetch(t, s, ca.Issue(ocsptest.Leaf{URLs: []string{a.URL(), b.URL()}}))
		synctest.Wait()
		if len(events) != 1 || events[0].Kind != staple.EventFetched || events[0].Responder != b.URL() {
			t.Fatalf("events %+v, want one of the second responder", events)
		}
		var re *staple.ResponseError
		if !errors.As(events[0].Err, &re) || re.Responder != a.URL() || re.Reason != staple.ReasonHTTPStatus {
			t.Errorf("error %v, want that of the first", events[0].Err)
		}
	})
}

// REQ A6: one refused GET whose POST was answered has a responder asked by POST
// for a day, but not beyond a POST that fails: where GET works again, and POST
// never does, nothing is lost.
func TestPostIsForgotten(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter, req *http.Request){
		"refused": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusMethodNotAllowed) },
		"500":     func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"junk":    func(w http.ResponseWriter, _ *http.Request) { testkit.AnswerWith(w, []byte("junk")) },
		"hangs":   func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetValidity(time.Hour)
				ca.Responder.Script(ocsptest.FaultHTTP403)
				ca.Responder.SetHook(func(w http.ResponseWriter, req *http.Request, _ *big.Int) bool {
					late := ca.Responder.Requests() > 2 && req.Method == http.MethodPost
					if late {
						fail(w, req)
					}
					return late
				})
				cert := testkit.LeafFor(ca, "a.example.com")
				s := testkit.Stapler(t, ca)
				testkit.MustFetch(t, s, cert)
				lost := 0
				for range 24 * 60 {
					time.Sleep(time.Minute)
					if !testkit.Stapled(t, s, ca, cert) {
						lost++
					}
				}
				if lost > 0 {
					t.Errorf("no staple in %d minutes of a day", lost)
				}
				if got := ca.Responder.Count(http.MethodPost, cert); got != 2 {
					t.Errorf("%d POSTs, want the one that was answered and one that failed", got)
				}
			})
		})
	}
}

// REQ A6: where POST alone is answered, and fails for ten minutes, it is asked
// again all the same, and nothing is lost that lasts for an hour.
func TestPostFailsForAWhile(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(time.Hour)
		ca.Responder.SetFault(ocsptest.FaultGETRefused)
		var until time.Time
		ca.Responder.SetHook(func(w http.ResponseWriter, req *http.Request, _ *big.Int) bool {
			late := ca.Responder.Requests() > 2 && req.Method == http.MethodPost
			if late && until.IsZero() {
				until = time.Now().Add(10 * time.Minute)
			}
			late = late && time.Now().Before(until)
			if late {
				http.Error(w, "no", http.StatusInternalServerError)
			}
			return late
		})
		cert := testkit.LeafFor(ca, "a.example.com")
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		for minute := range 6 * 60 {
			time.Sleep(time.Minute)
			if !testkit.Stapled(t, s, ca, cert) {
				t.Fatalf("no staple after %d minutes: %v", minute, s.Ready())
			}
		}
	})
}

// REQ A2: CAs of two generations behind one URL, one of which is known by
// SHA-256 alone and the other by SHA-1 alone: each is asked by what it knows, as
// often as its certificates are due.
func TestMixedHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := ocsptest.Options{URL: "http://ocsp.example"}
		old, young := ocsptest.NewCA(at), ocsptest.NewCA(at)
		old.Responder.SetCertIDs(ocsptest.SHA1Only)
		young.Responder.SetCertIDs(ocsptest.SHA256Only)
		for _, ca := range []*ocsptest.CA{old, young} {
			ca.Responder.SetValidity(10 * time.Minute)
		}
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			res, err := young.Responder.RoundTrip(req)
			if err != nil || res.ContentLength > 10 { // not unauthorized
				return res, err
			}
			res.Body.Close()
			return old.Responder.RoundTrip(req)
		})}))
		defer s.Close()
		testkit.List(t, s, append(testkit.Leaves(old, 10), testkit.Leaves(young, 10)...)...)
		time.Sleep(time.Hour)
		before := s.Stats().Failures
		lost := 0
		for range 12 * 60 {
			for _, st := range s.Status() {
				if st.State != staple.StateGood {
					lost++
				}
			}
			time.Sleep(time.Minute)
		}
		if got := s.Stats().Failures - before; lost > 0 || got > 0 {
			t.Errorf("%d minutes without a staple, %d failed attempts after the first hour", lost, got)
		}
	})
}
