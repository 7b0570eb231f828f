package staple

import (
	"bytes"
	"container/list"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/exchange"
	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/leafindex"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/waiting"
)

const (
	// maxNever caps the entries that never held a response and that no live
	// config lists: what a source invents per server name must not grow us.
	maxNever = 10_000
	// idleLife is how long an entry outlives its last handshake. It is longer than
	// inUse: a revocation stays known, or an older response would undo it.
	idleLife = 7 * 24 * time.Hour
	// inUse is how long Ready and Status cover a certificate that no live config
	// lists, after its last handshake.
	inUse = 24 * time.Hour
)

// A State is what is known of a certificate, and so what is served with it.
type State uint8

const (
	// StatePending: no response yet; nothing is stapled.
	StatePending State = State(held.Pending)
	// StateGood: a valid response is stapled.
	StateGood State = State(held.Good)
	// StateRevoked: proven revoked; nothing is stapled, but see
	// [WithStapleRevoked].
	StateRevoked State = State(held.Revoked)
	// StateUnknown: no valid response, and the responder last said that it does
	// not know the certificate; nothing is stapled.
	StateUnknown State = State(held.Unknown)
	// StateExpired: there was a response, it expired and no other came; nothing
	// is stapled.
	StateExpired State = State(held.Expired)
	// StateNone: needs no staple: the certificate names no responder under http or https,
	// says noRevAvail (RFC 9608), is self-signed, is an acme-tls/1 challenge, has expired
	// itself, does not parse, or was switched off by [WithResponders]. It passes untouched,
	// but for a staple of the source's that is not proven good, or switched off.
	StateNone State = State(held.None)
)

var stateNames = [...]string{"pending", "good", "revoked", "unknown", "expired", "none"}

// String returns the name of the state, in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "invalid"
}

type ref = leafindex.Ref[entry]

// entry is what a Stapler knows of one certificate. A handshake reads the atomics
// and when the next attempt is due; the rest is guarded by Stapler.mu.
//
// Keep it at 208 bytes: a million certificates pay 16 MB for one more field.
type entry struct {
	ref                                     // DER, the leaf: identity, never its name (RFC 6066 §8: exactly the certificate served)
	held      atomic.Pointer[held.Response] // never nil
	judged    atomic.Pointer[byte]          // the source's own staple that was last taken as a candidate
	seen      atomic.Int32                  // Unix minute of the last handshake; 0: none yet
	cold      atomic.Bool                   // handshakes may have to wait: see wait
	noIssuer  atomic.Bool                   // its issuer is not known, and not in the chain
	signalled atomic.Bool                   // one for it is in Stapler.signals

	flags               flags
	must                bool             // Must-Staple; set by readLeaf, as are the two times
	known               int32            // Unix minute in which it was learned, or a call named it last
	notBefore, notAfter int64            // of the leaf, in Unix seconds
	listings            *atomic.Int32    // live configs that list it, which outlive it where Forget drops it; nil: none
	issuer              *ocspresp.Issuer // nil: not found yet
	id                  uint64           // of the leaf, in cache.leaves
	more                *details         // nil: nothing of it; see details and edit
	schedule.Item[*entry]
}

// details is what most entries do without once they hold a response. It is there while
// an attempt is under way, somebody waits, or something failed; trimLocked drops it.
type details struct {
	err       error            // of the last attempt; cleared by a success
	errs      []error          // of the responders asked in the attempt under way
	prepare   func()           // the attempt under way, queued for a worker; calling it again does nothing
	first     string           // URL of the first responder, before there is a route
	learned   int64            // Unix ns
	begun     int64            // Unix ns: the attempt under way
	patience  int64            // Unix ns: until when a caller waits for the store
	chain     [][]byte         // the rest of the chain, dropped once the issuer is found
	scanned   bool             // the issuer is not in chain
	rechained int64            // Unix ns: when another chain was last looked at
	unissued  error            // why not; nil if nothing there has its name
	doubted   *ocspresp.Issuer // see doubtLocked
	restored  bool             // a record was read between attempts that needs no refresh
	unread    bool             // in Stapler.unread
	candidate []byte           // a staple that the source set, to be judged
	nominated [4]uint64        // the hashes of the last ones
	aliases   []*ref           // where else the leaf's bytes were met
	tries     ocsphttp.Tries   // of asking in another way
	warned    int64            // Unix ns of the last warning
	leased    int64            // Unix ns: when the lease was last taken
	never     *list.Element    // in cache.never
	waiters   waiting.Waiters[*entry]
}

// details returns a copy to be read, the zero value if there are none.
func (e *entry) details() details {
	if e.more == nil {
		return details{}
	}
	return *e.more
}

// edit returns the details to be written, allocating them if needed.
func (e *entry) edit() *details {
	if e.more == nil {
		e.more = new(details)
	}
	return e.more
}

// trimLocked drops the details if nothing is in them that is needed.
func (e *entry) trimLocked(now int64) {
	if m := e.more; m != nil && !e.Phase().UnderWay() && m.err == nil && m.chain == nil && m.unissued == nil && m.candidate == nil && m.aliases == nil &&
		m.never == nil && m.waiters.Empty() && m.warned == 0 && !m.unread && m.tries.Old(now) {
		e.more = nil
	}
}

// gone reports whether e was dropped from the cache.
func (e *entry) gone() bool { return e.Phase() == schedule.Gone }

// subject returns what a response must be about.
func (e *entry) subject() ocspresp.Subject {
	return ocspresp.Subject{Serial: certinfo.SerialOf(e.DER), NotBefore: e.notBefore, NotAfter: e.notAfter, Issuer: e.issuer, Alone: e.flags.alone}
}

// flags, with must after them, have two bytes of the entry's padding left: a third costs eight for each certificate.
type flags struct {
	read           bool  // readLeaf read the certificate
	tried          bool  // an attempt came to an end since a valid response was lost or never had
	alone          bool  // the chain lacks the issuer, which WithIssuers gave
	loaded         bool  // the store was read
	dirty          bool  // queued to be written to the store
	discard        bool  // its record is to be deleted
	logged         bool  // why no request is made
	issuerUnproven bool  // the issuer was downloaded, or is a record's, and no response is proven by it yet
	spared         uint8 // refreshes in a row that brought nothing signed: by a record, or a 304
}

// leafOf returns the certificate of e, parsed if the source did not set it.
func (e *entry) leafOf() *x509.Certificate {
	if c := e.held.Load().Copy.Load(); c != nil && c.Leaf != nil && bytes.Equal(c.Leaf.Raw, e.DER) {
		return c.Leaf
	}
	leaf, _ := x509.ParseCertificate(e.DER) // nil if it does not parse
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
// whether it was not verified yet. A source that reads its files each time has the
// same bytes at another address.
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

// sortLocked puts e into never, or takes it out. Call it after each change of what
// belongs there: a response, a listing, a waiting call, a removal.
func (c *cache) sortLocked(e *entry) {
	belongs := !e.gone() && !e.keptLocked() && e.held.Load().Raw == nil
	switch in := e.details().never; {
	case belongs && in == nil:
		e.edit().never = c.never.PushBack(e)
	case !belongs && in != nil:
		c.never.Remove(in)
		e.more.never = nil
	}
}

// listedLocked reports whether a live config lists e.
func (e *entry) listedLocked() bool { return e.listings != nil && e.listings.Load() > 0 }

// keptLocked reports whether e must not be evicted.
func (e *entry) keptLocked() bool { return e.listedLocked() || e.more != nil && e.more.waiters.Calls() }

// usedUntil returns the end of the minute in which somebody last wanted e: the
// last handshake, or when it was learned, or a call named it.
func (e *entry) usedUntil() int64 {
	return (int64(max(e.seen.Load(), e.known)) + 1) * int64(time.Minute)
}

// inUseLocked reports whether Ready and Status cover e.
func (e *entry) inUseLocked(now int64) bool {
	return e.listedLocked() || now <= e.usedUntil()+int64(inUse)
}

// validFrom returns from when on a responder may know e, in Unix ns.
func (e *entry) validFrom() int64 { return held.Nanos(e.notBefore) - int64(ocspresp.ClockSkew) }

// foundLocked notes who issued the certificate of e. alone says that the chain lacks the
// issuer and WithIssuers gave it, so its bytes may be handed to clients. Those of one that
// was downloaded, or came from a record, may not: nobody checked its own signature, so it
// verifies with its key and may differ from the CA's certificate.
func (e *entry) foundLocked(is *ocspresp.Issuer, alone bool) {
	e.issuer, e.flags.alone, e.flags.issuerUnproven = is, alone, false
	e.noIssuer.Store(false)
	if e.more != nil {
		e.more.chain, e.more.unissued, e.more.doubted = nil, nil, nil
	}
}

// foundUnprovenLocked is foundLocked for an issuer that only the leaf's signature vouches for,
// unless another was found meanwhile. An ECDSA signature verifies with two keys, and
// anybody can compute the other: see doubtLocked.
func (e *entry) foundUnprovenLocked(is *ocspresp.Issuer) {
	if e.issuer == nil {
		e.foundLocked(is, false)
		e.flags.issuerUnproven = true
	}
}

// doubtLocked has such an issuer looked for anew after an attempt that failed with errs. If
// no other is found it is this one.
func (e *entry) doubtLocked(errs []error) {
	if e.flags.issuerUnproven && slices.ContainsFunc(errs, func(err error) bool { return exchange.Doubts(ocspresp.Reason(reasonOf(err))) }) {
		e.edit().doubted, e.issuer = e.issuer, nil
		e.noIssuer.Store(true)
	}
}

// url returns the responder that answered last, or is asked first.
func (e *entry) url() string {
	if r := e.Best(); r != nil {
		return r.URL
	}
	return e.details().first
}

var errPending = errors.New("no response yet")

// problemLocked returns nil if e holds what it needs, and else why not. Before
// the first attempt has come to an end that is errPending.
func (e *entry) problemLocked(now int64) error {
	h, err := e.held.Load(), e.details().err
	switch {
	case h.Unneeded:
		return nil
	case h.State == held.Revoked:
		return e.revokedLocked(h)
	case h.Current(now), e.Need() == schedule.None:
		return nil
	case h.Raw != nil:
		return h.Lapsed(err)
	case e.Need() == schedule.Hopeless || e.flags.tried && err != nil:
		return err
	}
	return errPending
}

// revokedLocked says when and why the certificate was revoked.
func (e *entry) revokedLocked(h *held.Response) error {
	return &ResponseError{Responder: e.url(), Reason: ReasonRevoked, Err: ocspresp.Revoking(h.Raw, e.subject())}
}

// minuteOf returns a time in ns as one in minutes.
func minuteOf(now int64) int32 { return int32(now / int64(time.Minute)) }

// unix returns the time of sec, the zero Time for 0.
func unix(sec int64) time.Time {
	if sec == 0 {
		return time.Time{}
	}
	return time.Unix(sec, 0)
}
