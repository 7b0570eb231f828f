package ocsptest

import (
	"crypto"
	"crypto/sha256"
	"fmt"
	"net/http"
	"sync"
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

	once   sync.Once // makes the rest, without the responder's lock
	der    []byte
	etag   string
	cached bool // it is a signed response, which caches may keep
}

// noNextUpdateFresh is how long a response without nextUpdate is used.
const noNextUpdateFresh = time.Hour

// presigned answers by a response that may be older than the request.
func (x *exchange) presigned() *reply {
	p := x.findPresigned()
	p.once.Do(func() {
		s := x.spec()
		x.edit(s)
		p.der = x.r.encode(s)
		p.etag = fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(p.der)))
		p.cached = s.Status == ocsp.Success
	})
	reply := newReply(http.StatusOK, responseType, p.der)
	if !p.cached {
		return reply
	}
	if p.matches(x.req) {
		reply = newReply(http.StatusNotModified, "", nil)
	}
	p.setHeader(reply.header)
	return reply
}

// findPresigned returns the response that is in use, or puts a new one into its place.
func (x *exchange) findPresigned() *presigned {
	_, status := x.r.ca.issued.get(x.q.serial)
	key := presignKey{serialKey(x.q.serial), x.q.hash}
	now := time.Now().Round(0)
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	p := x.r.presigned[key]
	if p != nil && p.generation == x.set.generation && p.status == status && now.Before(p.fresh) {
		return p
	}
	p = &presigned{generation: x.set.generation, status: status, signedAt: now, fresh: now.Add(x.set.validity / 2)}
	if x.set.noNextUpdate {
		p.fresh = now.Add(noNextUpdateFresh)
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
