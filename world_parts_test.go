package staple_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"runtime"
	"sync"
	"testing/iotest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// An authority is a CA with its responders.
type authority struct {
	ca      *ocsptest.CA
	pool    *x509.CertPool
	origins []*origin
	issued  map[string]*subject // by serial number; guarded by simulation.mu
}

// A subject is a certificate. Those of different authorities have the same serial numbers.
type subject struct {
	by      *authority
	name    string
	cert    *tls.Certificate
	listed  bool // in the config of the moment; guarded by simulation.mu
	revoked bool // the test's goroutine alone uses it
}

func (x *subject) String() string {
	return fmt.Sprintf("%s (serial %v)", x.name, x.cert.Leaf.SerialNumber)
}

// An origin is a responder, with the network before it.
type origin struct {
	by        *authority
	url       string
	responder *ocsptest.Responder

	// Guarded by simulation.mu.
	fault   ocsptest.Fault
	replays bool                  // the network answers with what it recorded
	heard   map[*subject][][]byte // which is this
	vague   time.Time             // when it last spoke of certificates, and not of itself: see vagueFor
	asked   int
}

// A domain is a name, and its certificate of the moment.
type domain struct {
	name         string
	by           *authority
	urls         []string
	listed, must bool
	now          *subject
}

// issue gives d a new certificate.
func (w *simulation) issue(d *domain) {
	life := 90 * day
	if w.rng.IntN(3) == 0 {
		life = time.Duration(6+w.rng.IntN(4)) * day
	}
	serial := big.NewInt(int64(len(d.by.issued) + 1))
	cert := d.by.ca.Issue(ocsptest.Leaf{Names: []string{d.name}, Serial: serial, Key: d.by.ca.Key(), URLs: d.urls, MustStaple: d.must,
		NotBefore: time.Now().Add(-30 * day), NotAfter: time.Now().Add(life)})
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.now != nil {
		d.now.listed = false
	}
	d.now = &subject{by: d.by, name: d.name, cert: cert, listed: d.listed}
	d.by.issued[serial.String()] = d.now
}

// A process is a Stapler, with all that it uses.
type process struct {
	w        *simulation
	name     string
	clock    *clock
	fleet    bool          // it shares the depot
	ttl      time.Duration // 0 in the options is an hour
	switches bool          // domains may be switched off
	s        *staple.Stapler
	cfg      *tls.Config

	// Guarded by simulation.mu.
	views    map[*subject]*view
	off      map[string]bool      // names that are switched off
	turned   map[string]time.Time // when that was switched last, unless the process was told to look
	preset   map[string][]byte    // staples that the source has set
	latest   time.Time            // by its clock
	requests map[perHour]int
	calls    map[int]int // of the depot, by the minute
}

type perHour struct {
	x    *subject
	hour int
}

func (p *process) String() string { return p.name }

// start starts a process, or starts it anew.
func (w *simulation) start(name string, c *clock, fleet bool) *process {
	p := &process{w: w, name: name, clock: c, fleet: fleet, ttl: time.Hour, views: make(map[*subject]*view), off: make(map[string]bool), turned: make(map[string]time.Time),
		preset: make(map[string][]byte), requests: make(map[perHour]int), calls: make(map[int]int)}
	opts := []staple.Option{staple.WithHTTPClient(&http.Client{Transport: p}), staple.WithNow(c.now)}
	if fleet {
		opts = append(opts, staple.WithStore(&door{p, w.depot}))
	}
	if w.rng.IntN(3) == 0 {
		p.ttl = []time.Duration{20 * time.Minute, 10 * time.Hour}[w.rng.IntN(2)]
		opts = append(opts, staple.WithTTL(p.ttl))
	}
	if w.rng.IntN(4) > 0 {
		opts = append(opts, staple.WithResponders(p.responders))
		p.switches = true
	}
	p.s = staple.New(opts...)
	p.listen()
	w.every = append(w.every, p)
	w.t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	if err := p.s.Close(); err != nil {
		p.w.t.Errorf("%v: %v", p, err)
	}
	runtime.KeepAlive(p.cfg)
}

// listen makes the config of the certificates of the moment.
func (p *process) listen() {
	base := &tls.Config{SessionTicketsDisabled: true, GetCertificate: p.choose}
	for _, d := range p.w.domains {
		if d.listed {
			base.Certificates = append(base.Certificates, *d.now.cert)
		}
	}
	p.cfg = p.s.TLSConfig(base)
}

// choose is the source of what is not listed.
func (p *process) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for _, d := range p.w.domains {
		if d.name == hello.ServerName && !d.listed {
			cert := *d.now.cert
			cert.OCSPStaple = p.preset[d.name]
			return &cert, nil
		}
	}
	return nil, nil
}

// clearPreset has the source set no staples.
func (p *process) clearPreset() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	clear(p.preset)
}

func (p *process) responders(leaf *x509.Certificate) ([]string, bool) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return nil, !p.off[leaf.DNSNames[0]]
}

// What a process may cost: the requests about one certificate in an hour of outages and calls of
// Refresh, and the calls of the store in a minute, for all of them.
const (
	mostRequests = 300
	mostCalls    = 400 // as the certificate of a delegate nears its end, each that it signs for is asked about thirty times in a minute
)

// latency is how long an answer takes: a handshake that does not wait is over before it comes.
const latency = 20 * time.Millisecond

// RoundTrip is the network of a process.
func (p *process) RoundTrip(req *http.Request) (*http.Response, error) {
	w, begun := p.w, time.Now()
	serial, err := serialAsked(req)
	if err != nil {
		w.t.Error(err)
		return nil, err
	}
	o := w.origins["http://"+req.URL.Host]
	x, old, honest := p.asks(o, serial, req.Response == nil)
	if old != nil {
		time.Sleep(latency)
		p.got(x, old, begun, true)
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/ocsp-response"}, "Cache-Control": {"max-age=604800"}},
			Body: io.NopCloser(bytes.NewReader(old)), ContentLength: int64(len(old)), Request: req}, nil
	}
	resp, err := o.responder.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 300<<10))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), iotest.ErrReader(err)))
		return resp, nil
	}
	w.mu.Lock()
	honest = honest && o.honest()
	w.confirmed[x] = time.Now()
	if honest && resp.StatusCode == http.StatusOK {
		o.heard[x] = append(o.heard[x], body)
	}
	w.mu.Unlock()
	p.got(x, body, begun, honest && resp.StatusCode == http.StatusOK && req.Context().Err() == nil)
	return resp, nil
}

// asks counts a request at o, and returns which certificate it is about, what the network answers
// by itself, nil for nothing, and whether o answers rightly.
func (p *process) asks(o *origin, serial string, first bool) (x *subject, old []byte, honest bool) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	x = o.by.issued[serial]
	if first { // and not redirected
		now := perHour{x, int(time.Since(p.w.begun) / time.Hour)}
		if p.requests[now]++; p.requests[now] == mostRequests {
			p.w.t.Errorf("%v: %d requests about %v in hour %d", p, mostRequests, x, now.hour)
			p.w.stop()
		}
	}
	o.asked++
	if n := len(o.heard[x]); o.replays && n > 0 {
		old = o.heard[x][o.asked%n]
		p.w.confirmed[x] = time.Now()
	}
	return x, old, o.honest()
}

// honest reports whether each response of o is right, and arrives. The caller holds the lock.
func (o *origin) honest() bool {
	return o.fault == ocsptest.FaultNone || o.fault == ocsptest.FaultRedirect || o.fault == ocsptest.FaultGETRefused
}

// setFault sets how o fails. What it says of certificates delays the next request for these longer
// than what it fails to say.
func (w *simulation) setFault(o *origin, f ocsptest.Fault, replays bool) {
	w.mu.Lock()
	if vague(o.fault) || o.replays {
		o.vague = time.Now()
	}
	o.fault, o.replays = f, replays
	w.mu.Unlock()
	o.responder.SetFault(f)
}

// vague reports whether f is an answer about a certificate: the responder works.
func vague(f ocsptest.Fault) bool {
	switch f {
	case ocsptest.FaultMalformedRequest, ocsptest.FaultUnauthorized, ocsptest.FaultWrongSerial, ocsptest.FaultWrongNameHash,
		ocsptest.FaultWrongKeyHash, ocsptest.FaultNoSingle, ocsptest.FaultExpired, ocsptest.FaultStaleCache:
		return true
	}
	return false
}

// A depot is a store that processes share, with leases.
type depot struct {
	mu         sync.Mutex        // guards the rest
	data, past map[string][]byte // the records, and those before them
	leases     map[string]tenure
	mode       depotMode
}

type tenure struct {
	holder *process
	until  time.Time
}

// A depotMode is how a depot fails.
type depotMode string

const (
	works    depotMode = "works"
	fails    depotMode = "fails"
	readOnly depotMode = "fails to write"
	slow     depotMode = "is slow"
	hangs    depotMode = "hangs"
	loses    depotMode = "loses what is written"
	returns  depotMode = "returns what was there before"
)

// A door is how a process gets at the depot.
type door struct {
	p *process
	*depot
}

var errDepot = errors.New("the depot fails")

// enter counts an operation, and has it fail.
func (d *door) enter(ctx context.Context, writes bool) (depotMode, error) {
	w := d.p.w
	w.mu.Lock()
	d.p.calls[int(time.Since(w.begun)/time.Minute)]++
	w.mu.Unlock()
	d.mu.Lock()
	mode := d.mode
	d.mu.Unlock()
	wait := time.Millisecond
	switch {
	case mode == fails, mode == readOnly && writes:
		return mode, errDepot
	case mode == slow:
		wait = 1300 * time.Millisecond
	case mode == hangs:
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
		return mode, nil
	case <-ctx.Done():
		return mode, ctx.Err()
	}
}

// Get returns a record.
func (d *door) Get(ctx context.Context, key string) ([]byte, error) {
	begun := time.Now()
	mode, err := d.enter(ctx, false)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	data, ok := d.data[key]
	if old := d.past[key]; mode == returns && old != nil {
		data = old
	}
	d.mu.Unlock()
	if !ok {
		return nil, errDepot
	}
	if r := d.p.w.proveRecord(data); r != nil {
		d.p.got(r.of, r.raw, begun, mode != slow && ctx.Err() == nil)
	}
	return bytes.Clone(data), nil
}

// Put keeps a record.
func (d *door) Put(ctx context.Context, key string, data []byte) error {
	mode, err := d.enter(ctx, true)
	if err != nil || mode == loses {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.past[key], d.data[key] = d.data[key], bytes.Clone(data)
	return nil
}

// Delete removes a record.
func (d *door) Delete(ctx context.Context, key string) error {
	if _, err := d.enter(ctx, true); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.data, key)
	return nil
}

// Lease gives a process the right to ask about a certificate.
func (d *door) Lease(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	if _, err := d.enter(ctx, false); err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.leases[key]; l.holder != d.p && time.Now().Before(l.until) {
		return false, nil
	}
	d.leases[key] = tenure{d.p, time.Now().Add(ttl)}
	return true, nil
}

func (d *depot) set(mode depotMode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mode = mode
}

// valid returns of which certificates a process that starts anew finds a good response.
func (d *depot) valid(p *process) map[*subject]bool {
	d.mu.Lock()
	records, mode := maps.Clone(d.data), d.mode
	d.mu.Unlock()
	valid := make(map[*subject]bool)
	if !p.fleet || mode != works {
		return valid
	}
	now := p.clock.now()
	for _, data := range records {
		if r := p.w.proveRecord(data); r != nil && r.status == ocsp.Good && !r.open() && now.Add(time.Second).Before(r.ends) && r.this < now.Add(4*time.Minute).Unix() {
			valid[r.of] = true
		}
	}
	return valid
}
