package ocsptest

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// The media types of OCSP over HTTP (RFC 6960, appendix A).
const (
	requestType  = "application/ocsp-request"
	responseType = "application/ocsp-response"
)

// A reply is what a request is to be answered with. In memory it becomes an http.Response, on
// loopback bytes on a connection: this is the one place where the two meet.
type reply struct {
	err     error // there is no answer, for this reason
	status  int
	header  http.Header
	body    []byte
	missing int           // bytes that Content-Length promises and that never come
	pace    time.Duration // before each byte of the body
	endless bool          // zero bytes follow the body for ever
}

// newReply returns an ordinary answer.
func newReply(status int, contentType string, body []byte) *reply {
	header := make(http.Header)
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return &reply{status: status, header: header, body: body}
}

// refuse returns an answer that tells the author of a client what is wrong with the request.
func refuse(status int, format string, args ...any) *reply {
	return newReply(status, "text/plain; charset=utf-8", fmt.Appendf(nil, "ocsptest: "+format+"\n", args...))
}

// An exchange is one request on its way to a reply.
type exchange struct {
	r      *Responder
	req    *http.Request // as a server sees it
	q      query
	set    settings
	header http.Header // what an edit adds to the header of the answer
	whole  bool        // a fault alters the answer: a 304 would hide it
}

// answer decides how to answer a request. It returns nil if a Hook did that, to w.
func (r *Responder) answer(w http.ResponseWriter, req *http.Request) *reply {
	if p := r.issuer(req); p != nil {
		r.logDownload(req)
		if hook := r.settings().hook; hook != nil && hook(w, req, nil) {
			return nil
		}
		return p
	}
	x := &exchange{r: r, req: req, q: readQuery(req), header: make(http.Header)}
	entry, delay := r.begin(x)
	defer r.end()
	if err := x.wait(delay); err != nil {
		return &reply{err: err}
	}
	x.set = r.settings()
	if x.set.hook != nil && x.set.hook(w, req, x.q.serial) {
		return nil
	}
	p := x.reply(faults[r.takeFault(entry)])
	if p.err == nil && (p.status == http.StatusOK || p.status == http.StatusNotModified) {
		for name, values := range x.set.header {
			p.header[name] = values
		}
	}
	return p
}

// reply applies a fault to a request.
func (x *exchange) reply(fault faultInfo) *reply {
	x.whole = fault.alter != nil && fault.name != faults[FaultNone].name
	if fault.reply != nil {
		if p := fault.reply(x); p != nil {
			return p
		}
	}
	p := x.q.bad
	switch {
	case p != nil:
	case fault.edit != nil:
		p = x.edited(fault.edit)
	default:
		p = x.right()
	}
	if fault.alter != nil {
		fault.alter(p)
	}
	return p
}

// edited returns a response that a fault changes.
func (x *exchange) edited(edit func(*exchange, *Spec)) *reply {
	s := x.spec()
	edit(x, s)
	x.edit(s)
	p := newReply(http.StatusOK, responseType, x.r.encode(s))
	for name, values := range x.header {
		p.header[name] = values
	}
	return p
}

// right returns the right answer.
func (x *exchange) right() *reply {
	if x.set.presign && x.q.isFor(x.r.ca) { // a serial of another CA's may be one of ours
		return x.presigned()
	}
	s := x.spec()
	x.edit(s)
	return newReply(http.StatusOK, responseType, x.r.encode(s))
}

// edit lets the user's function change the response.
func (x *exchange) edit(s *Spec) {
	if x.set.edit != nil {
		x.set.edit(s)
	}
}

// spec describes the right answer to the request.
func (x *exchange) spec() *Spec { return x.r.spec(x.set, x.q) }

// errClosed ends what waits when the responder is closed.
var errClosed = errors.New("ocsptest: responder closed")

// wait waits for d, for ever if it is negative. It returns an error if the request or the
// responder ends before that.
func (x *exchange) wait(d time.Duration) error { return wait(x.req, d, x.r.done, nil) }

// wait waits for d, for ever if it is negative. It returns an error if the request's context
// ends, or one of the channels is closed, before that. Nothing else in this package waits.
func wait(req *http.Request, d time.Duration, done, closed <-chan struct{}) error {
	if d == 0 {
		return req.Context().Err()
	}
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
		return nil
	case <-req.Context().Done():
		return req.Context().Err()
	case <-done:
		return errClosed
	case <-closed:
		return http.ErrBodyReadAfterClose
	}
}

// begin counts and logs a request, and returns its entry in the log and its delay.
func (r *Responder) begin(x *exchange) (*Request, time.Duration) {
	entry := r.entry(x.req)
	entry.Body, entry.Serial, entry.Hash = x.q.der, x.q.serial, x.q.hash
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.add(entry)
	r.inFlight++
	r.peak = max(r.peak, r.inFlight)
	return entry, r.set.delay
}

// end marks a request as answered, though its body may take longer.
func (r *Responder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inFlight--
}

// entry returns what the log says about any request.
func (r *Responder) entry(req *http.Request) *Request {
	scheme := "http"
	if req.TLS != nil {
		scheme = "https"
	}
	return &Request{
		Time:   time.Now(),
		Method: req.Method,
		URL:    scheme + "://" + req.Host + req.URL.RequestURI(),
		Header: req.Header.Clone(),
	}
}

// takeFault decides how a request fails, if at all: by the script, else by the certificate, else
// by what holds for all.
func (r *Responder) takeFault(entry *Request) Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	fault := r.set.fault
	if entry.Serial != nil {
		if f, ok := r.faults[serialKey(entry.Serial)]; ok {
			fault = f
		}
	}
	if len(r.script) > 0 {
		fault, r.script = r.script[0], r.script[1:]
	}
	entry.Fault = fault
	return fault
}
