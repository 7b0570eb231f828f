package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strconv"
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

// certbot has symbolic links to numbered files and moves one after the other;
// Kubernetes, and so cert-manager, has one link to a directory of all.
func TestLinks(t *testing.T) {
	ca := trial.Issuer(t)
	certs := []*tls.Certificate{ca.Issue(ocsptest.Leaf{MustStaple: true}), ca.Issue(ocsptest.Leaf{MustStaple: true})}
	t.Run("certbot", func(t *testing.T) {
		dir := t.TempDir()
		for i, cert := range certs {
			writeAt(t, filepath.Join(dir, "archive", strconv.Itoa(i)), cert, i)
		}
		move := func(name string, i int) {
			link(t, filepath.Join("archive", strconv.Itoa(i), name), filepath.Join(dir, name))
		}
		move("key.pem", 0)
		move("cert.pem", 0)
		p := trial.Start(t, run, "-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"), "-addr", "127.0.0.1:0")
		serves(t, p, ca, certs[0])
		move("cert.pem", 1) // without its key yet
		serves(t, p, ca, certs[0])
		move("key.pem", 1)
		serves(t, p, ca, certs[1])
		p.Stop(t)
	})
	t.Run("Kubernetes", func(t *testing.T) {
		dir := t.TempDir()
		for i, cert := range certs {
			writeAt(t, filepath.Join(dir, strconv.Itoa(i)), cert, i)
		}
		for _, name := range []string{"cert.pem", "key.pem"} {
			link(t, filepath.Join("..data", name), filepath.Join(dir, name))
		}
		link(t, "0", filepath.Join(dir, "..data"))
		p := trial.Start(t, run, "-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"), "-addr", "127.0.0.1:0")
		serves(t, p, ca, certs[0])
		link(t, "1", filepath.Join(dir, "..data"))
		serves(t, p, ca, certs[1])
		p.Stop(t)
	})
}

// serves checks that a client that insists on a staple gets cert.
func serves(t *testing.T, p *trial.Program, ca *ocsptest.CA, cert *tls.Certificate) {
	t.Helper()
	if got := p.Shake(t, ca, "example.com"); !got.Equal(cert.Leaf) {
		t.Errorf("got serial %x, want %x", got.SerialNumber, cert.Leaf.SerialNumber)
	}
}

// writeAt writes a pair into dir, which it makes, as the i-th renewal.
func writeAt(t *testing.T, dir string, cert *tls.Certificate, i int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	certFile, _ := trial.Files(t, dir, cert)
	touch(t, certFile, time.Now().Add(time.Duration(i)*time.Minute))
}

// link makes name a symbolic link to target, or replaces the one that it is.
func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
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
