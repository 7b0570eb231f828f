package scenario_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
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

// REQ A1, REQ A2, REQ A6, REQ A7: one GET, its request with one CertID, as RFC 9919 has it.
func TestRequestIsAGet(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		// Serials until the base64 has both characters that a path must escape.
		for i := range 200 {
			cert := ca.Issue(ocsptest.Leaf{Serial: new(big.Int).SetInt64(1<<40 + int64(i)*7919), Key: ca.Key()})
			s := testkit.Stapler(t, ca)
			if err := s.Prefetch(context.Background(), cert); err != nil {
				t.Fatal(err)
			}
		}
		escaped := map[string]bool{}
		for _, req := range ca.Responder.Log() {
			if req.Method != http.MethodGet {
				t.Fatalf("method %s, want GET", req.Method)
			}
			prefix := ca.Responder.URL() + "/"
			path, ok := strings.CutPrefix(req.URL, prefix)
			if !ok || strings.ContainsAny(path, "/+=") {
				t.Fatalf("URL %q: want %q and one escaped element", req.URL, prefix)
			}
			for _, c := range []string{"%2F", "%2B", "%3D"} {
				escaped[c] = escaped[c] || strings.Contains(path, c)
			}
			plain, err := url.PathUnescape(path)
			if err != nil {
				t.Fatal(err)
			}
			der, err := base64.StdEncoding.DecodeString(plain)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := ocsp.ParseRequest(der)
			if err != nil || parsed.SerialNumber.Cmp(req.Serial) != 0 || parsed.HashAlgorithm != crypto.SHA1 {
				t.Fatalf("request %v, err %v", parsed, err)
			}
			var want []byte
			fips140.WithoutEnforcement(func() {
				want, err = ocsp.CreateRequest(&x509.Certificate{SerialNumber: req.Serial}, ca.Cert, &ocsp.RequestOptions{Hash: crypto.SHA1})
			})
			if err != nil || string(want) != string(der) {
				t.Fatalf("request %x, want %x (%v)", der, want, err)
			}
		}
		if len(escaped) != 3 || !escaped["%2F"] || !escaped["%2B"] {
			t.Errorf("the sample does not try all escapes: %v", escaped)
		}
	})
}

// REQ A3: http and https alone; all are tried in turn, the last that worked first.
func TestRespondersInTurn(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		other := ca.NewResponder("")
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		s := staple.New(staple.WithHTTPClient(ocsptest.Network(ca.Responder, other)), staple.WithTTL(10*time.Minute))
		defer s.Close()
		cert := ca.Issue(ocsptest.Leaf{URLs: []string{"ldap://ldap.example/x", ca.Responder.URL(), other.URL()}})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		ca.Responder.SetFault(ocsptest.FaultNone)
		time.Sleep(time.Hour)
		if a, b := ca.Responder.Requests(), other.Requests(); a != 2 || b < 6 { // a GET and a POST
			t.Errorf("the one that failed got %d requests, the one that worked %d", a, b)
		}
		if got := s.Status()[0].Responder; got != other.URL() {
			t.Errorf("Status.Responder = %q, want %q", got, other.URL())
		}
		other.SetFault(ocsptest.FaultRefused)
		time.Sleep(time.Hour)
		if a := ca.Responder.Requests(); a < 5 || !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("%d requests to the first after the second failed", a)
		}
	})
}

// REQ A4: an expired certificate is never asked about.
func TestExpiredLeafIsNotAskedAbout(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		now := time.Now()
		old := ca.Issue(ocsptest.Leaf{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-time.Hour)})
		if err := s.Prefetch(context.Background(), old); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("Prefetch of an expired certificate: %v", err)
		}
		soon := ca.Issue(ocsptest.Leaf{NotAfter: now.Add(3 * time.Hour)})
		if err := s.Prefetch(context.Background(), soon); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Hour + time.Second)
		n := ca.Responder.Requests()
		for range 1000 {
			if s.Staple(soon).OCSPStaple != nil {
				t.Fatal("stapled past the certificate's notAfter")
			}
			time.Sleep(time.Minute)
		}
		if got := ca.Responder.Requests(); got != n || ca.Responder.Count("", old) != 0 {
			t.Errorf("%d requests after the end, want none", got-n)
		}
	})
}

// REQ A9: no-cache is not sent, but for one retry when the answer has expired.
func TestNoCacheOnlyWhenExpired(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.Script(ocsptest.FaultStaleCache, ocsptest.FaultStaleCache)
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range ca.Responder.Log() {
			got = append(got, r.Header.Get("Cache-Control")+r.Header.Get("Pragma"))
		}
		if len(got) != 2 || got[0] != "" || got[1] != "no-cache" {
			t.Errorf("Cache-Control of the requests: %q", got)
		}
		ca.Responder.ResetCounts()
		ca.Responder.SetFault(ocsptest.FaultExpired)
		cert = ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(context.Background(), cert); !errors.Is(err, staple.ErrExpired) || testkit.Reason(err) != staple.ReasonExpired {
			t.Errorf("Prefetch: %v", err)
		}
		if got := ca.Responder.Requests(); got != 2 {
			t.Errorf("%d requests for an expired answer, want 2", got)
		}
	})
}

// REQ A10: ETag and Last-Modified make requests conditional, a 304 is a
// success, and max-age puts a refresh off, up to half of the validity.
func TestConditionalRequests(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetPresign(true)
		ca.Responder.SetHeader("Cache-Control", "max-age=7200")
		ca.Responder.SetHeader("Expires")
		var events []staple.EventKind
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(e staple.Event) { events = append(events, e.Kind) }))
		cert := ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Hour - time.Second)
		if got := ca.Responder.Requests(); got != 1 {
			t.Errorf("%d requests before max-age was over, want 1", got)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		log := ca.Responder.Log()
		if len(log) != 2 || log[0].Header.Get("If-None-Match") != "" || log[1].Header.Get("If-None-Match") == "" {
			t.Fatalf("requests %+v", log)
		}
		if len(events) != 2 || events[0] != staple.EventFetched || events[1] != staple.EventUnchanged {
			t.Errorf("events %v", events)
		}
		st := s.Status()[0]
		if st.Failures != 0 || st.Err != nil || time.Since(st.LastSuccess) > 2*time.Hour+time.Minute {
			t.Errorf("status after a 304: %+v", st)
		}
		// A max-age beyond half of the validity does not count.
		ca.Responder.SetHeader("Cache-Control", "max-age=31536000")
		time.Sleep(96 * time.Hour)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("max-age let the response expire")
		}
	})
}

// REQ A11, REQ A12, REQ A13: what ends an attempt, how soon, and what is said of it.
func TestAttemptEnds(t *testing.T) {
	for _, tc := range []struct {
		fault  ocsptest.Fault
		reason staple.Reason
		says   string
	}{
		{ocsptest.FaultHang, staple.ReasonTimeout, ""},
		{ocsptest.FaultSlowBody, staple.ReasonTimeout, ""},
		{ocsptest.FaultRefused, staple.ReasonNetwork, "refused"},
		{ocsptest.FaultTruncated, staple.ReasonTruncated, ""},
		{ocsptest.FaultHTTP404, staple.ReasonHTTPStatus, "404 Not Found"},
		{ocsptest.FaultHTML, staple.ReasonContentType, "text/html"},
		{ocsptest.FaultContentType, staple.ReasonContentType, "text/plain"},
		{ocsptest.FaultNoContentType, staple.ReasonContentType, ""},
		{ocsptest.FaultGzip, staple.ReasonContentType, "gzip"},
		{ocsptest.FaultEmptyBody, staple.ReasonEmpty, ""},
		{ocsptest.FaultHugeBody, staple.ReasonTooLarge, "131072"},
		{ocsptest.FaultRedirectLoop, staple.ReasonRedirect, ""},
		{ocsptest.FaultRedirectScheme, staple.ReasonRedirect, ""},
		{ocsptest.FaultTryLater, staple.ReasonTryLater, ""},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetFault(tc.fault)
			s := testkit.Stapler(t, ca)
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
			begun := time.Now()
			err := s.Prefetch(context.Background(), cert)
			if testkit.Reason(err) != tc.reason || !strings.Contains(err.Error(), tc.says) ||
				!strings.Contains(err.Error(), ca.Responder.URL()) || !strings.Contains(err.Error(), "a.example") {
				t.Errorf("%v: %v, want reason %q", tc.fault, err, tc.reason)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("%v: took %v, want at most 10 s", tc.fault, took)
			}
			if tc.fault == ocsptest.FaultRedirectLoop && ca.Responder.Requests() > 2*4 {
				t.Errorf("%d requests in a redirect loop, want a GET, a POST, and 3 more of each", ca.Responder.Requests())
			}
			if tc.fault == ocsptest.FaultRedirectScheme && ca.Responder.Requests() != 2 {
				t.Errorf("%d requests, want a GET and a POST, none to another scheme", ca.Responder.Requests())
			}
		})
	}
}

// REQ A11: a whole response is taken though its body never ends: of a responder, and
// of a user's RoundTripper, with a length and without.
func TestBodyWithoutEnd(t *testing.T) {
	for _, length := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := ca.Issue(ocsptest.Leaf{})
			raw := ca.Responder.Response(cert)
			s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {testkit.OCSPMedia}}, Request: r,
					Body: io.NopCloser(io.MultiReader(bytes.NewReader(raw), new(endless)))}
				if length {
					res.ContentLength = int64(len(raw))
				}
				return res, nil
			})}))
			begun := time.Now()
			if err := s.Prefetch(t.Context(), cert); err != nil || !testkit.Stapled(t, s, ca, cert) || time.Since(begun) > 0 {
				t.Errorf("length %v: %v after %v", length, err, time.Since(begun))
			}
		})
	}
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultEndlessBody)
		cert := ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca)
		if err := s.Prefetch(t.Context(), cert); err != nil || !testkit.Stapled(t, s, ca, cert) {
			t.Error(err)
		}
	})
}

// REQ A11: several responders share the 10 s, so that the last is asked too.
func TestAttemptOverHangingResponders(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		r2, r3 := ca.NewResponder(""), ca.NewResponder("")
		ca.Responder.SetFault(ocsptest.FaultHang)
		r2.SetFault(ocsptest.FaultHang)
		s := staple.New(staple.WithHTTPClient(ocsptest.Network(ca.Responder, r2, r3)))
		defer s.Close()
		cert := ca.Issue(ocsptest.Leaf{URLs: []string{ca.Responder.URL(), r2.URL(), r3.URL()}})
		begun := time.Now()
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// The hash of the CertID: the other one is tried where the first is refused,
// at most once an hour, and remembered if it did better.
func TestOtherHash(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetCertIDs(ocsptest.SHA256Only)
		s := testkit.Stapler(t, ca)
		for range 3 {
			if err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{})); err != nil {
				t.Fatal(err)
			}
		}
		var hashes []crypto.Hash
		for _, r := range ca.Responder.Log() {
			hashes = append(hashes, r.Hash)
		}
		if len(hashes) != 4 || hashes[0] != crypto.SHA1 || hashes[1] != crypto.SHA256 || hashes[3] != crypto.SHA256 {
			t.Errorf("hashes asked: %v", hashes)
		}
	})
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultUnauthorized)
		s := testkit.Stapler(t, ca, staple.WithHash(crypto.SHA256))
		if err := s.Prefetch(context.Background(), cert); testkit.Reason(err) != staple.ReasonUnauthorized {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		n := map[crypto.Hash]int{}
		for _, r := range ca.Responder.Log() {
			n[r.Hash]++
		}
		if n[crypto.SHA1] != 1 || n[crypto.SHA256] < 5 {
			t.Errorf("asked by hash in 50 minutes: %v", n)
		}
	})
}

// Retry-After is honoured while there is time, and not when there is none.
func TestRetryAfter(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultHTTP503)
		ca.Responder.SetRetryAfter("600")
		s := testkit.Stapler(t, ca)
		if err := s.Prefetch(context.Background(), cert); testkit.Reason(err) != staple.ReasonHTTPStatus {
			t.Fatal(err)
		}
		time.Sleep(8 * time.Minute)
		if got := ca.Responder.Requests(); got != 1 {
			t.Errorf("%d requests in the 10 minutes that were asked for, want 1", got)
		}
		time.Sleep(5 * time.Minute)
		if got := ca.Responder.Requests(); got < 2 {
			t.Error("no retry")
		}
	})
}

// Requests that outlive their context do not keep their certificate from being
// asked about, nor pile up without end.
func TestHangingTransport(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		free := make(chan struct{})
		var calls atomic.Int32
		rt := testkit.RoundTripper(func(*http.Request) (*http.Response, error) {
			calls.Add(1)
			<-free
			return nil, io.ErrUnexpectedEOF
		})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: rt}))
		cert := ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(context.Background(), cert); testkit.Reason(err) != staple.ReasonTimeout {
			t.Error(err)
		}
		time.Sleep(7 * 24 * time.Hour)
		if got := calls.Load(); got < 32 || got > 96 {
			t.Errorf("%d requests that never return, want 96 at most", got)
		}
		err := s.Close()
		if err == nil || !strings.Contains(err.Error(), "HTTP client") {
			t.Errorf("Close: %v", err)
		}
		close(free)
	})
}

// REQ E16: where "unauthorized" comes again and nothing valid is held, the caches are
// passed once, and not again for 15 minutes.
func TestUnauthorizedFromACache(t *testing.T) {
	for name, known := range map[string]bool{"the CA knows it": true, "nobody knows it": false} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := testkit.LeafFor(ca, "a.example.com")
			var mu sync.Mutex // guards past
			var past []time.Time
			next := ca.Responder.Client().Transport
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("Cache-Control") == "no-cache" {
					mu.Lock()
					past = append(past, time.Now())
					mu.Unlock()
				}
				if known && r.Header.Get("Cache-Control") == "no-cache" {
					ca.Responder.SetGood(cert)
				} else {
					ca.Responder.SetUnauthorized(cert)
				}
				return next.RoundTrip(r)
			})}))
			defer s.Close()
			testkit.List(t, s, cert)
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			seen := func() int { mu.Lock(); defer mu.Unlock(); return len(past) }
			if seen() > 0 || testkit.Stapled(t, s, ca, cert) {
				t.Errorf("%s: past caches after the first answer", name)
			}
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if seen() != 1 || testkit.Stapled(t, s, ca, cert) != known {
				t.Fatalf("%s: %d requests past caches in 30 s, %v", name, seen(), s.Ready())
			}
			time.Sleep(6 * time.Hour)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for i := range past[1:] {
				if gap := past[i+1].Sub(past[i]); gap < 15*time.Minute {
					t.Errorf("%s: past caches again after %v", name, gap)
				}
			}
			if n := len(past); known && n != 1 || !known && n < 5 {
				t.Errorf("%s: %d requests past caches in 6 h", name, n)
			}
		})
	}
}
