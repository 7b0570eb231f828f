package staple

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

var errLeafExpired = errors.New("staple: certificate has expired")

// resolve reads the certificate of e, once, and looks for its issuer. It
// returns the parsed leaf, or nil if it was not needed or does not parse.
func (s *Stapler) resolve(e *entry) *x509.Certificate {
	s.mu.Lock()
	resolved, chain := e.flags.resolved, e.rare().chain
	candidate := e.rare().candidate != nil
	wanted := e.issuer == nil && (!e.flags.none || candidate)
	scan := wanted && !e.rare().scanned
	s.mu.Unlock()
	if resolved && !wanted && s.opts.responders == nil {
		return nil
	}
	leaf := e.leafOf()
	if leaf == nil {
		s.unreadable(e)
		return nil
	}
	none := len(certinfo.HTTPURLs(leaf.OCSPServer, maxOCSPURLs)) == 0 || certinfo.Exempt(leaf)
	scan = scan && (!none || s.opts.responders != nil || candidate)
	var is *ocspresp.Issuer
	var alone bool
	var unissued error
	if scan {
		is, alone, unissued = s.issuers.InChain(leaf, chain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.flags.resolved {
		e.notBefore, e.notAfter, e.must = leaf.NotBefore.Unix(), leaf.NotAfter.Unix(), certinfo.MustStaple(leaf)
		e.flags.resolved, e.flags.none = true, none
		if now, end := s.nanos(), wall(e.notAfter+1); !e.flags.gone && now < end && end < e.die {
			e.die = end
			s.moveLocked(e)
		}
	}
	if !scan || e.issuer != nil {
		return leaf
	}
	if is != nil {
		e.foundLocked(is, alone)
	} else {
		m := e.also()
		m.scanned, m.unissued = true, unissued
	}
	return leaf
}

// unreadable has a certificate that does not parse pass through for good.
func (s *Stapler) unreadable(e *entry) {
	_, err := x509.ParseCertificate(e.DER)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.flags.resolved, e.flags.none, e.flags.final = true, true, true
	if m := e.also(); m.err == nil {
		m.err = fmt.Errorf("staple: certificate does not parse: %w", err)
		s.log(slogWarn, "certificate does not parse, nothing is stapled; look at it with openssl x509, and replace it", "certificate", e, "error", err)
	}
}

// maxOCSPURLs is how many OCSP URLs of a certificate count. It may be anybody's.
const maxOCSPURLs = 4

// decide says who is asked about e, if anyone. It returns an error if the
// function of WithResponders was to say that and has not.
func (s *Stapler) decide(e *entry, leaf *x509.Certificate) error {
	if leaf == nil {
		return nil
	}
	urls, on, err := s.askedAbout(e, leaf)
	pass := certinfo.Exempt(leaf)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !errors.Is(err, ErrNoResponder) && (e.route != nil || e.flags.off) {
		return nil // it gave no answer: what it said last stays
	}
	if pass {
		err = nil
	}
	e.flags.off, e.flags.none, e.flags.final = !on, pass || err == nil && len(urls) == 0, false
	if e.flags.off || e.flags.none {
		e.recovered() // what failed before is not wanted any more
	}
	if !e.flags.off && err == nil {
		e.route = s.routeOfLocked(urls)
		s.refuseLocked(e, leaf)
	}
	s.wantedLocked(e)
	return err
}

// askedAbout returns the responders for leaf, and whether it is stapled at all.
func (s *Stapler) askedAbout(e *entry, leaf *x509.Certificate) (urls []string, on bool, err error) {
	urls, on = certinfo.HTTPURLs(leaf.OCSPServer, maxOCSPURLs), true
	if s.opts.responders == nil {
		return urls, on, nil
	}
	named, on, err := s.askSwitch(e, leaf)
	switch usable := certinfo.HTTPURLs(named, len(named)); {
	case err != nil:
		return nil, true, err
	case len(usable) > 0:
		urls = usable
	case on && len(named) > 0:
		urls = nil
		err = fmt.Errorf("%w: WithResponders function named %q, want http or https URLs", ErrNoResponder, certinfo.Clip(named[0]))
	}
	return urls, on, err
}

// wantedLocked has e start over if it needs a staple and did not before, or if
// its issuer was found when nothing was to be tried any more.
func (s *Stapler) wantedLocked(e *entry) {
	if e.flags.off || e.flags.none || e.flags.expired || e.flags.gone {
		return
	}
	switch {
	case e.held.Load().state == StateNone:
		s.setLocked(e, StatePending)
	case e.flags.final || e.at != nil || e.due.Load() != never:
		return
	}
	s.anewLocked(e)
}

// refuseLocked notes why a certificate can't be stapled, once.
func (s *Stapler) refuseLocked(e *entry, leaf *x509.Certificate) {
	switch {
	case e.flags.none && e.must:
		e.flags.final, e.flags.none = true, false
		s.hopelessLocked(e, ErrNoResponder)
	case e.flags.none:
		if certinfo.NoRevAvail(leaf) && len(leaf.OCSPServer) > 0 && !e.rare().told {
			e.also().told = true
			s.log(slogWarn, "certificate says both noRevAvail and where its OCSP responder is; it is not asked (RFC 9608 §4)", "certificate", e)
		}
	case e.issuer == nil && !e.mayDownloadLocked(leaf):
		e.flags.final, e.flags.lost = true, true
		s.hopelessLocked(e, e.noIssuerLocked(leaf, nil))
	}
}

// hopelessLocked notes why no attempt is made for e, and tells it once.
func (s *Stapler) hopelessLocked(e *entry, err error) {
	m := e.also()
	m.err = err
	if !m.told {
		m.told = true
		s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
	}
}

// routeOfLocked returns the shared route over urls.
func (s *Stapler) routeOfLocked(urls []string) *route {
	key := strings.Join(urls, " ")
	if rt := s.routes.Get(key); rt != nil {
		return rt
	}
	rt := &route{}
	for _, u := range urls {
		r := s.responders.Put(u, &responder{url: u})
		r.shared = r.shared || len(urls) > 1
		rt.responders = append(rt.responders, r)
	}
	return s.routes.Put(key, rt)
}

// rechainLocked looks for the issuer of e in chain, if it was not found yet and
// chain is not the one that was looked at: the owner has mended it.
func (s *Stapler) rechainLocked(e *entry, chain [][]byte) {
	if len(chain) == 0 || e.issuer != nil || e.flags.gone || s.closed || slices.EqualFunc(chain, e.rare().chain, bytes.Equal) {
		return
	}
	m := e.also()
	m.chain, m.scanned = chain, false
	switch {
	case e.at != nil:
		s.workLocked(e, true) // goes on with it
	case e.flags.none, e.flags.off, e.flags.final && !e.flags.lost: // that would change nothing
	default:
		e.flags.final, e.flags.lost = false, false
		s.anewLocked(e)
	}
}

// anewLocked starts over with e, as with a certificate that was not known: who
// needs its response waits for it, whatever failed before.
func (s *Stapler) anewLocked(e *entry) {
	e.flags.tried, e.backoff = false, 0
	e.cold.Store(true)
	s.cache.queueLocked(e)
	if e.at == nil {
		s.startLocked(e, true)
		s.moveLocked(e)
	}
}

// foundLocked notes who issued the certificate of e. alone says that its chain
// lacks a certificate that can be handed to clients: one that was downloaded, or
// came from a record, is good for verifying, but may not be byte for byte the
// CA's, as its signature is not checked by anyone.
func (e *entry) foundLocked(is *ocspresp.Issuer, alone bool) {
	e.issuer, e.flags.alone = is, alone
	e.flags.final, e.flags.lost = e.flags.final && !e.flags.lost, false
	if e.more != nil {
		e.more.chain, e.more.unissued = nil, nil
	}
}

// mayDownloadLocked reports whether the issuer may be had from where leaf says. A
// signature that can't be checked can't be by any other certificate either.
func (e *entry) mayDownloadLocked(leaf *x509.Certificate) bool {
	_, unsupported := e.rare().unissued.(*certinfo.UnsupportedError)
	return !unsupported && len(leaf.IssuingCertificateURL) > 0 && len(certinfo.HTTPURLs(leaf.IssuingCertificateURL, 1)) > 0
}

// noIssuerLocked says which certificate is wanted, what speaks against the one
// that is there, and what came of asking for it.
func (e *entry) noIssuerLocked(leaf *x509.Certificate, downloads []error) error {
	wanted := certinfo.Clip(leaf.Issuer.String())
	err := fmt.Errorf("%w, wanted %q", ErrNoIssuer, wanted)
	switch why := e.rare().unissued.(type) {
	case nil:
	case *certinfo.UnsupportedError:
		err = &issuerError{fmt.Sprintf("issuer certificate %q is there but can't be used: %v", wanted, why), why}
	default:
		err = &issuerError{fmt.Sprintf("issuer certificate not found: one named %q is there, but it %v", wanted, why), why}
	}
	if len(downloads) > 0 {
		err = &causedError{err, errors.Join(downloads...)}
	}
	return err
}

// fetchIssuer gets the issuer of e from another certificate that it issued, or
// from where the certificate says. What failed there before since, in Unix ns, is
// tried again.
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
	is, errs := s.issuers.Elsewhere(ctx, leaf, time.Unix(0, since))
	for i, err := range errs {
		errs[i] = downloadFailed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case is != nil:
		e.foundLocked(is, false)
	case e.issuer == nil: // else a chain brought it meanwhile
		return e.noIssuerLocked(leaf, errs)
	}
	return nil
}

// downloadFailed names what was asked, which is no OCSP responder.
func downloadFailed(err error) error {
	de, ok := err.(*issuers.DownloadError)
	if !ok {
		return err
	}
	err = fault(de.Err)
	if re, ok := err.(*ResponseError); ok {
		err = errors.New(re.Reason.String())
		if re.Err != nil {
			err = fmt.Errorf("%s: %w", re.Reason, re.Err)
		}
	}
	return &ResponseError{Responder: de.URL, Reason: ReasonIssuer, Err: err}
}

// download gets what is at u, the issuer's certificate.
func (s *Stapler) download(ctx context.Context, u string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAttempt)
	defer cancel()
	body, err := s.web().Get(ctx, u)
	if err != nil {
		return nil, unanswered(u, err)
	}
	return body, nil
}
