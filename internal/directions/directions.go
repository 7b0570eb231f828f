// Package directions decides who is asked about a certificate, if anyone, and whether
// there is anything to do: what the certificate says, what the function of
// WithResponders says of it, and what follows once its issuer was looked for.
//
// The root calls [Ask] and [Of] for each attempt, off the handshake and without its
// lock, and [Decide] with it. The route of the attempt before is an argument: the package keeps
// nothing. It looks for no issuer, reads no clock, and asks no responder.
//
// The function is the user's, and may panic or hang. Then it has not switched a
// certificate off: one with responders goes on with these, another waits.
//
// Read directions.go, who is asked, then need.go, whether anybody is.
package directions

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/schedule"
)

const (
	// Function names the user's function, for people.
	Function = "WithResponders function"
	// wait is how long one call of it may take. It keeps a worker that long.
	wait = 5 * time.Second
)

// Said is what the function said of a certificate. The zero Said leaves it to the
// certificate.
type Said struct {
	URLs []string // the responders in order of preference; none: the certificate's own
	Off  bool     // nobody is asked
}

// A SlowError is returned for a function that gave no answer in time, or was not called
// as too many calls of it have not returned. The latter wraps a [foreign.HungError].
type SlowError struct{ Err error }

func (e *SlowError) Error() string { return e.Err.Error() }
func (e *SlowError) Unwrap() error { return e.Err }

// Ask calls f, the user's function, with leaf. A nil f says nothing. The error is a
// [SlowError] or a [foreign.PanicError], or that of ctx; a call that goes on is counted
// in calls.
func Ask(ctx context.Context, calls *foreign.Calls, f func(*x509.Certificate) (urls []string, on bool), leaf *x509.Certificate) (Said, error) {
	if f == nil {
		return Said{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	said, err := foreign.CallWithin(ctx, calls, Function, func() (Said, error) {
		urls, on := f(leaf)
		return Said{URLs: urls, Off: !on}, nil
	})
	if _, hung := err.(*foreign.HungError); hung {
		err = &SlowError{err}
	} else if errors.Is(err, context.DeadlineExceeded) {
		err = &SlowError{fmt.Errorf("%s: no answer in %v: %w", Function, wait, err)}
	}
	return said, err
}

// A Route is who is asked about a certificate.
type Route struct {
	Need schedule.Need // Wanted, None or Off
	// URLs are http and https alone, in order. With None and Off they are only shown.
	URLs []string
	// Err is why it is not known who is asked: the function was to say it. Need is
	// Wanted then, and URLs are empty.
	Err error
}

// Of returns the route of leaf. said is the zero Said without a function. failed is why
// the function gave no answer: then last stays, which is the route of the attempt before.
// Before the function said anything nobody is asked, and nothing is switched off.
//
// A certificate that is never asked about needs no answer of the function. One without
// URLs is of this kind only if the function does not fail: it may name some.
func Of(leaf *x509.Certificate, said Said, failed error, last Route) Route {
	r := Route{Need: schedule.Wanted, URLs: certinfo.HTTPURLs(leaf.OCSPServer, schedule.MaxRoute)}
	usable := certinfo.HTTPURLs(said.URLs, len(said.URLs))
	switch {
	case failed != nil && last.Need == schedule.Off:
		return Route{Need: schedule.Off, URLs: last.URLs}
	case failed != nil && (last.Need == schedule.None || last.Need == schedule.Hopeless && len(last.URLs) == 0):
		return Route{Need: schedule.None, URLs: last.URLs}
	case failed != nil && len(last.URLs) > 0:
		r.URLs = last.URLs
	case failed != nil:
		r.URLs, r.Err = nil, failed
	case said.Off:
		r.Need = schedule.Off
		return r
	case len(usable) > 0:
		r.URLs = usable
	case len(said.URLs) > 0:
		r.URLs, r.Err = nil, fmt.Errorf("%w: %s named %q, want http or https URLs", ErrNoResponder, Function, certinfo.Clip(said.URLs[0]))
	}
	if certinfo.Exempt(leaf) || len(r.URLs) == 0 && r.Err == nil {
		r.Need, r.Err = schedule.None, nil
	}
	return r
}

// Own returns the route of leaf by what it says itself.
func Own(leaf *x509.Certificate) Route { return Of(leaf, Said{}, nil, Route{}) }

// hostOf returns the host of u and its port, which limits count by, in one spelling: a
// certificate may write "http://a", "http://A:80", "http://a.:0080" for the same.
func hostOf(u *url.URL) string {
	port := strings.TrimLeft(u.Port(), "0")
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return strings.TrimRight(strings.ToLower(u.Hostname()), ".") + ":" + port
}

// Keys returns the keys of the responders. issuer is the key of the certificate's
// issuer, with which its signature verified, so no certificate affects the backoff of
// another CA's. It is empty for responders that are only shown.
func (r Route) Keys(issuer string) []schedule.Key {
	var keys []schedule.Key
	for _, u := range r.URLs {
		k := schedule.Key{URL: u, Issuer: issuer}
		if parsed, err := url.Parse(u); err == nil {
			k.Host = hostOf(parsed)
		}
		keys = append(keys, k)
	}
	return keys
}
