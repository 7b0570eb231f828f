package main

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ocspstaple/staple/examples/internal/trial"
	"github.com/ocspstaple/staple/ocsptest"
)

const host = "www.example.com"

// acmeDown is a CA that is down, and counts who asks it.
func acmeDown(t *testing.T) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "down", http.StatusForbidden)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

// cached puts a certificate where autocert keeps those that it got by ACME.
func cached(t *testing.T, dir string, cert *tls.Certificate) {
	t.Helper()
	data := append(trial.Key(t, cert), trial.Chain(cert)...)
	if err := os.WriteFile(filepath.Join(dir, host), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The certificate is one that autocert got earlier, so that no CA is asked.
func TestStaples(t *testing.T) {
	ca := trial.Issuer(t)
	directory, asked := acmeDown(t)
	dir := t.TempDir()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
	cached(t, dir, cert)
	args := []string{"-host", host, "-cache", dir, "-addr", "127.0.0.1:0", "-directory", directory}

	p := trial.Start(t, run, args...)
	for range 3 {
		if got := p.Shake(t, ca, host); !got.Equal(cert.Leaf) {
			t.Errorf("got serial %v, want %v", got.SerialNumber, cert.Leaf.SerialNumber)
		}
	}
	p.Stop(t)
	if got := ca.Responder.Requests(); got != 1 {
		t.Errorf("the responder was asked %d times, want 1", got)
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("the CA was asked %d times, want 0", got)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "staple-ocsp-*")); len(files) != 1 {
		t.Errorf("responses in the cache: got %q, want one", files)
	}

	// autocert's cache is the store too: it serves after a restart.
	ca.Responder.Close()
	p = trial.Start(t, run, args...)
	p.Shake(t, ca, host)
	p.Stop(t)
}

func TestBadInput(t *testing.T) {
	trial.Refuses(t, run, map[string][]string{
		"-host is needed":        {},
		"address already in use": {"-host", host, "-cache", t.TempDir(), "-addr", trial.TakenAddr(t)},
		"flag provided but not":  {"-nonsense"},
	})
}

// A name that autocert has no certificate for fails by itself, and not by us.
func TestNoCertificate(t *testing.T) {
	directory, asked := acmeDown(t)
	p := trial.Start(t, run, "-host", host, "-cache", t.TempDir(), "-addr", "127.0.0.1:0", "-directory", directory)
	_, err := tls.Dial("tcp", p.Addr, &tls.Config{ServerName: host})
	if err == nil || !strings.Contains(err.Error(), "tls: internal error") {
		t.Errorf("got %v, want the alert internal error", err)
	}
	if asked.Load() == 0 {
		t.Error("the CA was not asked")
	}
	p.Stop(t)
}
