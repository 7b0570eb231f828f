package staple

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/directions"
	"github.com/ocspstaple/staple/internal/errtext"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

// A preparation is what one run of prepare finds out. One goroutine at a time has it.
type preparation struct {
	action
	leaf       *x509.Certificate // nil if it does not parse, or need not be read again
	unreadable error             // it does not parse
	route      directions.Route
	unissued   error          // why there is no issuer, once it was looked for elsewhere
	facts      schedule.Facts // the result
}

// prepare finds out what there is to know of a certificate without asking a
// responder: who issued it, who is asked, what the store has. It runs on a worker
// without the lock, and conclude reports the result, once for each Prepare. A download
// leaves the worker, or URLs that hang would keep all other certificates waiting.
func (s *Stapler) prepare(a action) {
	e, p := a.Item, &preparation{action: a}
	p.leaf, p.unreadable = s.readLeaf(e)
	s.issuerFromStore(e)
	p.route = s.directions(e, p.leaf)
	s.mu.Lock()
	if len(p.route.URLs) > 0 && e.Best() == nil {
		e.edit().first = p.route.URLs[0]
	}
	need, _ := p.needLocked(s.nanos())
	download := need == schedule.NoIssuer && !s.closed && issuers.MayDownload(p.leaf)
	if doubted := e.details().doubted; doubted != nil && !download {
		e.foundUnprovenLocked(doubted)
	}
	s.mu.Unlock()
	if !download {
		s.conclude(p)
		return
	}
	p.leaf = issuers.Wanting(p.leaf)
	s.calls.Go(func() { // it may take seconds, and others wait for this worker
		begun := time.Now()
		s.download(p)
		p.facts.Spent = int64(time.Since(begun)) // as part of the attempt
		s.conclude(p)
	})
}

// conclude reports what preparing found, once it has looked at what the store has. The
// schedule wants its answer for a certificate that was dropped meanwhile, too.
func (s *Stapler) conclude(p *preparation) {
	e, f := p.Item, &p.facts
	if p.route.Need != schedule.Off {
		s.judge(e, p.route.Need)
	}
	s.mu.Lock()
	issued := e.issuer != nil
	s.mu.Unlock()
	if issued && p.route.Need == schedule.Wanted && p.route.Err == nil {
		f.Fresh = s.load(p.action, p.route.URLs)
		f.Leased = !f.Fresh && s.leasedElsewhere(p.action)
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
	err := s.factsLocked(p, now)
	e.flags.logged = e.flags.logged && e.Need() == f.Need // another need is news
	best := e.Best()
	actions := s.sched.Prepared(e, *f, now)
	if best != nil && best != e.Best() {
		e.held.Store(e.held.Load().WithoutValidator())
	}
	switch f.Need {
	case schedule.Hopeless: // another chain has it tried again: see rechainLocked
		if e.edit().err = err; !e.flags.logged {
			e.flags.logged = true
			s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
		}
	case schedule.LeafExpired:
		s.reviewLocked(e, false)
	case schedule.None:
		if !e.flags.logged {
			e.flags.logged = true
			line := notices.Passes(p.leaf, p.unreadable)
			s.log(line.Level, line.Text, append([]any{"certificate", e}, line.Args...)...)
		}
		e.edit().chain = nil // most certificates are such: they cost an entry and no more
	}
	switch from := e.validFrom(); {
	case f.Fresh, f.Need != schedule.Wanted && f.Need != schedule.NoIssuer:
		s.endLocked(e, err)
	case err == nil && now < from:
		s.endLocked(e, fmt.Errorf("staple: certificate is not valid before %s", errtext.Stamp(unix(e.notBefore))))
	}
	s.doLocked(actions)
	if e.Phase() == schedule.Deferred && e.edit().waiters.Calls() {
		s.startLocked(e, e.more.waiters.Deferred(p.Urgency))
	}
}

// factsLocked completes what preparing found. err is why no request can be made. What
// the function of WithResponders switched off is prepared again within a TTL.
func (s *Stapler) factsLocked(p *preparation, now int64) (err error) {
	e, f, issuer := p.Item, &p.facts, ""
	f.Need, err = p.needLocked(now)
	s.neededLocked(e, f.Need.Open() || f.Need == schedule.None && e.held.Load().Stands(now))
	f.MustStaple, f.InUse, f.NotBefore = e.must, e.inUseLocked(now), held.Nanos(e.notBefore)
	if f.Need == schedule.Wanted && e.issuer != nil {
		issuer = e.issuer.Key
	}
	f.Route = p.route.Keys(issuer)
	h := e.held.Load()
	if f.Fresh = f.Need == schedule.Wanted && (f.Fresh || e.details().restored && p.Urgency < schedule.Unconditional && s.fresh(h, now)); f.Fresh {
		f.Held = new(h.Scheduled())
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

// needLocked decides whether there is anything to do, and why not, by what is known so
// far: prepare asks before it has a download made, factsLocked when all is done.
func (p *preparation) needLocked(now int64) (schedule.Need, error) {
	e, m := p.Item, p.Item.details()
	f := directions.Facts{Route: p.route, MustStaple: e.must,
		Expired: now > held.Nanos(e.notAfter), Early: now < e.validFrom()}
	if !e.flags.read {
		f.Unreadable = p.unreadable
	}
	switch {
	case e.issuer != nil || p.leaf == nil || p.route.Need != schedule.Wanted: // known, or not needed
	case p.unissued != nil:
		f.Unissued = p.unissued
	default:
		f.Unissued = issuers.NotFound(p.leaf, m.unissued)
		f.Final = m.scanned && !issuers.MayDownload(p.leaf) // not scanned: the chain was changed meanwhile
	}
	return directions.Decide(&f)
}

// readLeaf reads the certificate of e and looks for its issuer in the chain. It
// returns the parsed leaf, or nil if it does not parse, or was read before and nothing has
// to be looked up in it. The parsed leaf is not kept: it is several times as large as an
// entry. A chain is scanned once, as each candidate costs a signature and chains may be
// anybody's.
func (s *Stapler) readLeaf(e *entry) (leaf *x509.Certificate, unreadable error) {
	s.mu.Lock()
	m := e.details()
	read := e.flags.read && e.issuer != nil && e.Need() == schedule.Wanted && s.opts.responders == nil
	scan := e.issuer == nil && !m.scanned
	s.mu.Unlock()
	if read {
		return nil, nil
	}
	leaf, err := x509.ParseCertificate(e.DER) // the source's own may be of any content
	if err != nil {
		return nil, fmt.Errorf("staple: certificate does not parse: %s", errtext.Cut(err.Error()))
	}
	scan = scan && (s.opts.responders != nil || m.candidate != nil || directions.Own(leaf).Need == schedule.Wanted)
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
		e.noIssuer.Store(true)
	}
	return leaf, nil
}

// directions returns who is asked about e. It calls the function of WithResponders, so
// the lock is not held. Where leaf is nil, what was said last stays.
func (s *Stapler) directions(e *entry, leaf *x509.Certificate) directions.Route {
	s.mu.Lock()
	last := directions.Route{Need: e.Need()}
	s.mu.Unlock()
	last.URLs = s.routeOf(e)
	if leaf == nil {
		return last
	}
	said, err := directions.Ask(s.ctx, &s.calls, s.opts.responders, leaf)
	_, hung := errors.AsType[*foreign.HungError](err) // each of these calls was logged
	if err = fault(err); err != nil && !hung && s.ctx.Err() == nil {
		s.complain(directions.Function, "WithResponders function panicked or is slow; what it said last stays, and before that nothing is fetched", err, "certificate", e)
	}
	return directions.Of(leaf, said, err, last)
}

// download gets the issuer from another certificate that it issued, or from where the
// certificate says. A download that failed before this attempt is repeated if Prefetch
// or Refresh made it; otherwise a failure is remembered for a while. The error names the
// URLs, not the responder.
func (s *Stapler) download(p *preparation) {
	e, since := p.Item, time.Time{}
	if p.Urgency >= schedule.Forced {
		s.mu.Lock()
		since = time.Unix(0, e.details().begun)
		s.mu.Unlock()
	}
	is, errs := s.issuers.Elsewhere(s.ctx, p.leaf, since)
	for i, err := range errs {
		errs[i] = fault(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if is = cmp.Or(is, e.details().doubted); is != nil {
		e.foundUnprovenLocked(is)
	} else if e.issuer == nil { // else a chain brought it meanwhile
		p.unissued = issuers.NotFound(p.leaf, e.details().unissued, errs...)
	}
}
