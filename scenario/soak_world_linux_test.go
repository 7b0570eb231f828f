package scenario_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// A soakKind is what a certificate needs.
type soakKind uint8

const (
	soakOrdinary soakKind = iota
	soakNoURL             // names no responder
	soakOff               // switched off by WithResponders
)

// A soakTenant has a CA and a responder of its own, at an address of its own.
type soakTenant struct {
	w        *soak
	id       int
	ca       *ocsptest.CA
	caFile   string
	pool     *x509.CertPool
	url      string
	server   *http.Server
	done     chan struct{} // closed when server's goroutine has ended
	validity time.Duration
	setup    func(*ocsptest.Responder)
	listed   bool        // in Certificates; else a source brings what it has
	reread   bool        // the source reads it from files each time
	goes     time.Time   // when the tenant leaves
	sites    []*soakSite // each with its name and its certificate of the moment

	// Guarded by soak.mu.
	responders map[ocsptest.Fault]*ocsptest.Responder
	mood       soakMood
	heard      map[int]*hearing // by Stapler
	gone       bool
}

// A hearing is what a responder answered one Stapler.
type hearing struct {
	asked, right time.Time // the last request, and the last right answer
	failing      bool      // the last answer was a fault
}

type soakSite struct {
	name    string
	kind    soakKind
	must    bool
	replace time.Time // when it gets its next certificate
	cert    *soakCert // guarded by soak.mu
}

// A soakCert is one certificate and what is known of it. What changes is guarded by
// soak.mu.
type soakCert struct {
	tenant *soakTenant
	site   *soakSite
	kind   soakKind
	pair   *tls.Certificate
	issued time.Time

	revoked time.Time // by the CA
	retired time.Time // replaced, or its tenant left
	fates   map[int]*fate
	staples map[string]*soakStaple
}

func (c *soakCert) serial() string { return c.pair.Leaf.SerialNumber.String() }

func (c *soakCert) fateLocked(g *generation) *fate {
	f := c.fates[g.id]
	if f == nil {
		f = new(fate)
		c.fates[g.id] = f
	}
	return f
}

// A soakMood is how a responder behaves for a while.
type soakMood struct {
	until  time.Time
	faults int            // in a hundred requests
	fault  ocsptest.Fault // the one; else each in its turn
}

// drawLocked decides how a responder answers a request.
func (t *soakTenant) drawLocked() ocsptest.Fault {
	w := t.w
	if now := time.Now(); !now.Before(t.mood.until) {
		t.mood = soakMood{until: now.Add(w.betweenLocked(t.validity/2, 2*t.validity))}
		switch p := w.rng.IntN(100); {
		case p < 50:
			t.mood.faults = 5
		case p < 75:
			t.mood.faults = 50
		case p < 85:
			t.mood.faults = 100
		default:
			t.mood.faults, t.mood.fault = 100, w.faultLocked()
		}
	}
	switch {
	case w.rng.IntN(100) >= t.mood.faults:
		return ocsptest.FaultNone
	case t.mood.fault != ocsptest.FaultNone:
		w.played[t.mood.fault]++
		return t.mood.fault
	}
	f := w.faultLocked()
	w.played[f]++
	return f
}

// faultLocked returns the next one of all faults, in random order.
func (w *soak) faultLocked() ocsptest.Fault {
	if len(w.deck) == 0 {
		w.deck = ocsptest.Faults()
		w.rng.Shuffle(len(w.deck), func(i, j int) { w.deck[i], w.deck[j] = w.deck[j], w.deck[i] })
	}
	f := w.deck[0]
	w.deck = w.deck[1:]
	return f
}

// responderLocked returns the tenant's responder that fails in the given way, always: so it
// is known how each request is answered.
func (t *soakTenant) responderLocked(f ocsptest.Fault) *ocsptest.Responder {
	r := t.responders[f]
	if r == nil {
		r = t.ca.NewResponder(t.url)
		r.SetValidity(t.validity)
		r.SetRetryAfter("3") // a Stapler that holds nothing would wait for two minutes
		r.SetHook(t.hear)
		t.setup(r)
		r.SetFault(f)
		t.responders[f] = r
	}
	return r
}

// ServeHTTP is the tenant's responder. Each Stapler asks under a path of its own.
func (t *soakTenant) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	w, id := t.w, soakAsker(req.URL.EscapedPath())
	w.mu.Lock()
	fault := t.drawLocked()
	r := t.responderLocked(fault)
	h := t.heardLocked(id)
	h.asked, h.failing = time.Now(), fault != ocsptest.FaultNone
	if fault == ocsptest.FaultNone {
		w.right++
	} else {
		w.wrong++
	}
	w.mu.Unlock()
	defer r.ResetCounts() // or its log grows
	if fault != ocsptest.FaultNone {
		r.ServeHTTP(rw, req)
		return
	}
	kept := &keptAnswer{ResponseWriter: rw}
	r.ServeHTTP(kept, req)
	if req.Context().Err() == nil {
		w.answered(t, id, kept.body.Bytes())
	}
}

func (t *soakTenant) heardLocked(id int) *hearing {
	h := t.heard[id]
	if h == nil {
		h = new(hearing)
		t.heard[id] = h
	}
	return h
}

// hear is a Hook that answers nothing, and notes what is asked about.
func (t *soakTenant) hear(_ http.ResponseWriter, req *http.Request, serial *big.Int) bool {
	w := t.w
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.staplers[soakAsker(req.URL.EscapedPath())]
	if g == nil || serial == nil {
		return false
	}
	if c := w.certs[serial.String()]; c != nil {
		c.fateLocked(g).asked = time.Now()
	}
	return false
}

// soakAsker returns which Stapler asks: there is "g12" in the path.
func soakAsker(path string) int {
	for part := range strings.SplitSeq(path, "/") {
		if id, err := strconv.Atoi(strings.TrimPrefix(part, "g")); err == nil && len(part) < 10 {
			return id
		}
	}
	return 0
}

// A keptAnswer keeps what is written.
type keptAnswer struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (k *keptAnswer) Write(b []byte) (int, error) {
	k.body.Write(b)
	return k.ResponseWriter.Write(b)
}

// answered notes that a Stapler got an answer.
func (w *soak) answered(t *soakTenant, id int, body []byte) {
	r, err := ocsp.ParseResponse(body, t.ca.Cert)
	if err != nil || r.Status != ocsp.Good {
		return // a 304, or the CA says something else
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g, c := w.staplers[id], w.certs[r.SerialNumber.String()]
	if g == nil || c == nil {
		return
	}
	now := time.Now()
	f := c.fateLocked(g)
	f.answered, f.until = now, r.NextUpdate
	t.heardLocked(id).right = now
	for _, s := range t.sites {
		if f := s.cert.fateLocked(g); !f.mended.After(f.asked) {
			f.mended = now
		}
	}
}

// newTenant makes a tenant that stays for so long, and starts its responder.
func (w *soak) newTenant(stays time.Duration) {
	w.tenantsMade++
	id := w.tenantsMade
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+id>>14&0x7f, id>>7&0x7f, 1+id&0x7f))
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &soakTenant{w: w, id: id, done: make(chan struct{}), url: "http://" + l.Addr().String(), goes: time.Now().Add(stays),
		listed: w.rng.IntN(2) == 0, reread: w.rng.IntN(3) == 0, validity: []time.Duration{5 * time.Second, 20 * time.Second, 40 * time.Second, 60 * time.Second}[id%4],
		responders: make(map[ocsptest.Fault]*ocsptest.Responder), heard: make(map[int]*hearing)}
	t.ca = ocsptest.NewCA(ocsptest.Options{Name: fmt.Sprintf("CA of tenant %d", id), URL: t.url})
	t.pool = t.ca.Pool()
	t.caFile = testkit.WritePEM(w.t, filepath.Join(w.dir, fmt.Sprintf("ca%d.pem", id)), "CERTIFICATE", t.ca.Cert.Raw)
	by, byKey, presigned, delay := []ocsptest.Signer{ocsptest.Direct, ocsptest.IssuerEmbedded, ocsptest.Delegated, ocsptest.DelegatedExtras}[w.rng.IntN(4)],
		w.rng.IntN(2) == 0, w.rng.IntN(3) == 0, w.betweenLocked(0, 40*time.Millisecond)
	t.setup = func(r *ocsptest.Responder) {
		r.SetSign(ocsptest.Sign{By: by, ByKey: byKey})
		r.SetPresign(presigned)
		r.SetDelay(delay)
	}
	for i := range 6 {
		s := &soakSite{name: fmt.Sprintf("site%d.tenant%d.example", i, id), must: w.rng.IntN(4) == 0}
		switch w.rng.IntN(10) {
		case 0:
			s.kind, s.must = soakNoURL, false
		case 1:
			s.kind, s.must = soakOff, false
		}
		w.issueLocked(t, s)
		t.sites = append(t.sites, s)
	}
	t.server = &http.Server{Handler: t, ErrorLog: log.New(io.Discard, "", 0), ConnState: w.connState}
	w.work.Go(func() {
		defer close(t.done)
		_ = t.server.Serve(l) // until it is closed
	})
	w.present = append(w.present, t)
}

// connState counts the connections that responders have.
func (w *soak) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		w.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		w.conns.Add(-1)
	}
}

// issueLocked gives a site its first or its next certificate.
func (w *soak) issueLocked(t *soakTenant, s *soakSite) {
	w.certsMade++
	now := time.Now()
	if s.cert != nil {
		s.cert.retired = now
	}
	pair := t.ca.Issue(ocsptest.Leaf{Names: []string{s.name}, Key: t.ca.Key(), MustStaple: s.must, NoURL: s.kind == soakNoURL, URLs: []string{t.url}})
	s.cert = &soakCert{tenant: t, site: s, kind: s.kind, pair: pair, issued: now, fates: make(map[int]*fate), staples: make(map[string]*soakStaple)}
	s.replace = now.Add(w.betweenLocked(w.life()/6, w.life()/2))
	if t.goes.Sub(now) > w.life() {
		s.replace = now.Add(w.betweenLocked(w.life(), 3*w.life())) // its CA remembers all that it issued
	}
	w.certs[s.cert.serial()] = s.cert
}

// life is how long tenants stay at most.
func (w *soak) life() time.Duration {
	return min(max(w.length/2, 8*time.Second), 45*time.Second)
}

// betweenLocked returns a random time between two.
func (w *soak) betweenLocked(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(to-from)))
}

// between is betweenLocked without the lock.
func (w *soak) between(from, to time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.betweenLocked(from, to)
}

// change is what happens in a tenth of a second. It runs in the test's goroutine alone.
func (w *soak) change() {
	now := time.Now()
	dirty := false // a list of certificates has to be wrapped reread
	for _, t := range slices.Clone(w.present) {
		switch {
		case now.After(t.goes.Add(w.life() / 10)):
			w.removeTenant(t)
			dirty = true
		case now.After(t.goes):
			w.hideTenant(t)
		default:
			dirty = w.changeTenant(t, now) || dirty
		}
	}
	for len(w.present) < soakTenants {
		w.newTenant(w.between(w.life()/4, w.life()))
		dirty = true
	}
	w.changeStores(now)
	w.changeStaplers(now)
	if w.between(0, 100) == 0 {
		w.refresh()
	}
	if dirty {
		for _, v := range w.servers() {
			v.reload()
		}
	}
	w.mu.Lock()
	for _, t := range w.present {
		if !t.gone && !slices.Contains(w.tenants, t) {
			w.tenants = append(w.tenants, t) // they are served from now on
		}
	}
	w.mu.Unlock()
	w.forget(now)
}

// changeTenant replaces and revokes certificates, and reports whether it did the first.
func (w *soak) changeTenant(t *soakTenant, now time.Time) (replaced bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range t.sites {
		switch {
		case now.After(s.replace):
			w.issueLocked(t, s)
			replaced = true
		case s.kind != soakOrdinary || !s.cert.revoked.IsZero():
		case w.rng.IntN(4000) == 0:
			s.cert.revoked = now
			t.ca.Responder.Revoke(s.cert.pair, ocsp.KeyCompromise, now)
		case w.rng.IntN(1000) == 0:
			t.ca.Responder.SetUnknown(s.cert.pair)
		case w.rng.IntN(100) == 0:
			t.ca.Responder.SetGood(s.cert.pair)
		}
	}
	return replaced
}

// hideTenant lets no handshake begin with what leaves soon.
func (w *soak) hideTenant(t *soakTenant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.gone = true
	w.tenants = slices.DeleteFunc(w.tenants, func(u *soakTenant) bool { return u == t })
}

// removeTenant takes a tenant's certificates from the servers, and closes its responder.
func (w *soak) removeTenant(t *soakTenant) {
	w.hideTenant(t)
	w.mu.Lock()
	for _, s := range t.sites {
		s.cert.retired = time.Now()
	}
	w.present = slices.DeleteFunc(w.present, func(u *soakTenant) bool { return u == t })
	w.mu.Unlock()
	t.server.Close()
	<-t.done
}

const (
	// soakTenants is how many there are at a time.
	soakTenants = 8
	// soakLinger is how long after a certificate was replaced it is forgotten: handshakes that
	// had begun bring it once more.
	soakLinger = 3 * time.Second
	// soakMemory is how long the test itself remembers it.
	soakMemory = 12 * time.Second
)

// forget has the Stapler that lives forget what was replaced, as a server with tenants
// does. The other is told half of the time.
func (w *soak) forget(now time.Time) {
	var pairs []*tls.Certificate
	w.mu.Lock()
	steady, restless := w.steady.now.Load(), w.restless.now.Load()
	for serial, c := range w.certs {
		if c.retired.IsZero() || now.Sub(c.retired) < soakLinger {
			continue
		}
		if f := c.fateLocked(steady); f.forgotten.IsZero() {
			f.forgotten = now
			pairs = append(pairs, c.pair)
		}
		if now.Sub(c.retired) > soakMemory {
			delete(w.certs, serial)
		}
	}
	for _, p := range pairs {
		if c := w.certs[p.Leaf.SerialNumber.String()]; c != nil && w.rng.IntN(2) == 0 {
			c.fateLocked(restless).forgotten = now
		}
	}
	w.mu.Unlock()
	steady.s.Forget(pairs...)
	for _, p := range pairs {
		if c := w.find(p.Leaf); c != nil && w.wasForgotten(c, restless) {
			restless.s.Forget(p)
		}
	}
}

func (w *soak) wasForgotten(c *soakCert, g *generation) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !c.fateLocked(g).forgotten.IsZero()
}

// find returns what is known of a certificate.
func (w *soak) find(leaf *x509.Certificate) *soakCert {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.certs[leaf.SerialNumber.String()]
}

// serveNobody has the runtime open what it keeps for sockets.
func serveNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
	}
	l.Close()
}
