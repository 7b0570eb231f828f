package scenario_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

const (
	// What the package documents: an attempt puts its question to a responder
	// four times at most, and each may be redirected three times.
	maxQuestions = 4
	maxRequests  = maxQuestions * (1 + 3)
)

// wire is one connection of a responder that is no http.Server: it says
// whatever bytes a script likes. right is the right answer.
type wire struct {
	net.Conn
	right  []byte
	method string
}

func (w *wire) say(format string, args ...any) { fmt.Fprintf(w, format, args...) }

// answer says what a good responder would, with a media type.
func (w *wire) answer(mediaType string, body []byte) {
	w.say("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", mediaType, len(body), body)
}

// wait keeps the connection open until the client closes it.
func (w *wire) wait() { _, _ = w.Read(make([]byte, 1)) }

// drip says one byte a second, for ever.
func (w *wire) drip(s string) {
	for i := 0; ; i++ {
		if _, err := w.Write([]byte{s[i%len(s)]}); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

const headOK = "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"

// scripts are ways to answer that ocsptest does not have. good says whether
// the answer is one after all.
var scripts = []struct {
	name   string
	good   bool
	script func(w *wire)
}{
	{"a right answer", true, func(w *wire) { w.answer(testkit.OCSPMedia, w.right) }},
	{"media type in capitals", true, func(w *wire) { w.answer("Application/OCSP-Response", w.right) }},
	{"media type with parameters", true, func(w *wire) { w.answer(testkit.OCSPMedia+"; charset=utf-8; v=1", w.right) }},
	{"media type with a parameter twice", true, func(w *wire) { w.answer(testkit.OCSPMedia+" ; a=b; a=c", w.right) }},
	{"media type with a broken parameter", true, func(w *wire) { w.answer(testkit.OCSPMedia+`; a="`, w.right) }},
	{"media type that begins alike", false, func(w *wire) { w.answer(testkit.OCSPMedia+"s; a=b", w.right) }},
	{"HTTP/1.0 without length", true, func(w *wire) { w.say("HTTP/1.0 200 OK\r\nContent-Type: %s\r\n\r\n%s", testkit.OCSPMedia, w.right) }},
	{"chunks of one byte", true, func(w *wire) {
		w.say(headOK + "Transfer-Encoding: chunked\r\n\r\n")
		for _, b := range w.right {
			w.say("1\r\n%s\r\n", []byte{b})
		}
		w.say("0\r\n\r\n")
	}},
	{"slow-loris header", false, func(w *wire) { w.say(headOK); w.drip("X-A: b\r\n") }},
	{"slow-loris status line", false, func(w *wire) { w.drip("H") }},
	{"1xx storm", false, func(w *wire) {
		for {
			if _, err := io.WriteString(w, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"); err != nil {
				return
			}
		}
	}},
	{"1xx drip", false, func(w *wire) { w.drip("HTTP/1.1 100 Continue\r\n\r\n") }},
	{"endless header", false, func(w *wire) {
		w.say(headOK)
		for {
			if _, err := io.WriteString(w, "X-A: "+strings.Repeat("b", 4000)+"\r\n"); err != nil {
				return
			}
		}
	}},
	{"truncated in a chunk", false, func(w *wire) {
		w.say(headOK+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", len(w.right), w.right[:len(w.right)/2])
	}},
	{"no length, and the connection stays open", true, func(w *wire) { w.say(headOK+"\r\n%s", w.right); w.wait() }},
	{"a length, and the connection stays open", true, func(w *wire) { w.answer(testkit.OCSPMedia, w.right); w.wait() }},
	{"no length, and then a newline", true, func(w *wire) { w.say(headOK+"\r\n%s\n", w.right) }},
	{"no length, and cut", false, func(w *wire) { w.say(headOK+"\r\n%s", w.right[:len(w.right)-1]) }},
	{"no length, cut, and the connection stays open", false, func(w *wire) { w.say(headOK+"\r\n%s", w.right[:len(w.right)-1]); w.wait() }},
	{"no last chunk, and the connection stays open", true, func(w *wire) {
		w.say(headOK+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(w.right), w.right)
		w.wait()
	}},
	{"no last chunk", true, func(w *wire) {
		w.say(headOK+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(w.right), w.right)
	}},
	{"Content-Length too small", false, func(w *wire) { w.say(headOK+"Content-Length: %d\r\n\r\n%s", len(w.right)-1, w.right) }},
	{"Content-Length too big", false, func(w *wire) { w.say(headOK+"Content-Length: %d\r\n\r\n%s", len(w.right)+1, w.right) }},
	{"Content-Length absurd", false, func(w *wire) { w.say(headOK+"Content-Length: 9223372036854775807\r\n\r\n%s", w.right) }},
	{"Content-Length negative", false, func(w *wire) { w.say(headOK+"Content-Length: -1\r\n\r\n%s", w.right) }},
	{"two lengths", false, func(w *wire) {
		w.say(headOK+"Content-Length: 3\r\nContent-Length: %d\r\n\r\n%s", len(w.right), w.right)
	}},
	{"206", false, func(w *wire) {
		w.say("HTTP/1.1 206 Partial Content\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", testkit.OCSPMedia, len(w.right), w.right)
	}},
	{"203", false, func(w *wire) {
		w.say("HTTP/1.1 203 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", testkit.OCSPMedia, len(w.right), w.right)
	}},
	{"500 with the right body", false, func(w *wire) {
		w.say("HTTP/1.1 500 Oops\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", testkit.OCSPMedia, len(w.right), w.right)
	}},
	{"204", false, func(w *wire) { w.say("HTTP/1.1 204 No Content\r\nContent-Type: %s\r\n\r\n", testkit.OCSPMedia) }},
	{"304 that nobody asked for", false, func(w *wire) { w.say("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n") }},
	{"401", false, func(w *wire) { w.say("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n") }},
	{"BOM", false, func(w *wire) { w.answer(testkit.OCSPMedia, append([]byte("\xef\xbb\xbf"), w.right...)) }},
	{"base64", false, func(w *wire) { w.answer(testkit.OCSPMedia, []byte(base64.StdEncoding.EncodeToString(w.right))) }},
	{"a final newline", false, func(w *wire) { w.answer(testkit.OCSPMedia, append(bytes.Clone(w.right), '\n')) }},
	{"twice the right answer", false, func(w *wire) { w.answer(testkit.OCSPMedia, append(bytes.Clone(w.right), w.right...)) }},
	{"deep nesting", false, func(w *wire) { w.answer(testkit.OCSPMedia, bytes.Repeat([]byte{0x30, 0x80}, 60<<10)) }},
	{"media type twice", false, func(w *wire) { w.answer("text/html, "+testkit.OCSPMedia, w.right) }},
	{"gzip bomb", false, func(w *wire) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(make([]byte, 64<<20))
		z.Close()
		w.say(headOK+"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", b.Len(), b.Bytes())
	}},
	{"HTTP/0.9", false, func(w *wire) { _, _ = w.Write(w.right) }},
	{"HTTP/2 preface", false, func(w *wire) { w.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") }},
	{"closed at once", false, func(*wire) {}},
	{"redirect without a place", false, func(w *wire) { w.say("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n") }},
	{"redirect nowhere", false, func(w *wire) { w.say("HTTP/1.1 302 Found\r\nLocation: ://\r\nContent-Length: 0\r\n\r\n") }},
	{"redirect loop by 308", false, func(w *wire) { w.say("HTTP/1.1 308 Gone\r\nLocation: /\r\nContent-Length: 0\r\n\r\n") }},
	{"redirect to a file", false, func(w *wire) {
		w.say("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")
	}},
	{"redirect to https that is none", false, func(w *wire) {
		w.say("HTTP/1.1 302 Found\r\nLocation: https://ocsp.example/\r\nContent-Length: 0\r\n\r\n")
	}},
	{"redirect with an endless body", false, func(w *wire) {
		w.say("HTTP/1.1 302 Found\r\nLocation: /\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			if _, err := io.WriteString(w, "3\r\nabc\r\n"); err != nil {
				return
			}
		}
	}},
}

// overWire returns a client whose connections are all answered by script, and
// a count of the requests that they brought.
func overWire(t *testing.T, right []byte, script func(*wire)) (*http.Client, *atomic.Int32) {
	var n atomic.Int32
	var wg sync.WaitGroup
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		wg.Go(func() {
			defer b.Close()
			req, err := http.ReadRequest(bufio.NewReader(b))
			if err != nil {
				return // a TLS handshake, say
			}
			n.Add(1)
			script(&wire{b, right, req.Method})
		})
		return a, nil
	}}
	t.Cleanup(func() { tr.CloseIdleConnections(); wg.Wait() })
	return &http.Client{Transport: tr}, &n
}

// REQ A11, REQ A12, REQ A13, REQ C4, REQ C5: responders that say anything at all get no bad
// byte into a handshake, do not delay it beyond the cold wait, and see no more
// requests than are documented.
func TestScriptedResponders(t *testing.T) {
	t.Parallel()
	for _, tc := range scripts {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, MustStaple: true})
			client, n := overWire(t, ca.Responder.Response(cert), tc.script)
			s := staple.New(staple.WithHTTPClient(client))
			defer s.Close()
			cfg := &tls.Config{GetCertificate: s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })}
			cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "a.example"))
			if tc.good {
				testkit.Proven(t, cs, ca)
			} else {
				testkit.Unstapled(t, cs)
			}
			if took > 5*time.Second {
				t.Errorf("%s: the handshake waited %v", tc.name, took)
			}
			if err := s.Prefetch(context.Background(), cert); (err == nil) != tc.good {
				t.Errorf("%s: %v", tc.name, err)
			}
			limit := int32(maxQuestions)
			if strings.HasPrefix(tc.name, "redirect") {
				limit = maxRequests
			}
			if got := n.Load(); got > limit {
				t.Errorf("%s: %d requests, want at most %d", tc.name, got, limit)
			}
		})
	}
}

// REQ A11: whatever sequence of faults an attempt meets, it makes no more
// requests than are documented, and takes no longer than 10 s.
func TestRequestsOfAnAttempt(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	faults := []ocsptest.Fault{ocsptest.FaultMalformedRequest, ocsptest.FaultGETRefused, ocsptest.FaultRedirect, ocsptest.FaultRedirectLoop,
		ocsptest.FaultExpired, ocsptest.FaultUnauthorized, ocsptest.FaultHTTP404, ocsptest.FaultStaleCache, ocsptest.FaultWrongSerial, ocsptest.FaultHTML}
	most := 0
	for range 400 {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			for range 40 {
				ca.Responder.Script(faults[rng.IntN(len(faults))])
			}
			s := testkit.Stapler(t, ca)
			cert := ca.Issue(ocsptest.Leaf{})
			begun := time.Now()
			_ = s.Prefetch(context.Background(), cert)
			if got := ca.Responder.Requests(); got > maxRequests {
				t.Errorf("seed %d: %d requests in one attempt, want at most %d", seed, got, maxRequests)
			} else {
				most = max(most, got)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("seed %d: %v", seed, took)
			}
		})
	}
	t.Logf("at most %d requests in an attempt", most)
}

// The worst case: every question is redirected as often as that is followed.
func TestWorstAttempt(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		r := ocsptest.FaultRedirect
		malformed, expired := ocsptest.FaultMalformedRequest, ocsptest.FaultExpired
		ca.Responder.Script(r, malformed, r, malformed, r, expired, r, expired)
		s := testkit.Stapler(t, ca)
		err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{}))
		if got := ca.Responder.Requests(); got != 2*maxQuestions || testkit.Reason(err) == 0 {
			t.Errorf("%d requests, %v: want %d questions, each redirected once", got, err, maxQuestions)
		}
	})
}

// A response by another CA of the same name for the same serial number, and
// one for this certificate among others in any order.
func TestScriptedResponses(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		impostor := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
		cert := ca.Issue(ocsptest.Leaf{})
		theirs := impostor.Issue(ocsptest.Leaf{Serial: cert.Leaf.SerialNumber})
		other := ca.Issue(ocsptest.Leaf{})
		delegated := func(by ocsptest.Signer) func(*ocsptest.Spec) {
			return func(s *ocsptest.Spec) { s.Sign.By = by }
		}
		for name, tc := range map[string]struct {
			body []byte
			good bool
		}{
			"another CA of the same name":       {impostor.Responder.Response(theirs), false},
			"the same, with our key's hash":     {impostor.Responder.Build(theirs, sameIDs(ca, cert)), false},
			"another certificate":               {ca.Responder.Response(other), false},
			"certificates in no order":          {ca.Responder.Build(cert, delegated(ocsptest.DelegatedExtras)), true},
			"the issuer embedded":               {ca.Responder.Build(cert, delegated(ocsptest.IssuerEmbedded)), true},
			"a delegate of the other":           {ca.Responder.Build(cert, delegated(ocsptest.DelegateOtherCA)), false},
			"the request sent back":             {[]byte{0x30, 0x03, 0x0a, 0x01, 0x00}, false},
			"good and revoked at the same time": {ca.Responder.Build(cert, goodAndRevoked), false},
		} {
			rt := testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {testkit.OCSPMedia}},
					Body: io.NopCloser(bytes.NewReader(tc.body)), ContentLength: int64(len(tc.body)), Request: req}, nil
			})
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: rt}))
			if err := s.Prefetch(context.Background(), cert); (err == nil) != tc.good {
				t.Errorf("%s: %v", name, err)
			}
			if got := s.Staple(cert).OCSPStaple; testkit.Stapled(t, s, ca, cert) != tc.good || len(got) >= len(tc.body) {
				t.Errorf("%s: stapled %x", name, got)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// sameIDs has a response claim to be about ca's certificate.
func sameIDs(ca *ocsptest.CA, cert *tls.Certificate) func(*ocsptest.Spec) {
	return func(s *ocsptest.Spec) {
		ca.Responder.Build(cert, func(own *ocsptest.Spec) { s.Singles = own.Singles })
		key := ca.Cert.SubjectKeyId // of RFC 5280 §4.2.1.2 (1), which is the same
		for i := range s.Singles {
			s.Singles[i].IssuerKeyHash = key
		}
	}
}

// goodAndRevoked says both of one certificate.
func goodAndRevoked(s *ocsptest.Spec) {
	bad := s.Singles[0]
	bad.Status, bad.RevokedAt = ocsp.Revoked, time.Now()
	s.Singles = append(s.Singles, bad)
}

// REQ A13: a redirect does not lead where the default client does not dial.
func TestRedirectToMetadata(t *testing.T) {
	srv := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/latest/meta-data/", http.StatusFound))
	defer srv.Close()
	ca := ocsptest.NewCA()
	s := staple.New()
	defer s.Close()
	err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{URLs: []string{srv.URL}}))
	if testkit.Reason(err) != staple.ReasonNetwork || !strings.Contains(err.Error(), "refusing to dial") {
		t.Errorf("Prefetch: %v", err)
	}
}

// REQ A12: what a responder, or a RoundTripper, says in megabytes is cut before it
// is kept with each certificate.
func TestMegabytesAreCut(t *testing.T) {
	big := strings.Repeat("\xff", 1<<20)
	for name, say := range map[string]func(h http.Header) (status int, err error){
		"Content-Type":     func(h http.Header) (int, error) { h.Set("Content-Type", big); return 200, nil },
		"Content-Encoding": func(h http.Header) (int, error) { h.Set("Content-Encoding", big); return 200, nil },
		"Location":         func(h http.Header) (int, error) { h.Set("Location", "http://%zz"+big); return 302, nil },
		"error":            func(http.Header) (int, error) { return 0, errors.New(big) },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
					h := http.Header{"Content-Type": {testkit.OCSPMedia}}
					status, err := say(h)
					if err != nil {
						return nil, err
					}
					return &http.Response{StatusCode: status, Header: h, Body: http.NoBody, Request: req}, nil
				})}))
				defer s.Close()
				err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{}))
				if err == nil || len(err.Error()) > 1024 {
					t.Errorf("Prefetch says %d bytes", len(fmt.Sprint(err)))
				}
				if err := s.Status()[0].Err; err == nil || len(err.Error()) > 1024 {
					t.Errorf("Status says %d bytes", len(fmt.Sprint(err)))
				}
			})
		})
	}
}

// REQ E1: an ETag of any length does not make a record that is too long to be
// read again after a restart.
func TestHugeETag(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetHeader("ETag", `"`+strings.Repeat("e", 300<<10)+`"`)
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		if _, record := st.Only(t); len(record) > 4<<10 {
			t.Errorf("the record is of %d bytes", len(record))
		}
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		testkit.List(t, s, cert)
		time.Sleep(time.Second)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not stapled after a restart: %v", s.Ready())
		}
	})
}
