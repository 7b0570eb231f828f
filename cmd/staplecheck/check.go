package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/certinfo"
	"golang.org/x/crypto/ocsp"
)

// check visits the server and its responder.
func check(ctx context.Context, o *options) *Report {
	r := &Report{
		Verdict:  VerdictUnknown,
		Time:     time.Now().UTC().Truncate(time.Second),
		Server:   net.JoinHostPort(o.host, o.port),
		Refusals: []Refusal{},
	}
	cs, address, err := connect(ctx, o)
	r.Address = address
	if err != nil {
		r.Reason = r.Server + ": " + line(err)
		return r
	}
	r.TLSVersion = tls.VersionName(cs.Version)
	p := newPeer(cs, o, r.Time)
	r.Certificate = p.describe()
	err = p.judge()
	if len(cs.OCSPResponse) > 0 {
		r.Staple = p.staple(err, r.Time)
	}
	r.Refusals = append(r.Refusals, p.refusals(err)...)
	if p.asks() {
		r.Answer = p.ask(ctx, o)
	}
	r.conclude(p, err)
	return r
}

// A peer is what a server presents, and what is known of it.
type peer struct {
	cs         tls.ConnectionState
	leaf       *x509.Certificate
	issuer     *x509.Certificate // nil: not found
	inChain    bool              // the server sent the issuer
	responders []string          // that can be asked
	noIssuer   error             // why a certificate of the issuer's name is not it
	distrust   error
	proof      *ocsp.Response // of a good or a revoked certificate; nil: none
}

// newPeer verifies the chain and finds the issuer in it, in the options or among
// the roots.
func newPeer(cs tls.ConnectionState, o *options, now time.Time) *peer {
	p := &peer{cs: cs, leaf: cs.PeerCertificates[0]}
	p.responders = certinfo.HTTPURLs(p.leaf.OCSPServer, len(p.leaf.OCSPServer))
	between := x509.NewCertPool()
	for _, cert := range slices.Concat(cs.PeerCertificates, o.issuers) {
		between.AddCert(cert)
	}
	chains, err := p.leaf.Verify(x509.VerifyOptions{Roots: o.roots, Intermediates: between, CurrentTime: now})
	p.distrust = err
	if err == nil {
		p.distrust = p.leaf.VerifyHostname(o.serverName)
	}
	p.findIssuer(cs.PeerCertificates)
	p.inChain = p.issuer != nil
	p.findIssuer(o.issuers)
	for _, chain := range chains {
		p.findIssuer(chain)
	}
	return p
}

// findIssuer looks for the certificate that signed the leaf, which may be itself.
func (p *peer) findIssuer(certs []*x509.Certificate) {
	for _, cert := range certs {
		if p.issuer != nil {
			return
		}
		err := certinfo.SignedBy(cert, p.leaf)
		switch {
		case err == nil:
			p.issuer = cert
		case !errors.Is(err, certinfo.ErrOtherName):
			p.noIssuer = fmt.Errorf("%q %w", certinfo.DN(cert.Subject), err)
		}
	}
}

// judge reports why the staple, or the lack of one, is not what a strict client
// takes. It knows no difference between clients: see refusals.
func (p *peer) judge() (err error) {
	if len(p.cs.OCSPResponse) == 0 {
		return staple.VerifyStaple(p.cs)
	}
	p.proof, err = staple.Verify(p.cs.OCSPResponse, p.leaf, p.issuer)
	return err
}

// asks reports whether a responder is to be asked about the certificate.
func (p *peer) asks() bool { return len(p.responders) > 0 && !certinfo.Exempt(p.leaf) }

func (p *peer) describe() *Certificate {
	c := &Certificate{
		Serial:         certinfo.SerialText(p.leaf),
		Issuer:         certinfo.Clip(certinfo.DN(p.leaf.Issuer)),
		NotAfter:       certinfo.JSONTime(p.leaf.NotAfter),
		MustStaple:     certinfo.MustStaple(p.leaf),
		Responders:     []string{},
		ChainLength:    len(p.cs.PeerCertificates),
		ChainHasIssuer: p.inChain,
		Trusted:        p.distrust == nil,
		TrustError:     line(p.distrust),
	}
	for _, name := range certinfo.AllNames(p.leaf) {
		c.Names = append(c.Names, certinfo.Clip(name))
	}
	for _, url := range p.leaf.OCSPServer {
		c.Responders = append(c.Responders, certinfo.Clip(url))
	}
	return c
}

// staple describes what is stapled. err is that of judge.
func (p *peer) staple(err error, now time.Time) *Staple {
	raw := p.cs.OCSPResponse
	s := &Staple{Status: "unreadable", Proven: p.proof != nil, Size: len(raw), Error: p.verifyError(err)}
	resp := p.proof
	if resp == nil {
		resp = claim(raw, p.leaf)
	}
	if resp == nil {
		return s
	}
	s.Status = statusName(resp.Status)
	s.ThisUpdate, s.NextUpdate = certinfo.JSONTimeOrNil(resp.ThisUpdate), certinfo.JSONTimeOrNil(resp.NextUpdate)
	age := int64(now.Sub(resp.ThisUpdate) / time.Second)
	s.AgeSeconds = &age
	if life := resp.NextUpdate.Sub(resp.ThisUpdate); s.NextUpdate != nil {
		left := 0
		if life > 0 {
			left = int(min(max(100*float64(resp.NextUpdate.Sub(now))/float64(life), 0), 100))
		}
		s.LeftPercent = &left
	}
	s.Hash = resp.IssuerHash.String()
	if p.proof != nil {
		s.SignedBy, s.Signer = "issuer", certinfo.Clip(certinfo.DN(p.issuer.Subject))
		if p.proof.Certificate != nil {
			s.SignedBy, s.Signer = "delegate", certinfo.Clip(certinfo.DN(p.proof.Certificate.Subject))
		}
	}
	return s
}

// claim reads a response that proves nothing: that about leaf or, if there is
// none, about whatever it is. It returns nil if it can't.
func claim(raw []byte, leaf *x509.Certificate) *ocsp.Response {
	raw = bare(raw)
	resp, err := ocsp.ParseResponseForCert(raw, leaf, nil)
	if err != nil {
		resp, err = ocsp.ParseResponse(raw, nil)
	}
	if err != nil {
		return nil
	}
	return resp
}

// verifyError is the text of an error of staple.Verify.
func (p *peer) verifyError(err error) string {
	return strings.TrimPrefix(p.line(err), "OCSP response: ")
}

// line returns the text of an error of package staple without what the report says
// already: the name of the certificate.
func (p *peer) line(err error) string {
	text := strings.TrimPrefix(line(err), "staple: ")
	return strings.TrimPrefix(text, certinfo.Name(p.leaf.Raw, p.leaf)+": ")
}

// conclude sets the verdict. err is that of judge.
func (r *Report) conclude(p *peer, err error) {
	switch {
	case r.Staple == nil && !p.asks() && !r.Certificate.MustStaple:
		r.Verdict, r.Reason = VerdictNoneNeeded, p.exemption()
	case r.Answer != nil && r.Answer.Status == "revoked":
		r.Verdict, r.Reason = VerdictBad, "the responder says that the certificate is revoked"
	case errors.Is(err, staple.ErrNoIssuer):
		r.Reason = "the issuer's certificate was not found, so that nothing is proven; give it by -issuer"
		if p.noIssuer != nil {
			r.Reason = "nothing is proven without the issuer's certificate: " + line(p.noIssuer)
		}
	case len(r.Refusals) > 0:
		r.Verdict, r.Reason = VerdictBad, r.Refusals[0].Why
	default:
		r.Verdict, r.Reason = VerdictGood, "a good staple, which all clients take"
	}
}

// exemption says why the certificate needs no staple.
func (p *peer) exemption() string {
	switch {
	case certinfo.NoRevAvail(p.leaf):
		return "the certificate says that there is no revocation information (noRevAvail)"
	case len(p.responders) == 0:
		return "the certificate names no responder and has no Must-Staple"
	}
	return "the certificate is self-signed"
}
