package scenario_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ A6: a GET that is answered with nothing of use is followed by a POST at once,
// and what worked is asked first from then on. A real server on loopback.
func TestPostFollowsGet(t *testing.T) {
	page := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>no", status) }
	}
	says := func(mediaType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, get := range map[string]http.HandlerFunc{
		"400": page(400), "403": page(403), "404": page(404), "405": page(405), "408": page(408), "414": page(414), "429": page(429),
		"500": page(500), "501": page(501), "502": page(502), "503": page(503), "504": page(504),
		"204":               func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"empty":             says(testkit.OCSPMedia, ""),
		"junk":              says(testkit.OCSPMedia, "junk"),
		"HTML":              says("text/html", "<html>"),
		"HTML for OCSP":     says(testkit.OCSPMedia, "<html>"),
		"another type":      says("application/octet-stream", "\x30\x03\x0a\x01\x00"),
		"malformed request": says(testkit.OCSPMedia, "\x30\x03\x0a\x01\x01"),
		"internal error":    says(testkit.OCSPMedia, "\x30\x03\x0a\x01\x02"),
		"a redirect loop": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.RequestURI(), http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ca := ocsptest.NewCA()
			var gets, posts atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					gets.Add(1)
					get(w, r)
					return
				}
				posts.Add(1)
				ca.Responder.ServeHTTP(w, r)
			}))
			defer srv.Close()
			s := staple.New()
			defer s.Close()
			want := int32(1)
			if strings.Contains(name, "redirect") {
				want = 4
			}
			for n := range int32(3) {
				cert := ca.Issue(ocsptest.Leaf{URLs: []string{srv.URL}})
				if err := s.Prefetch(t.Context(), cert); err != nil || !testkit.Stapled(t, s, ca, cert) {
					t.Error(err)
				}
				if gets.Load() != want || posts.Load() != n+1 {
					t.Errorf("%d GETs and %d POSTs for %d certificates, want %d and %d", gets.Load(), posts.Load(), n+1, want, n+1)
				}
			}
		})
	}
}

// REQ A6: a responder that gives no answer to GET, as the two that npm has, gets a
// POST in the next attempt.
func TestPostAfterSilence(t *testing.T) {
	for name, mute := range map[string]func(w *wire){
		"hangs":           func(w *wire) { w.wait() },
		"hangs in header": func(w *wire) { w.say(headOK); w.wait() },
		"drips":           func(w *wire) { w.say(headOK + "Content-Length: 5000\r\n\r\n"); w.drip("0") },
		"closes":          func(*wire) {},
		"truncates":       func(w *wire) { w.say(headOK+"Content-Length: %d\r\n\r\n%s", len(w.right), w.right[:20]) },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
				var mu sync.Mutex // guards methods
				var methods []string
				client, _ := overWire(t, ca.Responder.Response(cert), func(w *wire) {
					mu.Lock()
					methods = append(methods, w.method)
					mu.Unlock()
					if w.method == http.MethodGet {
						mute(w)
					} else {
						w.answer(testkit.OCSPMedia, w.right)
					}
				})
				s := staple.New(staple.WithHTTPClient(client), staple.WithTTL(10*time.Minute))
				defer s.Close()
				if err := s.Prefetch(t.Context(), cert); err == nil {
					t.Error("the first attempt is not over with the GET")
				}
				time.Sleep(3 * time.Second)
				if !testkit.Stapled(t, s, ca, cert) {
					t.Errorf("not after the second attempt: %v", s.Ready())
				}
				time.Sleep(2 * time.Hour)
				mu.Lock()
				defer mu.Unlock()
				if methods[0] != "GET" || len(methods) < 10 || slices.Contains(methods[1:], "GET") {
					t.Errorf("%v, want one GET alone, and POST from then on", methods)
				}
			})
		})
	}
}

// REQ A6: a RoundTripper that takes a while to notice that the time is over has the
// next attempt be a POST all the same.
func TestPostAfterLateNotice(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				<-r.Context().Done()
				time.Sleep(20 * time.Millisecond)
				return nil, r.Context().Err()
			}
			return ca.Responder.RoundTrip(r)
		})}))
		if err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{})); testkit.Reason(err) != staple.ReasonTimeout {
			t.Errorf("%v, want %v", err, staple.ReasonTimeout)
		}
		if err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{})); err != nil {
			t.Error(err)
		}
	})
}

// REQ A6: a server that closes a real connection gets a POST in the next attempt.
func TestPostAfterClose(t *testing.T) {
	ca := ocsptest.NewCA()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			panic(http.ErrAbortHandler) // closes the connection
		}
		ca.Responder.ServeHTTP(w, r)
	}))
	defer srv.Close()
	s := staple.New()
	defer s.Close()
	one, other := ca.Issue(ocsptest.Leaf{URLs: []string{srv.URL}}), ca.Issue(ocsptest.Leaf{URLs: []string{srv.URL}})
	if err := s.Prefetch(t.Context(), one); testkit.Reason(err) != staple.ReasonNetwork {
		t.Errorf("%v, want %v", err, staple.ReasonNetwork)
	}
	if err := s.Prefetch(t.Context(), other); err != nil || ca.Responder.Count(http.MethodPost, other) != 1 {
		t.Errorf("%v after %d POSTs", err, ca.Responder.Requests())
	}
}

// REQ A6: where POST does no better than GET it is tried once in 15 minutes while
// nothing valid is held, once in an hour while something is, and for no more of
// many certificates. Where no connection is made, or the responder asks for
// patience, it isn't.
func TestPostInVain(t *testing.T) {
	for _, c := range []struct {
		fault       ocsptest.Fault
		holds       bool
		least, most int // POSTs in 4 hours
	}{
		{ocsptest.FaultHTTP500, true, 3, 4},
		{ocsptest.FaultHTTP500, false, 5, 16},
		{ocsptest.FaultRefused, true, 0, 0},
		{ocsptest.FaultNoHost, false, 0, 0},
		{ocsptest.FaultHTTP503, false, 0, 0}, // with a Retry-After
		{ocsptest.FaultTryLater, true, 0, 0},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			certs := testkit.Leaves(ca, 8)
			s := testkit.Stapler(t, ca)
			if c.holds {
				testkit.MustFetch(t, s, certs...)
			}
			ca.Responder.SetFault(c.fault)
			before := ca.Responder.Requests()
			if !c.holds {
				_ = s.Prefetch(t.Context(), certs...)
			}
			time.Sleep(4*time.Hour - time.Minute)
			asked, posts := ca.Responder.Requests()-before, ca.Responder.Count(http.MethodPost, nil)
			if asked < 8 || posts < c.least || posts > c.most {
				t.Errorf("%v, holds %v: %d POSTs of %d requests in 4 hours, want %d to %d", c.fault, c.holds, posts, asked, c.least, c.most)
			}
		})
	}
}
