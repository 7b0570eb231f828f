package main

import (
	"os"
	"testing"
	"time"

	"github.com/ocspstaple/staple/examples/internal/trial"
	"github.com/ocspstaple/staple/ocsptest"
)

// A renewed certificate is served with a staple of its own from its first
// handshake on, and files that cannot be read change nothing.
func TestStaples(t *testing.T) {
	ca := trial.Issuer(t)
	dir := t.TempDir()
	first := ca.Issue(ocsptest.Leaf{MustStaple: true})
	certFile, keyFile := trial.Files(t, dir, first)
	p := trial.Start(t, run, "-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0")
	if got := p.Shake(t, ca, "example.com"); !got.Equal(first.Leaf) {
		t.Errorf("got serial %v, want %v", got.SerialNumber, first.Leaf.SerialNumber)
	}

	second := ca.Issue(ocsptest.Leaf{MustStaple: true})
	trial.Files(t, dir, second)
	touch(t, certFile, time.Now().Add(time.Minute))
	if got := p.Shake(t, ca, "example.com"); !got.Equal(second.Leaf) {
		t.Errorf("after renewal: got serial %v, want %v", got.SerialNumber, second.Leaf.SerialNumber)
	}

	if err := os.WriteFile(keyFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	touch(t, certFile, time.Now().Add(2*time.Minute))
	if got := p.Shake(t, ca, "example.com"); !got.Equal(second.Leaf) {
		t.Errorf("after a failed renewal: got serial %v, want %v", got.SerialNumber, second.Leaf.SerialNumber)
	}
	p.Stop(t)
}

// touch sets a file's time, since two writes may fall into one tick of the
// file system's clock.
func touch(t *testing.T, name string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestBadInput(t *testing.T) {
	ca := ocsptest.NewCA()
	certFile, keyFile := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{NoURL: true}))
	_, otherKey := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{}))
	trial.Refuses(t, run, map[string][]string{
		"-cert and -key are needed":  {"-key", keyFile},
		"no such file":               {"-cert", "no.pem", "-key", keyFile},
		"private key does not match": {"-cert", certFile, "-key", otherKey},
		"address already in use":     {"-cert", certFile, "-key", keyFile, "-addr", trial.TakenAddr(t)},
		"flag provided but not":      {"-nonsense"},
	})
}
