package ocsphttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const mediaType = "application/ocsp-response"

// pageWait is how long the rest of what is no answer may take: all of it is for
// the error text.
const pageWait = time.Second

// A response is an HTTP response, read as far as it goes.
type response struct {
	status int
	header http.Header
	body   []byte
	now    time.Time // when it had come
	ocsp   bool      // it should be an OCSP response
	err    *Error    // why body is not all
}

// read reads the body of res, if it is no answer for no longer than pageWait.
// cancel ends the request.
func (c *Client) read(ctx context.Context, cancel func(), res *http.Response, ocsp bool) *response {
	defer res.Body.Close()
	r := &response{status: res.StatusCode, header: res.Header, ocsp: ocsp}
	if r.kind() != 0 {
		defer time.AfterFunc(pageWait, cancel).Stop()
	}
	var err error
	r.body, err = readBody(ctx, res)
	if err != nil {
		r.err = transportError(err)
		r.err.connected = true
	}
	if len(r.body) > MaxBody {
		r.err = &Error{Kind: TooLarge, Status: r.status, Err: fmt.Errorf("more than %d bytes", MaxBody), answered: true}
	}
	r.now = c.Now()
	return r
}

// readBody reads until ctx ends, even where the body of a user's RoundTripper goes
// on for ever without a byte.
func readBody(ctx context.Context, res *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(patient{ctx, res.Body}, MaxBody+1))
	if err == nil && len(body) <= MaxBody && res.ContentLength > int64(len(body)) {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

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

// kind returns what of the status and the header is no answer (RFC 6960 A.2); 0 if
// nothing is.
func (r *response) kind() Kind {
	switch {
	case r.status != http.StatusOK:
		return Status
	case r.ocsp && (!r.typed() || r.encoded()):
		return ContentType
	}
	return 0
}

// typed reports whether the media type is that of an OCSP response. Package mime
// would refuse it for parameters that it can't read.
func (r *response) typed() bool {
	t, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), mediaType)
}

// encoded reports whether the body is compressed, which nobody asked for.
func (r *response) encoded() bool {
	enc := r.header.Get("Content-Encoding")
	return enc != "" && !strings.EqualFold(enc, "identity")
}

// problem returns why r is no answer; nil if it is one.
func (r *response) problem() error {
	switch k := r.kind(); {
	case k != 0:
		return &Error{Kind: k, Status: r.status, RetryAfter: retryAfter(r.header, r.now), Err: errors.New(r.what()), answered: true}
	case r.err != nil:
		return r.err
	case len(r.body) == 0:
		return &Error{Kind: Empty, Status: r.status, answered: true}
	}
	return nil
}

// what says what came instead of an answer.
func (r *response) what() string {
	if r.status == http.StatusOK && r.typed() {
		return fmt.Sprintf("content encoding %q, none was asked for", cut(r.header.Get("Content-Encoding")))
	}
	what := strings.TrimSpace(fmt.Sprint(r.status, " ", http.StatusText(r.status)))
	if t := cut(r.header.Get("Content-Type")); t != "" || len(r.body) > 0 {
		what += fmt.Sprintf(", %q", t)
	}
	if len(r.body) > 0 {
		what += fmt.Sprintf(", %d bytes that begin %+q", len(r.body), r.body[:min(len(r.body), 64)])
	}
	return what
}
