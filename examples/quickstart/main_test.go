package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocspstaple/staple/examples/internal/trial"
	"github.com/ocspstaple/staple/ocsptest"
)

// asMain, in the environment, makes the test binary the program itself, so
// that exit statuses and signals are the real ones.
const asMain = "QUICKSTART_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// command returns the program as a process of its own.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

// clients returns which there are; where CI is set both have to be.
func clients(t *testing.T) []string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not installed")
		}
		return []string{"Go"}
	}
	return []string{"Go", "openssl"}
}

// The main job, whole.
func TestDemonstration(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit+10*time.Second)
	defer cancel()
	began := time.Now()
	cmd := command(ctx)
	var hints strings.Builder
	cmd.Stderr = &hints
	b, err := cmd.Output()
	out := string(b)
	if hints.Len() > 0 {
		t.Errorf("hints about what is done on purpose: %s", hints.String())
	}
	if err != nil {
		t.Fatalf("%v; it printed:\n%s", err, out)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	names := clients(t)
	before, after, stopped := strings.Cut(out, "the responder is stopped")
	if !stopped {
		t.Errorf("the responder was not stopped")
	}
	for _, name := range names {
		row := regexp.MustCompile(name + ` TLS 1\.[23] +good +\d\d:\d\d:\d\d +\d\d:\d\d:\d\d +\d+\.\d s +[\d.]+ ms\n`)
		if got := len(row.FindAllString(before, -1)); got != healthy {
			t.Errorf("%s: %d good handshakes with a responder, want %d", name, got, healthy)
		}
		if got := len(row.FindAllString(after, -1)); got != outage {
			t.Errorf("%s: %d good handshakes without a responder, want %d", name, got, outage)
		}
	}
	if got := strings.Count(before, "gave a new response"); got < 2 {
		t.Errorf("got %d responses, want refreshes too", got)
	}
	if !strings.Contains(after, "connection refused") {
		t.Error("no failure was told of")
	}
	if !strings.Contains(after, "all with a valid staple") {
		t.Error("no summary")
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", out)
	}
}

func TestResponderFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	b, err := command(ctx, "-fail").CombinedOutput()
	out := string(b)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("got %v, want exit status 1", err)
	}
	total := 2 * len(clients(t))
	if got := strings.Count(out, "no valid staple"); got != total {
		t.Errorf("got %d handshakes without, want %d", got, total)
	}
	if !strings.Contains(out, "handshakes lacked a valid staple") {
		t.Error("no verdict")
	}
	if strings.Contains(out, "waits for the first response") || !strings.Contains(out, "there is nothing to staple") {
		t.Error("it promises a response")
	}
	if !strings.Contains(out, "clients will refuse it; retries go on, check the responder") {
		t.Error("no hint")
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", out)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, nil, new(trial.Output)); err == nil || err.Error() != "interrupted" {
		t.Errorf("got %v, want interrupted", err)
	}
}

func TestOwnPair(t *testing.T) {
	ca := trial.Issuer(t)
	cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
	certFile, keyFile := trial.Files(t, t.TempDir(), cert)
	p := trial.Start(t, run, "-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0")
	p.WaitFor(t, `ready +yes\n`)
	p.Shake(t, ca, "example.com")
	out := p.Stop(t)
	for _, want := range []string{
		"certificate  example.com, valid until " + cert.Leaf.NotAfter.Format(time.DateOnly),
		"responder    " + ca.Responder.URL(),
		"fetched    from " + ca.Responder.URL(),
		"status     good, Must-Staple, this update ",
		"stopped: 1 handshake, 1 with a good staple; the responder was asked 1 time, 0 attempts failed",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, bad := range []string{"status     pending", "status     good, this"} { // it is Must-Staple, and said so late
		if strings.Contains(out, bad) {
			t.Errorf("%q is there", bad)
		}
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", out)
	}
}

// What is printed for an address that stands for all can be pasted.
func TestOwnPairAllAddresses(t *testing.T) {
	ca := trial.Issuer(t)
	certFile, keyFile := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{}))
	for _, addr := range []string{":0", "0.0.0.0:0"} {
		p := trial.Start(t, run, "-cert", certFile, "-key", keyFile, "-addr", addr)
		p.WaitFor(t, `ready +yes\n`)
		p.Shake(t, ca, "example.com")
		if out := p.Stop(t); !strings.HasPrefix(p.Addr, "localhost:") || !strings.Contains(out, "-connect "+p.Addr+" -servername example.com") {
			t.Errorf("%s: serves %s, in:\n%s", addr, p.Addr, out)
		}
	}
}

// A responder that fails is told of, and the server goes on.
func TestOwnPairNotReady(t *testing.T) {
	ca := trial.Issuer(t)
	cert := ca.Issue(ocsptest.Leaf{})
	certFile, keyFile := trial.Files(t, t.TempDir(), cert)
	ca.Responder.SetFault(ocsptest.FaultTryLater)
	p := trial.Start(t, process(os.Interrupt), "-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0")
	p.WaitFor(t, `failed .*tryLater`)
	p.WaitFor(t, `status +pending.* 1 failure\n`)
	p.WaitFor(t, `level=WARN .*check the responder`)
	p.WaitFor(t, `ready +no: .*tryLater`)
	p.Stop(t)
}

// An interrupt is how it is meant to end.
func TestOwnPairSignal(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			ca := trial.Issuer(t)
			certFile, keyFile := trial.Files(t, t.TempDir(), ca.Issue(ocsptest.Leaf{}))
			p := trial.Start(t, process(sig), "-cert", certFile, "-key", keyFile, "-addr", "127.0.0.1:0")
			p.WaitFor(t, `ready +yes\n`)
			if out := p.Stop(t); !strings.Contains(out, "stopped: 0 handshakes") {
				t.Errorf("no summary in:\n%s", out)
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	ca := ocsptest.NewCA()
	pair := func(l ocsptest.Leaf) (certFile, keyFile string) { return trial.Files(t, t.TempDir(), ca.Issue(l)) }
	certFile, keyFile := pair(ocsptest.Leaf{})
	_, otherKey := pair(ocsptest.Leaf{})
	silentCert, silentKey := pair(ocsptest.Leaf{NoURL: true})
	ldapCert, ldapKey := pair(ocsptest.Leaf{URLs: []string{"ldap://ocsp.example/"}})
	oldCert, oldKey := pair(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)})
	addr := "127.0.0.1:0"
	trial.Refuses(t, run, map[string][]string{
		"missing -key":               {"-cert", certFile, "-addr", addr},
		"missing -cert":              {"-key", keyFile, "-addr", addr},
		"missing -addr":              {"-cert", certFile, "-key", keyFile},
		"missing -cert and -key":     {"-addr", addr},
		"no such file":               {"-cert", "no.pem", "-key", keyFile, "-addr", addr},
		"failed to find":             {"-cert", keyFile, "-key", keyFile, "-addr", addr},
		"private key does not match": {"-cert", certFile, "-key", otherKey, "-addr", addr},
		"has no OCSP URL":            {"-cert", silentCert, "-key", silentKey, "-addr", addr},
		"OCSP URL (http or https)":   {"-cert", ldapCert, "-key", ldapKey, "-addr", addr},
		"the certificate expired on": {"-cert", oldCert, "-key", oldKey, "-addr", addr},
		"address already in use":     {"-cert", certFile, "-key", keyFile, "-addr", trial.TakenAddr(t)},
		"flag provided but not":      {"-nonsense"},
		`"serve" is not a flag`:      {"serve"},
		"-fail is for the throwaway": {"-fail", "-cert", certFile, "-key", keyFile, "-addr", addr},
	})
}

func TestUsageExitStatus(t *testing.T) {
	for args, want := range map[string]int{"-cert=x": 2, "-nonsense": 2, "-help": 0} {
		cmd := command(t.Context(), args)
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
			t.Errorf("%s: got %v, want exit status %d", args, err, want)
		}
	}
}
