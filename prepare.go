package staple

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

const (
	switchCode = "WithResponders function" // calls of it
	switchWait = 5 * time.Second           // for one of these
)

var errLeafExpired = errors.New("staple: certificate has expired")

// prepare finds out what there is to know of a certificate without asking a
// responder: who issued it, who is asked, what the store has. It runs on a worker
// without the lock, and conclude reports the result, once for each Prepare. A download
// leaves the worker, or URLs that hang would keep all other certificates waiting.
func (s *Stapler) prepare(a action) {
	e := a.Item
	leaf := s.readLeaf(e)
	s.issuerFromStore(e)
	d := s.directions(e, leaf)
	s.mu.Lock()
	if len(d.urls) > 0 && e.Best() == nil {
		e.edit().first = d.urls[0]
	}
	missing := s.wantsIssuerLocked(e, leaf, d)
	s.mu.Unlock()
	if !missing {
		s.conclude(a, leaf, d, 0)
		return
	}
	s.calls.Go(func() { // it may take seconds, and others wait for this worker
		begun := time.Now()
		d.issuer = s.fetchIssuer(a, leaf)
		s.conclude(a, leaf, d, time.Since(begun))
	})
}

// judgeStaple does of prepare what needs no attempt: the source set a staple.
func (s *Stapler) judgeStaple(e *entry) {
	s.readLeaf(e)
	s.judge(e)
}

// conclude reports what preparing found, once it has looked at what the store has.
// spent is how long the issuer was looked for, which counts as time of the attempt. The
// schedule wants its answer for a certificate that was dropped meanwhile, too.
func (s *Stapler) conclude(a action, leaf *x509.Certificate, d directions, spent time.Duration) {
	e := a.Item
	f := schedule.Facts{Spent: int64(spent)}
	if d.need != schedule.Off {
		s.judge(e)
	}
	if d.need == schedule.Wanted && d.issuer == nil && d.err == nil && s.hasIssuer(e) {
		f.Fresh = s.load(a, d.urls)
		f.Leased = !f.Fresh && s.leasedElsewhere(a)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := s.nanos()
	if e.gone() {
		s.doLocked(s.sched.Prepared(e, schedule.Facts{}, now))
		return
	}
	err := s.factsLocked(e, leaf, &d, &f, now)
	best := e.Best()
	actions := s.sched.Prepared(e, f, now)
	if best != nil && best != e.Best() {
		e.held.Store(e.held.Load().WithoutValidator())
	}
	switch f.Need {
	case schedule.Hopeless:
		s.hopelessLocked(e, err)
	case schedule.LeafExpired:
		s.reviewLocked(e, false)
	case schedule.None:
		e.edit().chain = nil // most certificates are such: they cost an entry and no more
	}
	switch from := e.validFrom(); {
	case f.Fresh, f.Need != schedule.Wanted && f.Need != schedule.NoIssuer:
		s.endLocked(e, err)
	case err == nil && now < from:
		s.endLocked(e, fmt.Errorf("staple: certificate is not valid before %s", unix(e.notBefore).UTC().Format(time.RFC3339)))
	}
	s.doLocked(actions)
	if e.Phase() == schedule.Deferred && e.impatientLocked() {
		s.doLocked(s.sched.Start(e, schedule.Unconditional, now))
	}
}

// factsLocked completes what preparing found. err is why no request can be made. What
// the function of WithResponders switched off is prepared again within a TTL.
func (s *Stapler) factsLocked(e *entry, leaf *x509.Certificate, d *directions, f *schedule.Facts, now int64) (err error) {
	f.Need, err = s.needLocked(e, leaf, d, now)
	f.MustStaple, f.InUse, f.NotBefore = e.must, e.inUseLocked(now), held.Nanos(e.notBefore)
	f.Route = e.keysLocked(d.urls, f.Need)
	h := e.held.Load()
	if f.Fresh = f.Need == schedule.Wanted && (f.Fresh || e.details().restored && s.fresh(h, now)); f.Fresh {
		has := h.Scheduled()
		f.Held = &has
	}
	if s.opts.responders != nil && f.Need != schedule.LeafExpired {
		f.Again = now + int64(s.opts.ttl) - rand.Int64N(int64(s.opts.ttl)/4+1) // the switch may be turned
	}
	if err != nil {
		m := e.edit()
		m.errs = append(m.errs, err)
	}
	return err
}

// hasIssuer reports whether the issuer of e is known.
func (s *Stapler) hasIssuer(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.issuer != nil
}

// readLeaf reads the certificate of e and looks for its issuer in the chain. It
// returns the parsed leaf, or nil if it does not parse, or is read and wanted still. The
// parsed leaf is not kept: it is several times as large as an entry. A chain is scanned
// once, as each candidate costs a signature and chains may be anybody's.
func (s *Stapler) readLeaf(e *entry) *x509.Certificate {
	s.mu.Lock()
	m := e.details()
	read := e.flags.read && e.issuer != nil && e.Need() == schedule.Wanted && s.opts.responders == nil
	scan := e.issuer == nil && !m.scanned
	s.mu.Unlock()
	if read {
		return nil
	}
	leaf := e.leafOf()
	if leaf == nil {
		return nil
	}
	none := len(certinfo.HTTPURLs(leaf.OCSPServer, schedule.MaxRoute)) == 0 || certinfo.Exempt(leaf)
	scan = scan && (!none || s.opts.responders != nil || m.candidate != nil)
	var is *ocspresp.Issuer
	var alone bool
	var unissued error
	if scan {
		is, alone, unissued = s.issuers.InChain(leaf, m.chain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.flags.read {
		e.notBefore, e.notAfter, e.must = leaf.NotBefore.Unix(), leaf.NotAfter.Unix(), certinfo.MustStaple(leaf)
		e.flags.read = true
		if !s.closed && s.nanos() < held.Nanos(e.notAfter+1) {
			s.reviewLocked(e, false)
		}
	}
	switch {
	case !scan || e.issuer != nil:
	case is != nil:
		e.foundLocked(is, alone)
	case slices.EqualFunc(m.chain, e.details().chain, bytes.Equal): // else there is another to scan
		m := e.edit()
		m.scanned, m.unissued = true, unissued
		e.lone.Store(true)
	}
	return leaf
}

// directions say who is asked about a certificate, if anyone.
type directions struct {
	need   schedule.Need // Wanted, None or Off
	urls   []string
	err    error // the function of WithResponders was to say it and has not
	issuer error // why there is none
}

// directions returns what the certificate and the function of WithResponders say. It
// calls that function, so the lock is not held.
func (s *Stapler) directions(e *entry, leaf *x509.Certificate) directions {
	d := directions{need: schedule.Wanted}
	if leaf == nil { // what was said last stays
		d.urls = s.routeOf(e)
		if len(d.urls) == 0 {
			d.need = schedule.None
		}
		return d
	}
	d.urls = certinfo.HTTPURLs(leaf.OCSPServer, schedule.MaxRoute)
	if s.opts.responders != nil {
		d = s.switched(e, leaf, d)
	}
	if d.need == schedule.Wanted && (certinfo.Exempt(leaf) || len(d.urls) == 0 && d.err == nil) {
		d.need, d.err = schedule.None, nil
	}
	return d
}

// switched returns the directions that the function of WithResponders gives, where
// d are those of the certificate. While it gives none, what it said last stays. Before
// it said anything nothing is asked, and the certificate stays pending, not off.
func (s *Stapler) switched(e *entry, leaf *x509.Certificate, d directions) directions {
	named, on, err := s.askSwitch(e, leaf)
	usable := certinfo.HTTPURLs(named, len(named))
	switch {
	case err != nil:
		s.mu.Lock()
		last := e.Need()
		s.mu.Unlock()
		if urls := s.routeOf(e); last == schedule.Off || len(urls) > 0 {
			d.urls, err = urls, nil
		}
		if d.err = err; err != nil {
			d.urls = nil
		}
		if last == schedule.Off {
			d.need = schedule.Off
		}
	case !on:
		d.need = schedule.Off
	case len(usable) > 0:
		d.urls = usable
	case len(named) > 0:
		d.urls, d.err = nil, fmt.Errorf("%w: WithResponders function named %q, want http or https URLs", ErrNoResponder, certinfo.Clip(named[0]))
	}
	return d
}

// keysLocked returns the keys of the responders at urls. A responder that is only shown,
// and gets no requests, has a key without an issuer. The leaf's signature verified with
// the issuer's key, so no certificate affects the backoff of another CA's.
func (e *entry) keysLocked(urls []string, need schedule.Need) []schedule.Key {
	issuer := ""
	if need == schedule.Wanted && e.issuer != nil {
		issuer = e.issuer.Key
	}
	old := e.Route()
	if slices.EqualFunc(old, urls, func(k schedule.Key, u string) bool { return k.URL == u && k.Issuer == issuer }) {
		return old
	}
	var keys []schedule.Key
	for _, u := range urls {
		k := schedule.Key{URL: u, Issuer: issuer}
		if parsed, err := url.Parse(u); err == nil {
			k.Host = strings.ToLower(parsed.Host)
		}
		keys = append(keys, k)
	}
	return keys
}

// needLocked decides whether there is anything to do for e, and why not. It moves what
// e holds into or out of None, as a switch may be turned at any attempt.
func (s *Stapler) needLocked(e *entry, leaf *x509.Certificate, d *directions, now int64) (schedule.Need, error) {
	need, err := s.needOf(e, leaf, d, now)
	h := e.held.Load()
	switch need {
	case schedule.Wanted, schedule.NoIssuer, schedule.Hopeless:
		if h.State == held.None {
			s.setLocked(e, held.Pending)
			s.startOverLocked(e)
		}
	case schedule.Off:
		s.setLocked(e, held.None)
	default:
		if h.StapleAt(now) == nil {
			s.setLocked(e, held.None)
		}
	}
	return need, err
}

// needOf returns the need. The order of the cases counts: what is switched off or
// expired raises no complaint about an issuer. The lock is held.
func (s *Stapler) needOf(e *entry, leaf *x509.Certificate, d *directions, now int64) (schedule.Need, error) {
	switch {
	case leaf == nil && !e.flags.read:
		return schedule.None, s.unreadableLocked(e)
	case d.need == schedule.Off:
		return schedule.Off, nil
	case now > held.Nanos(e.notAfter): // RFC 9919 §4.2
		return schedule.LeafExpired, errLeafExpired
	case d.need == schedule.None && e.must:
		return schedule.Hopeless, ErrNoResponder
	case d.need == schedule.None:
		s.passesLocked(e, leaf)
		return schedule.None, nil
	case d.err != nil || e.issuer != nil || now < e.validFrom():
		return schedule.Wanted, d.err
	case d.issuer != nil:
		return schedule.NoIssuer, d.issuer
	case e.details().scanned && !e.mayDownloadLocked(leaf):
		return schedule.Hopeless, e.noIssuerLocked(leaf, nil)
	}
	return schedule.NoIssuer, e.noIssuerLocked(leaf, nil) // the chain was changed meanwhile
}

// passesLocked logs, once, that a certificate needs no staple.
func (s *Stapler) passesLocked(e *entry, leaf *x509.Certificate) {
	if e.flags.logged || leaf == nil {
		return
	}
	e.flags.logged = true
	if certinfo.NoRevAvail(leaf) && len(leaf.OCSPServer) > 0 {
		s.log(slogWarn, "certificate says both noRevAvail and where its OCSP responder is; it is not asked (RFC 9608 §4)", "certificate", e)
	} else {
		s.log(slogDebug, "certificate names no OCSP responder, nothing is stapled", "certificate", e)
	}
}

// unreadableLocked has a certificate that does not parse pass through.
func (s *Stapler) unreadableLocked(e *entry) error {
	_, err := x509.ParseCertificate(e.DER)
	err = fmt.Errorf("staple: certificate does not parse: %s", errtext.Cut(err.Error()))
	if !e.flags.logged {
		e.flags.logged = true
		s.log(slogWarn, "certificate does not parse, nothing is stapled; look at it with openssl x509, and replace it", "certificate", e, "error", err)
	}
	return err
}

// hopelessLocked logs, once, why no attempt is made for e. Another chain for the
// certificate has it tried again: see rechainLocked.
func (s *Stapler) hopelessLocked(e *entry, err error) {
	e.edit().err = err
	if !e.flags.logged {
		e.flags.logged = true
		s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
	}
}

// wantsIssuerLocked reports whether the issuer of leaf has to be looked for elsewhere
// than in its chain.
func (s *Stapler) wantsIssuerLocked(e *entry, leaf *x509.Certificate, d directions) bool {
	now := s.nanos()
	return leaf != nil && d.need == schedule.Wanted && d.err == nil && e.issuer == nil && !s.closed &&
		now <= held.Nanos(e.notAfter) && now >= e.validFrom() && e.mayDownloadLocked(leaf)
}

// mayDownloadLocked reports whether the issuer may be had from where leaf says. A
// signature that can't be checked can't be by any other certificate either.
func (e *entry) mayDownloadLocked(leaf *x509.Certificate) bool {
	_, unsupported := e.details().unissued.(*certinfo.UnsupportedError)
	return !unsupported && len(leaf.IssuingCertificateURL) > 0 && len(certinfo.HTTPURLs(leaf.IssuingCertificateURL, 1)) > 0
}

// noIssuerLocked says which certificate is wanted, what speaks against the one
// that is there, and what came of asking for it.
func (e *entry) noIssuerLocked(leaf *x509.Certificate, downloads []error) error {
	wanted := certinfo.Clip(leaf.Issuer.String())
	err := fmt.Errorf("%w, wanted %q", ErrNoIssuer, wanted)
	switch why := e.details().unissued.(type) {
	case nil:
	case *certinfo.UnsupportedError:
		err = noIssuer(why, "issuer certificate %q is there but can't be used: %s", wanted)
	default:
		err = noIssuer(why, "issuer certificate not found: one named %q is there, but it %s", wanted)
	}
	if len(downloads) > 0 {
		err = errtext.Caused(err, errors.Join(downloads...))
	}
	return err
}

// noIssuer is an [ErrNoIssuer] where a certificate of the issuer's name is there.
func noIssuer(why error, format, wanted string) error {
	return errtext.Of(func() string { return errtext.Prefix + fmt.Sprintf(format, wanted, errtext.Cut(why.Error())) }, ErrNoIssuer, why)
}

// fetchIssuer gets the issuer of e from another certificate that it issued, or
// from where the certificate says, within issuerWait. A download that failed before
// this attempt is repeated if Prefetch or Refresh made it; otherwise a failure is
// remembered for a while. The error names the URLs, not the responder.
func (s *Stapler) fetchIssuer(a action, leaf *x509.Certificate) error {
	var since time.Time
	ctx, cancel := context.WithTimeout(s.ctx, issuerWait)
	defer cancel()
	if a.Urgency >= schedule.Forced {
		s.mu.Lock()
		since = time.Unix(0, a.Item.details().begun)
		s.mu.Unlock()
	}
	is, errs := s.issuers.Elsewhere(ctx, leaf, since)
	for i, err := range errs {
		errs[i] = downloadFailed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e := a.Item; {
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

// askSwitch calls the function of WithResponders. An error says that it gave no
// answer: it panicked, hangs, or took over switchWait. That must not switch a
// certificate off: see switched.
func (s *Stapler) askSwitch(e *entry, leaf *x509.Certificate) (urls []string, on bool, err error) {
	type answer struct {
		urls []string
		on   bool
	}
	ctx, cancel := context.WithTimeout(s.ctx, switchWait)
	defer cancel()
	a, err := foreign.CallWithin(ctx, &s.calls, switchCode, func() (a answer, _ error) {
		a.urls, a.on = s.opts.responders(leaf)
		return a, nil
	})
	var hung *foreign.HungError
	switch {
	case err == nil:
		return a.urls, a.on, nil
	case errors.As(err, &hung):
		return nil, false, &ResponseError{Reason: ReasonTimeout, Err: err}
	case s.ctx.Err() != nil:
		return nil, false, ErrClosed
	case errors.Is(err, context.DeadlineExceeded):
		err = &ResponseError{Reason: ReasonTimeout, Err: fmt.Errorf("%s: no answer in %v: %w", switchCode, switchWait, err)}
	}
	err = fault(err)
	s.complain(switchCode, switchFailed, err, "certificate", e)
	return nil, false, err
}

const switchFailed = "WithResponders function panicked or is slow; what it said last stays, and before that nothing is fetched"
