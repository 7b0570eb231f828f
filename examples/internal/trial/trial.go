// Package trial runs the example programs for their tests.
package trial

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// patience bounds everything that waits for a program.
const patience = 20 * time.Second

// A Main is what the programs have behind main.
type Main func(ctx context.Context, args []string, out io.Writer) error

// A Program is a run of a Main.
type Program struct {
	Addr string // that it serves

	out  *Output
	stop context.CancelFunc
	end  chan error
}

// Start runs main until it serves. It is stopped with the test, if Stop was
// not called before.
func Start(t *testing.T, main Main, args ...string) *Program {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &Program{out: new(Output), stop: stop, end: make(chan error, 1)}
	go func() { p.end <- main(ctx, args, p.out) }()
	serving := regexp.MustCompile(`https://((?:localhost|[0-9a-f.:\[\]]+):\d+)`)
	m, err := p.out.wait(serving, p.end)
	if err != nil {
		stop()
		t.Fatalf("%v; it printed:\n%s", err, p.out)
	}
	p.Addr = m[1]
	t.Cleanup(func() { p.stop() })
	return p
}

// WaitFor waits until the program has printed what pattern matches.
func (p *Program) WaitFor(t *testing.T, pattern string) {
	t.Helper()
	if _, err := p.out.wait(regexp.MustCompile(pattern), p.end); err != nil {
		t.Fatalf("waiting for %q: %v; it printed:\n%s", pattern, err, p.out)
	}
}

// Stop interrupts the program and returns all that it printed. The test fails
// if the program does.
func (p *Program) Stop(t *testing.T) string {
	t.Helper()
	p.stop()
	select {
	case err := <-p.end:
		if err != nil {
			t.Fatalf("the program failed: %v; it printed:\n%s", err, p.out)
		}
	case <-time.After(patience):
		t.Fatalf("the program goes on; it printed:\n%s", p.out)
	}
	return p.out.String()
}

// Shake makes a handshake with a client that insists on a staple, and returns
// the certificate that the server showed.
func (p *Program) Shake(t *testing.T, ca *ocsptest.CA, name string) *x509.Certificate {
	t.Helper()
	cs, err := p.shake(ca, name)
	if err != nil {
		t.Fatalf("handshake: %v; the program printed:\n%s", err, p.out)
	}
	return cs.PeerCertificates[0]
}

func (p *Program) shake(ca *ocsptest.CA, name string) (tls.ConnectionState, error) {
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: patience},
		Config:    &tls.Config{RootCAs: ca.Pool(), ServerName: name, VerifyConnection: staple.RequireStaple},
	}
	conn, err := d.Dial("tcp", p.Addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState(), nil
}

// Issuer returns a CA whose responder is on loopback until the test ends.
func Issuer(t *testing.T) *ocsptest.CA {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	t.Cleanup(ca.Responder.Close)
	return ca
}

// Files writes cert into two files of dir and returns their names.
func Files(t *testing.T, dir string, cert *tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(keyFile, Key(t, cert), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(certFile, Chain(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// Chain returns the certificates of cert in PEM.
func Chain(cert *tls.Certificate) []byte {
	var b bytes.Buffer
	for _, der := range cert.Certificate {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Buffer takes all
	}
	return b.Bytes()
}

// Key returns the private key of cert in PEM.
func Key(t *testing.T, cert *tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Output collects what a program prints, and lets others wait for it.
type Output struct {
	mu    sync.Mutex // guards the rest
	buf   bytes.Buffer
	wrote chan struct{} // closed by the next Write; nil if nobody waits
}

// Write appends b.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wrote != nil {
		close(o.wrote)
		o.wrote = nil
	}
	return o.buf.Write(b)
}

// String returns what was written until now.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// look returns the match of pattern, or what to wait for until there may be one.
func (o *Output) look(pattern *regexp.Regexp) ([]string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m := pattern.FindStringSubmatch(o.buf.String()); m != nil {
		return m, nil
	}
	if o.wrote == nil {
		o.wrote = make(chan struct{})
	}
	return nil, o.wrote
}

// wait returns the match of pattern once it is there. An end of the program
// before that is an error, and stays in end for others.
func (o *Output) wait(pattern *regexp.Regexp, end chan error) ([]string, error) {
	limit := time.After(patience)
	for {
		m, wrote := o.look(pattern)
		if m != nil {
			return m, nil
		}
		select {
		case <-wrote:
		case err := <-end:
			end <- err
			if err == nil {
				err = errors.New("the program has ended")
			}
			return nil, err
		case <-limit:
			return nil, errors.New("not in time")
		}
	}
}

// Refuses checks that main fails at once, saying want, for each line of args.
func Refuses(t *testing.T, main Main, cases map[string][]string) {
	for want, args := range cases {
		t.Run(want, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out := new(Output)
			err := main(ctx, args, out)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("args %q: got error %v, want one with %q; it printed:\n%s", args, err, want, out)
			}
			if ctx.Err() != nil {
				t.Errorf("args %q: it went on until it was stopped", args)
			}
		})
	}
}

// TakenAddr returns an address that is in use until the test ends.
func TakenAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}
