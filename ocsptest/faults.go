package ocsptest

import (
	"bytes"
	"compress/gzip"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A faultInfo is what a fault does: it replaces the answer, or changes the right answer, or
// changes what the response says before it is signed. Exactly one of the three is set.
type faultInfo struct {
	name  string
	reply func(*exchange) *reply // nil: the right answer after all
	alter func(*reply)
	edit  func(*exchange, *Spec)
}

// faults says what each fault does. The groups are those of the constants. Never written to.
var faults = map[Fault]faultInfo{
	FaultNone: {name: "none", alter: func(*reply) {}},

	FaultRefused:       {name: "refused", reply: fails(dialError(syscall.ECONNREFUSED))},
	FaultNoHost:        {name: "no-host", reply: noHost},
	FaultReset:         {name: "reset", reply: fails(&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET})},
	FaultHang:          {name: "hang", reply: func(x *exchange) *reply { return &reply{err: x.wait(-1)} }},
	FaultCloseInHeader: {name: "close-in-header", reply: fails(errCut)},
	FaultSlowBody:      {name: "slow-body", alter: func(p *reply) { p.pace = time.Second }},
	FaultTruncated: {name: "truncated", alter: func(p *reply) {
		p.missing = len(p.body) - len(p.body)/2
		p.body = p.body[:len(p.body)/2]
	}},

	FaultHTTP403:        {name: "http-403", reply: page(http.StatusForbidden)},
	FaultHTTP404:        {name: "http-404", reply: page(http.StatusNotFound)},
	FaultHTTP429:        {name: "http-429", reply: retryAfter(http.StatusTooManyRequests)},
	FaultHTTP500:        {name: "http-500", reply: page(http.StatusInternalServerError)},
	FaultHTTP503:        {name: "http-503", reply: retryAfter(http.StatusServiceUnavailable)},
	FaultGETRefused:     {name: "get-refused", reply: getRefused},
	FaultNotModified:    {name: "not-modified", reply: func(*exchange) *reply { return newReply(http.StatusNotModified, "", nil) }},
	FaultRedirect:       {name: "redirect", reply: redirect},
	FaultRedirectLoop:   {name: "redirect-loop", reply: redirectTo(func(u string) string { return u })},
	FaultRedirectScheme: {name: "redirect-scheme", reply: redirectTo(func(string) string { return "ftp://ocsp.example/" })},
	FaultHTML:           {name: "html", reply: page(http.StatusOK)},
	FaultContentType:    {name: "content-type", alter: func(p *reply) { p.header.Set("Content-Type", "text/plain; charset=utf-8") }},
	FaultNoContentType:  {name: "no-content-type", alter: func(p *reply) { p.header["Content-Type"] = nil }},
	FaultGzip:           {name: "gzip", alter: compress},
	FaultEmptyBody:      {name: "empty-body", alter: func(p *reply) { p.body = nil }},
	FaultHugeBody:       {name: "huge-body", edit: hugeBody},
	FaultEndlessBody:    {name: "endless-body", alter: func(p *reply) { p.endless = true }},
	FaultJunkBody:       {name: "junk-body", alter: func(p *reply) { p.body = bytes.Repeat([]byte{0xff, 0x00, 0x17}, 100) }},

	FaultMalformedRequest: {name: "malformed-request", edit: answers(ocsp.Malformed)},
	FaultInternalError:    {name: "internal-error", edit: answers(ocsp.InternalError)},
	FaultTryLater:         {name: "try-later", edit: answers(ocsp.TryLater)},
	FaultSigRequired:      {name: "sig-required", edit: answers(ocsp.SignatureRequired)},
	FaultUnauthorized:     {name: "unauthorized", edit: answers(ocsp.Unauthorized)},
	FaultUndefinedStatus:  {name: "undefined-status", edit: answers(7)},
	FaultNoBytes:          {name: "no-bytes", edit: change(func(s *Spec) { s.noBytes = true })},

	FaultWrongSerial: {name: "wrong-serial", edit: each(func(s *Single) {
		s.Serial = new(big.Int).Add(s.Serial, big.NewInt(1))
	})},
	FaultWrongNameHash: {name: "wrong-name-hash", edit: each(func(s *Single) {
		s.IssuerNameHash = sum(s.Hash, []byte("another name"))
	})},
	FaultWrongKeyHash: {name: "wrong-key-hash", edit: each(func(s *Single) {
		s.IssuerKeyHash = sum(s.Hash, []byte("another key"))
	})},
	FaultNoSingle:           {name: "no-single", edit: change(func(s *Spec) { s.Singles = nil })},
	FaultExpired:            {name: "expired", edit: expired},
	FaultStaleCache:         {name: "stale-cache", edit: staleCache},
	FaultNotYetValid:        {name: "not-yet-valid", edit: from(time.Hour, func(x *exchange) time.Duration { return x.set.validity })},
	FaultNextBeforeThis:     {name: "next-before-this", edit: from(time.Minute, func(*exchange) time.Duration { return -time.Second })},
	FaultNextIsThis:         {name: "next-is-this", edit: from(time.Minute, func(*exchange) time.Duration { return 0 })},
	FaultProducedInFuture:   {name: "produced-in-future", edit: change(func(s *Spec) { s.ProducedAt = s.ProducedAt.Add(time.Hour) })},
	FaultProducedBeforeLeaf: {name: "produced-before-leaf", edit: change(producedBeforeLeaf)},
	FaultProducedAfterLeaf:  {name: "produced-after-leaf", edit: change(producedAfterLeaf)},

	FaultResponseType:     {name: "response-type", edit: change(func(s *Spec) { s.Type = oidUnknown })},
	FaultVersion2:         {name: "version-2", edit: change(func(s *Spec) { s.Version = 1 })},
	FaultWrongResponderID: {name: "wrong-responder-id", edit: change(wrongResponderID)},
	FaultTrailingInside:   {name: "trailing-inside", edit: change(func(s *Spec) { s.Junk |= JunkBasic })},
	FaultTrailingSigned:   {name: "trailing-signed", edit: change(func(s *Spec) { s.Junk |= JunkSingle })},
	FaultTrailingAfter:    {name: "trailing-after", edit: change(func(s *Spec) { s.Junk |= JunkAfter })},
	FaultLongLength:       {name: "long-length", edit: change(func(s *Spec) { s.longLength = true })},
	FaultCriticalSingle:   {name: "critical-single", edit: each(func(s *Single) { s.Extensions = append(s.Extensions, unknownExtension(true)) })},
	FaultCriticalResponse: {name: "critical-response", edit: change(func(s *Spec) { s.Extensions = append(s.Extensions, unknownExtension(true)) })},
	FaultPadded20K:        {name: "padded-20k", edit: padded(20 << 10)},
	FaultPadded70K:        {name: "padded-70k", edit: padded(70 << 10)},
	FaultPadded120K:       {name: "padded-120k", edit: padded(120 << 10)},
	FaultJunkCertificate:  {name: "junk-certificate", edit: change(func(s *Spec) { s.Certs = append(s.Certs, []byte(junkCertificate)) })},

	FaultBrokenSignature:     {name: "broken-signature", edit: change(func(s *Spec) { s.brokenSignature = true })},
	FaultSHA1Signature:       {name: "sha1-signature", edit: sha1Signature},
	FaultUnknownAlgorithm:    {name: "unknown-algorithm", edit: change(func(s *Spec) { s.unknownAlgorithm = true })},
	FaultWrongSigner:         signedBy(WrongKey),
	FaultDelegateNoEKU:       signedBy(DelegateNoEKU),
	FaultDelegateAnyEKU:      signedBy(DelegateAnyEKU),
	FaultDelegateExpired:     signedBy(DelegateExpired),
	FaultDelegateNotYetValid: signedBy(DelegateNotYetValid),
	FaultDelegateCritical:    signedBy(DelegateCritical),
	FaultDelegateSHA1:        signedBy(DelegateSHA1),
	FaultDelegateOtherCA:     signedBy(DelegateOtherCA),
	FaultDelegateOtherName:   signedBy(DelegateOtherName),
	FaultDelegateOfDelegate:  signedBy(DelegateOfDelegate),
	FaultDelegateMissing:     signedBy(DelegateMissing),
	FaultLeafSigner:          signedBy(LeafSigner),
}

// errCut is a connection closed in the middle of a header, as http.Transport reports it.
var errCut = errors.New("ocsptest: unexpected EOF in the header")

// dialError is a connection that could not be made.
func dialError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

// fails returns what fails with an error before there is an answer.
func fails(err error) func(*exchange) *reply {
	return func(*exchange) *reply { return &reply{err: err} }
}

// noHost fails as the resolver does.
func noHost(x *exchange) *reply { return &reply{err: noSuchHost(x.req.Host)} }

// noSuchHost is the error of a host that has no address.
func noSuchHost(host string) error {
	return dialError(&net.DNSError{Err: "no such host", Name: host, IsNotFound: true})
}

// page returns what answers with a page for people.
func page(status int) func(*exchange) *reply {
	body := []byte("<!DOCTYPE html>\n<html><head><title>" + http.StatusText(status) + "</title></head>" +
		"<body><h1>" + http.StatusText(status) + "</h1></body></html>\n")
	return func(*exchange) *reply { return newReply(status, "text/html; charset=utf-8", body) }
}

// retryAfter returns what answers with a page and a Retry-After header.
func retryAfter(status int) func(*exchange) *reply {
	return func(x *exchange) *reply {
		p := page(status)(x)
		if x.set.retryAfter != "" {
			p.header.Set("Retry-After", x.set.retryAfter)
		}
		return p
	}
}

// getRefused answers POST alone.
func getRefused(x *exchange) *reply {
	if x.req.Method == http.MethodPost {
		return nil
	}
	p := page(http.StatusMethodNotAllowed)(x)
	p.header.Set("Allow", http.MethodPost)
	return p
}

// movedTo is where FaultRedirect leads, before the path.
const movedTo = "/moved"

// redirect redirects once.
func redirect(x *exchange) *reply {
	if strings.HasPrefix(x.req.URL.Path, movedTo+"/") {
		return nil
	}
	return redirectTo(func(u string) string { return movedTo + u })(x)
}

// redirectTo returns what redirects to a target made of the path and query of the request.
func redirectTo(target func(string) string) func(*exchange) *reply {
	return func(x *exchange) *reply {
		p := page(http.StatusFound)(x)
		p.header.Set("Location", target(x.req.URL.RequestURI()))
		return p
	}
}

// compress compresses the body.
func compress(p *reply) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(p.body) // never fails on a bytes.Buffer
	w.Close()
	p.body = b.Bytes()
	p.header.Set("Content-Encoding", "gzip")
}

// change makes an edit of what needs the Spec alone.
func change(f func(*Spec)) func(*exchange, *Spec) {
	return func(_ *exchange, s *Spec) { f(s) }
}

// each makes an edit of what changes every SingleResponse.
func each(f func(*Single)) func(*exchange, *Spec) {
	return func(_ *exchange, s *Spec) {
		for i := range s.Singles {
			f(&s.Singles[i])
		}
	}
}

// answers makes an edit that sets the status of the response.
func answers(status ocsp.ResponseStatus) func(*exchange, *Spec) {
	return change(func(s *Spec) { s.Status = status })
}

// signedBy makes the fault of a bad signer, which has the signer's name.
func signedBy(by Signer) faultInfo {
	return faultInfo{name: by.String(), edit: change(func(s *Spec) {
		s.Sign = Sign{By: by, KeyType: s.Sign.KeyType, ByKey: s.Sign.ByKey}
	})}
}

// expired makes a response that ended ten minutes ago. It does not begin before the certificate,
// lest there be two things wrong.
func expired(x *exchange, s *Spec) {
	notBefore, _ := s.leafValidity()
	next := s.ProducedAt.Add(-10 * time.Minute)
	this := later(next.Add(-x.set.validity), notBefore)
	if !this.Before(next) { // a young certificate
		this = next.Add(-time.Second)
	}
	s.ProducedAt = later(this, notBefore)
	each(func(s *Single) { s.ThisUpdate, s.NextUpdate = this, next })(x, s)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// staleCache plays a cache that keeps what is expired, unless it is told to ask the origin.
func staleCache(x *exchange, s *Spec) {
	if strings.Contains(strings.ToLower(x.req.Header.Get("Cache-Control")), "no-cache") {
		return
	}
	produced := s.ProducedAt
	expired(x, s)
	age := produced.Sub(s.ProducedAt)
	x.header.Set("Age", strconv.Itoa(int(age/time.Second)))
}

// from makes an edit that moves thisUpdate, and nextUpdate to some time after it.
func from(ahead time.Duration, validity func(*exchange) time.Duration) func(*exchange, *Spec) {
	return func(x *exchange, s *Spec) {
		each(func(single *Single) {
			single.ThisUpdate = s.ProducedAt.Add(ahead)
			single.NextUpdate = single.ThisUpdate.Add(validity(x))
		})(x, s)
	}
}

// producedBeforeLeaf signs before there was a certificate.
func producedBeforeLeaf(s *Spec) {
	notBefore, _ := s.leafValidity()
	s.ProducedAt = notBefore.Add(-24 * time.Hour)
}

// producedAfterLeaf signs when the certificate will have expired.
func producedAfterLeaf(s *Spec) {
	_, notAfter := s.leafValidity()
	s.ProducedAt = notAfter.Add(24 * time.Hour)
}

// wrongResponderID names somebody else.
func wrongResponderID(s *Spec) {
	if s.Sign.ByKey {
		s.ResponderKey = sum(defaultHash, []byte("another key"))
		return
	}
	name, err := asn1.Marshal(pkix.Name{CommonName: "ocsptest somebody else"}.ToRDNSequence())
	must(err)
	s.ResponderName = name
}

// sha1Signature signs with SHA-1, by a delegate if the CA's key cannot.
func sha1Signature(x *exchange, s *Spec) {
	key := x.r.identity(s.Sign, s.target).key
	if sha1Algorithm(key) == 0 {
		s.Sign = Sign{By: Delegated, ByKey: s.Sign.ByKey}
		key = x.r.identity(s.Sign, s.target).key
	}
	s.Sign.Algorithm = sha1Algorithm(key)
}

// hugeBody adds a big extension that is not critical, so that the response is valid.
func hugeBody(_ *exchange, s *Spec) {
	padding := unknownExtension(false)
	padding.Value = make([]byte, 256<<10)
	s.Extensions = append(s.Extensions, padding)
}

// padded makes an edit that adds copies of the CA's certificate to the response, size bytes in all.
func padded(size int) func(*exchange, *Spec) {
	return func(x *exchange, s *Spec) {
		for n := 0; n < size; n += len(x.r.ca.Cert.Raw) {
			s.Certs = append(s.Certs, x.r.ca.Cert.Raw)
		}
	}
}

// junkCertificate has the outline of a certificate: a SEQUENCE, an algorithm, and a BIT STRING.
const junkCertificate = "\x30\x0a" + "\x30\x00" + "\x30\x03\x06\x01\x2a" + "\x03\x01\x00"
