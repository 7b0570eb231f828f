package ocsphttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const mediaType = "application/ocsp-response"

// A response is an HTTP response, read whole.
type response struct {
	status int
	header http.Header
	body   []byte
	now    time.Time // when it had come
}

// patient reads until ctx ends: the body of a RoundTripper of the user's may go
// on for ever.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

func (c *Client) read(ctx context.Context, res *http.Response) (*response, error) {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(patient{ctx, res.Body}, MaxBody+1))
	switch {
	case err != nil:
		return nil, transportError(err)
	case len(body) > MaxBody:
		return nil, &Error{Kind: TooLarge, Err: fmt.Errorf("more than %d bytes", MaxBody)}
	case res.ContentLength > int64(len(body)) && res.StatusCode != http.StatusNotModified:
		return nil, transportError(io.ErrUnexpectedEOF)
	}
	return &response{status: res.StatusCode, header: res.Header, body: body, now: c.Now()}, nil
}

// check applies the HTTP rules of RFC 6960 A.2.
func (r *response) check() error {
	if r.status != http.StatusOK {
		return r.unexpected(Status)
	}
	// Package mime would refuse the type for parameters that it can't read.
	t, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(t), mediaType) {
		return r.unexpected(ContentType)
	}
	if enc := r.header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &Error{Kind: ContentType, Status: r.status, Err: fmt.Errorf("content encoding %q, none was asked for", cut(enc))}
	}
	if len(r.body) == 0 {
		return &Error{Kind: Empty, Status: r.status}
	}
	return nil
}

// unexpected says what came instead of an answer.
func (r *response) unexpected(k Kind) *Error {
	what := strings.TrimSpace(fmt.Sprint(r.status, " ", http.StatusText(r.status)))
	if t := cut(r.header.Get("Content-Type")); t != "" || len(r.body) > 0 {
		what += fmt.Sprintf(", %q", t)
	}
	if len(r.body) > 0 {
		what += fmt.Sprintf(", %d bytes that begin %+q", len(r.body), r.body[:min(len(r.body), 64)])
	}
	return &Error{Kind: k, Status: r.status, RetryAfter: retryAfter(r.header, r.now), Err: fmt.Errorf("%s", what)}
}
