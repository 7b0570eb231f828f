package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple"
)

// REQ A6, REQ B2, REQ G2: a server in front of Vault's PKI staples. It notices
// when a certificate is revoked there, and stops.
func TestRevocation(t *testing.T) {
	for _, c := range []struct {
		name   string
		mount  func(*testing.T, *server) (m *mount, root *x509.Certificate)
		method string
	}{
		{name: "root, GET", mount: onRoot, method: http.MethodGet},
		{name: "root, POST", mount: onRoot, method: http.MethodPost},
		{name: "intermediate", mount: onIntermediate, method: http.MethodGet},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, m, root, p := withoutSlashes(t, c.mount)
			revoked := make(chan staple.Event, 8)
			opts := []staple.Option{staple.WithTTL(time.Second), staple.WithEventFunc(func(e staple.Event) {
				if e.Kind == staple.EventRevoked {
					revoked <- e
				}
			})}
			if c.method == http.MethodPost {
				opts = append(opts, staple.WithHTTPClient(&http.Client{Transport: noGET{}}))
			}
			s := newStapler(t, opts...)
			site := serve(t, s, p, root)
			prefetch(t, s, p)
			if err := s.Ready(); err != nil {
				t.Error(err)
			}
			site.wantStaple(t)

			m.write(t, "revoke", map[string]any{"serial_number": p.serial})
			e := await(t, revoked)
			if e.Leaf.SerialNumber.Cmp(p.Leaf.SerialNumber) != 0 || e.Response == nil || e.Response.Status != ocsp.Revoked {
				t.Errorf("got %+v", e)
			}
			if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) {
				t.Errorf("Ready: got %v, want %v", err, staple.ErrRevoked)
			}
			if got := only(t, s).State; got != staple.StateRevoked {
				t.Errorf("got state %v", got)
			}
			site.wantNone(t)
			if got := v.answers(); len(got) != 1 || got[c.method+" 200"] < 2 {
				t.Errorf("Vault answered %v, want %s alone, twice or more", got, c.method)
			}
		})
	}
}

func onRoot(t *testing.T, v *server) (*mount, *x509.Certificate) {
	m := v.newRoot(t, "pki/", "ec")
	return m, m.issuer(t)
}

func onIntermediate(t *testing.T, v *server) (*mount, *x509.Certificate) {
	m := v.newRoot(t, "pki/", "rsa")
	return v.newIntermediate(t, "pki_int/", "rsa", m), m.issuer(t)
}

// REQ A5: the chain holds the leaf alone, and its issuer comes from Vault, too.
// OpenSSL's clients look for the signer in the chain that the server sends, so
// Go's alone is asked.
func TestIssuerFromVault(t *testing.T) {
	v := newServer(t)
	m, _ := onIntermediate(t, v)
	p := m.issue(t)
	p.Certificate.Certificate = p.Certificate.Certificate[:1]
	s := newStapler(t)
	site := serve(t, s, p, p.issuer)
	prefetch(t, s, p)
	if raw, err := site.shake(t, staple.RequireStaple); err != nil || len(raw) == 0 {
		t.Errorf("a staple of %d bytes, %v", len(raw), err)
	}
}

// noGET has GET refused on the way, as some gateways in front of Vault do.
type noGET struct{}

func (noGET) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return &http.Response{StatusCode: http.StatusMethodNotAllowed, Request: r, Header: http.Header{}, Body: http.NoBody}, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

// REQ B10, REQ E3: ocsp_expiry of config/crl sets nextUpdate, and that the time
// of the refresh. The CRL, its expiry and its rebuilding have no part in it, nor
// in when a revocation shows.
func TestExpiry(t *testing.T) {
	for _, c := range []struct {
		name     string
		crl      map[string]any
		validity time.Duration // 0: no nextUpdate
		refresh  time.Duration // at the latest, after the response came
	}{
		{"as Vault sets it", nil, 12 * time.Hour, time.Hour},
		{"an hour", map[string]any{"ocsp_expiry": "1h"}, time.Hour, time.Hour / 2},
		{"a minute", map[string]any{"ocsp_expiry": "1m", "expiry": "24h"}, time.Minute, time.Minute / 2},
		{"none", map[string]any{"ocsp_expiry": "0s"}, 0, time.Hour / 2},
		{"CRL rebuilt later", map[string]any{"auto_rebuild": true}, 12 * time.Hour, time.Hour},
		{"no CRL", map[string]any{"disable": true}, 12 * time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newServer(t)
			m, root := onRoot(t, v)
			if c.crl != nil {
				m.write(t, "config/crl", c.crl)
			}
			p := m.issue(t)
			s := newStapler(t)
			site := serve(t, s, p, root)
			prefetch(t, s, p)
			site.wantStaple(t)
			if got := site.validity(t, p); got != c.validity {
				t.Errorf("valid for %v, want %v", got, c.validity)
			}
			got := only(t, s)
			if wait := got.NextRefresh.Sub(got.LastSuccess); wait <= 0 || wait > c.refresh {
				t.Errorf("refreshed after %v, want %v at most", wait, c.refresh)
			}

			m.write(t, "revoke", map[string]any{"serial_number": p.serial})
			other := newStapler(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := other.Prefetch(ctx, &p.Certificate); !errors.Is(err, staple.ErrRevoked) {
				t.Errorf("got %v, want %v", err, staple.ErrRevoked)
			}
		})
	}
}

// REQ A3: where Vault listens with TLS alone, the client has to trust its
// certificate. The error says so.
func TestTLS(t *testing.T) {
	v := newTLSServer(t)
	p := v.newRoot(t, "pki/", "ec").issue(t)
	s := newStapler(t)
	err := s.Prefetch(t.Context(), &p.Certificate)
	var failed *staple.ResponseError
	if !errors.As(err, &failed) || failed.Reason != staple.ReasonNetwork || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("got %v", err)
	}
	s = newStapler(t, staple.WithHTTPClient(v.Client()))
	site := serve(t, s, p, p.issuer)
	prefetch(t, s, p)
	site.wantStaple(t)
}

// REQ A6: Vault redirects a GET whose base64 has two slashes in a row to a path
// with one, which is no request, and refuses that. POST brings the staple.
func TestSlashes(t *testing.T) {
	v := newServer(t)
	m, root := onRoot(t, v)
	var p *pair
	for tries := 0; p == nil || !strings.Contains(question(t, p, root), "//"); tries++ {
		if tries == 10_000 { // one in about 150 has them
			t.Fatal("no such request")
		}
		p = m.issue(t)
	}
	s := newStapler(t)
	site := serve(t, s, p, root)
	prefetch(t, s, p)
	site.wantStaple(t)
	if got, want := v.answers(), map[string]int{"GET 400": 1, "POST 200": 1}; !maps.Equal(got, want) {
		t.Errorf("Vault answered %v, want %v", got, want)
	}
}

// withoutSlashes returns a CA and a certificate about which a GET is answered:
// Vault's path cleaning spoils one in twenty. The CA's hashes are in the request
// too, so another certificate alone might not help.
func withoutSlashes(t *testing.T, mounted func(*testing.T, *server) (*mount, *x509.Certificate)) (*server, *mount, *x509.Certificate, *pair) {
	t.Helper()
	for range 100 {
		v := newServer(t)
		m, root := mounted(t, v)
		p := m.issue(t)
		if q := question(t, p, p.issuer); !strings.Contains(q, "//") && !strings.HasSuffix(q, "/") {
			return v, m, root, p
		}
	}
	t.Fatal("no such request")
	return nil, nil, nil, nil
}

// question returns the request about a certificate as it is in a GET.
func question(t *testing.T, p *pair, issuer *x509.Certificate) string {
	t.Helper()
	der, err := ocsp.CreateRequest(p.Leaf, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// REQ A12: Vault answers 401 where an operator forbids OCSP. Once it is allowed
// the staple comes without a restart.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		path    string
		off, on map[string]any
	}{
		{"ocsp_disable", "config/crl", map[string]any{"ocsp_disable": true}, map[string]any{"ocsp_disable": false}},
		{"an issuer without the usage", "issuer/default", map[string]any{"usage": "issuing-certificates,crl-signing"},
			map[string]any{"usage": "issuing-certificates,crl-signing,ocsp-signing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, m, root, p := withoutSlashes(t, onRoot)
			m.write(t, c.path, c.off)
			fetched := make(chan staple.Event, 8)
			s := newStapler(t, staple.WithEventFunc(func(e staple.Event) {
				if e.Kind == staple.EventFetched {
					fetched <- e
				}
			}))
			site := serve(t, s, p, root)
			err := s.Prefetch(t.Context(), &p.Certificate)
			var refused *staple.ResponseError
			if !errors.As(err, &refused) || refused.Reason != staple.ReasonHTTPStatus || !strings.Contains(err.Error(), "401") {
				t.Errorf("got %v, want HTTP status 401", err)
			}
			site.wantNone(t)
			m.write(t, c.path, c.on)
			await(t, fetched)
			site.wantStaple(t)
		})
	}
}

// Both methods give a response that x/crypto/ocsp takes. It has the empty
// Extensions for whose sake these tests exist.
func TestAnswers(t *testing.T) {
	_, _, root, p := withoutSlashes(t, onRoot)
	der, err := ocsp.CreateRequest(p.Leaf, root, nil)
	if err != nil {
		t.Fatal(err)
	}
	responder := p.Leaf.OCSPServer[0]
	got := body(t)(http.Get(responder + "/" + url.PathEscape(base64.StdEncoding.EncodeToString(der))))
	posted := body(t)(http.Post(responder, "application/ocsp-request", bytes.NewReader(der)))
	for method, raw := range map[string][]byte{"GET": got, "POST": posted} {
		resp, err := ocsp.ParseResponseForCert(raw, p.Leaf, root)
		if err != nil || resp.Status != ocsp.Good || resp.Certificate != nil {
			t.Errorf("%s: got %+v, %v", method, resp, err)
		}
		if !bytes.Contains(raw, []byte{0xa1, 0x02, 0x30, 0x00}) {
			t.Errorf("%s: no empty Extensions in %x", method, raw)
		}
	}
}
