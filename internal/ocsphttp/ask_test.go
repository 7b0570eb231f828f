package ocsphttp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

const anyChange = ocsphttp.Post | ocsphttp.PastCaches | ocsphttp.OtherHash

// methods returns how f was asked.
func (f *fake) methods() string {
	var all []string
	for _, s := range f.log {
		all = append(all, s.method)
	}
	return strings.Join(all, " ")
}

// REQ A6: after a GET that is answered with nothing of use POST is asked at once;
// not where the responder asks for patience, or does not answer at all.
func TestPostFollowsGet(t *testing.T) {
	page := []byte("<html>")
	fails := func(err error) func() (*http.Response, error) {
		return func() (*http.Response, error) { return nil, err }
	}
	answers := func(status int, mediaType string, content []byte, fields ...string) func() (*http.Response, error) {
		return func() (*http.Response, error) { return says(status, mediaType, content, fields...), nil }
	}
	for _, c := range []struct {
		name  string
		get   func() (*http.Response, error)
		asked string
		reply ocsphttp.Reply
	}{
		{"400", answers(400, "", nil), "GET POST", ocsphttp.Taken},
		{"403", answers(403, "text/html", page), "GET POST", ocsphttp.Taken},
		{"404", answers(404, "text/html", page), "GET POST", ocsphttp.Taken},
		{"405", answers(405, "", nil), "GET POST", ocsphttp.Taken},
		{"408", answers(408, "", nil), "GET POST", ocsphttp.Taken},
		{"429", answers(429, "", nil), "GET POST", ocsphttp.Taken},
		{"500", answers(500, "", nil), "GET POST", ocsphttp.Taken},
		{"502", answers(502, "", nil), "GET POST", ocsphttp.Taken},
		{"503", answers(503, "", nil), "GET POST", ocsphttp.Taken},
		{"503, no wait", answers(503, "", nil, "Retry-After", "0"), "GET POST", ocsphttp.Taken},
		{"500 with a right body", answers(500, ocspType, body), "GET POST", ocsphttp.Taken},
		{"204", answers(204, "", nil), "GET POST", ocsphttp.Taken},
		{"206", answers(206, ocspType, body), "GET POST", ocsphttp.Taken},
		{"304", answers(304, "", nil), "GET POST", ocsphttp.Taken},
		{"nothing", answers(200, ocspType, nil), "GET POST", ocsphttp.Taken},
		{"HTML", answers(200, "text/html", page), "GET POST", ocsphttp.Taken},
		{"another type", answers(200, "text/plain", body), "GET POST", ocsphttp.Taken},
		{"an encoding", answers(200, ocspType, body, "Content-Encoding", "gzip"), "GET POST", ocsphttp.Taken},
		{"junk", answers(200, ocspType, []byte("junk")), "GET POST", ocsphttp.Taken},
		{"megabytes", answers(200, ocspType, make([]byte, 1<<20)), "GET POST", ocsphttp.Taken},
		{"a redirect loop", answers(302, "", nil, "Location", responder), "GET GET GET GET POST", ocsphttp.Taken},
		{"a redirect to a file", answers(302, "", nil, "Location", "file:///a"), "GET POST", ocsphttp.Taken},

		{"429 and patience", answers(429, "", nil, "Retry-After", "120"), "GET", ocsphttp.Useless},
		{"503 and patience", answers(503, "", nil, "Retry-After", "120"), "GET", ocsphttp.Useless},
		{"refused", fails(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), "GET", ocsphttp.NoWord},
		{"no host", fails(&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}), "GET", ocsphttp.NoWord},
		{"no host, undialled", fails(&net.DNSError{IsNotFound: true}), "GET", ocsphttp.NoWord},
		{"reset", fails(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), "GET", ocsphttp.Silent},
		{"closed", fails(io.EOF), "GET", ocsphttp.Silent},
		{"hung", fails(context.DeadlineExceeded), "GET", ocsphttp.Silent},
		{"truncated", func() (*http.Response, error) {
			res := good()
			res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:40]), broken{}))
			return res, nil
		}, "GET", ocsphttp.Silent},
	} {
		f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return c.get()
			}
			return good(), nil
		}}
		q := question(0)
		q.May = anyChange
		q.Judge = func(b []byte) (ocsphttp.Way, error) {
			if !bytes.Equal(b, body) {
				return ocsphttp.Post, errors.New("junk")
			}
			return 0, nil
		}
		_, l, err := f.client().Ask(t.Context(), q)
		if f.methods() != c.asked || l.Reply != c.reply || (err == nil) != (c.reply == ocsphttp.Taken) {
			t.Errorf("%s: %s, reply %v, %v; want %s, reply %v", c.name, f.methods(), l.Reply, err, c.asked, c.reply)
		}
		if took := l.Helped == ocsphttp.Post; took != (err == nil) || l.Failed != 0 {
			t.Errorf("%s: helped %v, failed %v", c.name, l.Helped, l.Failed)
		}
	}
}

// broken is a body that breaks off.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// refusal is what a Judge says, with what may do better.
type refusal struct {
	text   string
	change ocsphttp.Way
}

// REQ A6, REQ A9: each change is tried once, in order, if it is allowed; what did
// best stays, and its error is returned. An answer of OCSP is better than none.
func TestChanges(t *testing.T) {
	const (
		post, past, hash = ocsphttp.Post, ocsphttp.PastCaches, ocsphttp.OtherHash
		none             = ocsphttp.Way(0)
	)
	expired := refusal{"expired", past}
	unknown := refusal{"unknown", hash}
	malformed := refusal{"malformed request", post | hash}
	for name, c := range map[string]struct {
		says           map[ocsphttp.Way]any // by the way: a status, or a refusal; else it is good
		first, may     ocsphttp.Way
		asked          []ocsphttp.Way
		err            string
		helped, failed ocsphttp.Way
		reply          ocsphttp.Reply
		responder      string
	}{
		"good":                        {nil, none, anyChange, []ocsphttp.Way{none}, "", none, none, ocsphttp.Taken, ""},
		"POST first":                  {nil, post, anyChange, []ocsphttp.Way{post}, "", none, none, ocsphttp.Taken, ""},
		"POST first, GET answers":     {map[ocsphttp.Way]any{post: 405}, post, anyChange, []ocsphttp.Way{post, none}, "", post, none, ocsphttp.Taken, ""},
		"neither":                     {map[ocsphttp.Way]any{none: 500, post: 405}, none, anyChange, []ocsphttp.Way{none, post}, "500", none, post, ocsphttp.Useless, ""},
		"POST is not allowed":         {map[ocsphttp.Way]any{none: 500}, none, past | hash, []ocsphttp.Way{none}, "500", none, none, ocsphttp.Useless, ""},
		"stale cache":                 {map[ocsphttp.Way]any{none: expired, past: expired}, none, anyChange, []ocsphttp.Way{none, post | past}, "", past, none, ocsphttp.Taken, ""},
		"expired":                     {map[ocsphttp.Way]any{none: expired, post | past: expired}, none, anyChange, []ocsphttp.Way{none, post | past}, "expired", none, past, ocsphttp.Taken, ""},
		"past caches already":         {map[ocsphttp.Way]any{past: expired}, past, anyChange, []ocsphttp.Way{past}, "expired", none, none, ocsphttp.Taken, ""},
		"the other hash":              {map[ocsphttp.Way]any{none: unknown}, none, anyChange, []ocsphttp.Way{none, hash}, "", hash, none, ocsphttp.Taken, ""},
		"the other hash first":        {map[ocsphttp.Way]any{hash: unknown}, hash, anyChange, []ocsphttp.Way{hash, none}, "", hash, none, ocsphttp.Taken, ""},
		"unknown by both":             {map[ocsphttp.Way]any{none: unknown, hash: unknown}, none, anyChange, []ocsphttp.Way{none, hash}, "unknown", none, hash, ocsphttp.Taken, ""},
		"POST knows it not":           {map[ocsphttp.Way]any{none: 405, post: unknown, post | hash: unknown}, none, anyChange, []ocsphttp.Way{none, post, post | hash}, "unknown", post, hash, ocsphttp.Taken, ""},
		"POST and the other hash":     {map[ocsphttp.Way]any{none: 405, post: unknown}, none, anyChange, []ocsphttp.Way{none, post, post | hash}, "", post | hash, none, ocsphttp.Taken, ""},
		"malformed by all":            {map[ocsphttp.Way]any{none: malformed, post: malformed, hash: malformed}, none, anyChange, []ocsphttp.Way{none, post, hash}, "malformed request", none, post | hash, ocsphttp.Useless, ""},
		"all four":                    {map[ocsphttp.Way]any{none: 404, post: expired, post | past: unknown, post | hash: unknown}, none, anyChange, []ocsphttp.Way{none, post, post | past}, "expired", post, past, ocsphttp.Taken, ""},
		"four questions at most":      {map[ocsphttp.Way]any{none: 404, post: refusal{"both", past | hash}, post | past: 500, post | hash: 500}, none, anyChange, []ocsphttp.Way{none, post, post | past, post | hash}, "both", post, past | hash, ocsphttp.Taken, ""},
		"nothing about the method":    {map[ocsphttp.Way]any{post: 500}, none, anyChange, []ocsphttp.Way{post}, "500", none, none, ocsphttp.NoWord, responder + "?q"},
		"nothing, though it worked":   {nil, none, anyChange, []ocsphttp.Way{post}, "", none, none, ocsphttp.NoWord, responder + "?q"},
		"no change that may help":     {map[ocsphttp.Way]any{none: refusal{"bad signature", none}}, none, anyChange, []ocsphttp.Way{none}, "bad signature", none, none, ocsphttp.Taken, ""},
		"a change that is not better": {map[ocsphttp.Way]any{none: expired, post | past: 500, past: expired}, none, anyChange, []ocsphttp.Way{none, post | past, past}, "expired", none, past, ocsphttp.Taken, ""},
		"stale cache, GET alone":      {map[ocsphttp.Way]any{none: expired, post | past: 405}, none, anyChange, []ocsphttp.Way{none, post | past, past}, "", past, none, ocsphttp.Taken, ""},
	} {
		var asked []ocsphttp.Way
		var way ocsphttp.Way
		f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPost {
				way |= post
			}
			if r.Header.Get("Cache-Control") == "no-cache" {
				way |= past
			}
			asked = append(asked, way)
			if status, ok := c.says[way].(int); ok {
				return says(status, "", nil), nil
			}
			return good(), nil
		}}
		q := question(c.first)
		q.May = c.may
		if c.responder != "" {
			q.URL = c.responder
		}
		q.Request = func(other bool) ([]byte, error) {
			if way = none; other {
				way = hash
			}
			return der, nil
		}
		q.Judge = func([]byte) (ocsphttp.Way, error) {
			if r, ok := c.says[way].(refusal); ok {
				return r.change, errors.New(r.text)
			}
			return 0, nil
		}
		_, l, err := f.client().Ask(t.Context(), q)
		if !slices.Equal(asked, c.asked) || l.Helped != c.helped || l.Failed != c.failed || l.Reply != c.reply {
			t.Errorf("%s: asked %v, %+v; want %v, %v helped, %v failed, reply %v", name, asked, l, c.asked, c.helped, c.failed, c.reply)
		}
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
	}
}

// REQ A6, REQ A9, REQ E15: past caches is by POST, and by GET where that is refused, on a
// connection of its own, unless the responder asks for patience or no GET fits.
func TestPastCachesByGet(t *testing.T) {
	for _, c := range []struct {
		url   string
		post  *http.Response
		asked string
	}{
		{responder, says(405, "", nil), "GET POST GET"},
		{responder, says(503, "", nil, "Retry-After", "120"), "GET POST"},
		{responder + "?q", says(500, "", nil), "POST POST"},
	} {
		var own []bool
		f := &fake{answer: func(i int, r *http.Request) (*http.Response, error) {
			own = append(own, r.Close)
			if r.Method == http.MethodPost && i > 1 {
				return c.post, nil
			}
			return good(), nil
		}}
		q := question(0)
		q.URL, q.May = c.url, anyChange
		q.Judge = func([]byte) (ocsphttp.Way, error) { return ocsphttp.PastCaches, errors.New("expired") }
		_, _, err := f.client().Ask(t.Context(), q)
		if err == nil || f.methods() != c.asked || len(own) > 2 && !own[2] {
			t.Errorf("%s, %s: %s, on connections of their own %v; want %s", c.url, c.post.Status, f.methods(), own, c.asked)
		}
	}
}

// What the caller can't ask for, and what it gave up, says nothing about the
// responder.
func TestNoWord(t *testing.T) {
	unasked := errors.New("no issuer")
	q := question(0)
	q.May = anyChange
	q.Request = func(bool) ([]byte, error) { return nil, unasked }
	f := always(200, ocspType, body)
	if _, l, err := f.client().Ask(t.Context(), q); err != unasked || l != (ocsphttp.Learned{}) || len(f.log) != 0 {
		t.Errorf("%v, %+v, %d requests", err, l, len(f.log))
	}

	ctx, cancel := context.WithCancel(t.Context())
	f = &fake{answer: func(int, *http.Request) (*http.Response, error) { cancel(); return nil, context.Canceled }}
	q = question(0)
	q.May = anyChange
	if _, l, err := f.client().Ask(ctx, q); !errors.Is(err, context.Canceled) || l != (ocsphttp.Learned{}) {
		t.Errorf("%v, %+v", err, l)
	}
}
