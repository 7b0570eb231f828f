package ocsphttp

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const maxGetURL = 255 // RFC 9919 §6

// A Question is put to one responder in one way.
type Question struct {
	URL        string    // of the responder
	Request    []byte    // the DER of an OCSPRequest
	Post       bool      // by POST, even where a GET would fit
	PastCaches bool      // caches are told not to answer
	Held       Validator // of the answer that is held, which a GET asks to be out of date
}

// An Answer is what a responder said, or that it has nothing new to say.
type Answer struct {
	Body        []byte // nil: what is held stands (status 304)
	MaxAge      time.Duration
	Validator   Validator // zero after a POST
	NotModified bool
}

// GetURL returns the URL of a GET (RFC 6960 A.1), and whether it may be used. A
// responder's URL may have a path of its own; one with a query is asked by POST.
func GetURL(responder string, der []byte) (u string, fits bool) {
	u = strings.TrimRight(responder, "/") + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(der))
	return u, len(u) <= maxGetURL && !strings.ContainsAny(responder, "?#")
}

// Ask puts q. An error of HTTP is an [*Error].
func (c *Client) Ask(ctx context.Context, q *Question) (*Answer, error) {
	r := request{method: http.MethodPost, url: q.URL, header: http.Header{"Accept": {mediaType}}, body: q.Request}
	u, fits := GetURL(q.URL, q.Request)
	get := fits && !q.Post
	conditional := false
	if get {
		r.method, r.url, r.body = http.MethodGet, u, nil
		conditional = !q.PastCaches && q.Held.condition(r.header)
	} else {
		r.header.Set("Content-Type", "application/ocsp-request")
	}
	if q.PastCaches {
		r.header.Set("Cache-Control", "no-cache")
	}
	res, err := c.fetch(ctx, r)
	if err != nil {
		return nil, err
	}
	a := &Answer{MaxAge: maxAge(res.header, res.now)}
	if res.status == http.StatusNotModified && conditional {
		a.NotModified = true
		return a, nil
	}
	if err := res.check(); err != nil {
		return nil, err
	}
	a.Body = res.body
	if get {
		a.Validator = NewValidator(res.header.Get("ETag"), res.header.Get("Last-Modified"))
	}
	return a, nil
}
