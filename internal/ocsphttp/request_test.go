package ocsphttp_test

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// REQ A6, REQ A7: a URL of 255 bytes is asked by GET, one of 256 is not; what has a
// query is not, either.
func TestGetOrPost(t *testing.T) {
	slashes := bytes.Repeat([]byte{0xff}, 45) // all of its base64 is "/", which is escaped
	for _, c := range []struct {
		responder string
		want      string // what the URL of a GET begins with; empty: a POST
	}{
		{"http://a.example", "http://a.example/%2F%2F"},
		{"http://a.example/", "http://a.example/%2F%2F"},
		{"http://a.example/a/b", "http://a.example/a/b/%2F%2F"},
		{"http://a.example/a/b/", "http://a.example/a/b/%2F%2F"},
		{"http://a.example/a b", "http://a.example/a%20b/%2F%2F"}, // not escaped as it should be
		{"http://a.example/" + strings.Repeat("x", 255-17-1-180), "http://a.example/x"},
		{"http://a.example/" + strings.Repeat("x", 256-17-1-180), ""},
		{"http://a.example/?ca=1", ""},
	} {
		f := always(200, ocspType, body)
		q := question(0)
		q.URL, q.Request = c.responder, func(bool) ([]byte, error) { return slashes, nil }
		if _, _, err := f.client().Ask(t.Context(), q); err != nil {
			t.Error(err)
		}
		switch got := f.log[0]; {
		case c.want == "" && (got.method != "POST" || got.url != c.responder):
			t.Errorf("%s %s, want a POST to %s", got.method, got.url, c.responder)
		case c.want != "" && (got.method != "GET" || !strings.HasPrefix(got.url, c.want)):
			t.Errorf("%s %s, want a GET of %s", got.method, got.url, c.want)
		}
	}
	f := always(200, ocspType, body)
	q := question(0)
	q.Request = func(bool) ([]byte, error) { return []byte{0xfb, 0xef, 0xbe, 0xff}, nil }
	_, _, _ = f.client().Ask(t.Context(), q)
	if u := f.log[0].url; !strings.HasSuffix(u, "/%2B%2B%2B%2B%2Fw%3D%3D") {
		t.Errorf("%s: want standard base64 in which + / = are escaped", u)
	}
}

// REQ A6, REQ A8, REQ A9: how a question goes out.
func TestForms(t *testing.T) {
	const get = responder + "/MApyZXH%2F%2F%2F91ZXN0"
	held := ocsphttp.Validator{ETag: `"e"`, Modified: 86400}
	for name, c := range map[string]struct {
		way  ocsphttp.Way
		held ocsphttp.Validator
		want seen
	}{
		"GET": {0, ocsphttp.Validator{}, seen{"GET", get, http.Header{"Accept": {ocspType}}, nil}},
		"GET, conditional": {0, held, seen{"GET", get, http.Header{"Accept": {ocspType},
			"If-None-Match": {`"e"`}, "If-Modified-Since": {"Fri, 02 Jan 1970 00:00:00 GMT"}}, nil}},
		"GET past caches": {ocsphttp.PastCaches, held, seen{"GET", get, http.Header{"Accept": {ocspType}, "Cache-Control": {"no-cache"}}, nil}},
		"POST":            {ocsphttp.Post, held, seen{"POST", responder, http.Header{"Accept": {ocspType}, "Content-Type": {"application/ocsp-request"}}, der}},
	} {
		f, q := always(200, ocspType, body), question(c.way)
		q.Held = c.held
		if _, _, err := f.client().Ask(t.Context(), q); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := f.log[0]; got.method != c.want.method || got.url != c.want.url || !bytes.Equal(got.body, c.want.body) || !maps.EqualFunc(got.header, c.want.header, slices.Equal) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// REQ A10: a TTL of the user's bounds what caches may answer with; past them it is
// of no use.
func TestMaxAgeOfRequests(t *testing.T) {
	for _, c := range []struct {
		way  ocsphttp.Way
		age  time.Duration
		want string
	}{
		{0, 0, ""},
		{0, 10 * time.Minute, "max-age=600"},
		{0, 1900 * time.Millisecond, "max-age=1"},
		{0, time.Millisecond, "max-age=0"},
		{ocsphttp.Post, time.Hour, "max-age=3600"},
		{ocsphttp.PastCaches, time.Hour, "no-cache"},
		{ocsphttp.PastCaches, 0, "no-cache"},
	} {
		f, q := always(200, ocspType, body), question(c.way)
		q.MaxAge = c.age
		if _, _, err := f.client().Ask(t.Context(), q); err != nil || strings.Join(f.log[0].header["Cache-Control"], "|") != c.want {
			t.Errorf("way %b, %v: %v, %v, want %q", c.way, c.age, f.log[0].header, err, c.want)
		}
	}
}

// REQ A13: redirects are followed three times, to http and https alone, and a POST
// stays a POST with its body.
func TestRedirects(t *testing.T) {
	for name, c := range map[string]struct {
		to       []string // where one request after the other is sent
		post     bool
		want     ocsphttp.Kind
		requests int
	}{
		"once":               {[]string{"/moved"}, false, 0, 2},
		"a POST":             {[]string{"https://b.example/", "/c"}, true, 0, 3},
		"three times":        {[]string{"/1", "/2", "/3"}, false, 0, 4},
		"four times":         {[]string{"/1", "/2", "/3", "/4"}, false, ocsphttp.Redirect, 4},
		"to another scheme":  {[]string{"ftp://a.example/"}, false, ocsphttp.Redirect, 1},
		"to a file":          {[]string{"file:///etc/passwd"}, true, ocsphttp.Redirect, 1},
		"to no place at all": {[]string{""}, false, ocsphttp.Status, 1},
		"to what is no URL":  {[]string{"://"}, false, ocsphttp.Network, 1},
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			f := &fake{answer: func(n int, r *http.Request) (*http.Response, error) {
				switch {
				case n > len(c.to):
					return good(), nil
				case c.to[n-1] == "":
					return says(status, "", nil), nil
				}
				return says(status, "", nil, "Location", c.to[n-1]), nil
			}}
			way := ocsphttp.Way(0)
			if c.post {
				way = ocsphttp.Post
			}
			if _, err := put(t, f, way); kind(err) != c.want {
				t.Errorf("%s, by %d: %v, want %v", name, status, err, c.want)
			}
			if len(f.log) != c.requests || f.count.Load() != uint64(c.requests) {
				t.Errorf("%s, by %d: %d requests, %d counted, want %d", name, status, len(f.log), f.count.Load(), c.requests)
			}
			for _, s := range f.log {
				if c.post != (s.method == "POST" && bytes.Equal(s.body, der)) {
					t.Errorf("%s, by %d: %s with %q", name, status, s.method, s.body)
				}
			}
		}
	}
}

// REQ A13: the client of the user is copied, and not changed.
func TestOwnRules(t *testing.T) {
	theirs := &http.Client{Transport: http.NewFileTransport(http.Dir("."))}
	if own := ocsphttp.OwnRules(theirs); own == theirs || own.Transport != theirs.Transport || theirs.CheckRedirect != nil {
		t.Errorf("%+v of %+v", own, theirs)
	}
}
