package testkit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// Talk makes a real handshake in memory, after which the server says one byte:
// so the client sees session tickets, and alerts about its own certificate.
func Talk(server, client *tls.Config) (seen, served tls.ConnectionState, err error) {
	return TalkContext(context.Background(), server, client)
}

// TalkContext is Talk with a context for the server's handshake.
func TalkContext(ctx context.Context, server, client *tls.Config) (seen, served tls.ConnectionState, err error) {
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

// MustTalk is Talk where nothing may fail. It returns the client's view.
func MustTalk(t testing.TB, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	cs, _, err := Talk(server, client)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// Proven fails the test unless what the peer stapled is, by x/crypto/ocsp and
// the clock, good for exactly the certificate that it presented. It does not
// use a line of the package under test.
func Proven(t testing.TB, cs tls.ConnectionState, ca *ocsptest.CA) {
	t.Helper()
	if err := Judge(cs, ca); err != nil {
		t.Error(err)
	}
}

// Judge says why Proven would fail.
func Judge(cs tls.ConnectionState, ca *ocsptest.CA) error {
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

// Unstapled fails the test if anything was stapled.
func Unstapled(t testing.TB, cs tls.ConnectionState) {
	t.Helper()
	if n := len(cs.OCSPResponse); n > 0 {
		t.Errorf("stapled %d bytes, want nothing", n)
	}
}

// ClientFor trusts ca and asks for name; without a name it verifies nothing.
func ClientFor(ca *ocsptest.CA, name string) *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), ServerName: name, InsecureSkipVerify: name == ""}
}

// Asking is a ClientHelloInfo by hand from a client that asks for a staple.
func Asking(name string) *tls.ClientHelloInfo {
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
