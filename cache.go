package staple

import (
	"crypto/ed25519"
	"crypto/tls"
	"math"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/leafindex"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

const (
	// maxNever caps the entries that never held a response and that no live
	// config lists: what a source invents per server name must not grow us.
	maxNever = 10_000
	// idleLife is how long an entry outlives its last handshake. It is longer than
	// inUse: a revocation stays known, or an older response would undo it.
	idleLife = 7 * 24 * time.Hour
	// inUse is how long Ready and Status tell of a certificate that no live config
	// lists, after its last handshake.
	inUse = 24 * time.Hour
	// never is a due time that does not come.
	never = math.MaxInt64
)

type ref = leafindex.Ref[entry]

// entry is what a Stapler knows of one certificate. The atomics are all that a
// handshake reads; what follows them is guarded by Stapler.mu, but for what is
// said to be set once.
//
// There may be a million: this is 208 bytes, a size class of the allocator, and
// a field more makes it 224.
type entry struct {
	ref                         // DER, the leaf: identity, never its name (RFC 6066 §8: exactly the certificate served)
	held   atomic.Pointer[held] // never nil
	due    atomic.Int64         // Unix ns of the next attempt; never while one is under way
	judged atomic.Pointer[byte] // the source's own staple that was last taken as a candidate
	seen   atomic.Int32         // Unix minute of the last handshake; 0: none yet
	cold   atomic.Bool          // handshakes may have to wait: see wait

	flags               flags
	must                bool             // Must-Staple; this and the next are set by resolve
	backoff             uint8            // exponent of the next retry; starts anew when validity is lost
	slot                int32            // in queue
	known               int32            // Unix minute in which it was learned, or a call named it last
	lists               *atomic.Int32    // live configs that list it, which outlive it where Forget drops it; nil: none
	notBefore, notAfter int64            // of the leaf, in Unix seconds
	issuer              *ocspresp.Issuer // nil: not found yet
	id                  uint64           // of the leaf, in cache.leaves
	timing                               // of what is next: an attempt, an alarm, its death
	route               *route           // who is asked, in order; nil or empty: nobody
	best                *responder       // the one that answered last
	at                  *attempt         // nil between attempts
	queue               *urgency         // of a responder
	deadline            int64            // Unix ns: the order in queue
	alarm               int64            // when EventExpiring or EventExpired is due
	die                 int64            // when to look whether the entry should be dropped
	more                *rare            // nil: nothing of it; see rare and also
}

// rare is what most entries do without once they hold a response.
type rare struct {
	err       error          // of the last attempt; cleared by a success
	failures  int            // attempts failed since the last success
	learned   int64          // Unix ns
	chain     [][]byte       // the rest of the chain, dropped once the issuer is found
	scanned   bool           // the issuer is not in chain
	unissued  error          // why not; nil if nothing there has its name
	told      bool           // why e is not asked about
	candidate []byte         // a staple that the source set, to be judged
	nominated [4]uint64      // the hashes of the last ones
	aliases   []*ref         // where else the leaf's bytes were met
	tries     ocsphttp.Tries // of asking in another way
	warned    int64          // Unix ns of the last warning
	leased    int64          // Unix ns: when the lease was last taken
	gate      *gate          // what handshakes wait for
	turns     []*turn        // of the calls that wait for it
	unread    bool           // in Stapler.unread
	stoodBy   uint8          // how much of backoff is of attempts that asked nobody
	never     *neverList
	prev, nxt *entry // in never
}

// rare returns what there is of it, to be read.
func (e *entry) rare() rare {
	if e.more == nil {
		return rare{}
	}
	return *e.more
}

// also returns it to be written.
func (e *entry) also() *rare {
	if e.more == nil {
		e.more = new(rare)
	}
	return e.more
}

// trimLocked gives it up if nothing is in it.
func (e *entry) trimLocked(now int64) {
	if m := e.more; m != nil && m.err == nil && m.chain == nil && m.unissued == nil && m.candidate == nil && m.aliases == nil && m.never == nil &&
		m.gate == nil && len(m.turns) == 0 && m.warned == 0 && !m.told && m.tries.Old(now) {
		e.more = nil
	}
}

// subject returns what a response must speak of.
func (e *entry) subject() ocspresp.Subject {
	return ocspresp.Subject{Serial: certinfo.SerialOf(e.DER), NotBefore: e.notBefore, NotAfter: e.notAfter, Issuer: e.issuer, Alone: e.flags.alone}
}

type flags struct {
	resolved  bool // resolve read the certificate
	tried     bool // an attempt came to an end since a valid response was lost or never had
	final     bool // err is for good: no attempt will be made
	none      bool // needs no staple: no responder, say
	off       bool // switched off by WithResponders
	lost      bool // err is ErrNoIssuer: another chain may bring it
	alone     bool // the chain lacks the issuer, which WithIssuers gave
	gone      bool // dropped from the cache
	expired   bool // the leaf's notAfter had passed when it was learned
	loaded    bool // the store was read
	dirty     bool // queued to be written to the store
	discard   bool // its record is to be deleted
	announced bool // alarm was brought forward by a failure
	vain      vain // asked about in vain since the last success
}

// vain is what it says of a certificate that it was asked about in vain.
type vain uint8

const (
	vainProbe  vain = iota + 1 // nothing: the breaker was open
	vainItself                 // that it may be the reason: others may have succeeded
)

// A held is an immutable snapshot of the newest verified response.
type held struct {
	state      State  // Good stays Good past until: see at
	staple     bool   // raw may be stapled while it is current
	open       bool   // it has no nextUpdate
	maxAge     uint32 // s: what the responder's cache headers ask for
	produced   int32  // s from thisUpdate to producedAt
	age        uint32 // s from its receipt to checked
	lasts      uint32 // s from thisUpdate to nextUpdate, or if open to the end of what it rests on
	modified   uint32 // of the validator, which is from the responder that confirmed it: entry.best
	etag       string
	raw        []byte                          // nil: none
	until      int64                           // Unix ns: not served from then on
	checked    int64                           // Unix ns: when a responder last confirmed it
	thisUpdate int64                           // Unix s
	copy       atomic.Pointer[tls.Certificate] // the last certificate served, stapled
}

func (h *held) validator() ocsphttp.Validator {
	return ocsphttp.Validator{ETag: h.etag, Modified: h.modified}
}

// inSeconds returns n within what a uint32 holds.
func inSeconds(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// current reports whether the response may be served at now.
func (h *held) current(now int64) bool {
	if h.raw == nil || now >= h.until {
		return false
	}
	// What is counted from its receipt was not received in the future: the clock was set back.
	return !h.open || now >= h.checked-int64(ocspresp.ClockSkew)
}

// at returns the state of what is served at now.
func (h *held) at(now int64) State {
	if h.state == StateGood && !h.current(now) {
		return StateExpired
	}
	return h.state
}

// stapleAt returns what to staple at now: nil for nothing.
func (h *held) stapleAt(now int64) []byte {
	if h.staple && h.current(now) {
		return h.raw
	}
	return nil
}

// with returns a copy of h in another state.
func (h *held) with(s State) *held {
	return &held{state: s, staple: h.staple, open: h.open, maxAge: h.maxAge, produced: h.produced, age: h.age, lasts: h.lasts,
		modified: h.modified, etag: h.etag, raw: h.raw, until: h.until, checked: h.checked, thisUpdate: h.thisUpdate}
}

// cache holds the entries. Finding one by its leaf takes no lock; everything else
// is guarded by Stapler.mu.
type cache struct {
	leaves  *leafindex.Index[entry]
	waiting neverList // never stapled, unlisted, first attempt to come
	idle    neverList // never stapled, unlisted, and it will be a while
}

func newCache() cache {
	return cache{leaves: leafindex.New(func(e *entry) uint64 { return e.id })}
}

// find returns the entry of cert, or nil.
func (c *cache) find(cert *tls.Certificate) *entry { return c.leaves.Find(cert.Certificate[0]) }

// aliasLocked lets der, a copy of the leaf of e, find e without a hash.
func (c *cache) aliasLocked(e *entry, der []byte) {
	if c.leaves.Find(der) != nil {
		return // it does: Prefetch learns of what is known, too
	}
	m := e.also()
	m.aliases = c.leaves.AliasLocked(m.aliases, der, e)
}

// nominateLocked makes raw, which a source had set, a candidate, and reports
// whether it is one that was not judged yet. A source that reads its files anew
// each time brings the same bytes elsewhere.
func (c *cache) nominateLocked(e *entry, raw []byte) bool {
	if len(raw) == 0 || e.judged.Swap(&raw[0]) == &raw[0] || len(raw) > ocspresp.MaxResponse {
		return false
	}
	m, id := e.also(), c.leaves.ID(raw)
	if slices.Contains(m.nominated[:], id) {
		return false
	}
	copy(m.nominated[1:], m.nominated[:])
	m.nominated[0], m.candidate = id, raw
	return true
}

func (c *cache) addLocked(e *entry) {
	e.Of = e
	c.leaves.AddLocked(&e.ref)
}

func (c *cache) removeLocked(e *entry) {
	e.flags.gone = true
	c.leaves.RemoveLocked(&e.ref, e.rare().aliases)
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
	case e.flags.gone || e.keptLocked() || e.held.Load().raw != nil:
	case e.flags.tried || e.flags.none || e.flags.off || e.flags.final:
		c.idle.push(e)
	default:
		c.waiting.push(e)
	}
}

func (c *cache) unqueueLocked(e *entry) {
	if l := e.rare().never; l != nil {
		l.remove(e)
	}
}

// neverList is a doubly linked list of entries, oldest first.
type neverList struct {
	first, last *entry
	n           int
}

func (l *neverList) push(e *entry) {
	m := e.also()
	m.never, m.prev, m.nxt = l, l.last, nil
	if l.last != nil {
		l.last.more.nxt = e
	} else {
		l.first = e
	}
	l.last = e
	l.n++
}

func (l *neverList) remove(e *entry) {
	m := e.more
	if m.prev != nil {
		m.prev.more.nxt = m.nxt
	} else {
		l.first = m.nxt
	}
	if m.nxt != nil {
		m.nxt.more.prev = m.prev
	} else {
		l.last = m.prev
	}
	m.never, m.prev, m.nxt = nil, nil, nil
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
