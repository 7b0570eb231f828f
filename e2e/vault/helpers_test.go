package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple"
)

const (
	host = "www.example.com"

	// patience bounds everything that a test waits for.
	patience = 2 * time.Minute
)

// newStapler returns one that is closed when the test ends.
func newStapler(t *testing.T, opts ...staple.Option) *staple.Stapler {
	s := staple.New(opts...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// prefetch has s get a staple.
func prefetch(t *testing.T, s *staple.Stapler, p *pair) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Prefetch(ctx, &p.Certificate); err != nil {
		t.Fatal(err)
	}
}

// only returns the status of the only certificate.
func only(t *testing.T, s *staple.Stapler) staple.Status {
	t.Helper()
	all := s.Status()
	if len(all) != 1 {
		t.Fatalf("%d certificates", len(all))
	}
	return all[0]
}

// await returns the next event.
func await(t *testing.T, events <-chan staple.Event) staple.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case e := <-events:
		return e
	case <-ctx.Done():
		t.Fatal("no event")
	}
	panic("unreachable")
}

// body returns a function that reads an answer's.
func body(t *testing.T) func(*http.Response, error) []byte {
	return func(resp *http.Response, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v: %q", resp.Status, err, data)
		}
		return data
	}
}

// A site is an HTTPS server, and what its clients trust.
type site struct {
	addr  string
	roots *x509.CertPool
	file  string // with the same
}

// serve runs one with a certificate that s staples until the test ends.
func serve(t *testing.T, s *staple.Stapler, p *pair, trusted *x509.Certificate) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })}
	srv.TLSConfig = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{p.Certificate}})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { srv.Close(); wg.Wait() })

	out := &site{addr: l.Addr().String(), roots: x509.NewCertPool(), file: filepath.Join(t.TempDir(), "trusted.pem")}
	out.roots.AddCert(trusted)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.Raw})
	if err := os.WriteFile(out.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// shake makes a handshake with Go's client.
func (s *site) shake(t *testing.T, verify func(tls.ConnectionState) error) (staple []byte, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{RootCAs: s.roots, ServerName: host, VerifyConnection: verify}}
	conn, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().OCSPResponse, nil
}

// validity returns how long the staple for p says that it is valid, 0 if it
// does not say.
func (s *site) validity(t *testing.T, p *pair) time.Duration {
	t.Helper()
	raw, err := s.shake(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := ocsp.ParseResponseForCert(raw, p.Leaf, p.issuer)
	if err != nil {
		t.Fatal(err)
	}
	if resp.NextUpdate.IsZero() {
		return 0
	}
	return resp.NextUpdate.Sub(resp.ThisUpdate)
}

// sClient runs openssl s_client and returns what it shows.
func (s *site) sClient(t *testing.T) string {
	t.Helper()
	code, out := run(t, "openssl", "s_client", "-connect", s.addr, "-servername", host, "-status",
		"-CAfile", s.file, "-verify_return_error", "-verify_hostname", host)
	if code != 0 {
		t.Errorf("openssl: exit status %d\n%s", code, out)
	}
	return out
}

// curl runs curl --cert-status, which takes nothing but a staple that is good.
func (s *site) curl(t *testing.T) (code int, out string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	return run(t, "curl", "--cert-status", "--silent", "--show-error", "--cacert", s.file,
		"--resolve", host+":"+port+":127.0.0.1", "https://"+net.JoinHostPort(host, port))
}

// wantStaple has three clients look for a staple that is good.
func (s *site) wantStaple(t *testing.T) {
	t.Helper()
	if raw, err := s.shake(t, staple.RequireStaple); err != nil || len(raw) == 0 {
		t.Errorf("Go: a staple of %d bytes, %v", len(raw), err)
	}
	out := s.sClient(t)
	for _, want := range []string{"OCSP Response Status: successful", "Cert Status: good", "Verify return code: 0 (ok)"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl does not say %q:\n%s", want, out)
		}
	}
	if code, out := s.curl(t); code != 0 || out != "hello" {
		t.Errorf("curl: exit status %d: %s", code, out)
	}
}

// wantNone has the same clients see that nothing is stapled.
func (s *site) wantNone(t *testing.T) {
	t.Helper()
	if raw, err := s.shake(t, nil); err != nil || len(raw) != 0 {
		t.Errorf("Go: a staple of %d bytes, %v", len(raw), err)
	}
	if _, err := s.shake(t, staple.RequireStaple); !errors.Is(err, staple.ErrNoStaple) {
		t.Errorf("Go with RequireStaple: got %v, want %v", err, staple.ErrNoStaple)
	}
	if out := s.sClient(t); !strings.Contains(out, "OCSP response: no response sent") {
		t.Errorf("openssl shows a staple:\n%s", out)
	}
	if code, out := s.curl(t); code != 91 { // CURLE_SSL_INVALIDCERTSTATUS
		t.Errorf("curl: exit status %d: %s", code, out)
	}
}

// run runs a program with nothing of the environment but the path, so that no
// proxy and no settings of the user's are in the way. Where CI is set nothing
// may be missing.
func run(t *testing.T, name string, args ...string) (code int, out string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C"}
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%s: %v\n%s", name, errors.Join(err, ctx.Err()), said)
	}
	return cmd.ProcessState.ExitCode(), string(said)
}
