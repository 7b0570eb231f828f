package staple

import (
	"bytes"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"weak"
)

var errLeafExpired = errors.New("staple: certificate has expired")

// interned holds values that entries share, for as long as one has them.
type interned[V any] struct {
	m     map[string]weak.Pointer[V]
	sweep int // len(m) at which dead ones are removed
}

func (t *interned[V]) get(key string) *V { return t.m[key].Value() }

func (t *interned[V]) put(key string, v *V) *V {
	if old := t.get(key); old != nil {
		return old
	}
	if len(t.m) >= t.sweep {
		for k, p := range t.m {
			if p.Value() == nil {
				delete(t.m, k)
			}
		}
		t.sweep = 2*len(t.m) + 64
	}
	if t.m == nil {
		t.m = make(map[string]weak.Pointer[V])
	}
	t.m[key] = weak.Make(v)
	return v
}

// resolve reads the certificate of e, once, and looks for its issuer. It
// returns the parsed leaf, or nil if it was not needed or does not parse.
func (s *Stapler) resolve(e *entry) *x509.Certificate {
	s.mu.Lock()
	resolved, chain := e.flags.resolved, e.rare().chain
	candidate := e.rare().candidate != nil
	wanted := e.issuer == nil && (!e.flags.none || candidate)
	s.mu.Unlock()
	if resolved && !wanted && s.opts.responders == nil {
		return nil
	}
	leaf := e.leafOf()
	if leaf == nil {
		s.unreadable(e)
		return nil
	}
	none := len(httpURLs(leaf.OCSPServer)) == 0 || passes(leaf)
	var is *issuer
	if wanted && (!none || s.opts.responders != nil || candidate) {
		is = s.issuerOf(leaf, chain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.flags.resolved {
		e.notBefore, e.notAfter, e.must = leaf.NotBefore.Unix(), leaf.NotAfter.Unix(), mustStaple(leaf)
		e.flags.resolved, e.flags.none = true, none
		if now, end := s.nanos(), wall(e.notAfter+1); !e.flags.gone && now < end && end < e.die {
			e.die = end
			s.moveLocked(e)
		}
	}
	if is != nil && e.issuer == nil {
		e.foundLocked(is)
		e.flags.lost = false
	}
	return leaf
}

// unreadable has a certificate that does not parse pass through for good.
func (s *Stapler) unreadable(e *entry) {
	_, err := x509.ParseCertificate(e.der)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.flags.resolved, e.flags.none, e.flags.final = true, true, true
	if m := e.also(); m.err == nil {
		m.err = fmt.Errorf("staple: certificate does not parse: %w", err)
		s.log(slogWarn, "certificate does not parse, nothing is stapled; look at it with openssl x509, and replace it", "certificate", e, "error", err)
	}
}

// passes reports whether a certificate is of a kind that is never asked about.
func passes(leaf *x509.Certificate) bool {
	_, challenge := extensionValue(leaf, 1, 3, 6, 1, 5, 5, 7, 1, 31) // of acme-tls/1 (RFC 8737 §3)
	return challenge || noRevAvail(leaf) || issued(leaf, leaf)
}

// httpURLs returns those of urls that can be asked: http and https alone (RFC
// 9919 §4.1).
func httpURLs(urls []string) []string {
	var out []string
	for _, u := range urls {
		scheme, rest, ok := strings.Cut(u, "://")
		if ok && rest != "" && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
			out = append(out, u)
		}
	}
	return out
}

// decide says who is asked about e, if anyone. It returns an error if the
// function of WithResponders was to say that and has not.
func (s *Stapler) decide(e *entry, leaf *x509.Certificate) error {
	if leaf == nil {
		return nil
	}
	urls, on, err := s.askedAbout(e, leaf)
	pass := passes(leaf)
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
	urls, on = leaf.OCSPServer, true
	if s.opts.responders != nil {
		var named []string
		if named, on, err = s.askSwitch(e, leaf); err != nil {
			return nil, true, err
		}
		if len(named) > 0 {
			urls = named
		}
		if on && len(named) > 0 && len(httpURLs(named)) == 0 {
			err = fmt.Errorf("%w: WithResponders function named %q, want http or https URLs", ErrNoResponder, clip(named[0]))
		}
	}
	return httpURLs(urls), on, err
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
	noted := e.flags.noted
	e.flags.noted = true
	switch {
	case e.flags.none && e.must:
		e.flags.final, e.flags.none, e.also().err = true, false, ErrNoResponder
		if !noted {
			s.notifyLocked(&notice{kind: EventFailed, e: e, err: ErrNoResponder})
		}
	case e.flags.none:
		if !noted && noRevAvail(leaf) && len(leaf.OCSPServer) > 0 {
			s.log(slogWarn, "certificate says both noRevAvail and where its OCSP responder is; it is not asked (RFC 9608 §4)", "certificate", e)
		}
	case e.issuer == nil && len(httpURLs(leaf.IssuingCertificateURL)) == 0:
		err := noIssuer(leaf, nil)
		e.flags.final, e.flags.lost, e.also().err = true, true, err
		if !noted {
			s.notifyLocked(&notice{kind: EventFailed, e: e, err: err})
		}
	}
}

// routeOfLocked returns the shared route over urls.
func (s *Stapler) routeOfLocked(urls []string) *route {
	key := strings.Join(urls, " ")
	if rt := s.routes.get(key); rt != nil {
		return rt
	}
	rt := &route{}
	for _, u := range urls {
		r := s.responders.put(u, &responder{url: u})
		r.shared = r.shared || len(urls) > 1
		rt.responders = append(rt.responders, r)
	}
	return s.routes.put(key, rt)
}

// issuerOf finds the issuer of leaf in its chain, in whatever order, or among
// the configured ones. The leaf's signature decides (RFC 9919 §4.2).
func (s *Stapler) issuerOf(leaf *x509.Certificate, chain [][]byte) *issuer {
	for _, der := range chain {
		if is := s.issuerFrom(der); is != nil && issued(is.cert, leaf) {
			return is
		}
	}
	for _, c := range s.opts.issuers {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) && issued(c, leaf) {
			return s.issuerFrom(c.Raw)
		}
	}
	return nil
}

// issued reports whether ca signed leaf. That finds the issuer and is no proof
// of anything, so a legacy leaf may be signed with SHA-1, and FIPS 140 has no say
// in it. Of a key that came over the network none is larger than crypto/tls takes.
func issued(ca, leaf *x509.Certificate) (ok bool) {
	if key, isRSA := ca.PublicKey.(*rsa.PublicKey); isRSA && key.N.BitLen() > 8192 {
		return false
	}
	if !bytes.Equal(ca.RawSubject, leaf.RawIssuer) {
		return false
	}
	check := func() { ok = ca.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil }
	if strong(leaf.SignatureAlgorithm) {
		check()
	} else {
		fips140.WithoutEnforcement(check)
	}
	return ok
}

// issuerFrom returns the shared issuer with these bytes, or nil.
func (s *Stapler) issuerFrom(der []byte) *issuer {
	s.mu.Lock()
	is := s.issuers.get(string(der))
	s.mu.Unlock()
	if is != nil {
		return is
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	is = newIssuer(cert)
	s.mu.Lock()
	defer s.mu.Unlock()
	is = s.issuers.put(string(der), is)
	for _, key := range [][]byte{cert.SubjectKeyId, nil} { // not every leaf names the key
		s.subjects.put(string(cert.RawSubject)+string(key), is)
	}
	return is
}

// rechainLocked looks for the issuer of e in chain, if it was not found yet and
// chain is not the one that was looked at: the owner has mended it.
func (s *Stapler) rechainLocked(e *entry, chain [][]byte) {
	if len(chain) == 0 || e.issuer != nil || e.flags.gone || s.closed || slices.EqualFunc(chain, e.rare().chain, bytes.Equal) {
		return
	}
	e.also().chain = chain
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

// foundLocked notes who issued the certificate of e.
func (e *entry) foundLocked(is *issuer) {
	e.issuer = is
	if e.more != nil {
		e.more.chain = nil
	}
}

// noIssuer says which certificate is wanted, and what came of asking for it.
func noIssuer(leaf *x509.Certificate, downloads []error) error {
	err := fmt.Errorf("%w, wanted %q", ErrNoIssuer, clip(leaf.Issuer.String()))
	if len(downloads) > 0 {
		err = &causedError{err, errors.Join(downloads...)}
	}
	return err
}

// knownIssuer returns the issuer of leaf if another certificate brought it.
func (s *Stapler) knownIssuer(leaf *x509.Certificate) *issuer {
	key := string(leaf.RawIssuer) + string(leaf.AuthorityKeyId)
	s.mu.Lock()
	is := s.subjects.get(key)
	s.mu.Unlock()
	if is != nil && issued(is.cert, leaf) {
		return is
	}
	return nil
}

// mayMustStaple tells from the bytes alone whether a leaf can have the TLS
// feature extension, for a handshake that can't wait for it to be parsed.
func mayMustStaple(der []byte) bool { return bytes.Contains(der, oidTLSFeatureDER) }

// mayNameResponder does so for a URL of a responder.
func mayNameResponder(der []byte) bool { return bytes.Contains(der, oidOCSPDER) }

var oidOCSPDER = []byte{0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01}

var oidTLSFeatureDER = []byte{0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x18}
