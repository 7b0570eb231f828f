package staple

import (
	"crypto"
	"crypto/x509"
	"log/slog"
	"net/http"
	"time"

	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"golang.org/x/crypto/ocsp"
)

const (
	// defaultTTL is how long a response is used before the responder is asked
	// again, as the CDNs that staple do it.
	defaultTTL = time.Hour
	// defaultColdWait is how long a handshake with a Must-Staple certificate
	// waits for the first response; clients give up after 10 s or more.
	defaultColdWait = 5 * time.Second
	// maxTTL is longer than any response is valid; more would overflow.
	maxTTL = 100 * 365 * 24 * time.Hour
)

// An Option configures a [Stapler]; see the With functions. A nil Option is
// ignored. Where an Option is given more than once the last one wins, except
// for [WithEventFunc] and [WithIssuers], which accumulate.
type Option func(*options)

type options struct {
	ttl           time.Duration
	fixedTTL      bool // the user chose ttl
	store         Store
	client        *http.Client
	logger        *slog.Logger
	events        []func(Event)
	responders    func(*x509.Certificate) ([]string, bool)
	issuers       []*x509.Certificate
	coldWait      time.Duration
	hash          crypto.Hash
	stapleRevoked bool
	ownClient     bool             // client is the default one
	now           func() time.Time // set by tests alone
}

// resolveOptions returns the options that opts amount to, with every default filled in.
func resolveOptions(opts []Option) options {
	var o options
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	if o.fixedTTL = o.ttl > 0; !o.fixedTTL {
		o.ttl = defaultTTL
	}
	o.ttl = min(o.ttl, maxTTL)
	if o.client == nil {
		o.client, o.ownClient = ocsphttp.DefaultClient(), true
	}
	o.client = ocsphttp.OwnRules(o.client)
	switch o.hash {
	case crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		o.hash = crypto.SHA1
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

// mustWait returns how long a handshake may wait for the first response.
func (o *options) mustWait(mustStaple bool) time.Duration {
	if o.coldWait == 0 && mustStaple {
		return defaultColdWait
	}
	return max(o.coldWait, 0)
}

// WithTTL sets how long a response is used before the responder is asked
// again: 60 minutes by default and for d <= 0. It says when to refresh, not
// when to stop serving: a response is served until its nextUpdate. The
// responder's max-age may put a refresh off where the TTL is the default, and half
// of the response's validity always wins over both (RFC 9919 §7). Where a responder
// says that it has nothing new before that half, the request for its next response is
// spread over the tenth of the validity that follows.
//
// A TTL that is set bounds how late a revocation is noticed, to twice that behind a
// cache: the responder's max-age does not put its refresh off, and requests ask caches
// on the way for nothing older (Cache-Control: max-age, RFC 9111 §5.2.1.1).
//
// A response without nextUpdate is served until d after it was received and
// refreshed at half of that.
func WithTTL(d time.Duration) Option { return func(o *options) { o.ttl = d } }

// WithStore sets a store that outlives the process and may be shared by a
// fleet: a stored response is stapled from the first handshake after a restart,
// even with the responder down. The store is not trusted: each record is
// verified as if it came from the network. A store that is slow, fails, panics
// or hangs costs a warning and never a handshake. The default, and nil, is no
// store: responses are kept in memory alone.
func WithStore(st Store) Option { return func(o *options) { o.store = st } }

// WithHTTPClient sets the client that asks responders. A shallow copy of it is
// used, with the redirect rules of this package (at most 3, to http and https
// alone, a POST stays a POST); its Transport decides about dialling, proxies
// and connections.
//
// The default, and nil, is a client that uses the proxy of the environment, keeps up
// to 32 connections to a responder, takes 64 KiB of headers, and refuses to dial
// link-local, multicast and unspecified addresses and the metadata services of clouds,
// because URLs come from certificates.
func WithHTTPClient(c *http.Client) Option { return func(o *options) { o.client = c } }

// WithLogger sets a logger: slog.Default(), say. Successes are logged at debug level,
// the end of a failure at info. Failures that an operator must act on are at warn or
// error: once a day while they last, for each certificate, or for a responder that
// fails for several; and whenever a response expires. Records are written by the
// goroutine that delivers events, so that a slow handler delays no handshake. The
// default, and nil, is silence.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithEventFunc adds a function that is called with every [Event], one at a
// time and in order, in a goroutine of the Stapler's and with no lock held. It
// may call any method but Close, Prefetch and Refresh. While it is slow up to 1,024
// events wait in a queue; more are dropped and counted in [Stats]. If it panics, the
// panic is logged and the next event delivered. nil is ignored.
func WithEventFunc(f func(Event)) Option {
	return func(o *options) {
		if f != nil {
			o.events = append(o.events, f)
		}
	}
}

// WithResponders switches stapling on or off per certificate, and overrides its
// responders. f is called concurrently, outside handshakes, when a certificate becomes
// known and before each refresh, so what it returns may change at run time. It must not call
// Close, Prefetch or Refresh. leaf is read-only. nil, the default, leaves it to the certificate.
//
// If on is false stapling is off for the certificate, whose state is [StateNone]; f is
// called again within the TTL, or by [Stapler.Refresh]. If on is true urls are the
// responders, in order of preference, of which the first four are used; none means the
// certificate's own (id-ad-ocsp, RFC 5280 §4.2.2.1).
//
// If f panics or takes longer than 5 s, its last result stays in use. If there is
// none, no request is made: the certificate is pending, [Stapler.Ready] and
// [Stapler.Prefetch] say why, and f is called again at the times of retries. urls
// without any http or https URL are treated alike ([ErrNoResponder]).
func WithResponders(f func(leaf *x509.Certificate) (urls []string, on bool)) Option {
	return func(o *options) { o.responders = f }
}

// WithIssuers adds issuing certificates for chains that hold the leaf alone.
// An issuer is looked for in the chain first, then here, then at the URL that
// the leaf names (id-ad-caIssuers); nil certificates are ignored.
func WithIssuers(certs ...*x509.Certificate) Option {
	return func(o *options) {
		for _, c := range certs {
			if c != nil {
				o.issuers = append(o.issuers, c)
			}
		}
	}
}

// WithColdWait sets how long a handshake may wait for the first response of its
// certificate, when the client asks for one. By default, and for 0, that is 5 s for
// certificates with Must-Staple (RFC 7633), which clients refuse without a staple, and no
// wait for others. d > 0 is the wait for every certificate, d < 0 means never. A handshake
// waits for the first attempt after the certificate became known, or after its response
// expired, and not for the retries if that fails. The wait ends with the response, the
// attempt's failure, or the handshake's context. It is to be shorter than the deadlines of
// connections, such as [http.Server.ReadTimeout], which end the handshake.
func WithColdWait(d time.Duration) Option { return func(o *options) { o.coldWait = d } }

// WithHash sets the hash of the CertID in requests: SHA-1 by default, because
// clients of today look a staple up by SHA-1 (it names the certificate and
// proves nothing). crypto.SHA256, SHA384 and SHA512 are the others; anything
// else means the default. A responder that does not know the certificate by that
// hash is asked again with another: by SHA-256 after SHA-1, by SHA-1 after any
// other (RFC 9919 §3.1.1).
func WithHash(h crypto.Hash) Option { return func(o *options) { o.hash = h } }

// WithStapleRevoked says whether a response that proves its certificate revoked
// is stapled. By default nothing is stapled then; event, error log and Ready report
// the revocation. With on, clients that check staples refuse the connection.
func WithStapleRevoked(on bool) Option { return func(o *options) { o.stapleRevoked = on } }

// An EventKind says what happened.
type EventKind uint8

const (
	// EventFetched: a new response, with status good, came: from a responder, the
	// store, or the source of the certificate.
	EventFetched EventKind = EventKind(notices.Fetched)
	// EventUnchanged: the responder was asked and had nothing new: a 304, the same
	// bytes, or once more that the certificate is revoked.
	EventUnchanged EventKind = EventKind(notices.Unchanged)
	// EventFailed: an attempt failed at all responders, or none could be made; Err
	// says why. The response in memory stays, and retries go on unless the
	// certificate has no issuer and names no URL for it, or has Must-Staple and
	// names no responder.
	EventFailed EventKind = EventKind(notices.Failed)
	// EventRevoked: a valid response says for the first time that the certificate is
	// revoked: once per revocation, not per refresh. Nothing is
	// stapled from now on, but see WithStapleRevoked. A revocation with reason
	// certificateHold at 1970-01-01 means that the certificate was never issued
	// (RFC 6960 §2.2).
	EventRevoked EventKind = EventKind(notices.Revoked)
	// EventExpiring: refreshes have failed for half of the time that the response
	// had left.
	EventExpiring EventKind = EventKind(notices.Expiring)
	// EventExpired: the response expired and nothing is stapled until an
	// attempt succeeds.
	EventExpired EventKind = EventKind(notices.Expired)
	// EventStored: the response in memory was written to the store.
	EventStored EventKind = EventKind(notices.Stored)
	// EventStoreFailed: it could not be written to the store; Err says why.
	EventStoreFailed EventKind = EventKind(notices.StoreFailed)
)

// String returns the name of the kind, in lower case.
func (k EventKind) String() string { return notices.Kind(k).String() }

// An Event is something that happened to one certificate. What it points to is
// shared and read-only.
type Event struct {
	Kind EventKind
	// Leaf is the certificate; nil if it does not parse.
	Leaf *x509.Certificate
	// Responder is the URL that answered, or that failed, the first if several did.
	// If no request was made it is the URL of the next request, or empty.
	Responder string
	// Duration is how long the exchange took that returned the response; 0 if it came from
	// the store or from the source of the certificate.
	Duration time.Duration
	// Response is the response that came, for EventFetched and EventRevoked; for
	// EventUnchanged it and Duration are what came, unless that was a 304.
	// Its fields are what this package verified: ocsp.ParseResponse was not called.
	Response *ocsp.Response
	// Err is the cause of a failure, or an [ErrRevoked] with time and reason;
	// errors.As finds a [*ResponseError] in it. For EventFetched and EventUnchanged
	// it has the errors of responders that failed before another one answered; nil
	// if none did. EventRevoked leaves those out.
	Err error
}
