package ocsptest

import (
	"crypto"
	"crypto/tls"
	"math/big"
	"net/http"
	"slices"
	"time"
)

// A Request is what a responder saw of one request. Its fields are read-only.
type Request struct {
	Time   time.Time   // of its arrival, before any delay
	Method string      // as sent: "GET" or "POST", for all that the fake answers
	URL    string      // as the client wrote it, with the responder's host
	Header http.Header // as sent
	Body   []byte      // the OCSPRequest in DER, also from a GET; nil if there is none
	Serial *big.Int    // of the certificate asked about; nil if the request is not for one
	Hash   crypto.Hash // of the CertID; zero if Serial is nil
	Fault  Fault       // how it was answered; FaultNone also until it is, and if a Hook did
}

// logLimit is how many requests a Responder remembers; benchmarks make millions.
const logLimit = 10_000

// counts are what a Responder counts, under its lock.
type counts struct {
	log            []*Request // Fault is set when it is known, under the lock
	total          int
	byKey          map[countKey]int // each request under four keys, so that Count is one lookup
	inFlight, peak int
}

// A countKey names requests of a method, or of any (""), for a certificate, or for any ("").
type countKey struct{ method, serial string }

func newCounts() counts { return counts{byKey: make(map[countKey]int)} }

// add counts one request and remembers it.
func (c *counts) add(q *Request) {
	c.total++
	c.byKey[countKey{q.Method, ""}]++
	if q.Serial != nil {
		serial := serialKey(q.Serial)
		c.byKey[countKey{"", serial}]++
		c.byKey[countKey{q.Method, serial}]++
	}
	c.remember(q)
}

// remember logs a request, and forgets the oldest from time to time.
func (c *counts) remember(q *Request) {
	if len(c.log) >= 2*logLimit {
		c.log = slices.Clone(c.log[logLimit:])
	}
	c.log = append(c.log, q)
}

// Requests returns how many OCSP requests arrived, by GET, POST or any other method, since the
// beginning or [Responder.ResetCounts]. Those that a fault or a Hook answers count like all
// others, even if the fault is a connection refused. Those after [Responder.Close] do not.
func (r *Responder) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// Count returns how many of the requests had the given method and asked about cert. An empty
// method and a nil certificate stand for any.
func (r *Responder) Count(method string, cert *tls.Certificate) int {
	if method == "" && cert == nil {
		return r.Requests()
	}
	key := countKey{method: method}
	if cert != nil {
		key.serial = serialKey(serialOf(cert))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byKey[key]
}

// Peak returns the highest number of requests that were in flight at one time.
func (r *Responder) Peak() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peak
}

// Log returns the requests in the order of their arrival: all of them up to 10,000, and beyond
// that at least the last 10,000. The slice is the caller's; what the requests point to is
// shared.
func (r *Responder) Log() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := make([]Request, len(r.log))
	for i, q := range r.log {
		requests[i] = *q
	}
	return requests
}

// ResetCounts makes Requests, Count, Peak and Log start afresh. Requests in flight go on to
// count for Peak.
func (r *Responder) ResetCounts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	inFlight := r.inFlight
	r.counts = newCounts()
	r.inFlight, r.peak = inFlight, inFlight
}
