package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"testing"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// magic returns certmagic with a certificate in it.
func magic(t *testing.T, cert *tls.Certificate, own bool) *certmagic.Config {
	t.Helper()
	var cache *certmagic.Cache
	var cfg *certmagic.Config
	cache = certmagic.NewCache(certmagic.CacheOptions{Logger: zap.NewNop(),
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return cfg, nil }})
	cfg = certmagic.New(cache, certmagic.Config{Logger: zap.NewNop(), Storage: &certmagic.FileStorage{Path: t.TempDir()},
		OCSP: certmagic.OCSPConfig{DisableStapling: !own}})
	t.Cleanup(cache.Stop)
	if _, err := cfg.CacheUnmanagedTLSCertificate(context.Background(), *cert, nil); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// certmagic chooses the certificate, and we staple it.
func TestCertmagic(t *testing.T) {
	ca := issuer(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
	l := listen(t)
	serveHTTPS(t, l, newStapler(t).TLSConfig(&tls.Config{GetCertificate: magic(t, cert, false).GetCertificate}))
	for range 2 {
		mustShake(t, l.Addr().String(), strict(ca.Pool()))
	}
	if got := ca.Responder.Requests(); got != 1 {
		t.Errorf("the responder was asked %d times, want 1", got)
	}
}

// Where certmagic staples too, as it does by default, what it sets is judged
// like any response: an expired one gives way to ours.
func TestCertmagicStaples(t *testing.T) {
	ca := issuer(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
	ca.Responder.SetFault(ocsptest.FaultExpired)
	cfg := magic(t, cert, true)
	ca.Responder.ClearFaults()
	bare := func(name string) []byte {
		c, err := cfg.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		return c.OCSPStaple
	}
	theirs := bare(host)
	l := listen(t)
	s := newStapler(t)
	serveHTTPS(t, l, s.TLSConfig(&tls.Config{GetCertificate: cfg.GetCertificate}))
	cs := mustShake(t, l.Addr().String(), strict(ca.Pool()))
	if len(theirs) == 0 || bytes.Equal(cs.OCSPResponse, theirs) {
		t.Errorf("certmagic stapled %d bytes, and so did we", len(theirs))
	}
	if got := s.Status()[0].State; got != staple.StateGood {
		t.Errorf("got the state %v", got)
	}
}
