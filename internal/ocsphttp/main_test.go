package ocsphttp_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// responder is where the tests ask.
const responder = "http://ocsp.example/a"

// der stands for a request: to this package it is only bytes.
var der = []byte("\x30\x0areq\xff\xff\xffuest")

// body is a DER SEQUENCE that stands for a response.
var body = append([]byte{0x30, 0x82, 0x01, 0x00}, bytes.Repeat([]byte{'b'}, 256)...)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// seen is a request as a server sees it.
type seen struct {
	method, url string
	header      http.Header
	body        []byte
}

// fake is a responder in memory that keeps what it is asked.
type fake struct {
	log    []seen
	count  atomic.Uint64
	answer func(n int, r *http.Request) (*http.Response, error) // n counts from 1
}

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	s := seen{method: r.Method, url: r.URL.String(), header: r.Header.Clone()}
	if r.Body != nil {
		s.body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	f.log = append(f.log, s)
	res, err := f.answer(len(f.log), r)
	if err == nil {
		res.Request = r
	}
	return res, err
}

// client returns a client whose network is f alone.
func (f *fake) client() *ocsphttp.Client {
	return &ocsphttp.Client{HTTP: ocsphttp.OwnRules(&http.Client{Transport: f}), Requests: &f.count, Now: time.Now}
}

// says returns a response with a body of a media type, and more header fields.
func says(status int, mediaType string, content []byte, fields ...string) *http.Response {
	h := make(http.Header)
	if mediaType != "" {
		h.Set("Content-Type", mediaType)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		h.Set(fields[i], fields[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(bytes.NewReader(content)), ContentLength: int64(len(content))}
}

const ocspType = "application/ocsp-response"

// good is the right answer.
func good() *http.Response { return says(200, ocspType, body) }

// always answers the same to each request.
func always(status int, mediaType string, content []byte, fields ...string) *fake {
	return &fake{answer: func(int, *http.Request) (*http.Response, error) {
		return says(status, mediaType, content, fields...), nil
	}}
}

// kind returns the Kind of an error, 0 for none.
func kind(err error) ocsphttp.Kind {
	var e *ocsphttp.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// question returns a question whose answer is taken, in one way alone.
func question(first ocsphttp.Way) *ocsphttp.Question {
	return &ocsphttp.Question{
		URL:     responder,
		Request: func(bool) ([]byte, error) { return der, nil },
		Judge:   func([]byte) (ocsphttp.Way, error) { return 0, nil },
		First:   first,
	}
}

// put puts a question in one way.
func put(t *testing.T, f *fake, first ocsphttp.Way) (*ocsphttp.Answer, error) {
	t.Helper()
	a, _, err := f.client().Ask(t.Context(), question(first))
	return a, err
}
