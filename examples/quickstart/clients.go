package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple"
)

// serverName is the name that the certificate is for.
const serverName = "localhost"

// A client makes handshakes that ask for a staple.
type client struct {
	name, about string
	pure        bool // what it takes is the handshake alone
	shake       func(ctx context.Context, version uint16) handshake
}

// A handshake is what a client saw of one.
type handshake struct {
	version    string
	status     string // what the staple says
	this, next time.Time
	took       time.Duration
	err        error // why there is no valid staple
}

// gather finds the clients of this machine, for the server at addr. remove
// deletes the file that one of them needs.
func (d *demo) gather(addr string) (remove func(), err error) {
	d.clients = []client{{
		name: "Go", about: "Go's net/http; refuses a handshake without a good staple", pure: true,
		shake: func(ctx context.Context, version uint16) handshake { return d.shakeGo(ctx, addr, version) },
	}}
	path, err := exec.LookPath("openssl")
	if err != nil {
		return func() {}, nil
	}
	ca, err := os.CreateTemp("", "quickstart-ca-*.pem")
	if err != nil {
		return nil, err
	}
	remove = func() { os.Remove(ca.Name()) }
	err = pem.Encode(ca, &pem.Block{Type: "CERTIFICATE", Bytes: d.ca.Cert.Raw})
	if err := errors.Join(err, ca.Close()); err != nil {
		remove()
		return nil, err
	}
	d.clients = append(d.clients, client{
		name: "openssl", about: "openssl s_client -status; its latency is that of a whole process",
		shake: func(ctx context.Context, version uint16) handshake {
			return d.shakeOpenSSL(ctx, path, ca.Name(), addr, version)
		},
	})
	return remove, nil
}

// shakeGo makes a request over a connection of its own.
func (d *demo) shakeGo(ctx context.Context, addr string, version uint16) handshake {
	h := handshake{version: tls.VersionName(version), status: "none"}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: d.ca.Pool(), ServerName: serverName, MinVersion: version, MaxVersion: version,
		VerifyConnection: func(cs tls.ConnectionState) error {
			second := h.read(cs, d.ca.Cert)
			return cmp.Or(staple.RequireStaple(cs), second)
		},
	}}
	defer transport.CloseIdleConnections()
	var began time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeStart: func() { began = time.Now() },
		TLSHandshakeDone:  func(tls.ConnectionState, error) { h.took = time.Since(began) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr, nil)
	if err != nil {
		h.err = err
		return h
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		h.err = err
		return h
	}
	resp.Body.Close()
	return h
}

// read notes what the staple says. It is a second opinion, since the library
// that is on show must not be the only judge of itself.
func (h *handshake) read(cs tls.ConnectionState, issuer *x509.Certificate) error {
	r, err := ocsp.ParseResponseForCert(cs.OCSPResponse, cs.PeerCertificates[0], issuer)
	if err != nil {
		return err
	}
	h.this, h.next = r.ThisUpdate, r.NextUpdate
	switch now := time.Now(); {
	case r.Status == ocsp.Revoked:
		h.status = "revoked"
	case r.Status != ocsp.Good:
		h.status = "unknown"
	case now.Before(r.ThisUpdate) || !now.Before(r.NextUpdate):
		h.status = "expired"
	default:
		h.status = "good"
		return nil
	}
	return errors.New("the staple says " + h.status)
}

// shakeOpenSSL runs a client that no one here wrote. It prints the staple and
// leaves the judgement to its reader.
func (d *demo) shakeOpenSSL(ctx context.Context, path, caFile, addr string, version uint16) handshake {
	h := handshake{version: tls.VersionName(version), status: "none"}
	flag := map[uint16]string{tls.VersionTLS12: "-tls1_2", tls.VersionTLS13: "-tls1_3"}[version]
	cmd := exec.CommandContext(ctx, path, "s_client", "-connect", addr, "-servername", serverName,
		"-CAfile", caFile, "-verify_return_error", "-status", flag)
	cmd.WaitDelay = time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput() // no input: it ends after the handshake
	h.took = time.Since(began)
	if err != nil {
		h.err = fmt.Errorf("openssl: %w: %s", err, firstLine(out))
		return h
	}
	h.err = h.parse(string(out), d.cert.Leaf.SerialNumber, time.Now())
	return h
}

// stapleLine finds a line of what openssl prints of a staple.
var stapleLine = regexp.MustCompile(`(?m)^\s*(OCSP Response Status|Cert Status|Serial Number|This Update|Next Update): *(.+?)\s*$`)

// parse reads what openssl printed, and judges it by the time now.
func (h *handshake) parse(out string, serial *big.Int, now time.Time) error {
	fields := make(map[string]string)
	for _, m := range stapleLine.FindAllStringSubmatch(out, -1) {
		if _, ok := fields[m[1]]; !ok { // the staple comes first
			fields[m[1]] = m[2]
		}
	}
	if fields["Cert Status"] == "" {
		return errors.New("openssl saw no staple")
	}
	h.status = fields["Cert Status"]
	var errThis, errNext error
	h.this, errThis = openSSLTime(fields["This Update"])
	h.next, errNext = openSSLTime(fields["Next Update"])
	got, ok := new(big.Int).SetString(fields["Serial Number"], 16)
	switch {
	case errThis != nil || errNext != nil:
		return errors.Join(errThis, errNext)
	case !strings.HasPrefix(fields["OCSP Response Status"], "successful"):
		return fmt.Errorf("openssl saw the response status %q", fields["OCSP Response Status"])
	case h.status != "good":
		return fmt.Errorf("openssl saw the status %q", h.status)
	case !ok || got.Cmp(serial) != 0:
		return fmt.Errorf("openssl saw a staple for serial %s, not %X", fields["Serial Number"], serial)
	case now.Before(h.this) || !now.Before(h.next):
		return errors.New("openssl saw a staple out of its time")
	}
	return nil
}

func openSSLTime(s string) (time.Time, error) {
	t, err := time.Parse("Jan _2 15:04:05 2006 MST", s)
	if err != nil {
		return t, fmt.Errorf("openssl printed a time that is none: %q", s)
	}
	return t, nil
}

// oneLine is for errors that joined several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}
