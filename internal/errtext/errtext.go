// Package errtext makes the text of errors: on one line, bounded, with the name of the
// certificate that they are about, and with the library's prefix once.
//
// The root, held, issuers and ocspresp build errors with it. An error is built for many
// certificates and read for few, so a text is made when it is asked for. errors.Is and
// errors.As need none.
package errtext

import (
	"crypto/x509"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
)

// Prefix begins the text of every error that a caller of the library gets.
const Prefix = "staple: "

// Bare returns the text of err for another to go on with: on one line, and
// without the prefix, wherever an error of ours is in it.
func Bare(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(strings.TrimPrefix(line, Prefix), ": "+Prefix, ": ")
	}
	return strings.Join(lines, "; ")
}

// maxDetail bounds what one error adds to the text of another. With four responders
// and a name the whole stays below 4 KiB.
const maxDetail = 500

// Cut makes text legible in which others' may be, and shortens it to 500 bytes and three
// dots. A TLS server's names, which crypto/x509 quotes as they are, may have escape sequences
// for a terminal.
func Cut(s string) string { return certinfo.Cut(certinfo.Legible(s), maxDetail) }

// Stamp gives a time as responses do: in UTC, to the second.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// About says that err, which may be nil, is about a certificate. leaf may be nil: then der
// is parsed when the text is wanted.
func About(der []byte, leaf *x509.Certificate, err error) error {
	if err == nil {
		return nil
	}
	return &aboutError{der, leaf, err}
}

// An aboutError keeps the certificate, and not its name: most are never read.
type aboutError struct {
	der  []byte
	leaf *x509.Certificate
	err  error
}

func (e *aboutError) Error() string {
	leaf := e.leaf
	if leaf == nil {
		leaf, _ = x509.ParseCertificate(e.der) // nil if it does not parse
	}
	return Prefix + certinfo.Name(e.der, leaf) + ": " + Bare(e.err)
}

// Unwrap returns the error without the name.
func (e *aboutError) Unwrap() error { return e.err }

// Of returns an error with a text of its own that is each of errs.
func Of(text func() string, errs ...error) error { return &ofError{text, errs} }

type ofError struct {
	text func() string
	errs []error
}

func (e *ofError) Error() string { return e.text() }

func (e *ofError) Unwrap() []error { return e.errs }

// Caused returns an error that is err and what that is due to.
func Caused(err, cause error) error {
	return Of(func() string { return err.Error() + ": " + Bare(cause) }, err, cause)
}
