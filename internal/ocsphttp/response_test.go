package ocsphttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// REQ A12: status 200 and the media type are required, parameters are ignored, and
// what else comes is said.
func TestWhatCame(t *testing.T) {
	page := []byte("<!DOCTYPE html>\n" + strings.Repeat("\xff", 100))
	for _, c := range []struct {
		res  *http.Response
		want ocsphttp.Kind
		says string
	}{
		{says(200, ocspType, body), 0, ""},
		{says(200, "Application/OCSP-Response", body), 0, ""},
		{says(200, ocspType+"; charset=utf-8; v=1", body), 0, ""},
		{says(200, ocspType+" ; a=b; a=c", body), 0, ""},
		{says(200, ocspType+`; a="`, body), 0, ""},
		{says(200, ocspType, body, "Content-Encoding", "Identity"), 0, ""},
		{says(200, ocspType+"s; a=b", body), ocsphttp.ContentType, `200 OK, "application/ocsp-responses; a=b", 260 bytes that begin "0\x82\x01\x00b`},
		{says(200, "text/html, "+ocspType, body), ocsphttp.ContentType, ""},
		{says(200, "", body), ocsphttp.ContentType, `200 OK, "", 260 bytes`},
		{says(200, "text/html", page), ocsphttp.ContentType, `200 OK, "text/html", 116 bytes that begin "<!DOCTYPE html>\n\xff`},
		{says(200, ocspType, body, "Content-Encoding", "gzip"), ocsphttp.ContentType, `content encoding "gzip", none was asked for`},
		{says(200, ocspType, nil), ocsphttp.Empty, "empty"},
		{says(203, ocspType, body), ocsphttp.Status, "203 Non-Authoritative Information"},
		{says(204, ocspType, nil), ocsphttp.Status, `204 No Content, "application/ocsp-response"`},
		{says(206, ocspType, body), ocsphttp.Status, "206 Partial Content"},
		{says(304, "", nil), ocsphttp.Status, "304 Not Modified"},
		{says(404, "text/html", page), ocsphttp.Status, `404 Not Found, "text/html"`},
		{says(500, ocspType, body), ocsphttp.Status, "500 Internal Server Error"},
		{says(999, "", nil), ocsphttp.Status, "999"},
	} {
		f := &fake{answer: func(int, *http.Request) (*http.Response, error) { return c.res, nil }}
		_, err := put(t, f, ocsphttp.Post)
		if kind(err) != c.want || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%d, %q: %v, want %v: %s", c.res.StatusCode, c.res.Header.Get("Content-Type"), err, c.want, c.says)
		}
		var e *ocsphttp.Error
		if errors.As(err, &e) && e.Status != c.res.StatusCode {
			t.Errorf("%d: Status is %d", c.res.StatusCode, e.Status)
		}
	}
}

// REQ A12: what came in megabytes is cut before it is kept.
func TestLongTextIsCut(t *testing.T) {
	big := strings.Repeat("\xff", 1<<20)
	for name, f := range map[string]*fake{
		"Content-Type":     always(200, big, body),
		"Content-Encoding": always(200, ocspType, body, "Content-Encoding", big),
		"Location":         always(302, "", nil, "Location", "http://a.example/"+big),
		"error":            {answer: func(int, *http.Request) (*http.Response, error) { return nil, errors.New(big) }},
	} {
		if _, err := put(t, f, 0); err == nil || len(err.Error()) > 1024 {
			t.Errorf("%s: an error of %d bytes", name, len(fmt.Sprint(err)))
		}
	}
}

// What a client says is typed, and named without the URL, which is as long as the
// request.
func TestTransportErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want ocsphttp.Kind
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, ocsphttp.Network},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, ocsphttp.Network},
		{&net.DNSError{Err: "slow", IsTimeout: true}, ocsphttp.Timeout},
		{context.DeadlineExceeded, ocsphttp.Timeout},
		{context.Canceled, ocsphttp.Network},
		{io.EOF, ocsphttp.Network},
		{io.ErrUnexpectedEOF, ocsphttp.Truncated},
	} {
		f := &fake{answer: func(int, *http.Request) (*http.Response, error) { return nil, c.err }}
		if _, err := put(t, f, 0); kind(err) != c.want || !errors.Is(err, c.err) || strings.Contains(err.Error(), "ocsp.example") {
			t.Errorf("%v: %v (%v), want %v", c.err, err, kind(err), c.want)
		}
	}
}

// endless is a body that goes on with one byte for ever, or, if empty, with none.
type endless struct{ empty bool }

func (endless) Close() error { return nil }
func (e endless) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	if e.empty {
		return 0, nil
	}
	b[0] = 'x'
	return 1, nil
}

// REQ A11: at most 128 KiB are read, for no longer than ctx, and what ends before
// its announced length is an error.
func TestBounds(t *testing.T) {
	for name, c := range map[string]struct {
		body   io.ReadCloser
		length int64
		want   ocsphttp.Kind
	}{
		"128 KiB":              {io.NopCloser(bytes.NewReader(make([]byte, ocsphttp.MaxBody))), ocsphttp.MaxBody, 0},
		"one byte more":        {io.NopCloser(bytes.NewReader(make([]byte, ocsphttp.MaxBody+1))), ocsphttp.MaxBody + 1, ocsphttp.TooLarge},
		"that, unannounced":    {io.NopCloser(bytes.NewReader(make([]byte, ocsphttp.MaxBody+1))), -1, ocsphttp.TooLarge},
		"shorter than it says": {io.NopCloser(bytes.NewReader(body)), int64(len(body)) + 1, ocsphttp.Truncated},
		"without end":          {endless{}, -1, ocsphttp.Timeout},
		"without a byte":       {endless{empty: true}, -1, ocsphttp.Timeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{answer: func(int, *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {ocspType}}, Body: c.body, ContentLength: c.length}, nil
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			begun := time.Now()
			_, _, err := f.client().Ask(ctx, question(0))
			if took := time.Since(begun); kind(err) != c.want || took > 11*time.Second {
				t.Errorf("%s: %v after %v, want %v", name, err, took, c.want)
			}
		})
	}
}

// A RoundTripper may leave the Response's Request out.
func TestResponseWithoutRequest(t *testing.T) {
	f := new(fake)
	c := f.client()
	c.HTTP.Transport = roundTripper(func(*http.Request) (*http.Response, error) { return good(), nil })
	if _, _, err := c.Ask(t.Context(), question(0)); err != nil {
		t.Error(err)
	}
}

// What is not an OCSP response is got without a condition or a media type.
func TestGet(t *testing.T) {
	f := always(200, "text/plain", []byte("a certificate"))
	if got, err := f.client().Get(t.Context(), "http://a.example/ca.der"); string(got) != "a certificate" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if s := f.log[0]; s.method != "GET" || s.url != "http://a.example/ca.der" || len(s.header) != 0 {
		t.Errorf("%v", s)
	}
	if _, err := always(404, "text/plain", nil).client().Get(t.Context(), "http://a.example/"); kind(err) != ocsphttp.Status {
		t.Errorf("%v", err)
	}
}
