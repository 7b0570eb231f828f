package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/examples/internal/trial"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// short has certificates read again, and responses refreshed, often.
const short = 50 * time.Millisecond

// start runs the program until the test ends, or stop is called.
func start(t *testing.T, hook string, opts []staple.Option, files ...string) (out *trial.Output, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out = new(trial.Output)
	end := make(chan error, 1)
	go func() { end <- keep(ctx, files, hook, short, slog.New(slog.NewTextHandler(out, nil)), opts...) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-end; err != nil {
			t.Errorf("the program failed: %v", err)
		}
		if t.Failed() {
			t.Logf("it printed:\n%s", out)
		}
	})
	t.Cleanup(stop)
	return out, stop
}

// save writes a certificate and its key into dir as one file.
func save(t *testing.T, dir string, cert *tls.Certificate) (file string) {
	t.Helper()
	file = filepath.Join(dir, "www.pem")
	if err := os.WriteFile(file+".new", append(trial.Chain(cert), trial.Key(t, cert)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// proves reports whether the response beside file proves cert good.
func proves(ca *ocsptest.CA, file string, cert *tls.Certificate) bool {
	raw, _ := os.ReadFile(file + ".ocsp")
	_, err := staple.Verify(raw, cert.Leaf, ca.Cert)
	return err == nil
}

func removed(file string) bool {
	_, err := os.Stat(file + ".ocsp")
	return errors.Is(err, fs.ErrNotExist)
}

// A new response replaces the file, a failure leaves it, a restart in an outage,
// too, and the hook is told of each change, and of all files at each start.
func TestFiles(t *testing.T) {
	t.Parallel()
	ca, dir := trial.Issuer(t), t.TempDir()
	ca.Responder.SetHeader("Cache-Control") // the TTL decides
	ca.Responder.SetHeader("Expires")
	cert := ca.Issue(ocsptest.Leaf{})
	file, told := save(t, dir, cert), filepath.Join(dir, "told")
	ttl := []staple.Option{staple.WithTTL(short)}
	_, stop := start(t, `echo "$@" >>`+told, ttl, file)
	testkit.Eventually(t, 45*time.Second, "a response", func() bool { return proves(ca, file, cert) })
	first, _ := os.ReadFile(file + ".ocsp")
	testkit.Eventually(t, 45*time.Second, "the next response", func() bool {
		now, _ := os.ReadFile(file + ".ocsp")
		return !bytes.Equal(now, first)
	})
	ca.Responder.SetFault(ocsptest.FaultTryLater)
	asked := ca.Responder.Requests()
	testkit.Eventually(t, 45*time.Second, "failures", func() bool { return ca.Responder.Requests() >= asked+2 })
	if !proves(ca, file, cert) {
		t.Error("a failure cost the response")
	}
	stop()
	asked = ca.Responder.Requests()
	_, stop = start(t, `echo again "$@" >>`+told, ttl, file)
	testkit.Eventually(t, 45*time.Second, "failures after a restart", func() bool { return ca.Responder.Requests() >= asked+2 })
	if !proves(ca, file, cert) {
		t.Error("a restart cost the response")
	}
	stop()
	if lines, _ := os.ReadFile(told); strings.Count(string(lines), file+".ocsp\n") < 3 || strings.Count(string(lines), "again "+file) != 1 {
		t.Errorf("the hook was told of %q", lines)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, ".*")); len(names) > 0 {
		t.Errorf("%q are left", names)
	}
	if info, err := os.Stat(file + ".ocsp"); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}

// What proves nothing good any more is removed.
func TestRemoved(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*ocsptest.CA, *tls.Certificate){
		"expired": func(ca *ocsptest.CA, _ *tls.Certificate) { ca.Responder.SetFault(ocsptest.FaultTryLater) },
		"revoked": func(ca *ocsptest.CA, cert *tls.Certificate) { ca.Responder.Revoke(cert, 1, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := trial.Issuer(t)
			ca.Responder.SetValidity(5 * time.Second)
			cert := ca.Issue(ocsptest.Leaf{})
			file := save(t, t.TempDir(), cert)
			start(t, ":", nil, file)
			testkit.Eventually(t, 45*time.Second, "a response", func() bool { return proves(ca, file, cert) })
			end(ca, cert)
			testkit.Eventually(t, 45*time.Second, "it is removed", func() bool { return removed(file) })
			ca.Responder.ClearFaults()
			ca.Responder.SetGood(cert)
			if name == "expired" {
				testkit.Eventually(t, 45*time.Second, "the responder is back", func() bool { return proves(ca, file, cert) })
			}
		})
	}
}

// A renewed certificate gets a response of its own. One that cannot be read
// changes nothing.
func TestRenewed(t *testing.T) {
	t.Parallel()
	ca, dir := trial.Issuer(t), t.TempDir()
	old, renewed := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})
	file := save(t, dir, old)
	out, _ := start(t, ":", nil, file)
	testkit.Eventually(t, 45*time.Second, "a response", func() bool { return proves(ca, file, old) })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 45*time.Second, "a round without the certificate", func() bool { return strings.Contains(out.String(), "stays as it is") })
	if !proves(ca, file, old) {
		t.Error("a missing certificate cost the response")
	}
	save(t, dir, renewed)
	testkit.Eventually(t, 45*time.Second, "a response for the renewed one", func() bool { return proves(ca, file, renewed) })
}

// A hook that fails is run again, with what it was not told of.
func TestHookFails(t *testing.T) {
	t.Parallel()
	ca, dir := trial.Issuer(t), t.TempDir()
	file, tried := save(t, dir, ca.Issue(ocsptest.Leaf{})), filepath.Join(dir, "tried")
	start(t, `echo "$@" >>`+tried+`; test $(wc -l <`+tried+`) -ge 3`, nil, file)
	testkit.Eventually(t, 45*time.Second, "the third try", func() bool {
		lines, _ := os.ReadFile(tried)
		return string(lines) == strings.Repeat(file+".ocsp\n", 3)
	})
}

// A hook that leaves a process behind, which has its output open, keeps nothing from being
// removed.
func TestHookWithDaemon(t *testing.T) {
	t.Parallel()
	ca, dir := trial.Issuer(t), t.TempDir()
	cert, pid := ca.Issue(ocsptest.Leaf{}), filepath.Join(dir, "pid")
	file := save(t, dir, cert)
	t.Cleanup(func() {
		id, _ := os.ReadFile(pid)
		if n, err := strconv.Atoi(strings.TrimSpace(string(id))); err == nil {
			if p, err := os.FindProcess(n); err == nil {
				_ = p.Kill()
			}
		}
	})
	start(t, "test -e "+pid+" || { sleep 600 & echo $! >"+pid+"; }", []staple.Option{staple.WithTTL(short)}, file)
	testkit.Eventually(t, 45*time.Second, "a process that the hook left", func() bool { _, err := os.Stat(pid); return err == nil })
	ca.Responder.Revoke(cert, 1, time.Time{})
	testkit.Eventually(t, 45*time.Second, "no response of a revoked certificate", func() bool { return removed(file) })
}

func TestBadInput(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, files := range map[string][]string{
		"no PEM file is named":           nil,
		"no such file":                   {"no.pem"},
		"empty.pem: no certificate in P": {empty},
	} {
		if err := keep(t.Context(), files, ":", short, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want one with %q", files, err, want)
		}
	}
}
