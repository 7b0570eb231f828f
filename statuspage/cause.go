package statuspage

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"net/url"
	"strings"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
)

// explain says what went wrong, with the reason first: a URL may be longer than
// what is shown of all. That of shown is left out, as it stands beside it.
func explain(err error, shown string) string {
	switch e := err.(type) {
	case *staple.ResponseError:
		text := e.Reason.String()
		if e.Err != nil {
			text += ": " + explain(e.Err, cmp.Or(e.Responder, shown))
		}
		if e.Responder != "" && e.Responder != shown {
			text += " (" + hostOf(e.Responder) + ")"
		}
		return text
	case interface{ Unwrap() []error }:
		if text := explainAll(err, e.Unwrap(), shown); text != "" {
			return text
		}
	}
	return errtext.Bare(err)
}

// explainAll explains the parts of err, if they are all of its text, side by side as
// errors.Join has them, or one due to the other. Else it returns "".
func explainAll(err error, parts []error, shown string) string {
	var plain, explained []string
	for _, part := range parts {
		plain = append(plain, errtext.Bare(part))
		explained = append(explained, explain(part, shown))
	}
	for _, between := range []string{"; ", ": "} {
		if errtext.Bare(err) == strings.Join(plain, between) {
			return strings.Join(explained, between)
		}
	}
	return ""
}

// hostOf returns the host of a URL, or all of it where there is none.
func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	return cmp.Or(u.Host, s)
}

// whyNone says why a certificate is in StateNone: what of the causes that the
// state has can be seen in it, else the one that can't; "" if that is not sure. It
// checks a signature, so it is for rows that are shown; as staple does, by no key of more
// than 8,192 bits, which takes seconds.
func whyNone(leaf *x509.Certificate, now time.Time) string {
	switch {
	case now.After(leaf.NotAfter):
		return "the certificate has expired"
	case certinfo.Challenge(leaf):
		return "acme-tls/1 challenge"
	case certinfo.NoRevAvail(leaf):
		return "says noRevAvail: its status is not published"
	case certinfo.SignedBy(leaf, leaf) == nil:
		return "self-signed"
	case len(leaf.OCSPServer) == 0:
		return "names no responder"
	case len(certinfo.HTTPURLs(leaf.OCSPServer, 1)) == 0:
		return "names no responder that can be asked over HTTP"
	case bytes.Equal(leaf.RawSubject, leaf.RawIssuer): // signed in a way that can't be checked here
		return ""
	}
	return "switched off by WithResponders"
}
