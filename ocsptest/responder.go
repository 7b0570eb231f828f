package ocsptest

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// A Responder answers OCSP requests for the certificates of its [CA], or fails to. It is made by
// [NewCA] and [CA.NewResponder].
//
// It takes GET and POST (RFC 6960, appendix A.1) under any path, strictly: the base64 in a GET
// must be percent-encoded ("/", "+" and "=" too) after exactly one "/", and a POST must have the
// right Content-Type; else the answer is HTTP 400 or 415, with the reason as its text. Without
// further setting it answers each request with a response signed by the CA's key at that moment,
// good for four days, without caching headers.
//
// An answer comes about in this order: the request is counted and logged; the delay passes; the
// hook is asked; a fault is chosen; the response is made and shaped; caching headers are set.
//
// All methods may be called by several goroutines at once.
type Responder struct {
	ca   *CA
	done chan struct{} // closed by Close: ends whatever waits

	mu        sync.Mutex // guards the rest; never held while signing, waiting or calling out
	url       string
	set       settings
	faults    map[string]Fault // by serial, set by SetFaultFor
	script    []Fault
	signers   map[signerKey]*identity
	presigned map[presignKey]*presigned
	counts
	server *loopback // nil unless started
	closed bool

	handlers sync.WaitGroup // of ServeHTTP; added to under the lock, unless closed
}

// settings are what a request sees of the setters: copied as a whole under the lock, and never
// changed in place.
type settings struct {
	generation   uint64 // grows with each change, so that no older presigned response is used
	validity     time.Duration
	noNextUpdate bool
	sign         Sign
	certIDs      CertIDs
	edit         func(*Spec)
	presign      bool
	fault        Fault
	delay        time.Duration
	retryAfter   string
	header       http.Header
	hook         Hook
}

// The defaults, and what the faults use.
const (
	defaultValidity   = 4 * 24 * time.Hour
	defaultRetryAfter = "120" // seconds
)

// A Hook answers a request in the responder's place and returns true, or returns false and has
// touched nothing. The request's body can be read. serial is that of the certificate asked
// about, nil if the request is not for one (a malformed one, or one for [Responder.IssuerURL]).
//
// A Hook runs in the goroutine of the request and should return when the request's context is
// done. In memory the ResponseWriter collects the whole answer first, and cannot be hijacked or
// flushed.
type Hook func(w http.ResponseWriter, req *http.Request, serial *big.Int) (handled bool)

// newResponder returns a responder of ca at the given URL.
func newResponder(ca *CA, url string) *Responder {
	return &Responder{
		ca:        ca,
		url:       url,
		done:      make(chan struct{}),
		set:       settings{validity: defaultValidity, retryAfter: defaultRetryAfter},
		faults:    make(map[string]Fault),
		signers:   make(map[signerKey]*identity),
		presigned: make(map[presignKey]*presigned),
		counts:    newCounts(),
	}
}

// URL returns where the responder is: what certificates name unless [Leaf].URLs says otherwise.
func (r *Responder) URL() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.url
}

// IssuerURL returns a URL under [Responder.URL] where the responder serves the CA's certificate,
// for [Leaf].IssuerURLs. The format is "der", "pem" or "p7c" (a PKCS#7 bundle). Downloads are
// in the [Responder.Log] but not counted, and no fault applies to them but that of a [Hook].
func (r *Responder) IssuerURL(format string) string {
	u, err := url.Parse(r.URL())
	must(err)
	u = u.JoinPath(issuerFile + format)
	u.RawQuery = ""
	return u.String()
}

// Revoke makes the answers for cert say revoked, from the given time (now, if it is zero) and
// for a reason of RFC 5280: those are the constants of x/crypto/ocsp, such as
// ocsp.KeyCompromise. It panics if the CA did not issue cert, and holds for all responders of
// the CA, as do SetGood, SetUnknown and SetUnauthorized.
func (r *Responder) Revoke(cert *tls.Certificate, reason int, at time.Time) {
	r.ca.issued.set(cert, status{kind: statusRevoked, reason: reason, at: or(at, time.Now())})
}

// SetGood makes the answers for cert say good, as they do for each new certificate.
func (r *Responder) SetGood(cert *tls.Certificate) { r.ca.issued.set(cert, status{}) }

// SetUnknown makes the answers for cert say unknown, signed.
func (r *Responder) SetUnknown(cert *tls.Certificate) {
	r.ca.issued.set(cert, status{kind: statusUnknown})
}

// SetUnauthorized makes the answers for cert the unsigned status unauthorized, as if the CA had
// never issued it: what many responders say about a certificate that is some minutes old.
func (r *Responder) SetUnauthorized(cert *tls.Certificate) {
	r.ca.issued.set(cert, status{kind: statusUnauthorized})
}

// SetValidity sets how long responses are valid: nextUpdate is that long after thisUpdate. Signed
// times have whole seconds, and thisUpdate is rounded down. Zero means the default, 4 days.
func (r *Responder) SetValidity(d time.Duration) {
	if d <= 0 {
		d = defaultValidity
	}
	r.update(func(s *settings) { s.validity = d })
}

// SetNoNextUpdate makes the responder leave nextUpdate out: newer information is available all
// the time (RFC 6960, section 4.2.2.1).
func (r *Responder) SetNoNextUpdate(on bool) {
	r.update(func(s *settings) { s.noNextUpdate = on })
}

// SetSign sets who signs responses and how. The zero [Sign] is the default.
func (r *Responder) SetSign(sign Sign) {
	if sign.Template != nil {
		sign.made = new(madeSigner)
	}
	r.update(func(s *settings) { s.sign = sign })
}

// SetCertIDs sets which hashes the responder knows certificates by. The default is [AsAsked].
func (r *Responder) SetCertIDs(c CertIDs) { r.update(func(s *settings) { s.certIDs = c }) }

// SetEdit sets a function that changes each response before it is signed, after the fault did;
// nil, the default, means none. It is called by several goroutines at once. Use [Responder.Build]
// for a single response.
func (r *Responder) SetEdit(edit func(*Spec)) { r.update(func(s *settings) { s.edit = edit }) }

// SetPresign makes the responder work as those of public CAs do. It signs a response for a
// certificate once per half of its validity (or when the status or a setting changes) and
// serves the same bytes in between, with ETag, Last-Modified, Expires and a Cache-Control
// max-age up to the next signing; a GET with If-None-Match or If-Modified-Since is answered by
// 304 if nothing changed. Responses without nextUpdate are signed anew each hour.
func (r *Responder) SetPresign(on bool) { r.update(func(s *settings) { s.presign = on }) }

// SetHeader sets an HTTP header of all OCSP answers of HTTP status 200 and 304, over what the
// responder or a fault sets, such as "Cache-Control", "max-age=60". No value at all removes the
// header; [Responder.ClearHeaders] takes back all calls.
func (r *Responder) SetHeader(name string, values ...string) {
	r.update(func(s *settings) {
		header := maps.Clone(s.header) // requests in flight have the old one
		if header == nil {
			header = make(http.Header)
		}
		header[http.CanonicalHeaderKey(name)] = values
		s.header = header
	})
}

// ClearHeaders takes back all calls of [Responder.SetHeader].
func (r *Responder) ClearHeaders() { r.update(func(s *settings) { s.header = nil }) }

// SetRetryAfter sets the value of the Retry-After header of [FaultHTTP503] and [FaultHTTP429],
// seconds or an HTTP date. The default is "120"; an empty value means no header.
func (r *Responder) SetRetryAfter(value string) {
	r.update(func(s *settings) { s.retryAfter = value })
}

// SetDelay makes each OCSP request wait before it is answered, by default not at all. The
// request's context ends the wait. Downloads from [Responder.IssuerURL] don't wait.
func (r *Responder) SetDelay(d time.Duration) { r.update(func(s *settings) { s.delay = d }) }

// SetHook sets a function that may answer requests itself; nil, the default, means none. It runs
// after the delay and before faults: a request that it handles takes nothing from the
// [Responder.Script].
func (r *Responder) SetHook(h Hook) { r.update(func(s *settings) { s.hook = h }) }

// SetFault makes every request fail in the given way, until SetFault is called with
// [FaultNone].
func (r *Responder) SetFault(f Fault) {
	f.check()
	r.update(func(s *settings) { s.fault = f })
}

// SetFaultFor makes every request for cert fail in the given way, whatever SetFault says:
// [FaultNone] exempts cert from it. Any certificate will do, issued by the CA or not.
func (r *Responder) SetFaultFor(cert *tls.Certificate, f Fault) {
	f.check()
	serial := serialOf(cert)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[serialKey(serial)] = f
}

// Script appends faults for the next requests, one each, in the order in which their delays end.
// They come before what SetFaultFor and SetFault say: FaultNone is a normal answer. Requests after the last
// are answered as if there had been no script.
func (r *Responder) Script(faults ...Fault) {
	for _, f := range faults {
		f.check()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = append(r.script, faults...)
}

// ClearFaults takes back all of SetFault, SetFaultFor and Script.
func (r *Responder) ClearFaults() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set.fault, r.script = FaultNone, nil
	clear(r.faults)
}

// Response returns an OCSP response for cert in DER as the responder would sign it at this
// moment, with a SHA-1 CertID unless SetCertIDs rules that out. Faults, SetEdit and SetPresign
// don't apply. It counts as no request.
func (r *Responder) Response(cert *tls.Certificate) []byte { return r.Build(cert, nil) }

// Build returns a signed response for cert, as [Responder.Response] does, after edit has changed
// what it says; nil changes nothing. For a certificate that the CA did not issue the response
// is the status unauthorized, unless edit sets Status to ocsp.Success: then it is good.
func (r *Responder) Build(cert *tls.Certificate, edit func(*Spec)) []byte {
	q := query{serial: serialOf(cert), hash: defaultHash}
	set := r.settings()
	if set.certIDs == SHA256Only {
		q.hash = otherHash
	}
	spec := r.spec(set, q)
	if edit != nil {
		edit(spec)
	}
	return r.encode(spec)
}

// update changes the settings, for requests that begin from now on.
func (r *Responder) update(change func(*settings)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set.generation++
	change(&r.set)
}

// settings returns what holds for a request that begins now.
func (r *Responder) settings() settings {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set
}

// serialOf returns the serial of a certificate, which panics if it is not one.
func serialOf(cert *tls.Certificate) *big.Int {
	if cert == nil || len(cert.Certificate) == 0 {
		panic("ocsptest: nil or empty certificate")
	}
	if cert.Leaf != nil {
		return cert.Leaf.SerialNumber
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	must(err)
	return leaf.SerialNumber
}
