package staple_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// TestMain fails the run if a goroutine of ours outlives the tests: whatever
// was closed must be gone.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines that outlive the tests:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of the goroutines with this module in them, after
// giving those that are about to end the time to do so.
func leaked() (left string) {
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for range 1000 {
		if left = ours(); left == "" {
			return ""
		}
		<-retry.C
	}
	return left
}

func ours() string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*n)
		n = runtime.Stack(buf, true)
	}
	buf = buf[:n]
	var left []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "ocspstaple/staple") && !strings.Contains(g, "TestMain") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// talk makes a real handshake in memory, after which the server says one byte:
// so the client sees session tickets, and alerts about its own certificate.
func talk(server, client *tls.Config) (seen, served tls.ConnectionState, err error) {
	return talkContext(context.Background(), server, client)
}

func talkContext(ctx context.Context, server, client *tls.Config) (seen, served tls.ConnectionState, err error) {
	a, b := net.Pipe()
	c, s := tls.Client(a, client), tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		defer b.Close()
		err := s.HandshakeContext(ctx)
		if err == nil {
			served = s.ConnectionState()
			_, err = s.Write([]byte{'x'})
		}
		done <- err
	}()
	_, err = io.ReadFull(c, make([]byte, 1)) // shakes hands first
	if err == nil {
		seen = c.ConnectionState()
	} else {
		err = fmt.Errorf("client: %w", err)
	}
	a.Close()
	if serr := <-done; serr != nil {
		err = errors.Join(err, fmt.Errorf("server: %w", serr))
	}
	return seen, served, err
}

// mustTalk is talk where nothing may fail.
func mustTalk(t testing.TB, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	cs, _, err := talk(server, client)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// proven fails the test unless what the peer stapled is, by x/crypto/ocsp and
// the clock, good for exactly the certificate that it presented. It does not
// use a line of the package under test.
func proven(t testing.TB, cs tls.ConnectionState, ca *ocsptest.CA) {
	t.Helper()
	if err := judge(cs, ca); err != nil {
		t.Error(err)
	}
}

func judge(cs tls.ConnectionState, ca *ocsptest.CA) error {
	leaf := cs.PeerCertificates[0]
	if len(cs.OCSPResponse) == 0 {
		return fmt.Errorf("nothing stapled for %v", leaf.DNSNames)
	}
	r, err := ocsp.ParseResponseForCert(cs.OCSPResponse, leaf, ca.Cert)
	if err != nil {
		return err
	}
	now := time.Now()
	switch {
	case r.Status != ocsp.Good:
		return fmt.Errorf("status %d", r.Status)
	case now.Before(r.ThisUpdate.Add(-5 * time.Minute)):
		return fmt.Errorf("thisUpdate %v at %v", r.ThisUpdate, now)
	case !r.NextUpdate.IsZero() && !now.Before(r.NextUpdate):
		return fmt.Errorf("nextUpdate %v at %v", r.NextUpdate, now)
	}
	return nil
}

// unstapled fails the test if anything was stapled.
func unstapled(t testing.TB, cs tls.ConnectionState) {
	t.Helper()
	if n := len(cs.OCSPResponse); n > 0 {
		t.Errorf("stapled %d bytes, want nothing", n)
	}
}

// clientFor trusts ca and asks for name; without a name it verifies nothing.
func clientFor(ca *ocsptest.CA, name string) *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), ServerName: name, InsecureSkipVerify: name == ""}
}

// asking is a ClientHelloInfo by hand from a client that asks for a staple.
func asking(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        name,
		Extensions:        []uint16{0, 5, 10, 13, 43},
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.Ed25519},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
		SupportedPoints:   []uint8{0},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}
}

// logbook is a slog.Handler that keeps what was logged.
type logbook struct {
	mu      sync.Mutex // guards the rest
	records []slog.Record
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logbook) WithGroup(string) slog.Handler            { return l }
func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r.Clone())
	return nil
}

func (l *logbook) logger() *slog.Logger { return slog.New(l) }

// loud returns the messages at warn level or above, in order.
func (l *logbook) loud() (msgs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		if r.Level >= slog.LevelWarn {
			msgs = append(msgs, r.Message)
		}
	}
	return msgs
}

// ledger keeps events.
type ledger struct {
	mu     sync.Mutex // guards events
	events []string
}

func (l *ledger) add(kind fmt.Stringer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, kind.String())
}

func (l *ledger) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}
