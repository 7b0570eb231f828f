package main

import (
	"bufio"
	"crypto/x509"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// These servers are other programs.

// start runs a program until the test ends, and returns what listening finds in
// its output.
func start(t *testing.T, listening string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	in, err := cmd.StdinPipe() // s_server ends with its input
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	var said strings.Builder
	for scan := bufio.NewScanner(out); scan.Scan(); {
		said.WriteString(scan.Text() + "\n")
		if m := regexp.MustCompile(listening).FindStringSubmatch(scan.Text()); m != nil {
			go io.Copy(io.Discard, out)
			return m[1]
		}
	}
	t.Fatalf("%s did not start:\n%s", name, &said)
	return ""
}

// The server of openssl staples what is in a file, or asks the responder itself.
func TestOpenSSLServer(t *testing.T) {
	openssl := testkit.Program(t, "openssl")
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := testkit.WritePEM(t, filepath.Join(t.TempDir(), "cert.pem"), "CERTIFICATE", cert.Certificate[0]), testkit.WritePEM(t, filepath.Join(t.TempDir(), "key.pem"), "PRIVATE KEY", key)
	chainFile := testkit.WritePEM(t, filepath.Join(t.TempDir(), "chain.pem"), "CERTIFICATE", cert.Certificate[1:]...)
	file := func(raw []byte) string {
		path := filepath.Join(t.TempDir(), "response.der")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	other := ca.Issue(ocsptest.Leaf{})
	for name, tt := range map[string]struct {
		args []string
		want Verdict
	}{
		"-status_file":                     {[]string{"-status_file", file(ca.Responder.Response(cert))}, VerdictGood},
		"-status_file of another":          {[]string{"-status_file", file(ca.Responder.Response(other))}, VerdictBad},
		"-status":                          {[]string{"-status", "-CAfile", chainFile}, VerdictGood},
		"none":                             {nil, VerdictBad},
		"-status_file, client's wanted":    {[]string{"-status_file", file(ca.Responder.Response(cert)), "-Verify", "1", "-tls1_2"}, VerdictGood},
		"-status_file, without the issuer": {[]string{"-status_file", file(ca.Responder.Response(cert)), "-cert_chain", certFile}, VerdictBad},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"s_server", "-accept", "127.0.0.1:0", "-cert", certFile, "-key", keyFile}, tt.args...)
			if !strings.Contains(name, "without") {
				args = append(args, "-cert_chain", chainFile)
			}
			port := start(t, `ACCEPT .*:(\d+)`, openssl, args...)
			r := visit(t, ca, "-servername", "www.example.com", "127.0.0.1:"+port)
			if r.Verdict != tt.want || r.Answer == nil || r.Answer.Status != "good" {
				t.Errorf("%s, want %s:\n%s", r.Verdict, tt.want, r.text())
			}
		})
	}
}

// The server of examples/quickstart, and so this library's staples.
func TestQuickstart(t *testing.T) {
	program := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.CommandContext(t.Context(), testkit.Program(t, "go"), "build", "-o", program, "../../examples/quickstart").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	addr := start(t, `https://(\S+)`, program, "-cert", testkit.WritePEM(t, filepath.Join(t.TempDir(), "cert.pem"), "CERTIFICATE", cert.Certificate...),
		"-key", testkit.WritePEM(t, filepath.Join(t.TempDir(), "key.pem"), "PRIVATE KEY", key), "-addr", "127.0.0.1:0")
	r := visit(t, ca, "-servername", "www.example.com", addr) // the first handshake waits for the staple
	if r.Verdict != VerdictGood || r.Answer == nil || r.Answer.Status != "good" {
		t.Errorf("printed:\n%s", r.text())
	}
}
