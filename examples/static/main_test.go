package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/examples/internal/trial"
	"github.com/ocspstaple/staple/ocsptest"
)

func TestStaples(t *testing.T) {
	ca := trial.Issuer(t)
	cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
	certFile, keyFile := trial.Files(t, t.TempDir(), cert)
	p := trial.Start(t, run, "-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0")
	p.Shake(t, ca, "example.com")

	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "example.com", VerifyConnection: staple.RequireStaple},
	}}
	defer client.CloseIdleConnections()
	if got, want := get(t, client, "https://"+p.Addr+"/ready"), "200 ready\n"; got != want {
		t.Errorf("/ready: got %q, want %q", got, want)
	}
	p.Stop(t)
}

func TestNotReady(t *testing.T) {
	ca := trial.Issuer(t)
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.Revoke(cert, 1, cert.Leaf.NotBefore)
	certFile, keyFile := trial.Files(t, t.TempDir(), cert)
	p := trial.Start(t, run, "-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0")
	p.WaitFor(t, "revoked")
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "example.com"},
	}}
	defer client.CloseIdleConnections()
	if got := get(t, client, "https://"+p.Addr+"/ready"); !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "revoked") {
		t.Errorf("/ready: got %q, want a 503 that says revoked", got)
	}
	p.Stop(t)
}

// After a restart the store alone has a response.
func TestStore(t *testing.T) {
	ca := trial.Issuer(t)
	cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
	certFile, keyFile := trial.Files(t, t.TempDir(), cert)
	args := []string{"-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0", "-store", t.TempDir()}
	p := trial.Start(t, run, args...)
	p.Shake(t, ca, "example.com")
	p.Stop(t)
	ca.Responder.Close()
	p = trial.Start(t, run, args...)
	p.Shake(t, ca, "example.com")
	p.Stop(t)
}

func TestBadInput(t *testing.T) {
	ca := ocsptest.NewCA()
	certFile, _ := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{}))
	_, otherKey := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{}))
	goodCert, goodKey := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{NoURL: true}))
	trial.Refuses(t, run, map[string][]string{
		"-cert and -key are needed":  {"-cert", certFile},
		"no such file":               {"-cert", "no.pem", "-key", otherKey},
		"private key does not match": {"-cert", certFile, "-key", otherKey},
		"address already in use":     {"-cert", goodCert, "-key", goodKey, "-addr", trial.TakenAddr(t)},
		"flag provided but not":      {"-nonsense"},
	})
}

// get returns the status and the body of what is at url.
func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status[:4] + string(body)
}
