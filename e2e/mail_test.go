package e2e

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/smtp"
	"path/filepath"
	"strings"
	"testing"

	mail "github.com/emersion/go-smtp"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// backend says hello, and takes no mail.
type backend struct{ mail.Session }

func (b backend) NewSession(*mail.Conn) (mail.Session, error) { return b, nil }
func (backend) Reset()                                        {}
func (backend) Logout() error                                 { return nil }

func mailServer(t *testing.T, cfg *tls.Config) *mail.Server {
	srv := mail.NewServer(backend{})
	srv.Domain, srv.TLSConfig, srv.ErrorLog = host, cfg, log.New(io.Discard, "", 0)
	t.Cleanup(func() { srv.Close() })
	return srv
}

// Servers of SMTP, IMAP and the like take connections from tls.Listen, or go
// over to TLS on one that they have.
func TestMail(t *testing.T) {
	ca, server, client := stapled(t)
	root := testkit.WritePEM(t, filepath.Join(t.TempDir(), "root.pem"), "CERTIFICATE", ca.Cert.Raw)
	plain, implicit := listen(t), tls.NewListener(listen(t), server)
	go mailServer(t, server).Serve(plain)
	go mailServer(t, server).Serve(implicit)

	t.Run("tls.Listen", func(t *testing.T) {
		conn, err := tls.Dial("tcp", implicit.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		c, err := smtp.NewClient(conn, host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Hello("client.example.com"); err != nil {
			t.Error(err)
		}
		judgeOpenSSL(t, implicit.Addr().String(), root)
	})
	t.Run("STARTTLS", func(t *testing.T) {
		c, err := smtp.Dial(plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.StartTLS(client); err != nil {
			t.Fatal(err)
		}
		cs, ok := c.TLSConnectionState()
		if !ok || staple.RequireStaple(cs) != nil {
			t.Errorf("got a staple of %d bytes", len(cs.OCSPResponse))
		}
		judgeOpenSSL(t, plain.Addr().String(), root, "-starttls", "smtp")
	})
	t.Run("curl", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(plain.Addr().String())
		out, err := output(t, "curl", "-sS", "-v", "--ssl-reqd", "--cert-status", "--cacert", root, "--noproxy", "*",
			"--resolve", host+":"+port+":127.0.0.1", "smtp://"+net.JoinHostPort(host, port), "-X", "NOOP")
		if !strings.Contains(out, "SSL certificate status: good") {
			t.Errorf("curl: %v: %s", err, out)
		}
	})
}

// judgeOpenSSL has openssl tell what is stapled.
func judgeOpenSSL(t *testing.T, addr, root string, args ...string) {
	t.Helper()
	out, err := output(t, "openssl", append([]string{"s_client", "-connect", addr, "-servername", host, "-CAfile", root, "-status", "-verify_return_error"}, args...)...)
	if err != nil || !strings.Contains(out, "Cert Status: good") {
		t.Errorf("openssl: %v: %s", err, out)
	}
}
