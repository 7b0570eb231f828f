package ocsphttp

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxGetURL is the longest URL of a GET, in bytes (RFC 9919 §6). Longer ones are
// asked by POST.
const maxGetURL = 255

// A Way is how a question is put. The zero Way is a GET that caches may answer,
// with the CertID hash of first choice.
type Way uint8

// What may be otherwise about a way, in the order in which changes are tried: Ask
// takes the lowest bit first.
const (
	Post       Way = 1 << iota // by POST
	PastCaches                 // caches are told not to answer
	OtherHash                  // with the other CertID hash
	// OwnConn is on a connection that no other request has. It follows a failure, and
	// is no change to try: the connection may be why there was no answer (REQ E15).
	OwnConn
)

// A Question is an exchange with one responder: a request in one way and, if its
// answer is unusable, in others. The caller fills it in for one call of Ask, which
// calls Request and Judge one at a time, in the goroutine of the caller.
type Question struct {
	URL     string                                 // of the responder
	Request func(otherHash bool) ([]byte, error)   // the DER of an OCSPRequest
	Judge   func(body []byte) (try Way, err error) // what an answer is refused for, and the changes of the way that may do better
	Held    Validator                              // of the answer that is held, which a GET asks to be out of date
	MaxAge  time.Duration                          // of what caches may answer with (RFC 9111 §5.2.1.1); 0: whatever they hold
	First   Way
	May     Way // the changes that may be tried, each once
}

// An Answer is one that Judge accepted, or a 304: the response that the caller has is
// still current. It has no body: Judge keeps what it read of that.
type Answer struct {
	MaxAge    time.Duration
	Validator Validator // zero after a POST or a 304
}

// Learned is what came of a question, for [Memory]. It is filled in on an error,
// too: most of what a Memory learns comes from failures.
type Learned struct {
	Reply  Reply // to the way that did best
	Helped Way   // the changes that led to that way
	Failed Way   // the changes that did no better
	Lost   bool  // HTTP brought no answer, for the last request
	Good   bool  // there is an answer
}

// A Reply is what came of a question, as far as it tells GET from POST. It says
// nothing of the certificate: "unauthorized" to a GET shows that GET works.
type Reply uint8

const (
	// NoWord: no connection was made, the caller gave up, or POST was the only way.
	NoWord Reply = iota
	// Silent: a connection was made, and no answer came on it.
	Silent
	// Useless: an answer came that is none to a question of OCSP.
	Useless
	// Taken: the responder took the question, whatever it says of the certificate.
	Taken
)

// try is a question put in one way, and what came of it: an answer, or an err with
// the changes that may do better.
type try struct {
	way    Way
	answer *Answer
	err    error
	reply  Reply
	change Way  // the changes of way that may do better
	fits   bool // a GET, and so a choice of the method
	lost   bool // HTTP brought no answer
}

// Ask puts q, and once more for each change that may do better and that q allows: past
// caches by POST, and by GET where POST is refused.
// The error is that of Judge or Request, or an [*Error], of the way that did best.
// The answer is nil if there is an error.
//
// A change stays if the responder took the question in the new way and had not in
// the old one, or gave a usable answer. Otherwise the next change is tried on the way
// before it. Each change is tried once: an exchange must not become a loop.
func (c *Client) Ask(ctx context.Context, q *Question) (*Answer, Learned, error) {
	var l Learned
	best := c.put(ctx, q, q.First)
	l.Lost = best.lost
	may := q.May &^ (q.First & PastCaches)
	for ctx.Err() == nil {
		change := best.change & may
		if change &= -change; change == 0 { // the lowest bit
			break
		}
		may &^= change
		way := best.way ^ change
		if change == PastCaches {
			way |= Post // many caches heed no request, and none keeps a POST
		}
		if l.Lost {
			way |= OwnConn
		}
		next := c.put(ctx, q, way)
		if change == PastCaches && next.change&Post != 0 && best.way&Post == 0 && ctx.Err() == nil { // it takes no POST
			if next.lost {
				way |= OwnConn
			}
			next = c.put(ctx, q, way^Post)
			may &^= Post // four questions at most
		}
		l.Lost = next.lost
		if next.reply == Taken && (best.reply != Taken || next.err == nil) {
			best = next
			l.Helped |= change
		} else {
			l.Failed |= change
		}
	}
	if best.fits {
		l.Reply = best.reply
	}
	l.Good = best.err == nil
	return best.answer, l, best.err
}

// put puts q in one way. It sends one request, apart from redirects. Only a GET
// that caches may answer is conditional, and only with the first hash: with the other
// its URL is another, and a validator is of one (RFC 9110 §8.8). A 304 to any other request
// confirms nothing, and is refused like any status but 200.
func (c *Client) put(ctx context.Context, q *Question, way Way) try {
	t := try{way: way}
	der, err := q.Request(way&OtherHash != 0)
	if err != nil {
		t.err = err
		return t
	}
	r := request{method: http.MethodPost, url: q.URL, header: http.Header{"Accept": {mediaType}}, body: der, ocsp: true, own: way&OwnConn != 0}
	u, conditional := "", false
	if u, t.fits = getURL(q.URL, der); t.fits && way&Post == 0 {
		r.method, r.url, r.body = http.MethodGet, u, nil
		conditional = way&(PastCaches|OtherHash) == 0 && q.Held.condition(r.header)
	} else {
		r.header.Set("Content-Type", "application/ocsp-request")
	}
	switch {
	case way&PastCaches != 0:
		r.header.Set("Cache-Control", "no-cache")
	case q.MaxAge > 0:
		r.header.Set("Cache-Control", "max-age="+strconv.FormatInt(int64(q.MaxAge/time.Second), 10))
	}
	res, err := c.fetch(ctx, r)
	if err == nil && !(conditional && res.status == http.StatusNotModified) {
		err = res.problem()
	}
	switch {
	case err != nil:
		t.fail(ctx, err)
	case res.status == http.StatusNotModified:
		t.answer, t.reply = &Answer{MaxAge: maxAge(res.header, res.now)}, Taken
	default:
		t.judge(q, res)
	}
	if !t.fits {
		t.change &^= Post
	}
	return t
}

// judge has the body of an answer judged. If Judge says that POST may do better, the
// answer was none to a question of OCSP: junk, malformedRequest, internalError.
// Any other refusal shows that the responder read the request.
func (t *try) judge(q *Question, res *response) {
	t.change, t.err = q.Judge(res.body)
	switch {
	case t.err == nil:
		t.change, t.reply = 0, Taken
		t.answer = &Answer{MaxAge: maxAge(res.header, res.now)}
		if t.way&(Post|OtherHash) == 0 {
			t.answer.Validator = NewValidator(res.header.Get("ETag"), res.header.Get("Last-Modified"))
		}
	case t.change&Post != 0:
		t.reply = Useless
	default:
		t.reply = Taken
	}
}

// fail notes what HTTP brought instead of an answer. A GET that was answered with
// nothing usable is followed by a POST at once, unless the responder says when to come
// back. One that got no answer on its connection is not: it may have used up the
// time, so the next attempt begins with POST. Without a connection, or when the
// caller gave up, nothing is learned of the method (REQ A6).
func (t *try) fail(ctx context.Context, err error) {
	t.err = err
	var e *Error
	switch {
	case !errors.As(err, &e) || ctx.Err() == context.Canceled:
	case e.answered:
		t.reply, t.lost = Useless, true
		if e.RetryAfter == 0 { // else the responder asks for patience, not for another question
			t.change = Post
		}
	case e.connected:
		t.reply, t.lost = Silent, true
	default:
		t.lost = true
	}
}

// getURL returns the URL of a GET (RFC 6960 A.1), and whether it may be used. A
// responder's URL may have a path of its own; one with a query is asked by POST.
// Base64 is escaped as a query is, so that "/", "+" and "=" are, too: a server would
// take the slash for a path separator (RFC 9919 §6).
func getURL(responder string, der []byte) (u string, fits bool) {
	u = responder
	if parsed, err := url.Parse(u); err == nil {
		u = parsed.String() // else net/http would escape it, and unescape the slashes in base64
	}
	u = strings.TrimRight(u, "/") + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(der))
	return u, len(u) <= maxGetURL && !strings.ContainsAny(responder, "?#")
}
