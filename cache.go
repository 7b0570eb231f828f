package staple

import (
	"bytes"
	"container/list"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/leafindex"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
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
)

type ref = leafindex.Ref[entry]

// entry is what a Stapler knows of one certificate. A handshake reads the atomics
// and when the next attempt is due; the rest is guarded by Stapler.mu.
//
// Keep it at 240 bytes: a million certificates pay 16 MB for one more field.
type entry struct {
	ref                         // DER, the leaf: identity, never its name (RFC 6066 §8: exactly the certificate served)
	held   atomic.Pointer[held] // never nil
	judged atomic.Pointer[byte] // the source's own staple that was last taken as a candidate
	seen   atomic.Int32         // Unix minute of the last handshake; 0: none yet
	cold   atomic.Bool          // handshakes may have to wait: see wait
	lone   atomic.Bool          // its issuer is not known, and not in the chain
	told   atomic.Bool          // a word of it is in Stapler.words

	flags               flags
	must                bool             // Must-Staple; this and the next two are set by readLeaf
	known               int32            // Unix minute in which it was learned, or a call named it last
	notBefore, notAfter int64            // of the leaf, in Unix seconds
	lists               *atomic.Int32    // live configs that list it, which outlive it where Forget drops it; nil: none
	issuer              *ocspresp.Issuer // nil: not found yet
	id                  uint64           // of the leaf, in cache.leaves
	more                *details         // nil: nothing of it; see details and edit
	schedule.Item[*entry]
}

// details is what most entries do without once they hold a response.
type details struct {
	err       error          // of the last attempt; cleared by a success
	errs      []error        // of the responders asked in the attempt under way
	first     string         // URL of the first responder, before there is a route
	learned   int64          // Unix ns
	begun     int64          // Unix ns: the attempt under way
	patience  int64          // Unix ns: until when a caller waits for the store
	chain     [][]byte       // the rest of the chain, dropped once the issuer is found
	scanned   bool           // the issuer is not in chain
	unissued  error          // why not; nil if nothing there has its name
	restored  bool           // a record was read between attempts that needs no refresh
	unread    bool           // in Stapler.unread
	candidate []byte         // a staple that the source set, to be judged
	nominated [4]uint64      // the hashes of the last ones
	aliases   []*ref         // where else the leaf's bytes were met
	tries     ocsphttp.Tries // of asking in another way
	warned    int64          // Unix ns of the last warning
	leased    int64          // Unix ns: when the lease was last taken
	gate      *gate          // what handshakes wait for
	turns     []*turn        // of the calls that wait for it
	never     *list.Element  // in cache.never
}

// details returns what there is of it, to be read.
func (e *entry) details() details {
	if e.more == nil {
		return details{}
	}
	return *e.more
}

// edit returns it to be written.
func (e *entry) edit() *details {
	if e.more == nil {
		e.more = new(details)
	}
	return e.more
}

// trimLocked gives it up if nothing is in it.
func (e *entry) trimLocked(now int64) {
	if m := e.more; m != nil && !e.Phase().UnderWay() && m.err == nil && m.chain == nil && m.unissued == nil && m.candidate == nil && m.aliases == nil &&
		m.never == nil && m.gate == nil && len(m.turns) == 0 && m.warned == 0 && !m.unread && m.tries.Old(now) {
		e.more = nil
	}
}

// recovered forgets what failed.
func (e *entry) recovered() {
	if e.more != nil {
		e.more.err = nil
	}
}

// gone reports whether e was dropped from the cache.
func (e *entry) gone() bool { return e.Phase() == schedule.Gone }

// subject returns what a response must speak of.
func (e *entry) subject() ocspresp.Subject {
	return ocspresp.Subject{Serial: certinfo.SerialOf(e.DER), NotBefore: e.notBefore, NotAfter: e.notAfter, Issuer: e.issuer, Alone: e.flags.alone}
}

type flags struct {
	read    bool // readLeaf read the certificate
	tried   bool // an attempt came to an end since a valid response was lost or never had
	alone   bool // the chain lacks the issuer, which WithIssuers gave
	loaded  bool // the store was read
	dirty   bool // queued to be written to the store
	discard bool // its record is to be deleted
	told    bool // why it is not asked about
}

// leafOf returns the certificate of e, parsed if the source did not set it.
func (e *entry) leafOf() *x509.Certificate {
	if c := e.held.Load().copy.Load(); c != nil && c.Leaf != nil && bytes.Equal(c.Leaf.Raw, e.DER) {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(e.DER)
	if err != nil {
		return nil
	}
	return leaf
}

// cache holds the entries. Finding one by its leaf takes no lock; everything else
// is guarded by Stapler.mu.
type cache struct {
	leaves *leafindex.Index[entry]
	never  list.List // of *entry: never stapled, and no live config lists them; oldest first
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
	m := e.edit()
	m.aliases = c.leaves.AliasLocked(m.aliases, der, e)
}

// nominateLocked makes raw, which a source had set, a candidate, and reports
// whether it is one that was not judged yet. A source that reads its files anew
// each time brings the same bytes elsewhere.
func (c *cache) nominateLocked(e *entry, raw []byte) bool {
	if len(raw) == 0 || e.judged.Swap(&raw[0]) == &raw[0] || len(raw) > ocspresp.MaxResponse {
		return false
	}
	m, id := e.edit(), c.leaves.ID(raw)
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
	c.leaves.RemoveLocked(&e.ref, e.details().aliases)
	c.sortLocked(e)
}

// roomLocked makes room for one more unlisted entry, and returns the one that
// has to go for it, if any. An entry whose first attempt is under way has another
// turn, or a burst of new certificates would push all of them out.
func (c *cache) roomLocked() (evict *entry, ok bool) {
	if c.never.Len() < maxNever {
		return nil, true
	}
	for range 8 {
		first := c.never.Front()
		if e := first.Value.(*entry); e.flags.tried || !e.Phase().UnderWay() {
			return e, true
		}
		c.never.MoveToBack(first)
	}
	return nil, false
}

// sortLocked has e in never if it belongs there.
func (c *cache) sortLocked(e *entry) {
	belongs := !e.gone() && !e.keptLocked() && e.held.Load().raw == nil
	switch in := e.details().never; {
	case belongs && in == nil:
		e.edit().never = c.never.PushBack(e)
	case !belongs && in != nil:
		c.never.Remove(in)
		e.more.never = nil
	}
}

// idsOf returns the IDs of the leafs of certs. Hashing takes no lock.
func (s *Stapler) idsOf(certs []*tls.Certificate) []uint64 {
	ids := make([]uint64, len(certs))
	for i, cert := range certs {
		if !empty(cert) {
			ids[i] = s.cache.leaves.ID(cert.Certificate[0])
		}
	}
	return ids
}

// learnLocked returns the entry of a certificate whose leaf has the ID id, making it
// if need be, for a config that lists it, a call or a handshake. It returns nil when
// there is no room, and after Close. The bytes are compared in full, so a renewed
// certificate never finds its predecessor.
func (s *Stapler) learnLocked(cert *tls.Certificate, id uint64, listed bool, c *call) *entry {
	der := cert.Certificate[0]
	if e := s.cache.leaves.FindBytesLocked(id, der); e != nil {
		s.cache.aliasLocked(e, der)
		s.rechainLocked(e, cert.Certificate[1:])
		s.keepLocked(e, listed, c, false)
		return e
	}
	lists := s.forgotten[id]
	if s.closed || !listed && c == nil && lists == nil && !s.makeRoomLocked(der) {
		return nil
	}
	delete(s.forgotten, id)
	now := s.nanos()
	e := &entry{ref: ref{DER: der}, id: id, known: minuteOf(now), lists: lists}
	e.more = &details{learned: now, begun: now, chain: cert.Certificate[1:]}
	s.cache.nominateLocked(e, cert.OCSPStaple) // to be judged before anyone is asked
	e.held.Store(&held{state: StatePending})
	e.cold.Store(true)
	s.cache.addLocked(e)
	u := schedule.Urgent // a handshake may wait for it
	switch {
	case c != nil:
		u = c.urgency()
	case listed:
		u = schedule.Routine
	}
	s.doLocked(s.sched.Start(e, u, now))
	s.keepLocked(e, listed, c, true)
	s.doLocked(s.sched.Reviewed(e, now+int64(idleLife), true, now))
	return e
}

// keepLocked notes who has an interest in e: a config that lists it, a call, which
// may have made it.
func (s *Stapler) keepLocked(e *entry, listed bool, c *call, made bool) {
	if listed {
		if e.lists == nil {
			e.lists = new(atomic.Int32)
		}
		e.lists.Add(1)
	}
	if c != nil {
		s.nameLocked(c, e, made)
	}
	s.cache.sortLocked(e)
}

// listedLocked reports whether a live config lists e.
func (e *entry) listedLocked() bool { return e.lists != nil && e.lists.Load() > 0 }

// keptLocked reports whether e must not be evicted.
func (e *entry) keptLocked() bool { return e.listedLocked() || len(e.details().turns) > 0 }

// usedUntil returns the end of the minute in which somebody last wanted e: the
// last handshake, or when it was learned, or a call named it.
func (e *entry) usedUntil() int64 {
	return (int64(max(e.seen.Load(), e.known)) + 1) * int64(time.Minute)
}

// inUseLocked reports whether Ready and Status tell of e.
func (e *entry) inUseLocked(now int64) bool {
	return e.listedLocked() || now <= e.usedUntil()+int64(inUse)
}

// makeRoomLocked makes room for an entry for der. Without a responder it is not
// worth another's place: of these there may be many more than places.
func (s *Stapler) makeRoomLocked(der []byte) bool {
	evict, ok := s.cache.roomLocked()
	if evict != nil {
		if s.opts.responders == nil && !certinfo.MayNameResponder(der) && !certinfo.MayMustStaple(der) {
			return false
		}
		s.dropLocked(evict)
	}
	return ok
}

// reviewLocked drops e if its certificate expired or was not used for a week, and
// else says when to look again. Where the timer overslept it may be used any moment.
func (s *Stapler) reviewLocked(e *entry, overslept bool) {
	now := s.nanos()
	if next := s.lifeLocked(e, overslept, now); next > now {
		s.cache.sortLocked(e) // its config may be gone
		s.doLocked(s.sched.Reviewed(e, next, e.inUseLocked(now), now))
		return
	}
	s.dropLocked(e)
	if e.notAfter != 0 && now > wall(e.notAfter) && s.opts.store != nil {
		s.discardLocked(e)
	}
}

// lifeLocked returns until when e is kept, as it is used now.
func (s *Stapler) lifeLocked(e *entry, overslept bool, now int64) int64 {
	life, end := int64(idleLife), schedule.Never
	switch {
	case e.Need() == schedule.LeafExpired:
		life = int64(time.Hour) // it is served all the same, and would be learned each time
	case e.notAfter != 0:
		end = wall(e.notAfter + 1)
	}
	idle := e.usedUntil() + life
	if e.keptLocked() || overslept {
		idle = max(idle, now+int64(24*time.Hour))
	}
	return min(end, idle)
}

// dropLocked forgets e. What is under way for it comes to nothing.
func (s *Stapler) dropLocked(e *entry) {
	s.doLocked(s.sched.Remove(e, s.nanos()))
	s.cache.removeLocked(e)
	s.settleLocked(e)
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
