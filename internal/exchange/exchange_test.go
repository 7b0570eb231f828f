package exchange_test

import (
	"context"
	"crypto"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/exchange"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/ocsptest"
)

// roundTrips answers requests in memory, and keeps what each was.
type roundTrips struct {
	answer func(n int, r *http.Request) *http.Response
	got    []*http.Request
}

func (rt *roundTrips) RoundTrip(r *http.Request) (*http.Response, error) {
	rt.got = append(rt.got, r)
	return rt.answer(len(rt.got), r), nil
}

// says makes an HTTP response.
func says(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/ocsp-response"}}, ProtoMajor: 1, ProtoMinor: 1}
}

// errorStatus is an OCSPResponse that says no more than an error (RFC 6960 §4.2.1).
func errorStatus(code byte) string { return string([]byte{0x30, 3, 0x0a, 1, code}) }

const unauthorized, tryLater, internalError, malformedRequest = 6, 3, 2, 1

// ask makes an exchange in which every change is allowed, about a certificate of ca.
func ask(t *testing.T, ca *ocsptest.CA, rt *roundTrips, edit func(*exchange.Exchange)) (*held.Answer, ocsphttp.Learned, error) {
	t.Helper()
	leaf := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}}).Leaf
	x := &exchange.Exchange{URL: "http://ocsp.example", Held: new(held.Response), Hash: crypto.SHA1, Now: time.Now, Judging: new(atomic.Bool),
		Subject: ocspresp.NewSubject(leaf, ocspresp.NewIssuer(ca.Cert)), May: ocsphttp.Post | ocsphttp.PastCaches | ocsphttp.OtherHash}
	if edit != nil {
		edit(x)
	}
	var requests atomic.Uint64
	web := &ocsphttp.Client{HTTP: &http.Client{Transport: rt}, Requests: &requests, Now: time.Now}
	return x.Ask(context.Background(), web)
}

// After a refusal the request goes out once more in each way that may do better.
//
// REQ A6, REQ A9
func TestBetterWays(t *testing.T) {
	ca := ocsptest.NewCA()
	past := func(x *exchange.Exchange) { x.Refused = ocspresp.Unauthorized }
	for _, tt := range []struct {
		name   string
		status int
		body   string
		edit   func(*exchange.Exchange)
		want   string // each request: its method, and n if it bypasses caches
		reason ocspresp.Reason
	}{
		{"junk", 200, "<html>", nil, "GET POST", ocspresp.Malformed},
		{"internalError", 200, errorStatus(internalError), nil, "GET POST", ocspresp.InternalError},
		{"malformedRequest", 200, errorStatus(malformedRequest), nil, "GET POST GET", ocspresp.MalformedRequest},
		{"tryLater", 200, errorStatus(tryLater), nil, "GET", ocspresp.TryLater},
		{"unauthorized", 200, errorStatus(unauthorized), nil, "GET GET", ocspresp.Unauthorized},
		{"unauthorized once more", 200, errorStatus(unauthorized), past, "GET POSTn GET", ocspresp.Unauthorized},
		{"tryLater after unauthorized", 200, errorStatus(tryLater), past, "GET", ocspresp.TryLater},
		{"status 404", 404, "", nil, "GET POST", 0},
	} {
		rt := &roundTrips{answer: func(int, *http.Request) *http.Response { return says(tt.status, tt.body) }}
		got, learned, err := ask(t, ca, rt, tt.edit)
		var ways []string
		for _, r := range rt.got {
			way := r.Method
			if r.Header.Get("Cache-Control") == "no-cache" {
				way += "n"
			}
			ways = append(ways, way)
		}
		if is := strings.Join(ways, " "); is != tt.want || got != nil || err == nil {
			t.Errorf("%s: %s, want %s (%v)", tt.name, is, tt.want, err)
		}
		if e, _ := errors.AsType[*ocspresp.Error](err); (e != nil) != (tt.reason != 0) || e != nil && e.Reason != tt.reason {
			t.Errorf("%s: %v, want reason %v", tt.name, err, tt.reason)
		}
		if tt.status == 404 && !learned.Lost {
			t.Errorf("%s: nothing was learned: %+v", tt.name, learned)
		}
	}
}

// What is proven comes with when it came; what is older than the response that is held
// is refused, and asked for past the caches.
//
// REQ A6, REQ B15
func TestReplay(t *testing.T) {
	ca := ocsptest.NewCA()
	var older, newer []byte
	rt := &roundTrips{answer: func(n int, r *http.Request) *http.Response {
		if r.Header.Get("Cache-Control") == "no-cache" {
			return says(200, string(newer))
		}
		return says(200, string(older))
	}}
	edit := func(x *exchange.Exchange) {
		leaf := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		x.Subject = ocspresp.NewSubject(leaf.Leaf, x.Subject.Issuer)
		older = ca.Responder.Response(leaf)
		newer = older
	}
	before := time.Now().UnixNano()
	got, _, err := ask(t, ca, rt, edit)
	if err != nil || got.Proof == nil || got.Responder != "http://ocsp.example" || got.Received < before || got.Checked != got.Received || got.Took <= 0 || len(rt.got) != 1 {
		t.Fatalf("%+v, %v, %d requests", got, err, len(rt.got))
	}
	first := rt.got
	rt.got = nil
	_, _, err = ask(t, ca, rt, func(x *exchange.Exchange) {
		edit(x)
		x.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	})
	if !errors.Is(err, ocspresp.ErrExpired) || len(rt.got) != 2 || rt.got[1].Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("expired: %v after %d requests", err, len(rt.got))
	}
	rt.got = nil
	_, _, err = ask(t, ca, rt, func(x *exchange.Exchange) {
		edit(x)
		x.Held = &held.Response{Raw: []byte{1}, ThisUpdate: time.Now().Add(time.Hour).Unix()}
	})
	if e, ok := errors.AsType[*ocspresp.Error](err); !ok || e.Reason != ocspresp.Replay || len(rt.got) != len(first)+1 || rt.got[1].Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("older than what is held: %v after %d requests", err, len(rt.got))
	}
}

// REQ A2
func TestOtherHash(t *testing.T) {
	ca := ocsptest.NewCA()
	for hash, other := range map[crypto.Hash]crypto.Hash{crypto.SHA1: crypto.SHA256, crypto.SHA256: crypto.SHA1, crypto.SHA512: crypto.SHA1} {
		rt := &roundTrips{answer: func(int, *http.Request) *http.Response { return says(200, errorStatus(unauthorized)) }}
		var sub ocspresp.Subject
		_, _, _ = ask(t, ca, rt, func(x *exchange.Exchange) { x.Hash, x.First, sub = hash, ocsphttp.Post, x.Subject })
		if len(rt.got) != 2 {
			t.Fatalf("%v: %d requests", hash, len(rt.got))
		}
		for i, h := range []crypto.Hash{hash, other} {
			want, err := sub.Issuer.Request(h, sub.Serial)
			body, _ := io.ReadAll(rt.got[i].Body)
			if err != nil || string(body) != string(want) {
				t.Errorf("request %d after %v is not by %v", i, hash, h)
			}
		}
	}
}

// Whom a refusal speaks of decides when the responder is asked again, and for whom.
//
// REQ E4
func TestVerdict(t *testing.T) {
	for r, want := range map[ocspresp.Reason]schedule.Verdict{
		ocspresp.Reason(ocsphttp.Timeout): schedule.TimedOut,
		ocspresp.Reason(ocsphttp.Network): schedule.Fault,
		ocspresp.Malformed:                schedule.Fault,
		ocspresp.InternalError:            schedule.Fault,
		ocspresp.Signature:                schedule.Fault,
		ocspresp.Expired:                  schedule.Fault,
		ocspresp.MalformedRequest:         schedule.Certificate,
		ocspresp.Unauthorized:             schedule.Certificate,
		ocspresp.Unknown:                  schedule.Certificate,
		ocspresp.Serial:                   schedule.Certificate,
		ocspresp.Replay:                   schedule.Certificate,
		0:                                 schedule.Fault,
	} {
		if got := exchange.Verdict(r); got != want {
			t.Errorf("%v: %v, want %v", r, got, want)
		}
	}
}

// REQ I3: the caller can tell a client that is late from an answer that takes long to verify.
func TestJudging(t *testing.T) {
	var x *exchange.Exchange
	judged := 0
	rt := &roundTrips{answer: func(int, *http.Request) *http.Response {
		if x.Judging.Load() {
			t.Error("an answer is verified during a request")
		}
		return says(200, errorStatus(internalError))
	}}
	_, _, _ = ask(t, ocsptest.NewCA(), rt, func(is *exchange.Exchange) {
		x = is
		x.Now = func() time.Time {
			if x.Judging.Load() {
				judged++
			}
			return time.Now()
		}
	})
	if judged != 2 || x.Judging.Load() {
		t.Errorf("%d answers were verified, want 2; one still is: %v", judged, x.Judging.Load())
	}
}
