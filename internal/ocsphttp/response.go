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

// pageWait is how long the rest of what is no answer may take: its length and first
// bytes are for the error text alone. A connection whose answer was read to its end
// is used again.
const pageWait = time.Second

// A response is an HTTP response, read as far as it goes. Its body is closed.
type response struct {
	status int
	header http.Header
	body   []byte
	now    time.Time // when it had come
	ocsp   bool      // it should be an OCSP response
	err    *Error    // why body is not all
}

// read reads the body of res, if it is no answer for no longer than pageWait.
// cancel ends the request. An error page that never ends must leave time for the
// POST that follows.
func (c *Client) read(ctx context.Context, cancel func(), res *http.Response, ocsp bool) *response {
	defer res.Body.Close()
	r := &response{status: res.StatusCode, header: res.Header, ocsp: ocsp}
	if r.kind() != 0 {
		defer time.AfterFunc(pageWait, cancel).Stop()
	}
	var err error
	if r.body, err = readBody(ctx, res, ocsp && r.kind() == 0); err != nil {
		r.err = transportError(err)
		r.err.connected = true
	}
	if len(r.body) > MaxBody {
		r.err = &Error{Kind: TooLarge, Status: r.status, Err: fmt.Errorf("more than %d bytes", MaxBody), answered: true}
	}
	r.now = c.Now()
	return r
}

// readBody reads no more than MaxBody and a byte, until ctx ends: the body of a
// user's RoundTripper may go on for ever without a byte. It reads to the announced
// length or the end of the body; or, in sequence, to the end of the DER SEQUENCE
// there, since the connection may stay open (REQ A11). Announced bytes
// beyond that end are read, too, so that the answer is refused. An answer that ends
// before its announced length, or inside of its SEQUENCE, is io.ErrUnexpectedEOF: it
// is truncated, and not malformed.
//
// io.ReadAll would not do: it waits for the end of the connection. An attempt at such a
// responder would take all of its 10 s and bring nothing.
func readBody(ctx context.Context, res *http.Response, sequence bool) ([]byte, error) {
	announced := int(min(res.ContentLength, MaxBody+1)) // 0 where a RoundTripper does not care, too
	body := make([]byte, 0, min(max(announced+1, 512), 8<<10))
	for len(body) <= MaxBody {
		if err := ctx.Err(); err != nil {
			return body, err
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := res.Body.Read(body[len(body):min(cap(body), MaxBody+1)])
		body = body[:len(body)+n]
		end := 0
		if sequence {
			end = sequenceEnd(body)
		}
		switch {
		case end > 0 && end <= len(body) && announced <= 0:
			return body[:end], nil
		case end > 0 && end <= len(body) && announced <= len(body):
			return body, nil
		case err == io.EOF && max(announced, end) > len(body):
			return body, io.ErrUnexpectedEOF
		case err == io.EOF:
			return body, nil
		case err != nil:
			return body, err
		}
	}
	return body, nil
}

// sequenceEnd returns where the DER SEQUENCE ends that b begins with; 0 where that
// is not known yet, or b begins with none. A length of more than three octets is over
// MaxBody. It checks no more than that: internal/ocspresp parses strictly.
func sequenceEnd(b []byte) int {
	if len(b) < 2 || b[0] != 0x30 {
		return 0
	}
	if b[1] < 0x80 {
		return 2 + int(b[1])
	}
	octets := int(b[1] - 0x80)
	if octets == 0 || octets > 3 || len(b) < 2+octets {
		return 0
	}
	n := 0
	for _, c := range b[2 : 2+octets] {
		n = n<<8 | int(c)
	}
	return 2 + octets + n
}

// kind returns what of the status and the header is no answer (RFC 6960 A.2); 0 if
// nothing is. A status other than 200 is none, whatever its body. An issuer's
// certificate may have any media type.
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
// would refuse it for parameters that it can't read, one that is there twice, say.
func (r *response) typed() bool {
	t, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), mediaType)
}

// encoded reports whether the body is compressed, which nobody asked for.
func (r *response) encoded() bool {
	enc := r.header.Get("Content-Encoding")
	return enc != "" && !strings.EqualFold(enc, "identity")
}

// problem returns why r is no answer, an [*Error]; nil if it is one. The status goes
// before a broken body: a 503 with a Retry-After is that, even if it was cut off.
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

// what says what came instead of an answer: status, media type, length. It quotes the
// first bytes of an OCSP response alone.
func (r *response) what() string {
	if r.status == http.StatusOK && r.typed() {
		return fmt.Sprintf("content encoding %q, none was asked for", cut(r.header.Get("Content-Encoding")))
	}
	what := strings.TrimSpace(fmt.Sprint(r.status, " ", http.StatusText(r.status)))
	if t := cut(r.header.Get("Content-Type")); t != "" || len(r.body) > 0 {
		what += fmt.Sprintf(", %q", t)
	}
	if len(r.body) > 0 {
		what += fmt.Sprintf(", %d bytes", len(r.body))
	}
	if len(r.body) > 0 && r.typed() { // anything else may be a page that is not for the reader of an error
		what += fmt.Sprintf(" that begin %+q", r.body[:min(len(r.body), 64)])
	}
	return what
}
