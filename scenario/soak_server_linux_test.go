package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A soak is the world of TestSoak.
type soak struct {
	t       *testing.T
	dir     string
	length  time.Duration
	begun   time.Time
	judge   *opensslJudge
	watch   *watch
	work    sync.WaitGroup // what runs in the background
	conns   atomic.Int64   // to responders
	samples []soakSample

	// One Stapler lives for all of it, the other is made reread at times.
	steady, restless *soakServer
	restart          time.Time     // when it next is
	present          []*soakTenant // all that the servers have certificates of

	mu       sync.Mutex // guards the rest
	rng      *rand.Rand
	tenants  []*soakTenant // that clients visit
	certs    map[string]*soakCert
	staplers map[int]*generation
	deck     []ocsptest.Fault
	played   map[ocsptest.Fault]int
	reasons  map[string]int // of handshakes

	handshakes, distinct, right, wrong, relearned, errors, tenantsMade, certsMade, generations int
}

func newSoak(t *testing.T, length time.Duration) *soak {
	seed := rand.Uint64()
	t.Logf("%v, seed %d", length, seed)
	return &soak{t: t, dir: t.TempDir(), length: length, rng: rand.New(rand.NewPCG(seed, 0)), certs: make(map[string]*soakCert),
		staplers: make(map[int]*generation), played: make(map[ocsptest.Fault]int), reasons: make(map[string]int)}
}

// start begins with two tenants that stay until the end, whose certificates alone change.
func (w *soak) start() {
	w.begun = time.Now()
	for range 2 {
		w.newTenant(2 * w.length)
	}
	w.steady, w.restless = w.newServer("steady"), w.newServer("restless")
	w.steady.now.Store(w.newGeneration(w.newStore("steady")))
	w.restless.now.Store(w.newGeneration(nil))
	w.restart = w.begun.Add(w.between(w.life()/8, w.life()/2))
	w.change()
	for _, v := range w.servers() {
		w.work.Go(v.serve)
	}
}

// stop closes everything: Staplers first, which leave no connection to a responder.
func (w *soak) stop() {
	for _, v := range w.servers() {
		v.l.Close()
		w.close(v.now.Load())
	}
	testkit.Eventually(w.t, time.Minute, "no connection to a responder", func() bool { return w.conns.Load() == 0 })
	for _, t := range w.present {
		t.server.Close()
	}
	w.work.Wait()
	w.judge.stop()
	w.watch.stop()
}

func (w *soak) servers() []*soakServer { return []*soakServer{w.steady, w.restless} }

// steadyLocked reports whether g is the Stapler that lives.
func (w *soak) steadyLocked(g *generation) bool { return w.steady.now.Load() == g }

// A soakStore is a directory that fails in every way for some of the time.
type soakStore struct {
	staple.DirStore
	w     *soak
	bad   atomic.Bool
	turns time.Time // when that changes; for the test's goroutine
}

func (w *soak) newStore(name string) *soakStore {
	return &soakStore{DirStore: staple.DirStore(filepath.Join(w.dir, name)), w: w}
}

var errSoakStore = errors.New("soak: the store fails")

// fault fails, hangs, is slow, panics, or does nothing.
func (s *soakStore) fault(ctx context.Context) error {
	if !s.bad.Load() {
		return nil
	}
	switch s.draw(6) {
	case 0:
		return errSoakStore
	case 1:
		<-ctx.Done()
		return ctx.Err()
	case 2:
		slow := time.NewTimer(300 * time.Millisecond)
		defer slow.Stop()
		select {
		case <-slow.C:
		case <-ctx.Done():
		}
	case 3:
		panic("soak: the store panics")
	}
	return nil
}

func (s *soakStore) draw(n int) int {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.rng.IntN(n)
}

// Get returns a record; where the store is bad also half of one, or none of ours.
func (s *soakStore) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.fault(ctx); err != nil {
		return nil, err
	}
	data, err := s.DirStore.Get(ctx, key)
	if err == nil && s.bad.Load() {
		switch s.draw(3) {
		case 0:
			return data[:len(data)/2], nil
		case 1:
			return bytes.Repeat([]byte("junk"), 1000), nil
		}
	}
	return data, err
}

// Put keeps a record.
func (s *soakStore) Put(ctx context.Context, key string, data []byte) error {
	if err := s.fault(ctx); err != nil {
		return err
	}
	return s.DirStore.Put(ctx, key, data)
}

// changeStores has the stores in use fail, or no longer.
func (w *soak) changeStores(now time.Time) {
	for _, v := range w.servers() {
		if g := v.now.Load(); g.store != nil && now.After(g.store.turns) {
			g.store.bad.Store(!g.store.bad.Load())
			g.store.turns = now.Add(w.between(w.life()/16, w.life()/4))
		}
	}
}

// A generation is one Stapler, from New to Close.
type generation struct {
	w      *soak
	id     int
	s      *staple.Stapler
	store  *soakStore // nil: none
	cfg    atomic.Pointer[tls.Config]
	begun  time.Time
	closed time.Time // guarded by soak.mu
}

func (w *soak) newGeneration(store *soakStore) *generation {
	w.mu.Lock()
	w.generations++
	g := &generation{w: w, id: w.generations, store: store, begun: time.Now()}
	w.staplers[g.id] = g
	w.mu.Unlock()
	opts := []staple.Option{staple.WithResponders(g.responders), staple.WithEventFunc(g.event), staple.WithLogger(slog.New(slog.DiscardHandler))}
	if store != nil {
		opts = append(opts, staple.WithStore(store))
	}
	g.s = staple.New(opts...)
	g.reload()
	return g
}

// responders has g ask under a path of its own.
func (g *generation) responders(leaf *x509.Certificate) (urls []string, on bool) {
	c := g.w.find(leaf)
	switch {
	case c == nil || c.kind == soakNoURL:
		return nil, true
	case c.kind == soakOff:
		return nil, false
	}
	return []string{fmt.Sprintf("%s/g%d", c.tenant.url, g.id)}, true
}

// event notes what g says that it holds, in the goroutine that delivers events: after that
// it has no excuse.
func (g *generation) event(e staple.Event) {
	if e.Leaf == nil {
		return
	}
	c := g.w.find(e.Leaf)
	if c == nil {
		return
	}
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	f := c.fateLocked(g)
	switch e.Kind {
	case staple.EventFetched:
		f.told, f.toldUntil = time.Now(), e.Response.NextUpdate
	case staple.EventRevoked:
		f.revoked = time.Now()
	}
}

// reload wraps the certificates of the moment.
func (g *generation) reload() {
	base := &tls.Config{GetCertificate: g.w.source}
	g.w.mu.Lock()
	for _, t := range g.w.present {
		for _, s := range t.sites {
			if t.listed {
				base.Certificates = append(base.Certificates, *s.cert.pair)
			}
		}
	}
	g.w.mu.Unlock()
	g.cfg.Store(g.s.TLSConfig(base))
}

// source is a GetCertificate for what is not listed.
func (w *soak) source(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.present {
		for _, s := range t.sites {
			if s.name != hello.ServerName || t.listed {
				continue
			}
			if !t.reread {
				return s.cert.pair, nil
			}
			read := *s.cert.pair
			read.Certificate = nil
			for _, der := range s.cert.pair.Certificate {
				read.Certificate = append(read.Certificate, bytes.Clone(der))
			}
			return &read, nil
		}
	}
	return nil, nil
}

// changeStaplers closes the Stapler that is restless, and makes another: before, and then
// nothing is without one, or after it.
func (w *soak) changeStaplers(now time.Time) {
	v := w.restless
	old := v.now.Load()
	w.mu.Lock()
	wasClosed, first, kept := !old.closed.IsZero(), w.rng.IntN(2) == 0, w.rng.IntN(2) == 0
	w.mu.Unlock()
	switch {
	case wasClosed: // in the tenth of a second before
	case !now.After(w.restart):
		return
	case first:
		w.close(old)
		return
	}
	var store *soakStore
	if kept {
		store = w.newStore("restless")
	}
	v.now.Store(w.newGeneration(store))
	if !wasClosed {
		w.close(old)
	}
	w.restart = now.Add(w.between(w.life()/8, w.life()))
	if w.between(0, 2) == 0 {
		w.prefetch(v.now.Load())
	}
}

// prefetch asks for all certificates of the moment.
func (w *soak) prefetch(g *generation) {
	var pairs []*tls.Certificate
	w.mu.Lock()
	for _, t := range w.present {
		for _, s := range t.sites {
			pairs = append(pairs, s.cert.pair)
		}
	}
	w.mu.Unlock()
	w.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = g.s.Prefetch(ctx, pairs...) // some have no response
	})
}

// refresh has both Staplers ask reread about one certificate.
func (w *soak) refresh() {
	w.mu.Lock()
	sites := w.present[w.rng.IntN(len(w.present))].sites
	pair := sites[w.rng.IntN(len(sites))].cert.pair
	w.mu.Unlock()
	for _, v := range w.servers() {
		g := v.now.Load()
		w.work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = g.s.Refresh(ctx, pair) // the responder may fail
		})
	}
}

// close closes a Stapler in the background. Its responders and its store may hang.
func (w *soak) close(g *generation) {
	w.mu.Lock()
	g.closed = time.Now()
	if old := w.staplers[g.id-soakRemembered]; old != nil && !w.steadyLocked(old) {
		delete(w.staplers, old.id)
	}
	w.mu.Unlock()
	w.work.Go(func() {
		if err := g.s.Close(); err != nil {
			w.t.Errorf("Close: %v", err)
		}
	})
}

// soakRemembered is how many Staplers are known: handshakes and requests of the last ones
// may be under way.
const soakRemembered = 8

// A soakServer is a TLS server.
type soakServer struct {
	w    *soak
	name string
	l    net.Listener
	tls  *tls.Config
	now  atomic.Pointer[generation]
}

func (w *soak) newServer(name string) *soakServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	v := &soakServer{w: w, name: name, l: l}
	v.tls = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, g := hello.Conn.(*soakConn), v.now.Load()
		c.said = greeting{g.id, time.Now()}
		return g.cfg.Load(), nil
	}}
	return v
}

func (v *soakServer) reload() { v.now.Load().reload() }

// A soakConn remembers who served it.
type soakConn struct {
	net.Conn
	said greeting
}

// soakPatience is how long a connection may take: what takes longer hangs.
const soakPatience = time.Minute

func (v *soakServer) serve() {
	for {
		raw, err := v.l.Accept()
		if err != nil {
			return
		}
		v.w.work.Go(func() {
			defer raw.Close()
			_ = raw.SetDeadline(time.Now().Add(soakPatience))
			c := &soakConn{Conn: raw}
			server := tls.Server(c, v.tls)
			if server.Handshake() != nil {
				return // the client says so
			}
			_, _ = server.Write(c.said.encode())
			_, _ = io.Copy(io.Discard, server) // the client closes
		})
	}
}

// choose returns whom the next handshake is with.
func (w *soak) choose() (*soakServer, *soakTenant, *soakSite, uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tenants[w.rng.IntN(len(w.tenants))]
	version := uint16(tls.VersionTLS13)
	if w.rng.IntN(4) == 0 {
		version = tls.VersionTLS12
	}
	return w.servers()[w.rng.IntN(2)], t, t.sites[w.rng.IntN(len(t.sites))], version
}

// shake makes a handshake and judges what it brought.
func (w *soak) shake(v *soakServer, t *soakTenant, s *soakSite, version uint16) {
	cs, said, err := visit(v.l.Addr().String(), &tls.Config{RootCAs: t.pool, ServerName: s.name, MinVersion: version, MaxVersion: version})
	end := time.Now()
	w.mu.Lock()
	w.handshakes++
	var fresh *soakStaple
	reason := reasonStapled
	switch c := (*soakCert)(nil); {
	case err != nil && t.gone:
		reason = reasonGone
	case err != nil:
		reason = "failed"
		w.errorfLocked("%s, %s: %v", v.name, s.name, err)
	default:
		c = w.certs[cs.PeerCertificates[0].SerialNumber.String()]
		g := w.staplers[said.generation]
		if c == nil || g == nil {
			reason = reasonGone // it took longer than the test remembers
			break
		}
		f := c.fateLocked(g)
		if f.seen.IsZero() {
			f.seen = said.at
		}
		if !f.forgotten.IsZero() && f.forgotten.Before(end) && !f.again && v == w.steady {
			f.again = true
			w.relearned++
		}
		if len(cs.OCSPResponse) > 0 {
			if fresh, err = w.stapledLocked(g, c, cs.PeerCertificates[0], cs.OCSPResponse, said.at); err != nil {
				reason = "a bad staple"
				w.errorfLocked("%s, Stapler %d, %s: %s: %v", v.name, g.id, s.name, reason, err)
			}
			break
		}
		var ok bool
		if reason, ok = w.explainLocked(g, c, said.at, end); !ok {
			w.errorfLocked("%s, Stapler %d, %s, asked at %v: no staple: %s", v.name, g.id, s.name, said.at, reason)
			reason = "unexplained"
		}
	}
	w.reasons[reason]++
	w.mu.Unlock()
	if fresh != nil {
		w.judge.queue <- fresh
	}
}

// errorfLocked fails the test. What is wrong for one handshake is so for thousands.
func (w *soak) errorfLocked(format string, args ...any) {
	if w.errors++; w.errors <= 20 {
		w.t.Errorf(format, args...)
	}
}

// visit makes a handshake, and hears who served it.
func visit(addr string, client *tls.Config) (cs tls.ConnectionState, said greeting, err error) {
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		return cs, said, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(soakPatience))
	conn := tls.Client(raw, client)
	hello := make([]byte, 16)
	if _, err := io.ReadFull(conn, hello); err != nil { // shakes hands first
		return cs, said, err
	}
	return conn.ConnectionState(), decodeGreeting(hello), nil
}
