package staple_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// A world is servers, their certificates and the responders for these, over
// virtual time. Everything random in it comes from its seed.
type world struct {
	t     testing.TB
	rng   *rand.Rand // used by the test's goroutine alone
	clock clock      // the server's
	ca    *ocsptest.CA
	hosts []*host
	sites []*site
	store *yearStore
	calm  bool // no single faults between outages: each may cost a retry, of up to two hours in the end
	begun time.Time

	stepped time.Time // when the server's clock last was

	s   *staple.Stapler
	cfg *tls.Config

	mu      sync.Mutex // guards the rest
	fetched map[string]bool
	seen    map[*byte]*ocsp.Response
	quiet   map[int]bool // hours in which requests come in numbers, for a reason

	hooks, shakes, restarts, renewals, steps int
}

// A host is a responder: one URL, behind which each class of certificates has
// responses of another validity, signed in advance.
type host struct {
	w       *world
	url     string
	classes []*class
	faults  *rand.Rand // guarded by mu

	mu       sync.Mutex // guards the rest
	bySerial map[string]*class
	outages  []outageSpan
	perHour  map[int]int
	probes   int // requests in outages

	// Of the last outage: see watch.
	ended    time.Time       // zero: all are back
	lost     map[string]bool // serial numbers of those that are not back
	returns  int             // outages after which all came back
	slowest  time.Duration   // how long that took
	restored int             // certificates that came back
}

type class struct {
	validity  time.Duration
	responder *ocsptest.Responder
	sites     int
	requests  int // but for those in outages
}

type outageSpan struct {
	from, to time.Time
	fault    ocsptest.Fault
}

// A site is a name with its certificate of the moment.
type site struct {
	name   string
	h      *host
	c      *class
	listed bool
	mu     sync.Mutex // guards cert
	cert   *tls.Certificate
	issued time.Time
	renew  time.Time
}

func (s *site) now() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert
}

// outageFaults are the ways in which a whole responder fails.
var outageFaults = []ocsptest.Fault{ocsptest.FaultRefused, ocsptest.FaultNoHost, ocsptest.FaultHang, ocsptest.FaultReset,
	ocsptest.FaultHTTP500, ocsptest.FaultHTTP503, ocsptest.FaultHTTP403, ocsptest.FaultHTML, ocsptest.FaultJunkBody,
	ocsptest.FaultTryLater, ocsptest.FaultInternalError, ocsptest.FaultExpired, ocsptest.FaultTruncated}

// singleFaults are the ways in which single answers do.
var singleFaults = []ocsptest.Fault{ocsptest.FaultJunkBody, ocsptest.FaultTryLater, ocsptest.FaultExpired, ocsptest.FaultStaleCache,
	ocsptest.FaultHTTP500, ocsptest.FaultBrokenSignature, ocsptest.FaultWrongSerial, ocsptest.FaultTruncated, ocsptest.FaultEmptyBody}

// newWorld makes six responders and the given number of certificates.
func newWorld(t testing.TB, seed uint64, sites int) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 51064)), ca: ocsptest.NewCA(), store: newYearStore(), begun: time.Now(),
		fetched: make(map[string]bool), seen: make(map[*byte]*ocsp.Response), quiet: make(map[int]bool)}
	for i, validities := range [][]time.Duration{{8 * time.Hour, 2 * day}, {12 * time.Hour, 4 * day}, {day, 7 * day}, {8 * time.Hour, 10 * day}, {2 * day}, {4 * day, 10 * day}} {
		h := &host{w: w, url: fmt.Sprintf("http://ocsp%d.example", i), faults: rand.New(rand.NewPCG(seed, uint64(i))),
			bySerial: make(map[string]*class), perHour: make(map[int]int)}
		for _, v := range validities {
			c := &class{validity: v, responder: w.ca.NewResponder(fmt.Sprintf("%s/%v", h.url, v))}
			c.responder.SetValidity(v)
			c.responder.SetPresign(true)
			c.responder.SetDelay(20 * time.Millisecond)
			h.classes = append(h.classes, c)
		}
		w.hosts = append(w.hosts, h)
	}
	for i := range sites {
		h := w.hosts[i%len(w.hosts)]
		s := &site{name: fmt.Sprintf("site%d.example.com", i), h: h, c: h.classes[i/len(w.hosts)%len(h.classes)], listed: w.rng.IntN(2) == 0}
		s.c.sites++
		w.issue(s)
		w.sites = append(w.sites, s)
	}
	return w
}

// issue gives a site a new certificate of 60 to 120 days.
func (w *world) issue(s *site) {
	life := 60*day + time.Duration(w.rng.Int64N(int64(60*day)))
	cert := w.ca.Issue(ocsptest.Leaf{Names: []string{s.name}, Key: w.ca.Key(), URLs: []string{s.h.url}, NotAfter: time.Now().Add(life)})
	s.h.mu.Lock()
	s.h.bySerial[cert.Leaf.SerialNumber.String()] = s.c
	s.h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cert, s.issued, s.renew = cert, time.Now(), time.Now().Add(life*2/3)
}

// plan decides when h is out: each time for a random share of its shortest
// validity, and at least one of these apart.
func (h *host) plan(until time.Time, least, most float64) {
	v := h.classes[0].validity
	if least > 1 { // to outlast them all
		v = h.classes[len(h.classes)-1].validity
	}
	for at := h.w.begun.Add(v); at.Before(until); {
		length := time.Duration(float64(v) * (least + (most-least)*h.w.rng.Float64()))
		h.outages = append(h.outages, outageSpan{at, at.Add(length), outageFaults[h.w.rng.IntN(len(outageFaults))]})
		at = at.Add(length + v + time.Duration(h.w.rng.Int64N(int64(3*v))))
	}
}

// out returns the outage of the moment.
func (h *host) out(now time.Time) (o outageSpan, on bool) {
	for i := range h.outages {
		if o := h.outages[i]; now.Before(o.to) {
			return o, !now.Before(o.from)
		}
	}
	return o, false
}

// RoundTrip is the network.
func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	for _, h := range w.hosts {
		if strings.HasPrefix(req.URL.String(), h.url+"/") || req.URL.String() == h.url {
			return h.answer(req)
		}
	}
	return nil, errors.New("no such host")
}

func (h *host) answer(req *http.Request) (*http.Response, error) {
	serial, err := serialAsked(req)
	if err != nil {
		h.w.t.Error(err)
		return nil, err
	}
	now := time.Now()
	h.mu.Lock()
	c := h.bySerial[serial]
	h.perHour[h.w.hour(now)]++
	fault := ocsptest.FaultNone
	if o, on := h.out(now); on {
		fault = o.fault
		h.probes++
		req = req.Clone(req.Context())
		req.Header.Del("If-None-Match") // or the fake answers 304, and works for those who hold the newest
		req.Header.Del("If-Modified-Since")
	} else if c.requests++; !h.w.calm && h.ended.IsZero() && h.faults.IntN(100) == 0 {
		fault = singleFaults[h.faults.IntN(len(singleFaults))]
	}
	c.responder.Script(fault)
	h.mu.Unlock()
	return c.responder.RoundTrip(req)
}

func (w *world) hour(at time.Time) int { return int(at.Sub(w.begun) / time.Hour) }

// serialAsked returns the serial number in a request.
func serialAsked(req *http.Request) (string, error) {
	var der []byte
	if req.Method == http.MethodPost {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return "", err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		der = body
	} else {
		escaped := req.URL.EscapedPath()
		plain, err := url.PathUnescape(escaped[strings.LastIndexByte(escaped, '/')+1:])
		if err != nil {
			return "", err
		}
		if der, err = base64.StdEncoding.DecodeString(plain); err != nil {
			return "", err
		}
	}
	asked, err := ocsp.ParseRequest(der)
	if err != nil {
		return "", err
	}
	return asked.SerialNumber.String(), nil
}

// start starts the server, or starts it anew from what the store holds.
func (w *world) start() {
	if w.s != nil {
		w.restarts++
		w.stop()
	} else {
		w.t.Cleanup(w.stop)
	}
	w.excuse(time.Now())
	w.s = staple.New(staple.WithHTTPClient(&http.Client{Transport: w}), staple.WithStore(w.store), staple.WithNow(w.clock.now),
		staple.WithEventFunc(func(ev staple.Event) {
			if ev.Kind == staple.EventFetched {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.fetched[ev.Leaf.SerialNumber.String()] = true
			}
		}))
	base := &tls.Config{SessionTicketsDisabled: true, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		var i int
		if _, err := fmt.Sscanf(hello.ServerName, "site%d.example.com", &i); err != nil {
			return nil, err
		}
		return w.sites[i].now(), nil
	}}
	for _, s := range w.sites {
		if s.listed {
			base.Certificates = append(base.Certificates, *s.now())
		}
	}
	w.cfg = w.s.TLSConfig(base)
	for _, s := range w.sites {
		w.hook(s) // those that are not listed become known
	}
}

func (w *world) stop() {
	if err := w.s.Close(); err != nil {
		w.t.Error(err)
	}
	runtime.KeepAlive(w.cfg)
	for _, h := range w.hosts {
		for _, c := range h.classes {
			c.responder.ClearFaults() // a request that Close cut off has left its own to the next
		}
	}
}

// excuse notes that requests come in numbers in the hour from at.
func (w *world) excuse(at time.Time) {
	w.quiet[w.hour(at)] = true
	w.quiet[w.hour(at.Add(time.Hour))] = true
}

// known reports whether a certificate has had a successful fetch.
func (w *world) known(cert *tls.Certificate) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetched[cert.Leaf.SerialNumber.String()]
}

// hook samples a handshake at the hook alone.
func (w *world) hook(s *site) (carries bool) {
	want := s.now()
	known := w.known(want)
	cert, err := w.cfg.GetCertificate(asking(s.name))
	if err != nil || cert == nil || !bytes.Equal(cert.Certificate[0], want.Certificate[0]) {
		w.t.Fatalf("%s: another certificate is served, %v", s.name, err)
	}
	w.hooks++
	return w.check(s, want, cert.OCSPStaple, known)
}

// check fails the test if raw is not a good and valid staple for cert, by the
// server's clock and by everybody's, or is missing.
func (w *world) check(s *site, cert *tls.Certificate, raw []byte, known bool) bool {
	if len(raw) == 0 {
		if known {
			o, on := s.h.out(time.Now())
			w.t.Fatalf("%v: no staple for %s (validity %v), which had one; outage %v %v; %v", time.Now(), s.name, s.c.validity, on, o, w.s.Ready())
		}
		return false
	}
	r := w.seen[&raw[0]]
	if r == nil {
		var err error
		if r, err = ocsp.ParseResponseForCert(raw, cert.Leaf, w.ca.Cert); err != nil {
			w.t.Fatalf("%s: %v", s.name, err)
		}
		if len(w.seen) > 20_000 {
			clear(w.seen)
		}
		w.seen[&raw[0]] = r
	}
	for _, now := range []time.Time{time.Now(), w.clock.now()} {
		if r.Status != ocsp.Good || r.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 || !now.Before(r.NextUpdate) || now.Before(r.ThisUpdate.Add(-5*time.Minute)) {
			w.t.Fatalf("%s: a bad staple at %v: status %d, serial %v, %v to %v", s.name, now, r.Status, r.SerialNumber, r.ThisUpdate, r.NextUpdate)
		}
	}
	return true
}

// shake samples a real handshake.
func (w *world) shake(s *site) {
	want := s.now()
	known := w.known(want)
	client := &tls.Config{RootCAs: w.ca.Pool(), ServerName: s.name}
	cs, _, err := talk(w.cfg, client)
	if err != nil {
		w.t.Fatal(err)
	}
	w.shakes++
	if w.check(s, want, cs.OCSPResponse, known) {
		if err := staple.RequireStaple(cs); err != nil {
			w.t.Fatalf("%s: %v", s.name, err)
		}
	}
}

// sleep lets d pass, and watches the outages that end meanwhile.
func (w *world) sleep(d time.Duration) {
	for end := time.Now().Add(d); ; {
		next := end
		for _, h := range w.hosts {
			if o, _ := h.out(time.Now()); !o.to.IsZero() && o.to.Before(next) {
				next = o.to
			}
			if at := time.Now().Add(watchEach); !h.ended.IsZero() && at.Before(next) {
				next = at
			}
		}
		before := time.Now()
		time.Sleep(time.Until(next))
		for _, h := range w.hosts {
			h.watch(before)
		}
		if !time.Now().Before(end) {
			return
		}
	}
}

// watchEach is how often it is looked who is back after an outage.
const watchEach = 10 * time.Second

// watch measures how long after an outage all certificates in use are back that failed in it.
// before is when it last did so.
func (h *host) watch(before time.Time) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.last(now); last.After(before) {
		h.ended, h.lost = last, h.failing(nil)
		h.restored += len(h.lost)
	}
	if h.ended.IsZero() {
		return
	}
	h.lost = h.failing(h.lost)
	took := now.Sub(h.ended)
	if len(h.lost) == 0 {
		h.ended, h.returns, h.slowest = time.Time{}, h.returns+1, max(h.slowest, took)
		return
	}
	o := h.outage(h.ended)
	bound := most(o.to.Sub(o.from), false)
	if h.w.stepped.After(o.from) { // what the clock overslept is spread
		bound += 15 * time.Minute
	}
	if o.fault == ocsptest.FaultHTTP503 {
		bound = max(bound, 2*time.Minute+10*time.Second) // its Retry-After, and the attempt
	}
	if took > bound+watchEach {
		h.w.t.Errorf("%s: %d certificates not back %v after an outage of %v (%v)", h.url, len(h.lost), took, o.to.Sub(o.from), o.fault)
		for _, st := range h.w.s.Status() {
			if h.lost[st.Leaf.SerialNumber.String()] {
				h.w.t.Logf("%v until %v, failed %d times, next attempt in %v: %v", st.State, st.NextUpdate, st.Failures, st.NextRefresh.Sub(h.w.clock.now()), st.Err)
			}
		}
		h.ended = time.Time{}
	}
}

// failing returns the serial numbers of the certificates in use at h, of those in among unless
// that is nil, without a valid response or whose last attempt failed.
func (h *host) failing(among map[string]bool) map[string]bool {
	out := make(map[string]bool)
	for _, st := range h.w.s.Status() {
		serial := st.Leaf.SerialNumber.String()
		var re *staple.ResponseError
		newest := errors.As(st.Err, &re) && re.Reason == staple.ReasonReplay // the responder works
		if h.bySerial[serial] == nil || among != nil && !among[serial] || st.State == staple.StateGood && (st.Failures == 0 || newest) {
			continue
		}
		if used := h.w.clock.now().Add(-day); among != nil || st.LastHandshake.After(used) {
			out[serial] = true
		}
	}
	return out
}

// outage returns the one that ended at a time.
func (h *host) outage(end time.Time) (o outageSpan) {
	for _, o := range h.outages {
		if o.to.Equal(end) {
			return o
		}
	}
	return o
}

// renewDue replaces the certificates of the source that are due, half of them before their
// first response is there.
func (w *world) renewDue() {
	for _, s := range w.sites {
		if !s.listed && time.Now().After(s.renew) { // the others are in the config: see restart
			w.renewals++
			w.issue(s)
			if w.rng.IntN(2) == 0 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				_ = w.s.Prefetch(ctx, s.now()) // its responder may be out
				cancel()
			}
		}
	}
}

// A yearStore is a Store in memory.
type yearStore struct{ m sync.Map }

func newYearStore() *yearStore { return new(yearStore) }

func (s *yearStore) Get(_ context.Context, key string) ([]byte, error) {
	if data, ok := s.m.Load(key); ok {
		return data.([]byte), nil
	}
	return nil, os.ErrNotExist
}

func (s *yearStore) Put(_ context.Context, key string, data []byte) error {
	s.m.Store(key, bytes.Clone(data))
	return nil
}

func (s *yearStore) Delete(_ context.Context, key string) error {
	s.m.Delete(key)
	return nil
}
