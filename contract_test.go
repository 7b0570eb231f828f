package staple_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"golang.org/x/crypto/ocsp"
)

// The exported names that importers compile against, and their types.
var (
	_ func(...staple.Option) *staple.Stapler = staple.New

	_ func(*staple.Stapler, *tls.Config) *tls.Config                             = (*staple.Stapler).TLSConfig
	_ func(*staple.Stapler, *tls.Certificate) *tls.Certificate                   = (*staple.Stapler).Staple
	_ func(*staple.Stapler, context.Context, ...*tls.Certificate) error          = (*staple.Stapler).Prefetch
	_ func(*staple.Stapler, context.Context, ...*tls.Certificate) error          = (*staple.Stapler).Refresh
	_ func(*staple.Stapler, ...*tls.Certificate)                                 = (*staple.Stapler).Forget
	_ func(*staple.Stapler) error                                                = (*staple.Stapler).Ready
	_ func(*staple.Stapler) []staple.Status                                      = (*staple.Stapler).Status
	_ func(*staple.Stapler) staple.Stats                                         = (*staple.Stapler).Stats
	_ func(*staple.Stapler) error                                                = (*staple.Stapler).Close
	_ func(*staple.Stapler, serverHook) serverHook                               = (*staple.Stapler).GetCertificate
	_ func(*staple.Stapler, clientHook) clientHook                               = (*staple.Stapler).GetClientCertificate
	_ func(time.Duration) staple.Option                                          = staple.WithTTL
	_ func(staple.Store) staple.Option                                           = staple.WithStore
	_ func(*http.Client) staple.Option                                           = staple.WithHTTPClient
	_ func(*slog.Logger) staple.Option                                           = staple.WithLogger
	_ func(func(staple.Event)) staple.Option                                     = staple.WithEventFunc
	_ func(func(*x509.Certificate) (urls []string, on bool)) staple.Option       = staple.WithResponders
	_ func(...*x509.Certificate) staple.Option                                   = staple.WithIssuers
	_ func(time.Duration) staple.Option                                          = staple.WithColdWait
	_ func(crypto.Hash) staple.Option                                            = staple.WithHash
	_ func(bool) staple.Option                                                   = staple.WithStapleRevoked
	_ func(tls.ConnectionState) error                                            = staple.VerifyStaple
	_ func(tls.ConnectionState) error                                            = staple.RequireStaple
	_ func([]byte, *x509.Certificate, *x509.Certificate) (*ocsp.Response, error) = staple.Verify
	_ staple.Store                                                               = staple.DirStore("")
	_ func(staple.Leaser, context.Context, string, time.Duration) (bool, error)  = staple.Leaser.Lease
	_                                                                            = [...]error{staple.ErrNoResponder, staple.ErrNoIssuer, staple.ErrNoStaple, staple.ErrRevoked, staple.ErrUnknown, staple.ErrExpired, staple.ErrClosed}
	_                                                                            = [...]staple.State{staple.StatePending, staple.StateGood, staple.StateRevoked, staple.StateUnknown, staple.StateExpired, staple.StateNone}
	_                                                                            = [...]staple.EventKind{staple.EventFetched, staple.EventUnchanged, staple.EventFailed, staple.EventRevoked, staple.EventExpiring, staple.EventExpired, staple.EventStored, staple.EventStoreFailed}
	_                                                                            = [...]interface{ String() string }{staple.StateGood, staple.EventFetched, staple.ReasonExpired}
	_ error                                                                      = &staple.ResponseError{Responder: "", Reason: staple.ReasonExpired, Err: nil}
)

type (
	serverHook = func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	clientHook = func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
)

var _ = staple.Status{Leaf: new(x509.Certificate), Responder: "", State: staple.StateGood, MustStaple: true,
	ThisUpdate: time.Time{}, NextUpdate: time.Time{}, NextRefresh: time.Time{}, LastSuccess: time.Time{}, LastHandshake: time.Time{}, Failures: 0, Err: nil}

var _ = staple.Stats{Handshakes: [staple.StateNone + 1]uint64{}, Requests: 0, Failures: 0, EventsDropped: 0}

var _ = staple.Event{Kind: staple.EventFetched, Leaf: new(x509.Certificate), Responder: "", Duration: time.Second,
	Response: new(ocsp.Response), Err: nil}

// REQ B12
func TestReasonString(t *testing.T) {
	seen := map[string]bool{}
	for r := staple.Reason(1); r <= staple.MaxReason; r++ {
		s := r.String()
		if s == "" || seen[s] {
			t.Errorf("Reason %d: got %q, want a text of its own", r, s)
		}
		seen[s] = true
	}
	for _, r := range []staple.Reason{0, staple.MaxReason + 1, 255} {
		if got := r.String(); got != "no reason" {
			t.Errorf("Reason %d: got %q", r, got)
		}
	}
}

func TestResponseError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		raw := p.staple(ocsp.Good, time.Hour)
		time.Sleep(time.Hour)
		_, err := staple.Verify(raw, p.leaf, p.ca)
		if want := `staple: "peer.test" (serial 2): OCSP response: expired: nextUpdate 2000-01-01T01:00:00Z`; err == nil || err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		if !errors.Is(err, staple.ErrExpired) || errors.Is(err, staple.ErrUnknown) {
			t.Errorf("%v: got another sentinel than ErrExpired", err)
		}
	})
	e := &staple.ResponseError{Responder: "http://ocsp.example", Reason: staple.ReasonTryLater}
	if want := "staple: OCSP responder http://ocsp.example: OCSP error status tryLater"; e.Error() != want {
		t.Errorf("got %q, want %q", e, want)
	}
}
