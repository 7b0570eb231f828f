package staple

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"time"
)

const (
	// storeWait is how long a certificate waits for the store before the
	// responder is asked, and a handshake at the first sight of one.
	storeWait = 100 * time.Millisecond
	// storeRest is how long a store that was slow is left alone.
	storeRest = 5 * time.Second
	// storePut is how long a write may take.
	storePut = 5 * time.Second
	// maxWriters is how many writes are under way at once.
	maxWriters = 16
	// leaseTTL is longer than an attempt and the write of what it brought.
	leaseTTL = 15 * time.Second
	// recordType is the PEM type of a stored response.
	recordType = "OCSP RESPONSE"
)

// A Store keeps responses beyond the life of a process, and may be shared by a
// fleet: see [WithStore]. It has the methods of autocert.Cache, so that every
// implementation of that is a Store, the manager's own included. Keys are
// lower-case letters, digits and hyphens, at most 80 bytes; a record is a PEM
// block of at most 256 KiB that openssl and people can read.
//
// Methods are called concurrently, off the handshake, with a context that ends
// after 100 ms for Get and 5 s for the others. Get returns an error, whichever,
// if there is nothing under key. data must not be kept or changed.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
	Delete(ctx context.Context, key string) error
}

// A Leaser is a [Store] that lets one of the processes that share it ask a
// responder at a time. Lease reports whether the caller holds the lease on key
// for ttl from now: it was free, had ended, or was held by this same Leaser,
// which renews it. The others read what the holder stores. An error counts as
// held: a store that fails must not keep anyone from asking.
type Leaser interface {
	Lease(ctx context.Context, key string, ttl time.Duration) (held bool, err error)
}

// storeKey returns the key of the record for a leaf.
func storeKey(der []byte) string {
	sum := sha256.Sum256(der)
	return "staple-ocsp-" + hex.EncodeToString(sum[:])
}

// record is a stored response. What the headers say is believed within limits:
// they prove nothing, and the response is verified.
type record struct {
	raw               []byte
	responder         string
	etag, modified    string
	received, checked int64 // Unix ns
}

func (r *record) encode() []byte {
	block := &pem.Block{Type: recordType, Bytes: r.raw, Headers: map[string]string{
		"Received": time.Unix(0, r.received).UTC().Format(time.RFC3339Nano),
		"Checked":  time.Unix(0, r.checked).UTC().Format(time.RFC3339Nano),
	}}
	for name, v := range map[string]string{"Responder": r.responder, "ETag": r.etag, "Last-Modified": r.modified} {
		if v != "" && !strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			block.Headers[name] = v
		}
	}
	return pem.EncodeToMemory(block)
}

var errRecord = errors.New("staple: stored record is not a PEM block " + recordType)

func parseRecord(data []byte) (*record, error) {
	if len(data) > 2*maxBody {
		return nil, errRecord
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != recordType {
		return nil, errRecord
	}
	r := &record{raw: block.Bytes, responder: block.Headers["Responder"],
		etag: block.Headers["ETag"], modified: block.Headers["Last-Modified"]}
	for name, at := range map[string]*int64{"Received": &r.received, "Checked": &r.checked} {
		if t, err := time.Parse(time.RFC3339Nano, block.Headers[name]); err == nil {
			*at = t.UnixNano()
		}
	}
	return r, nil
}

// load takes what the store holds for e, and reports whether that spares the
// request: another process, or an earlier one, made it.
func (s *Stapler) load(e *entry) (done bool) {
	if s.opts.store == nil {
		return false
	}
	a, err := s.read(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.flags.loaded = true
	if e.at == nil || e.flags.gone {
		return true
	}
	now := s.nanos()
	if a != nil && err == nil {
		err = s.installLocked(e, a, now)
	}
	if err != nil {
		s.log(slogDebug, "nothing usable in the store", "certificate", e, "error", err)
	}
	h := e.held.Load()
	if a == nil || err != nil || h.refreshAt(s.opts.ttl) <= now {
		s.settleLocked(e) // the handshake that waited for the store goes on
		return false
	}
	s.finishLocked(e, now)
	return true
}

// read returns the verified response that the store holds for e, if any.
func (s *Stapler) read(e *entry) (*answer, error) {
	s.mu.Lock()
	sub, resting := e.subject, s.nanos() < s.storeUntil
	s.mu.Unlock()
	if sub.issuer == nil || resting {
		return nil, nil // resting: it was slow, and delays nothing
	}
	key := storeKey(e.der)
	ctx, cancel := context.WithTimeout(s.ctx, storeWait)
	defer cancel()
	data, err := s.shared(ctx, "store Get", key, func() ([]byte, error) { return s.opts.store.Get(ctx, key) })
	if err != nil {
		s.storeFailed("Get", ctx, err)
		return nil, err
	}
	rec, err := parseRecord(data)
	if err != nil {
		return nil, err
	}
	now := s.opts.now()
	p, err := verify(rec.raw, &sub, now, 0)
	if err != nil {
		return nil, err
	}
	a := &answer{proof: p, raw: rec.raw, responder: rec.responder, stored: true,
		received: min(rec.received, now.UnixNano()), checked: min(rec.checked, now.UnixNano())}
	if rec.etag+rec.modified != "" {
		a.cond = &conditionalHeaders{url: rec.responder, etag: rec.etag, modified: rec.modified}
	}
	return a, nil
}

// storeFailed leaves a store alone for a while after it was too slow. Other
// errors of Get are misses: the root can't name each store's own.
func (s *Stapler) storeFailed(op string, ctx context.Context, err error) {
	var re *ResponseError
	if ctx.Err() == nil && !errors.As(err, &re) || s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.nanos(); now >= s.storeUntil {
		s.storeUntil = now + int64(storeRest)
		s.log(slogWarn, "store is slow or fails; responders are asked without it", "operation", op, "error", err)
	}
}

// lease reports whether this process may ask about e now, and else has e wait
// for what the holder of the lease will store.
func (s *Stapler) lease(e *entry) bool {
	l, ok := s.opts.store.(Leaser)
	s.mu.Lock()
	resting := s.nanos() < s.storeUntil
	s.mu.Unlock()
	if !ok || resting {
		return true
	}
	key := storeKey(e.der)
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	got, err := s.shared(ctx, "store Lease", key, func() ([]byte, error) {
		held, err := l.Lease(ctx, key, leaseTTL)
		if held {
			return []byte{1}, err
		}
		return nil, err
	})
	if err != nil {
		s.storeFailed("Lease", ctx, err)
		return true
	}
	if got != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.at != nil && !e.flags.gone {
		e.at.prepared = false
		pause := 2 * time.Second
		if !e.held.Load().current(s.nanos()) {
			pause = 400 * time.Millisecond
		}
		e.dueAt(s.nanos() + jitter(int64(pause), 0.5))
		s.moveLocked(e)
	}
	return false
}

// storeLocked has what e holds written to the store, off this goroutine.
func (s *Stapler) storeLocked(e *entry) {
	if s.opts.store == nil || e.flags.dirty {
		return
	}
	e.flags.dirty = true
	s.writes = append(s.writes, e)
	if s.writers < maxWriters {
		s.writers++
		s.goLocked(s.write)
	}
}

// discardLocked has the record of an expired certificate deleted.
func (s *Stapler) discardLocked(e *entry) {
	e.flags.discard = true
	s.storeLocked(e)
}

// write writes what is queued. Each entry is queued once at most, and what is
// written is what it holds then, so that an older response never overtakes a
// newer one.
func (s *Stapler) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.writes) > 0 {
		e := s.writes[0]
		s.writes[0], s.writes = nil, s.writes[1:]
		discard, h := e.flags.discard, e.held.Load()
		s.mu.Unlock()
		err := s.put(e, h, discard)
		s.mu.Lock()
		e.flags.dirty = false
		if n := e.held.Load(); err == nil && n.raw != nil && n.checked != h.checked {
			s.storeLocked(e)
		}
		s.storedLocked(e, err, discard)
	}
	s.writers--
	s.writes = nil
}

func (s *Stapler) storedLocked(e *entry, err error, discard bool) {
	switch {
	case s.closed && err != nil:
	case err != nil:
		s.notifyLocked(&notice{kind: EventStoreFailed, e: e, err: err})
	case !discard:
		s.notifyLocked(&notice{kind: EventStored, e: e})
	}
}

func (s *Stapler) put(e *entry, h *held, discard bool) error {
	key := storeKey(e.der)
	ctx, cancel := context.WithTimeout(s.putCtx, storePut)
	defer cancel()
	if h.raw == nil && !discard {
		return nil
	}
	rec := &record{raw: h.raw, received: h.received, checked: h.checked}
	if c := h.cond; c != nil {
		rec.responder, rec.etag, rec.modified = c.url, c.etag, c.modified
	} else if r := s.bestOf(e); r != nil {
		rec.responder = r.url
	}
	what := "store Put"
	if discard {
		what = "store Delete"
	}
	_, err := s.shared(ctx, what, key, func() ([]byte, error) {
		if discard {
			return nil, s.opts.store.Delete(ctx, key)
		}
		return nil, s.opts.store.Put(ctx, key, rec.encode())
	})
	return err
}

func (s *Stapler) bestOf(e *entry) *responder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.best
}
