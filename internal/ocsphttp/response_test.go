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
		{says(200, ocspType+"s; a=b", body), ocsphttp.ContentType, `200 OK, "application/ocsp-responses; a=b", 260 bytes`},
		{says(200, "text/html, "+ocspType, body), ocsphttp.ContentType, ""},
		{says(200, "", body), ocsphttp.ContentType, `200 OK, "", 260 bytes`},
		{says(200, "text/html", page), ocsphttp.ContentType, `200 OK, "text/html", 116 bytes`},
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

// REQ A11: reading ends with the outer SEQUENCE where no more is announced, though
// the body goes on or stays silent for ever. What is announced after it is junk.
func TestReadingEnds(t *testing.T) {
	short := append([]byte{0x30, 0x05}, "short"...)
	junk := []byte("junk")
	for name, c := range map[string]struct {
		reads  [][]byte // one after another; then the body is silent, or ends
		ends   bool
		length int64
		want   []byte // what is judged
		kind   ocsphttp.Kind
	}{
		"all at once":                {[][]byte{body}, false, -1, body, 0},
		"length not set":             {[][]byte{body}, false, 0, body, 0},
		"length announced":           {[][]byte{body}, false, int64(len(body)), body, 0},
		"a short one":                {[][]byte{short}, false, -1, short, 0},
		"in pieces":                  {[][]byte{body[:1], body[1:2], body[2:3], nil, body[3:200], body[200:]}, false, -1, body, 0},
		"to the end of the body":     {[][]byte{body}, true, -1, body, 0},
		"junk after it":              {[][]byte{body, junk}, false, -1, body, 0},
		"junk with it":               {[][]byte{append(bytes.Clone(body), junk...)}, false, -1, body, 0},
		"junk announced":             {[][]byte{body, junk}, false, int64(len(body) + len(junk)), append(bytes.Clone(body), junk...), 0},
		"another length announced":   {[][]byte{body[:100], body[100:]}, false, 100, body, 0},
		"cut, without a length":      {[][]byte{body[:100]}, true, -1, nil, ocsphttp.Truncated},
		"cut in its header":          {[][]byte{body[:3]}, true, -1, body[:3], 0},
		"cut, and silent":            {[][]byte{body[:100]}, false, -1, nil, ocsphttp.Timeout},
		"no SEQUENCE":                {[][]byte{junk}, true, -1, junk, 0},
		"no SEQUENCE, and silent":    {[][]byte{junk}, false, -1, nil, ocsphttp.Timeout},
		"an indefinite length":       {[][]byte{{0x30, 0x80, 0, 0}}, true, -1, []byte{0x30, 0x80, 0, 0}, 0},
		"a length of too many bytes": {[][]byte{{0x30, 0x84, 0, 0, 1, 7}}, true, -1, []byte{0x30, 0x84, 0, 0, 1, 7}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
				res := good()
				res.ContentLength = c.length
				res.Body = &pieces{r.Context(), c.reads, c.ends}
				return res, nil
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var judged []byte
			q := question(0)
			q.Judge = func(b []byte) (ocsphttp.Way, error) { judged = b; return 0, nil }
			_, _, err := f.client().Ask(ctx, q)
			if kind(err) != c.kind || !bytes.Equal(judged, c.want) {
				t.Errorf("%s: %v, judged %d bytes, want %v and %d", name, err, len(judged), c.kind, len(c.want))
			}
		})
	}
}

// pieces is a body that arrives in pieces, and then ends or goes on in silence.
type pieces struct {
	ctx  context.Context
	left [][]byte
	ends bool
}

func (p *pieces) Close() error { return nil }
func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) > 0 {
		n := copy(b, p.left[0])
		if p.left[0] = p.left[0][n:]; len(p.left[0]) == 0 {
			p.left = p.left[1:]
		}
		return n, nil
	}
	if p.ends {
		return 0, io.EOF
	}
	<-p.ctx.Done()
	return 0, p.ctx.Err()
}

// What is got that is no OCSP response is read to its end, whatever it begins with.
func TestGetReadsOn(t *testing.T) {
	f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
		res := says(200, "text/plain", nil)
		res.Body, res.ContentLength = &pieces{r.Context(), [][]byte{[]byte("0 s:CN=a"), make([]byte, 100)}, true}, -1
		return res, nil
	}}
	if got, err := f.client().Get(t.Context(), "http://a.example/ca.pem"); len(got) != 108 || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
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
