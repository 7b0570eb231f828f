package issuers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// The limits of what is remembered of downloads. URLs come from certificates, so their
// number has a limit; over it all is forgotten, at the cost of one more download for each URL in
// use. maxRecall is also how late, at most, a mended URL is noticed.
const (
	maxDownloads = 256 // that are remembered
	maxRecall    = time.Minute
)

// wait is how much of an attempt's time, 10 s, the search for the issuer may take. A
// download that hangs ends before the attempt does, so that its error names the issuer
// and not the responder.
const wait = 7500 * time.Millisecond

// A DownloadError says what came of asking a caIssuers URL. URL is whole; only the
// text cuts it. Err begins with what kind of failure it is. The root makes a
// ResponseError of it.
type DownloadError struct {
	URL string
	Err error
}

func (e *DownloadError) Error() string { return certinfo.Clip(e.URL) + ": " + e.Err.Error() }
func (e *DownloadError) Unwrap() error { return e.Err }

// download is what came of asking a URL last: an issuer, or an error. It keeps the
// issuer alive, which others hold weakly.
type download struct {
	is  *ocspresp.Issuer
	err error
	at  time.Time
	// gap is how long the URL is not asked again. Retries of one certificate are
	// further apart; those of a thousand are not.
	gap time.Duration
}

// lately reports whether d is less than span old. A time in the future is
// from before the clock was set back.
func (d *download) lately(now time.Time, span time.Duration) bool {
	return !d.at.After(now) && now.Sub(d.at) < span
}

// Elsewhere finds the issuer of leaf by another certificate that it issued, or at
// the URLs that leaf names. Where there is none it returns a [DownloadError] for
// each that was asked. A failure from before since is not remembered: Prefetch and
// Refresh ask whatever failed before.
//
// It blocks for 7.5 s, or until ctx ends. A download under way then goes on, and what
// comes of it is remembered.
func (f *Finder) Elsewhere(ctx context.Context, leaf *x509.Certificate, since time.Time) (*ocspresp.Issuer, []error) {
	if is := f.known(leaf); is != nil {
		return is, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var errs []error
	for _, u := range certinfo.HTTPURLs(leaf.IssuingCertificateURL, maxURLs) {
		is, err := f.at(ctx, u, since)
		if err == nil {
			err = certinfo.SignedBy(is.Cert, leaf)
		}
		if err == nil {
			return is, nil
		}
		errs = append(errs, &DownloadError{URL: u, Err: kindOf(err)})
	}
	return nil, errs
}

// kindOf says of an error of HTTP, or of the code that makes requests, what kind of
// failure it is. Others say so themselves.
func kindOf(err error) error {
	if pe, ok := err.(*foreign.PanicError); ok {
		return fmt.Errorf("panic in user code: %w", pe)
	}
	if he, ok := errors.AsType[*ocsphttp.Error](err); ok && he.Err != nil {
		return fmt.Errorf("%s: %w", he.Kind, he)
	}
	return err
}

// at returns the certificate at u. All who want it at one time share a download,
// also of a failure. It repeats only if the caller that was to make it for all had no
// place when its ctx ended: the others have time left.
func (f *Finder) at(ctx context.Context, u string, since time.Time) (*ocspresp.Issuer, error) {
	const what = "issuer download" // not the name of an exchange: however many of those hang, this is not refused
	for {
		is, _, err := f.Sharing.Attempt(ctx, what, u, func() (*ocspresp.Issuer, error) {
			if is, err := f.recall(u, since); is != nil || err != nil {
				return is, err
			}
			return f.fetch(ctx, u)
		})
		if err == nil || ctx.Err() != nil || !errors.Is(err, errNoPlace) {
			return is, err
		} // else who was to make the download for all ran out of time, waiting for a place
	}
}

// recall returns what came of asking u lately, if it was asked: a failure only if
// it came after since. Two nils say that u has to be asked.
func (f *Finder) recall(u string, since time.Time) (*ocspresp.Issuer, error) {
	id := sha256.Sum256([]byte(u))
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.downloads[id]; d.lately(f.Now(), d.gap) && (d.err == nil || !d.at.Before(since)) {
		return d.is, d.err
	}
	return nil, nil
}

// remember notes what came of asking u: for longer each time, so that a failure
// that passes costs no certificate more than its own retry. The time doubles from
// half a second to maxRecall, and starts again once u was not asked for 10 of these.
func (f *Finder) remember(u string, is *ocspresp.Issuer, err error) {
	id := sha256.Sum256([]byte(u))
	f.mu.Lock()
	defer f.mu.Unlock()
	now, d := f.Now(), f.downloads[id]
	gap := 500 * time.Millisecond
	if d.lately(now, 10*maxRecall) {
		gap = min(max(2*d.gap, gap), maxRecall)
	}
	if f.downloads == nil {
		f.downloads = make(map[digest]download)
	}
	if len(f.downloads) >= maxDownloads {
		clear(f.downloads)
	}
	f.downloads[id] = download{is: is, err: err, at: now, gap: gap}
}

// fetch gets the certificate at u, and notes what came of it. It waits for a place
// until ctx ends; the download goes on without. Places are bounded by host, in lower
// case and without the port, as one host may listen on many. A URL that does not
// parse has the empty host, and fails in get.
func (f *Finder) fetch(ctx context.Context, u string) (*ocspresp.Issuer, error) {
	host := ""
	if parsed, err := url.Parse(u); err == nil {
		host = strings.ToLower(parsed.Hostname())
	}
	get, cancel := context.WithCancelCause(f.Context)
	defer cancel(nil)
	leave, err := f.places.take(ctx, host, cancel)
	if err != nil {
		return nil, err
	}
	defer leave()
	is, err := f.get(get, u)
	if err != nil && context.Cause(get) == errGaveWay {
		err = errGaveWay
	}
	f.remember(u, is, err)
	return is, err
}

// get gets the certificate at u.
func (f *Finder) get(ctx context.Context, u string) (*ocspresp.Issuer, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	body, err := f.Get(ctx, u)
	if err != nil {
		return nil, err
	}
	cert, err := parse(body)
	if err != nil {
		return nil, err
	}
	return f.Parse(cert.Raw), nil
}

// parse reads a certificate in DER or PEM. RFC 5280 §4.2.2.1 prescribes DER, or a
// PKCS#7 bag of certificates, which is not read: its error says so, and what to
// publish. The type of a PEM block is not quoted: the URL may lead to an internal
// server.
func parse(body []byte) (*x509.Certificate, error) {
	if block, _ := pem.Decode(body); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("PEM block of another type: unsupported, want CERTIFICATE")
		}
		body = block.Bytes
	}
	if len(body) > maxDER {
		return nil, fmt.Errorf("certificate of %d bytes, want %d at most", len(body), maxDER)
	}
	cert, err := x509.ParseCertificate(body)
	if err != nil && bytes.Contains(body[:min(len(body), 32)], oidSignedData) {
		return nil, errors.New("PKCS#7 (application/pkcs7-mime): unsupported, want a DER or PEM certificate")
	}
	if err != nil {
		return nil, errors.New(errtext.Cut(err.Error())) // it may quote the certificate, and is kept
	}
	return cert, nil
}

// maxDER is the longest certificate that is taken, in bytes: it is kept for as long as one
// that it issued. One with a key of 8,192 bits has about 3 KiB.
const maxDER = 16 << 10

// oidSignedData is how a PKCS#7 bag of certificates begins, in DER.
var oidSignedData = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}
