package staple

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"hash/maphash"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxNever caps the entries that never held a response and that no live
	// config lists: what a source invents per server name must not grow us.
	maxNever = 10_000
	// maxKeys is how many copies of one leaf's bytes find its entry without a
	// hash: one per config that parsed the same file by itself, say.
	maxKeys = 4
	// idleLife is how long an entry outlives its last handshake.
	idleLife = 7 * 24 * time.Hour
	// never is a due time that does not come.
	never = math.MaxInt64
)

// entry is what a Stapler knows of one certificate. The atomics are all that a
// handshake reads; what follows them is guarded by Stapler.mu, but for what is
// said to be set once.
type entry struct {
	held   atomic.Pointer[held] // never nil
	due    atomic.Int64         // Unix ns of the next attempt; never while one is under way
	seen   atomic.Int64         // Unix hour of the last handshake
	judged atomic.Pointer[byte] // the source's own staple that was last taken as a candidate
	lists  atomic.Int32         // live configs, and Prefetch calls, that list it
	cold   atomic.Bool          // handshakes may have to wait: see wait

	id    uint64   // hash of the leaf
	der   []byte   // the leaf: identity, never its name (RFC 6066 §8: exactly the certificate served)
	chain [][]byte // the rest of the chain, dropped once the issuer is found
	keys  []*byte  // where the leaf's bytes were met
	twin  *entry   // next entry with the same id

	known                // set by resolve
	timing               // of what is next: an attempt, an alarm, its death
	route     *route     // who is asked, in order; nil or empty: nobody
	best      *responder // the one that answered last
	at        *attempt   // nil between attempts
	gate      *gate      // what handshakes and Prefetch wait for
	candidate []byte     // a staple that the source set, to be judged
	err       error      // of the last attempt
	failures  int        // attempts failed since the last success
	backoff   uint8      // exponent of the next retry; starts anew when validity is lost
	flags     flags
	queue     *urgency // of a responder
	slot      int      // in queue
	deadline  int64    // Unix ns: the order in queue
	alarm     int64    // when EventExpiring or EventExpired is due
	die       int64    // when to look whether the entry should be dropped
	learned   int64    // Unix ns
	success   int64    // Unix ns of the last answer that was one
	otherAt   int64    // Unix ns: when the other CertID hash was tried
	warned    int64    // Unix ns of the last warning
	never     *neverList
	prev, nxt *entry // in never
}

// known is what an entry has from its certificate, apart from its bytes.
type known struct {
	subject
	must bool // Must-Staple
}

type flags struct {
	resolved  bool // known is set
	tried     bool // an attempt came to an end since a valid response was lost or never had
	final     bool // err is for good: no attempt will be made
	none      bool // needs no staple: no responder, say
	off       bool // switched off by WithResponders
	lost      bool // err is ErrNoIssuer: another chain may bring it
	gone      bool // dropped from the cache
	expired   bool // the leaf's notAfter had passed when it was learned
	loaded    bool // the store was read
	dirty     bool // queued to be written to the store
	discard   bool // its record is to be deleted
	noted     bool // how the certificate was issued was logged
	announced bool // alarm was brought forward by a failure
}

// A held is an immutable snapshot of the newest verified response.
type held struct {
	state      State  // Good stays Good past until: see at
	raw        []byte // nil: none
	staple     bool   // raw may be stapled while it is current
	from       int64  // Unix ns, 0 but for responses without nextUpdate: a clock behind it was set back
	until      int64  // Unix ns: not served from then on
	limit      int64  // Unix ns: the end of the first thing that it rests on
	thisUpdate int64  // Unix s
	nextUpdate int64  // Unix s; 0: none
	producedAt int64  // Unix s
	received   int64  // Unix ns
	checked    int64  // Unix ns: when a responder last confirmed it
	maxAge     int64  // ns: what the responder's cache headers ask for
	cond       *conditionalHeaders
	copy       atomic.Pointer[tls.Certificate] // the last certificate served, stapled
}

// conditionalHeaders are what make the next request for a response conditional (RFC 9110 §13).
type conditionalHeaders struct{ url, etag, modified string }

// current reports whether the response may be served at now.
func (h *held) current(now int64) bool { return h.raw != nil && h.from <= now && now < h.until }

// at returns the state of what is served at now.
func (h *held) at(now int64) State {
	if h.state == StateGood && !h.current(now) {
		return StateExpired
	}
	return h.state
}

// current returns what to staple at now: nil for nothing.
func (h *held) stapleAt(now int64) []byte {
	if h.staple && h.current(now) {
		return h.raw
	}
	return nil
}

// with returns a copy of h in another state.
func (h *held) with(s State) *held {
	return &held{state: s, raw: h.raw, staple: h.staple, from: h.from, until: h.until, limit: h.limit, thisUpdate: h.thisUpdate,
		nextUpdate: h.nextUpdate, producedAt: h.producedAt, received: h.received, checked: h.checked, maxAge: h.maxAge, cond: h.cond}
}

// cache finds entries by certificate. Lookups by the address of the leaf's
// bytes take no lock; everything else is guarded by Stapler.mu.
type cache struct {
	byAddr  sync.Map // *byte, the first of a leaf's DER, to *entry: the key keeps the bytes alive, so no address is reused
	seed    maphash.Seed
	byID    map[uint64]*entry
	n       int
	waiting neverList // never stapled, unlisted, first attempt to come
	idle    neverList // never stapled, unlisted, and it will be a while
}

// find returns the entry of cert, or nil.
func (c *cache) find(cert *tls.Certificate) *entry {
	der := cert.Certificate[0]
	v, ok := c.byAddr.Load(&der[0])
	if !ok {
		return nil
	}
	// The same address with another length is a slice of a larger buffer.
	if e := v.(*entry); len(e.der) == len(der) {
		return e
	}
	return nil
}

// findLocked returns the entry with these bytes, wherever they stand.
func (c *cache) findLocked(id uint64, der []byte) *entry {
	for e := c.byID[id]; e != nil; e = e.twin {
		if bytes.Equal(e.der, der) {
			return e
		}
	}
	return nil
}

// aliasLocked lets der, a copy of the leaf of e, find e without a hash.
func (c *cache) aliasLocked(e *entry, der []byte) {
	if _, ok := c.byAddr.Load(&der[0]); ok {
		return // another length at the same address: hashed each time
	}
	if len(e.keys) == maxKeys { // a source that reads its files anew each time
		c.byAddr.Delete(e.keys[0])
		e.keys = append(e.keys[:0], e.keys[1:]...)
	}
	e.keys = append(e.keys, &der[0])
	c.byAddr.Store(&der[0], e)
}

func (c *cache) addLocked(e *entry) {
	e.twin = c.byID[e.id]
	c.byID[e.id] = e
	c.n++
	c.aliasLocked(e, e.der)
}

func (c *cache) removeLocked(e *entry) {
	e.flags.gone = true
	for _, k := range e.keys {
		c.byAddr.Delete(k)
	}
	if c.byID[e.id] == e {
		if e.twin == nil {
			delete(c.byID, e.id)
		} else {
			c.byID[e.id] = e.twin
		}
	} else {
		p := c.byID[e.id]
		for p.twin != e {
			p = p.twin
		}
		p.twin = e.twin
	}
	c.n--
	c.unqueueLocked(e)
}

// roomLocked makes room for one more unlisted entry, and returns the one that
// has to go for it, if any. Entries that wait for their first attempt are not
// pushed out, or a burst of new certificates would push all of them out.
func (c *cache) roomLocked() (evict *entry, ok bool) {
	if c.waiting.n+c.idle.n < maxNever {
		return nil, true
	}
	return c.idle.first, c.idle.first != nil
}

// queueLocked moves e to the list that it belongs to by what it holds.
func (c *cache) queueLocked(e *entry) {
	c.unqueueLocked(e)
	switch {
	case e.flags.gone || e.lists.Load() > 0 || e.held.Load().raw != nil:
	case e.flags.tried || e.flags.none || e.flags.off || e.flags.final:
		c.idle.push(e)
	default:
		c.waiting.push(e)
	}
}

func (c *cache) unqueueLocked(e *entry) {
	if e.never != nil {
		e.never.remove(e)
	}
}

// neverList is a doubly linked list of entries, oldest first.
type neverList struct {
	first, last *entry
	n           int
}

func (l *neverList) push(e *entry) {
	e.never, e.prev, e.nxt = l, l.last, nil
	if l.last != nil {
		l.last.nxt = e
	} else {
		l.first = e
	}
	l.last = e
	l.n++
}

func (l *neverList) remove(e *entry) {
	if e.prev != nil {
		e.prev.nxt = e.nxt
	} else {
		l.first = e.nxt
	}
	if e.nxt != nil {
		e.nxt.prev = e.prev
	} else {
		l.last = e.prev
	}
	e.never, e.prev, e.nxt = nil, nil, nil
	l.n--
}

// same reports whether a and b differ in their staple at most, by identity: a
// source that opened its key anew, or has a new chain, must be served what it
// returns now. Anything that can't be told cheaply counts as different.
func same(a, b *tls.Certificate) bool {
	return a.Leaf == b.Leaf && sameKey(a.PrivateKey, b.PrivateKey) &&
		sameChain(a.Certificate, b.Certificate) &&
		sameChain(a.SignedCertificateTimestamps, b.SignedCertificateTimestamps) &&
		sameSlice(a.SupportedSignatureAlgorithms, b.SupportedSignatureAlgorithms)
}

func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func sameChain(a, b [][]byte) bool {
	if sameSlice(a, b) {
		return true // one array: what is changed in it shows in both
	}
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !sameSlice(a[i], b[i]) {
			return false
		}
	}
	return true
}

// sameKey never uses == on a key that may be uncomparable, which panics.
func sameKey(a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if x, ok := a.(ed25519.PrivateKey); ok {
		y, ok := b.(ed25519.PrivateKey)
		return ok && sameSlice(x, y)
	}
	return reflect.TypeOf(a).Kind() == reflect.Pointer && a == b
}
