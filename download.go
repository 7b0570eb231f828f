package staple

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// fetchIssuer gets the issuer of e from another certificate that it issued, or
// from where the certificate says (RFC 5280 §4.2.2.1). What failed there before
// since, in Unix ns, is tried again.
func (s *Stapler) fetchIssuer(ctx context.Context, e *entry, since int64) error {
	leaf := e.leafOf()
	if leaf == nil {
		return ErrNoIssuer
	}
	// What hangs here is to be told from a responder that does.
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)*3/4)
		defer cancel()
	}
	is := s.knownIssuer(leaf)
	var errs []error
	for _, u := range certinfo.HTTPURLs(leaf.IssuingCertificateURL, maxIssuerURLs) {
		if is != nil {
			break
		}
		var err error
		if is, err = s.issuerAt(ctx, u, since); err == nil {
			err = certinfo.SignedBy(is.Cert, leaf)
		}
		if err != nil {
			is = nil
			errs = append(errs, downloadFailed(u, err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case is != nil:
		e.foundLocked(is, true)
	case e.issuer == nil: // else a chain brought it meanwhile
		return e.noIssuerLocked(leaf, errs)
	}
	return nil
}

// downloadFailed names what was asked, which is no OCSP responder.
func downloadFailed(u string, err error) error {
	if re, ok := err.(*ResponseError); ok {
		err = errors.New(re.Reason.String())
		if re.Err != nil {
			err = fmt.Errorf("%s: %w", re.Reason, re.Err)
		}
	}
	return &ResponseError{Responder: u, Reason: ReasonIssuer, Err: err}
}

const (
	maxDownloads = 256 // that are remembered
	maxRecall    = time.Minute
)

// download is what came of asking a caIssuers URL last.
type download struct {
	is  *ocspresp.Issuer
	err error
	at  int64 // Unix ns
	// gap is how long it is not asked again. Retries of one certificate are
	// further apart; those of a thousand are not.
	gap time.Duration
}

// issuerAt returns the certificate at u. Certificates of one issuer share the
// download, and what came of it.
func (s *Stapler) issuerAt(ctx context.Context, u string, since int64) (*ocspresp.Issuer, error) {
	const what = "issuer download" // not the name of an exchange: however many of those hang, this is not refused
	der, err := s.shared(ctx, what, u, func() ([]byte, error) {
		is, err := s.recall(u, since)
		if is == nil && err == nil {
			is, err = s.download(s.ctx, u)
			s.remember(u, is, err)
		}
		if err != nil {
			return nil, err
		}
		return is.Cert.Raw, nil
	})
	if err != nil {
		if ctx.Err() != nil {
			s.flight.Forget(what + " " + u) // the next attempt must not wait for a call that was lost
		}
		return nil, err
	}
	return s.issuerFrom(der), nil
}

// recall returns what came of asking u lately, if it was asked: a failure only if
// it came after since.
func (s *Stapler) recall(u string, since int64) (*ocspresp.Issuer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.downloads[u]; recent(d.at, s.nanos(), d.gap) && (d.err == nil || d.at >= since) {
		return d.is, d.err
	}
	return nil, nil
}

// remember notes what came of asking u: for longer each time, so that a failure
// that passes costs no certificate more than its own retry.
func (s *Stapler) remember(u string, is *ocspresp.Issuer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, d := s.nanos(), s.downloads[u]
	gap := 500 * time.Millisecond
	if recent(d.at, now, 10*maxRecall) {
		gap = min(max(2*d.gap, gap), maxRecall)
	}
	if s.downloads == nil {
		s.downloads = make(map[string]download)
	}
	if len(s.downloads) >= maxDownloads {
		clear(s.downloads)
	}
	s.downloads[u] = download{is: is, err: err, at: now, gap: gap}
}

// download gets a certificate over HTTP.
func (s *Stapler) download(ctx context.Context, u string) (*ocspresp.Issuer, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAttempt)
	defer cancel()
	res, err := s.roundTrip(ctx, u, http.MethodGet, u, nil, nil)
	if err != nil {
		return nil, err
	}
	if res.status != http.StatusOK {
		return nil, &ResponseError{Responder: u, Reason: ReasonHTTPStatus, Err: res.unexpected()}
	}
	cert, err := parseIssuer(res.body)
	if err != nil {
		return nil, err
	}
	return s.issuerFrom(cert.Raw), nil
}

// parseIssuer reads a certificate in DER or PEM.
func parseIssuer(body []byte) (*x509.Certificate, error) {
	if block, _ := pem.Decode(body); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q: unsupported, want CERTIFICATE", block.Type)
		}
		body = block.Bytes
	}
	cert, err := x509.ParseCertificate(body)
	if err != nil && bytes.Contains(body[:min(len(body), 32)], oidSignedData) {
		return nil, errors.New("PKCS#7 (application/pkcs7-mime): unsupported, want a DER or PEM certificate")
	}
	return cert, err
}

// oidSignedData is how a PKCS#7 bag of certificates begins, in DER.
var oidSignedData = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}
