package ocsphttp

import (
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Kind is one way for HTTP to bring no answer. The zero Kind is none. The root has
// a Reason of the same number for each.
type Kind uint8

// The kinds of an Error.
const (
	Network     Kind = iota + 1 // the responder was not reached, or the connection broke
	Timeout                     // no complete answer in the time allowed
	Redirect                    // too many redirects, or one to a scheme other than http and https
	Status                      // a status other than 200
	ContentType                 // a media type other than application/ocsp-response, or an encoding
	TooLarge                    // more than MaxBody
	Truncated                   // the answer ended before its announced length
	Empty                       // an answer without a byte in it
)

var kindText = [...]string{
	Network:     "network failure",
	Timeout:     "timeout",
	Redirect:    "redirect not followed",
	Status:      "unexpected HTTP status",
	ContentType: "unexpected content type",
	TooLarge:    "response too large",
	Truncated:   "response truncated",
	Empty:       "empty response",
}

// String describes k in a few words, in lower case, for the text of an error.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindText) {
		return "no kind"
	}
	return kindText[k]
}

// An Error says why HTTP brought no answer. It does not name the URL: who asked adds
// that. The text of Err is short, whatever a server sent.
type Error struct {
	Kind       Kind
	Status     int           // of the HTTP response, if there was one
	RetryAfter time.Duration // what the responder asked for; 0: nothing
	Err        error         // the detail; nil where Kind says it all

	answered  bool // an HTTP response came
	connected bool // none did, on a connection that was there
}

// Error returns the detail alone, for an error that has said the Kind.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Kind.String()
	}
	return e.Err.Error()
}

// Unwrap returns the detail; it may be an error of the user's RoundTripper.
func (e *Error) Unwrap() error { return e.Err }

// Ours reports whether is holds for an error in the tree of err, down to an [*Error] and not
// below it. errors.Is and errors.As would call methods of what the user's RoundTripper
// returned, which may call the Stapler, hang or panic: not while a lock is held.
func Ours(err error, is func(error) bool) bool {
	if err == nil || is(err) {
		return err != nil
	}
	switch err := err.(type) {
	case *Error:
	case interface{ Unwrap() error }:
		return Ours(err.Unwrap(), is)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(err.Unwrap(), func(e error) bool { return Ours(e, is) })
	}
	return false
}

// maxDetail is the longest text of a client that is kept as it is, in bytes. A user's
// RoundTripper may say anything in its error.
const maxDetail = 500

// quoting has a part of each text in which net/http, net/textproto and HTTP/2 quote what
// a server sent. That may be a secret of a service that is no responder.
var quoting = []string{
	"malformed", "bad Content-Length", "multiple Content-Length", "transfer encoding", "parse Location header",
	"invalid header field", "pseudo-header",
}

// transportError types what a client says, without the URL that it repeats: with
// a GET that has the whole request in it. A text that quotes the server is replaced.
func transportError(err error) *Error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	e := &Error{Kind: Network, Err: err}
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout(): // as is context.DeadlineExceeded
		e.Kind = Timeout
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.Kind = Truncated
	}
	text, _, debug := strings.Cut(err.Error(), ", debug=") // HTTP/2's GOAWAY has a text of the server's
	switch {
	case slices.ContainsFunc(quoting, func(part string) bool { return strings.Contains(text, part) }):
		e.Err = errors.New("malformed HTTP response")
	case debug, len(text) > maxDetail:
		e.Err = errors.New(cut(text))
	}
	return e
}

// cut shortens text that came from the network, where it may be of any length, to 200
// bytes of valid UTF-8: it ends up in errors, events and logs.
func cut(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
