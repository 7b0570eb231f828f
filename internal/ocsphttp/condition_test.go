package ocsphttp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

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

// idler is a user's transport, which may have connections of others.
type idler struct {
	fake
	closed int
}

func (i *idler) CloseIdleConnections() { i.closed++ }

// REQ A13: a user's transport decides what it dials, and keeps its connections.
func TestUsersTransport(t *testing.T) {
	i := &idler{fake: fake{answer: func(int, *http.Request) (*http.Response, error) { return good(), nil }}}
	c := i.client()
	c.HTTP = ocsphttp.OwnRules(&http.Client{Transport: i})
	q := question(ocsphttp.OwnConn)
	q.URL = "http://169.254.1.1/"
	if _, _, err := c.Ask(t.Context(), q); err != nil || len(i.log) != 1 || i.closed != 0 {
		t.Errorf("%v after %d requests; idle connections closed %d times", err, len(i.log), i.closed)
	}
}

// REQ A11: at the end of its time a request ends, also while a connection is made. One
// that is given up then may go out first, for a second.
func TestEndWhileDialling(t *testing.T) {
	for name, c := range map[string]struct {
		cancel time.Duration // 0: the deadline ends it
		dials  bool
		want   time.Duration
		kind   ocsphttp.Kind
	}{
		"deadline":           {0, false, 5 * time.Second, ocsphttp.Timeout},
		"deadline, dialling": {0, true, 5 * time.Second, ocsphttp.Timeout},
		"given up":           {3 * time.Second, false, 3 * time.Second, ocsphttp.Network},
		"given up, dialling": {3 * time.Second, true, 4 * time.Second, ocsphttp.Network},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if c.cancel > 0 {
				time.AfterFunc(c.cancel, cancel)
			}
			f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
				if c.dials {
					httptrace.ContextClientTrace(r.Context()).GetConn("ocsp.example:80")
				}
				<-r.Context().Done()
				return nil, context.Canceled // of a context of its own
			}}
			begun := time.Now()
			_, _, err := f.client().Ask(ctx, question(0))
			if took := time.Since(begun); took != c.want || kind(err) != c.kind {
				t.Errorf("%s: %v (%v) after %v; want %v after %v", name, err, kind(err), took, c.kind, c.want)
			}
		})
	}
}

// An ETag is kept up to its limit.
func TestLongestETag(t *testing.T) {
	for n, kept := range map[int]bool{256: true, 257: false} {
		if v := ocsphttp.NewValidator(strings.Repeat("e", n), ""); (v.ETag != "") != kept {
			t.Errorf("%d bytes: kept %v", n, !kept)
		}
	}
}

// openEnded is a body whose connection stays open: nothing comes after what is there.
type openEnded struct {
	t *testing.T
	r io.Reader
}

func (o openEnded) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil {
		o.t.Error("read beyond the end of the response")
	}
	return n, err
}

func (openEnded) Close() error { return nil }

// REQ A11: reading ends with the outer SEQUENCE, whichever form its length has, or with
// the announced length; not with the connection.
func TestOpenEnded(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		length int64
	}{
		"not announced":               {body, -1},
		"announced as nothing":        {body, 0},
		"announced":                   {body, int64(len(body))},
		"an error status":             {[]byte("\x30\x03\x0a\x01\x03"), -1},
		"a length of one byte":        {append([]byte("\x30\x81\xc8"), make([]byte, 200)...), -1},
		"a length of three bytes":     {append([]byte("\x30\x83\x01\x00\x00"), make([]byte, 1<<16)...), -1},
		"nothing in it":               {[]byte("\x30\x00"), -1},
		"a byte at a time, and empty": {[]byte("\x30\x00"), 2},
	} {
		for _, read := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			f := &fake{answer: func(int, *http.Request) (*http.Response, error) {
				res := says(200, ocspType, nil)
				res.Body, res.ContentLength = openEnded{t, read(bytes.NewReader(c.answer))}, c.length
				return res, nil
			}}
			q, got := question(0), []byte(nil)
			q.Judge = func(b []byte) (ocsphttp.Way, error) { got = b; return 0, nil }
			if _, _, err := f.client().Ask(t.Context(), q); err != nil || !bytes.Equal(got, c.answer) {
				t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(c.answer))
			}
		}
	}
}

// What did not fail is not remembered as if it had, and what is old is forgotten.
//
// REQ A6
func TestNothingIsRemembered(t *testing.T) {
	const now = int64(1e18)
	for _, l := range []ocsphttp.Learned{{}, {Reply: ocsphttp.Taken}} {
		var m ocsphttp.Memory
		var tries ocsphttp.Tries
		m.Learn(&tries, 0, l, now)
		if first, may := m.Plan(&tries, true, now+1); first != 0 || may != anyChange || !tries.Old(now+1) {
			t.Errorf("%+v: first %v, may %v", l, first, may)
		}
	}
	for _, failed := range []ocsphttp.Way{ocsphttp.OtherHash, ocsphttp.PastCaches} {
		var m ocsphttp.Memory
		var tries ocsphttp.Tries
		m.Learn(&tries, 0, ocsphttp.Learned{Reply: ocsphttp.Taken, Failed: failed}, now)
		_, may := m.Plan(&tries, true, now+1)
		if may != anyChange&^failed || tries.Old(now+1) || !tries.Old(now+int64(time.Hour)) {
			t.Errorf("%v failed: may %v", failed, may)
		}
	}
}

// What is no number of an enumeration has words, too.
func TestKindsOutOfRange(t *testing.T) {
	for _, k := range []ocsphttp.Kind{0, ocsphttp.Empty + 1, 255} {
		if got := k.String(); got != "no kind" {
			t.Errorf("Kind %d: %q", k, got)
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
