package ocsptest

import (
	"crypto"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A presignKey names a response that is signed once for many requests.
type presignKey struct {
	serial string
	hash   crypto.Hash
}

// A presigned is such a response. It is in use until fresh ends, or what it was made from
// changes.
type presigned struct {
	generation uint64
	status     status
	signedAt   time.Time
	fresh      time.Time
	der        []byte
	etag       string
	cached     bool // it is a signed response, which caches may keep
}

// noNextUpdateFresh is how long a response without nextUpdate is used.
const noNextUpdateFresh = time.Hour

// presigned answers by a response that may be older than the request.
func (x *exchange) presigned() *reply {
	p := x.newPresigned()
	if kept := x.keepPresigned(p); kept != nil {
		p = kept
	} else { // without the lock: the user's function is called
		s := x.spec()
		x.edit(s)
		p.der = x.r.encode(s)
		p.etag = fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(p.der)))
		p.cached = s.Status == ocsp.Success
		p = x.keepPresigned(p)
	}
	reply := newReply(http.StatusOK, responseType, p.der)
	if !p.cached {
		return reply
	}
	if p.matches(x.req) && !x.whole {
		reply = newReply(http.StatusNotModified, "", nil)
	}
	p.setHeader(reply.header)
	return reply
}

// newPresigned returns one that is not signed yet.
func (x *exchange) newPresigned() *presigned {
	_, status := x.r.ca.issued.get(x.q.serial)
	now := time.Now().Round(0)
	p := &presigned{generation: x.set.generation, status: status, signedAt: now, fresh: now.Add(x.set.validity / 2)}
	if x.set.noNextUpdate {
		p.fresh = now.Add(noNextUpdateFresh)
	}
	return p
}

// keepPresigned returns the response that is in use: if there is none for what p was made
// from, p from now on, once it is signed, and else nil.
func (x *exchange) keepPresigned(p *presigned) *presigned {
	key := presignKey{serialKey(x.q.serial), x.q.hash}
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	old := x.r.presigned[key]
	switch {
	case old != nil && old.generation == p.generation && old.status == p.status && p.signedAt.Before(old.fresh):
		return old
	case p.der == nil:
		return nil
	}
	x.r.presigned[key] = p
	return p
}

// setHeader sets what lets caches keep the response until the next is signed (RFC 9919,
// section 6).
func (p *presigned) setHeader(header http.Header) {
	left := time.Until(p.fresh)
	header.Set("ETag", p.etag)
	header.Set("Last-Modified", p.signedAt.UTC().Format(http.TimeFormat))
	header.Set("Expires", p.fresh.UTC().Format(http.TimeFormat))
	header.Set("Cache-Control", fmt.Sprintf("max-age=%d, public, no-transform, must-revalidate", max(0, left/time.Second)))
}

// matches reports whether a conditional request knows this response already: RFC 9110, section
// 13.1, where If-None-Match comes before If-Modified-Since. A POST is never conditional.
func (p *presigned) matches(req *http.Request) bool {
	if req.Method != http.MethodGet {
		return false
	}
	if tag := req.Header.Get("If-None-Match"); tag != "" {
		return tag == p.etag
	}
	since, err := http.ParseTime(req.Header.Get("If-Modified-Since"))
	return err == nil && !p.signedAt.Truncate(time.Second).After(since)
}
