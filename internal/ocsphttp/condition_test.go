package ocsphttp_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// A conditional request makes a 304 an answer, and nothing else that is none.
//
// REQ A10, REQ A12
func TestConditionalIsNoExcuse(t *testing.T) {
	q := question(0)
	q.Held = ocsphttp.Validator{ETag: `"x"`}
	for status, want := range map[int]ocsphttp.Kind{304: 0, 500: ocsphttp.Status, 200: 0} {
		if _, _, err := always(status, ocspType, body).client().Ask(t.Context(), q); kind(err) != want {
			t.Errorf("%d: %v, want %v", status, err, want)
		}
	}
}

// REQ A13: only a redirect is followed: an answer may name a place, too.
func TestLocationOfAnswers(t *testing.T) {
	q := question(0)
	q.Held = ocsphttp.Validator{ETag: `"x"`}
	for _, status := range []int{200, 201, 304} {
		f := always(status, ocspType, body, "Location", "http://b.example/")
		_, _, err := f.client().Ask(t.Context(), q)
		if (err == nil) != (status != 201) || len(f.log) != 1 {
			t.Errorf("%d: %v after %d requests", status, err, len(f.log))
		}
	}
}

// REQ E15: after an answer of OCSP the next question goes out on the same connection;
// after one that was none it does not.
func TestOwnConnFollowsFailure(t *testing.T) {
	for status, want := range map[int]string{200: "", 500: "close"} {
		f := &fake{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return says(status, ocspType, body), nil
			}
			return says(200, ocspType, body), nil
		}}
		q := question(0)
		q.May = anyChange
		n := 0
		q.Judge = func([]byte) (ocsphttp.Way, error) {
			if n++; n == 1 && status == 200 {
				return ocsphttp.PastCaches, errors.New("expired")
			}
			return 0, nil
		}
		if _, _, err := f.client().Ask(t.Context(), q); err != nil || len(f.log) != 2 {
			t.Fatalf("%d: %v after %d requests", status, err, len(f.log))
		}
		if got := f.log[1].header.Get("Connection"); got != want {
			t.Errorf("after %d: Connection %q, want %q", status, got, want)
		}
	}
}
