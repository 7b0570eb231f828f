package ocsphttp_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// month bounds what a header may ask for.
const month = 30 * 24 * time.Hour

var fuzzNow = time.Date(2030, 1, 15, 12, 0, 0, 0, time.UTC)

// at has a client of f live at fuzzNow.
func (f *fake) at() *ocsphttp.Client {
	c := f.client()
	c.Now = func() time.Time { return fuzzNow }
	return c
}

// FuzzHeaders: whatever the header fields of an answer say, what they ask for is
// bounded, no-store and Age never lengthen it, and what is kept of them can be sent.
//
// REQ A10
func FuzzHeaders(f *testing.F) {
	const later = "Tue, 15 Jan 2030 13:00:00 GMT"
	for _, seed := range [][6]string{
		{"public, MAX-AGE=\"3600\", must-revalidate", "600", "", "", `W/"x"`, later},
		{"no-store", "", later, "120", "", "Tue, 15 Jan 2030 13:00:00 UTC"},
		{"max-age=60, no-cache", "-1", "0", later, `"é"`, "Tuesday, 15-Jan-30 13:00:00 GMT"},
		{"max-age=99999999999", "99999999999", "Mon, 01 Jan 0001 00:00:00 GMT", "1e3", "\"\xff\"", "Fri, 31 Dec 9999 23:59:59 GMT"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4], seed[5])
	}
	f.Fuzz(func(t *testing.T, cacheControl, age, expires, retryAfter, etag, modified string) {
		if strings.ContainsFunc(etag, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return // net/http brings none such
		}
		ask := func(fields ...string) *ocsphttp.Answer {
			a, _, err := always(200, ocspType, body, append(fields, "ETag", etag, "Last-Modified", modified)...).at().Ask(t.Context(), question(0))
			if err != nil {
				t.Fatal(err)
			}
			if a.MaxAge < 0 || a.MaxAge > month {
				t.Fatalf("%q: max-age %v", fields, a.MaxAge)
			}
			return a
		}
		a := ask("Cache-Control", cacheControl, "Age", age, "Expires", expires)
		if young := ask("Cache-Control", cacheControl, "Expires", expires); young.MaxAge < a.MaxAge {
			t.Errorf("%q: %v, and with Age %q %v", cacheControl, young.MaxAge, age, a.MaxAge)
		}
		for _, no := range []string{"no-store," + cacheControl, cacheControl + ",No-Cache"} {
			if a := ask("Cache-Control", no, "Expires", expires); a.MaxAge != 0 {
				t.Errorf("%q: %v", no, a.MaxAge)
			}
		}
		if end, err := http.ParseTime(expires); a.MaxAge != 0 && !strings.Contains(strings.ToLower(cacheControl), "max-age") && (err != nil || a.MaxAge > end.Sub(fuzzNow)) {
			t.Errorf("Expires %q: %v", expires, a.MaxAge)
		}
		sendable(t, a.Validator)
		retried(t, retryAfter)
	})
}

// sendable fails the test unless a request can be made with v, which says then what
// it said.
func sendable(t *testing.T, v ocsphttp.Validator) {
	t.Helper()
	if again := ocsphttp.NewValidator(v.ETag, v.LastModified()); again != v {
		t.Errorf("%+v, and again %+v", v, again)
	}
	dialled := errors.New("dialled")
	c := always(0, "", nil).client()
	c.HTTP.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, dialled }}
	q := question(0)
	q.Held = v
	if _, _, err := c.Ask(t.Context(), q); !errors.Is(err, dialled) {
		t.Errorf("no request is made with %+v: %v", v, err)
	}
}

// retried fails the test if Retry-After asks for what it does not say.
func retried(t *testing.T, v string) {
	t.Helper()
	_, _, err := always(503, "", nil, "Retry-After", v).at().Ask(t.Context(), question(0))
	var e *ocsphttp.Error
	if !errors.As(err, &e) || e.RetryAfter < 0 || e.RetryAfter > month {
		t.Fatalf("Retry-After %q: %v", v, err)
	}
	if n, err := strconv.ParseUint(v, 10, 32); err == nil && e.RetryAfter != min(time.Duration(n)*time.Second, month) {
		t.Errorf("Retry-After %q: %v", v, e.RetryAfter)
	}
}

// FuzzURL: whatever a certificate names as a responder, and wherever that redirects,
// requests go to http and https alone, carry the question and no userinfo, and go to
// no address of a metadata service.
//
// REQ A3, REQ I5
func FuzzURL(f *testing.F) {
	for _, seed := range [][2]string{
		{"http://ocsp.example/a", "https://ocsp.example/b"}, {"http://user:pass@ocsp.example:8080/x?y#z", "//user@169.254.169.254/"},
		{"https://[fe80::1%25eth0]/", "http://0xa9fea9fe/"}, {"http://2852039166", "http://[64:ff9b::a9fe:a9fe]/"},
		{"http://169.254.169.254./", "http://ocsp.example"}, {"http://ocsp.example", "ftp://x/"}, {"http://ocsp.example/%0d%0aX: y", "?a=b"}, {"http://[::ffff:100.100.100.200]", "http://０/"},
	} {
		f.Add(seed[0], seed[1], der, false)
		f.Add(seed[0], seed[1], bytes.Repeat(der, 20), true)
	}
	f.Fuzz(func(t *testing.T, responder, location string, question_ []byte, post bool) {
		if scheme, _, ok := strings.Cut(responder, "://"); !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return // nobody asks it: certinfo.HTTPURLs
		}
		f := &fake{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n < 3 {
				return says(302, "", nil, "Location", location), nil
			}
			return good(), nil
		}}
		c := f.client()
		c.Default = true
		q := question(0)
		if post {
			q.First = ocsphttp.Post
		}
		q.URL, q.Request = responder, func(bool) ([]byte, error) { return question_, nil }
		_, _, err := c.Ask(t.Context(), q)
		if err == nil && len(f.log) == 0 {
			t.Fatal("an answer without a request")
		}
		for i, s := range f.log {
			u, err := url.Parse(s.url)
			if err != nil {
				t.Fatal(err)
			}
			if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || s.header.Get("Authorization") != "" || metadataHost(u.Hostname()) {
				t.Errorf("requested %q, %v", s.url, s.header)
			}
			if i == 0 && !carries(s, question_) {
				t.Errorf("%s %q does not carry %q", s.method, s.url, question_)
			}
			if s.method != f.log[0].method || !bytes.Equal(s.body, f.log[0].body) {
				t.Errorf("%s became %s", f.log[0].method, s.method)
			}
		}
	})
}

// carries reports whether a request is the question: the end of the URL of a GET,
// which is short, or the body of a POST.
func carries(s seen, der []byte) bool {
	if s.method == http.MethodPost {
		return bytes.Equal(s.body, der)
	}
	encoded, err := url.PathUnescape(s.url[strings.LastIndexByte(s.url, '/')+1:])
	got, err2 := base64.StdEncoding.DecodeString(encoded)
	return s.method == http.MethodGet && len(s.url) <= 255 && len(s.body) == 0 && err == nil && err2 == nil && bytes.Equal(got, der)
}

// metadataHost reports whether a host is, as netip reads it, link-local or an address
// of a metadata service.
func metadataHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	if n, numeric := strconv.ParseUint(strings.TrimSuffix(host, "."), 0, 32); numeric == nil {
		ip, err = netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), nil
	}
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	if b := ip.As16(); netip.MustParsePrefix("64:ff9b::/96").Contains(ip) {
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip.IsLinkLocalUnicast() || ip == netip.MustParseAddr("100.100.100.200") || ip == netip.MustParseAddr("168.63.129.16")
}
