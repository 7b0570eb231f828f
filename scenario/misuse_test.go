//lint:file-ignore SA1019 NameToCertificate is deprecated, and honoured.

package scenario_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// Nil options, and nil in place of what an option takes, mean the default.
func TestNilOptions(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca, nil, staple.WithStore(nil), staple.WithLogger(nil), staple.WithEventFunc(nil), staple.WithResponders(nil),
			staple.WithIssuers(), staple.WithIssuers(nil, nil), staple.WithTTL(0), staple.WithTTL(-1), staple.WithColdWait(0),
			staple.WithHash(0), staple.WithHash(crypto.MD5), nil)
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("not stapled")
		}
		for _, s := range []*staple.Stapler{staple.New(), staple.New(nil), staple.New(staple.WithHTTPClient(nil)), staple.New(staple.WithHTTPClient(new(http.Client)))} {
			if err := errors.Join(s.Ready(), s.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		}
	})
}

// odd are certificates that can't be stapled, for whatever reason.
func odd(ca *ocsptest.CA) map[string]*tls.Certificate {
	whole := ca.Issue(ocsptest.Leaf{})
	with := func(chain ...[]byte) *tls.Certificate {
		return &tls.Certificate{Certificate: chain, PrivateKey: whole.PrivateKey}
	}
	return map[string]*tls.Certificate{
		"nil":               nil,
		"empty":             {},
		"no bytes":          with(nil),
		"empty bytes":       with([]byte{}, []byte{}),
		"junk":              with([]byte("junk")),
		"half":              with(whole.Certificate[0][:100:100]),
		"trailing byte":     with(append(slices.Clone(whole.Certificate[0]), 0)),
		"junk in the chain": with(whole.Certificate[0], nil, []byte("junk"), whole.Certificate[0]),
		"wrong issuer":      with(whole.Certificate[0], ocsptest.NewCA().Cert.Raw),
		"wrong key":         {Certificate: whole.Certificate, PrivateKey: (*rsa.PrivateKey)(nil)},
		"no key":            {Certificate: ca.Issue(ocsptest.Leaf{NoURL: true}).Certificate},
		"wrong Leaf":        {Certificate: ca.Issue(ocsptest.Leaf{NoURL: true}).Certificate, Leaf: ocsptest.NewCA().Cert},
		"empty Leaf":        {Certificate: ca.Issue(ocsptest.Leaf{NoURL: true}).Certificate, Leaf: new(x509.Certificate)},
		"junk staple":       {Certificate: ca.Issue(ocsptest.Leaf{NoURL: true}).Certificate, OCSPStaple: []byte("junk")},
	}
}

// Nothing that a source returns makes a hook panic, wait, or fail; it is passed
// on. Prefetch calls what is no certificate an error.
func TestOddCertificates(t *testing.T) {
	for _, closed := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			stranger := ocsptest.NewCA() // whose responder is not asked
			for name, cert := range odd(stranger) {
				s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithColdWait(time.Second))
				if closed {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
				get := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
				present := s.GetClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil })
				cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }})
				if cert != nil {
					list := &tls.Config{Certificates: []tls.Certificate{*cert, *cert}, NameToCertificate: map[string]*tls.Certificate{"x": cert}}
					for _, c := range []*tls.Config{s.TLSConfig(list), s.TLSConfig(&tls.Config{Certificates: list.Certificates[:1]})} {
						for _, h := range []*tls.ClientHelloInfo{nil, {}, {ServerName: "x"}, {ServerName: "example.com"}} {
							if got, err := c.GetCertificate(h); got == nil || err != nil {
								t.Errorf("%s: listed: %v, %v", name, got, err)
							}
						}
						for _, cri := range []*tls.CertificateRequestInfo{nil, {}} {
							if name == "wrong key" && cri != nil {
								continue // crypto/tls's own SupportsCertificate panics
							}
							if got, err := c.GetClientCertificate(cri); got == nil || err != nil {
								t.Errorf("%s: as client: %v, %v", name, got, err)
							}
						}
					}
				}
				for range 3 {
					for _, h := range []*tls.ClientHelloInfo{nil, {}, testkit.Asking("example.com")} {
						a, aErr := get(h)
						b, bErr := cfg.GetCertificate(h)
						if !same(a, cert) || !same(b, cert) || aErr != nil || bErr != nil {
							t.Errorf("%s: got %v, %v and %v, %v", name, a, aErr, b, bErr)
						}
					}
					for _, cri := range []*tls.CertificateRequestInfo{nil, {}, {Version: tls.VersionTLS13}} {
						if got, err := present(cri); !same(got, cert) || err != nil {
							t.Errorf("%s: GetClientCertificate: %v, %v", name, got, err)
						}
					}
					if got := s.Staple(cert); !same(got, cert) {
						t.Errorf("%s: Staple: %v", name, got)
					}
					time.Sleep(time.Minute)
				}
				if err := s.Prefetch(t.Context(), cert); err == nil && (name == "nil" || strings.Contains(name, "empty") && cert.Leaf == nil || name == "junk" || closed) {
					t.Errorf("%s: Prefetch says nothing", name)
				}
				_, _, _ = s.Status(), s.Stats(), s.Ready()
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// same reports whether a is b but for the staple, which may be gone.
func same(a, b *tls.Certificate) bool {
	if a == nil || b == nil {
		return a == b
	}
	c := *a
	c.OCSPStaple = b.OCSPStaple
	return inventory(&c)[20:] == inventory(b)[20:] || inventory(c) == inventory(*b)
}

// A nil config, a nil source and a source's own error.
func TestNilSources(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		failure := errors.New("no such host")
		for name, get := range map[string]func(*tls.ClientHelloInfo) (*tls.Certificate, error){
			"nil config":     s.TLSConfig(nil).GetCertificate,
			"empty config":   s.TLSConfig(new(tls.Config)).GetCertificate,
			"nil source":     s.GetCertificate(nil),
			"finds nothing":  s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }),
			"wrapped thrice": s.GetCertificate(s.GetCertificate(s.GetCertificate(nil))),
		} {
			for _, h := range []*tls.ClientHelloInfo{nil, {}, testkit.Asking("example.com")} {
				if got, err := get(h); got != nil || err != nil {
					t.Errorf("%s: %v, %v", name, got, err)
				}
			}
		}
		cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, failure }})
		if got, err := cfg.GetCertificate(testkit.Asking("example.com")); got != nil || err != failure {
			t.Errorf("%v, %v; want the source's error", got, err)
		}
		cfg = s.TLSConfig(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, failure }})
		if got, err := cfg.GetConfigForClient(testkit.Asking("example.com")); got != nil || err != failure {
			t.Errorf("%v, %v; want the source's error", got, err)
		}
		if got := s.Staple(nil); got != nil {
			t.Errorf("Staple(nil) = %v", got)
		}
		//lint:ignore SA1012 nil is documented to be allowed
		if err := s.Prefetch(nil); err != nil {
			t.Errorf("Prefetch of nothing: %v", err)
		}
	})
}

// Wrapping twice is allowed, by one Stapler or by two.
func TestWrappedTwice(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		a, b := testkit.Stapler(t, ca), testkit.Stapler(t, ca)
		cfg := b.TLSConfig(a.TLSConfig(a.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})))
		if err := errors.Join(a.Prefetch(t.Context(), cert), b.Prefetch(t.Context(), cert)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")), ca)
			time.Sleep(3 * time.Hour)
		}
	})
}

// What Prefetch returns can be branched on, and names the certificate.
func TestPrefetchErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		leaf   ocsptest.Leaf
		set    func(*ocsptest.Responder, *tls.Certificate)
		is     error
		reason staple.Reason // and then the responder is named
	}{
		{"good", ocsptest.Leaf{}, nil, nil, 0},
		{"no URL", ocsptest.Leaf{NoURL: true}, nil, nil, 0},
		{"no URL, Must-Staple", ocsptest.Leaf{NoURL: true, MustStaple: true}, nil, staple.ErrNoResponder, 0},
		{"ldap, Must-Staple", ocsptest.Leaf{URLs: []string{"ldap://ldap.example/x"}, MustStaple: true}, nil, staple.ErrNoResponder, 0},
		{"no issuer", ocsptest.Leaf{WithoutIssuer: true}, nil, staple.ErrNoIssuer, 0},
		{"revoked", ocsptest.Leaf{}, func(r *ocsptest.Responder, c *tls.Certificate) { r.Revoke(c, 1, time.Time{}) }, staple.ErrRevoked, staple.ReasonRevoked},
		{"unknown", ocsptest.Leaf{}, func(r *ocsptest.Responder, c *tls.Certificate) { r.SetUnknown(c) }, staple.ErrUnknown, staple.ReasonUnknown},
		{"unauthorized", ocsptest.Leaf{}, func(r *ocsptest.Responder, c *tls.Certificate) { r.SetUnauthorized(c) }, nil, staple.ReasonUnauthorized},
		{"expired", ocsptest.Leaf{}, func(r *ocsptest.Responder, _ *tls.Certificate) { r.SetFault(ocsptest.FaultExpired) }, staple.ErrExpired, staple.ReasonExpired},
		{"refused", ocsptest.Leaf{}, func(r *ocsptest.Responder, _ *tls.Certificate) { r.SetFault(ocsptest.FaultRefused) }, nil, staple.ReasonNetwork},
		{"hangs", ocsptest.Leaf{}, func(r *ocsptest.Responder, _ *tls.Certificate) { r.SetFault(ocsptest.FaultHang) }, nil, staple.ReasonTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				cert := ca.Issue(tt.leaf)
				if tt.set != nil {
					tt.set(ca.Responder, cert)
				}
				s := testkit.Stapler(t, ca)
				err := s.Prefetch(t.Context(), cert)
				if (err != nil) != (tt.is != nil || tt.reason != 0) || tt.is != nil && !errors.Is(err, tt.is) {
					t.Fatalf("%v, want %v", err, tt.is)
				}
				if err == nil {
					return
				}
				if !strings.Contains(err.Error(), "example.com") {
					t.Errorf("%q does not name the certificate", err)
				}
				if tt.reason == 0 {
					return
				}
				var re *staple.ResponseError
				if !errors.As(err, &re) || re.Reason != tt.reason || re.Responder != ca.Responder.URL() {
					t.Errorf("%v: %+v, want reason %v of %s", err, re, tt.reason, ca.Responder.URL())
				}
				if ready := s.Ready(); ready == nil || tt.is != nil && !errors.Is(ready, tt.is) {
					t.Errorf("Ready: %v, want %v", ready, tt.is)
				}
			})
		})
	}
}

// Prefetch ends with its context, and with the Stapler; one error for each
// certificate.
func TestPrefetchEnds(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(4 * time.Second)
		one, two := ca.Issue(ocsptest.Leaf{Names: []string{"one.test"}}), ca.Issue(ocsptest.Leaf{Names: []string{"two.test"}})
		s := testkit.Stapler(t, ca)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.Prefetch(ctx, one, two, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want %v", err, context.DeadlineExceeded)
		}
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) != 3 || !strings.Contains(err.Error(), "one.test") || !strings.Contains(err.Error(), "two.test") {
			t.Errorf("%v: want an error for each of the three", err)
		}
		begun := time.Now()
		done := make(chan error, 1)
		go func() { done <- s.Prefetch(t.Context(), one) }()
		time.Sleep(time.Second)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, staple.ErrClosed) || time.Since(begun) != time.Second {
			t.Errorf("%v after %v, want %v at once", err, time.Since(begun), staple.ErrClosed)
		}
		if err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{})); !errors.Is(err, staple.ErrClosed) {
			t.Errorf("after Close: %v, want %v", err, staple.ErrClosed)
		}
	})
}

// After Close a config goes on with what it holds until that expires; what is
// not known passes through; nothing is asked.
func TestHooksAfterClose(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert, late := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{MustStaple: true})
		s := testkit.Stapler(t, ca)
		current := cert
		cfg := s.TLSConfig(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current, nil }})
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		asked := ca.Responder.Requests()
		client := testkit.ClientFor(ca, "example.com")
		time.Sleep(95 * time.Hour)
		testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
		time.Sleep(2 * time.Hour)
		testkit.Unstapled(t, testkit.MustTalk(t, cfg, client))
		current = late
		begun := time.Now()
		testkit.Unstapled(t, testkit.MustTalk(t, cfg, client))
		testkit.Unstapled(t, testkit.MustTalk(t, s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*late}}), client))
		if d := time.Since(begun); d > 0 {
			t.Errorf("waited %v after Close", d)
		}
		if n := ca.Responder.Requests(); n != asked {
			t.Errorf("%d requests after Close", n-asked)
		}
		if err := s.Ready(); !errors.Is(err, staple.ErrExpired) {
			t.Errorf("Ready: %v, want %v", err, staple.ErrExpired)
		}
	})
}

// http.Server.ListenAndServeTLS with the names of files puts their certificate
// beside the hook, which has nothing: the owner is told, once.
func TestListenAndServeTLSWithFiles(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	dir := t.TempDir()
	certFile := testkit.WritePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Certificate[0])
	keyFile := writeKey(t, filepath.Join(dir, "key.pem"), cert.PrivateKey)
	var log testkit.Logbook
	s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
	addr := serveFiles(t, &http.Server{TLSConfig: s.TLSConfig(&tls.Config{NextProtos: []string{"h2"}})}, certFile, keyFile)
	for range 5 {
		c, err := tls.Dial("tcp", addr, testkit.ClientFor(ca, "example.com"))
		if err != nil {
			t.Fatal(err)
		}
		testkit.Unstapled(t, c.ConnectionState())
		c.Close()
	}
	if err := s.Close(); err != nil { // delivers what is queued
		t.Error(err)
	}
	if got := log.Loud(); len(got) != 1 || !strings.Contains(got[0], `ListenAndServeTLS("", "")`) {
		t.Errorf("logged %q, want one warning", got)
	}
}

// The way out, as Example_migration has it.
func TestListenAndServeTLSWithoutFiles(t *testing.T) {
	ca := ocsptest.NewCA()
	issued := ca.Issue(ocsptest.Leaf{MustStaple: true})
	dir := t.TempDir()
	certFile := testkit.WritePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", issued.Certificate[0])
	keyFile := writeKey(t, filepath.Join(dir, "key.pem"), issued.PrivateKey)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := testkit.Stapler(t, ca, staple.WithIssuers(ca.Cert))
	addr := serveFiles(t, &http.Server{TLSConfig: s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})}, "", "")
	c, err := tls.Dial("tcp", addr, testkit.ClientFor(ca, "example.com"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	testkit.Proven(t, c.ConnectionState(), ca)
}
