// Package exchange asks one responder about one certificate: with which request, what
// the answer proves, which other request may do better, and whom a failure speaks of.
//
// The root's driver fills in an [Exchange] under its lock, calls [Exchange.Ask] without
// it, and gives the result to internal/held and internal/schedule. HTTP is ocsphttp's
// part, proof is ocspresp's; this package is where the two meet. It keeps nothing.
//
// exchange.go has the exchange, refusals.go what follows from each way of being refused.
package exchange

import (
	"context"
	"crypto"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// An Exchange is one request and, if its answer suggests one, another. Fill it in for
// one call of Ask.
type Exchange struct {
	URL     string
	Subject ocspresp.Subject // with its Issuer
	Held    *held.Response   // an older one is refused
	Hash    crypto.Hash      // of the CertID; there is another that may be tried
	MaxAge  time.Duration    // of what caches may answer with; 0: whatever they hold
	First   ocsphttp.Way     // how the request is made, by ocsphttp.Memory
	May     ocsphttp.Way     // the changes of it that may be tried
	// Condition asks for what is newer than Held.
	Condition ocsphttp.Validator
	// Refused is why the answer to the last attempt was refused, if Held is ending. A cache
	// may keep such an answer, from before the CA knew the certificate, say.
	Refused ocspresp.Reason
	// Judging is set while an answer is verified: what came in time may take a while.
	Judging *atomic.Bool
	// Now is the clock by which the answer is judged, and says when it came.
	Now func() time.Time
}

// Ask makes the exchange. The error is an [*ocspresp.Error] or an [*ocsphttp.Error]. Ask
// returns what it learned of how to ask the responder with an error, too.
//
// An answer that is older than what is held is refused here, and not by the caller
// alone, so that the exchange goes on past the caches.
func (x *Exchange) Ask(ctx context.Context, web *ocsphttp.Client) (*held.Answer, ocsphttp.Learned, error) {
	begun := time.Now() // and not x.Now, which may be set meanwhile
	got := &held.Answer{Responder: x.URL, About: x.Held}
	res, learned, err := web.Ask(ctx, &ocsphttp.Question{
		URL: x.URL, Held: x.Condition, MaxAge: x.MaxAge, First: x.First, May: x.May,
		Request: func(otherHash bool) ([]byte, error) {
			return x.Subject.Issuer.Request(x.hash(otherHash), x.Subject.Serial)
		},
		Judge: func(body []byte) (try ocsphttp.Way, err error) {
			x.Judging.Store(true)
			defer x.Judging.Store(false)
			if got.Proof, err = ocspresp.Prove(body, &x.Subject, x.Now()); err == nil {
				err = x.Held.Replayed(got)
			}
			if err != nil {
				got.Proof = nil // or a 304 that follows would seem to bring it
			}
			return x.better(err), err
		},
	})
	if err != nil {
		return nil, learned, err
	}
	got.Received = x.Now().UnixNano()
	got.Checked, got.MaxAge, got.Validator = got.Received, res.MaxAge, res.Validator
	if got.Proof != nil {
		got.Took = max(time.Since(begun), 1) // in a bubble of testing/synctest it takes no time
	}
	return got, learned, nil
}

// hash returns the hash of the CertID, or the other one (RFC 9919 §3.1.1). Today's clients
// look a staple up by SHA-1, so SHA-256 is tried after it, and it after any other.
func (x *Exchange) hash(other bool) crypto.Hash {
	switch {
	case !other:
		return x.Hash
	case x.Hash == crypto.SHA1:
		return crypto.SHA256
	}
	return crypto.SHA1
}
