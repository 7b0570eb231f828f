package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// stapled returns a server's configuration, stapled, and a strict client's.
func stapled(t *testing.T) (ca *ocsptest.CA, server, client *tls.Config) {
	t.Helper()
	ca = issuer(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
	s := newStapler(t)
	server = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	if err := s.Prefetch(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	return ca, server, strict(ca.Pool())
}

// get asks for url and returns what net/http answers here: the protocol.
func get(t *testing.T, client *http.Client, url string) *http.Response {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != resp.Proto {
		t.Errorf("got %q, %v over %s", body, err, resp.Proto)
	}
	return resp
}

func TestHTTP2(t *testing.T) {
	ca, server, client := stapled(t)
	l := listen(t)
	serveHTTPS(t, l, server)
	addr := l.Addr().String()
	transport := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp := get(t, &http.Client{Transport: transport}, "https://"+addr)
	if resp.ProtoMajor != 2 || len(resp.TLS.OCSPResponse) == 0 {
		t.Errorf("got %s and a staple of %d bytes", resp.Proto, len(resp.TLS.OCSPResponse))
	}

	root := testkit.WritePEM(t, filepath.Join(t.TempDir(), "root.pem"), "CERTIFICATE", ca.Cert.Raw)
	_, port, _ := net.SplitHostPort(addr)
	out, err := output(t, "curl", "-sS", "--http2", "--cert-status", "--cacert", root, "--noproxy", "*",
		"--resolve", host+":"+port+":127.0.0.1", "https://"+net.JoinHostPort(host, port))
	if err != nil || out != "HTTP/2.0" {
		t.Errorf("curl: got %q, %v", out, err)
	}
}

// HTTP/3 is TLS 1.3 in QUIC, where crypto/tls has no connection of its own.
func TestHTTP3(t *testing.T) {
	_, server, client := stapled(t)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	srv := &http3.Server{TLSConfig: http3.ConfigureTLSConfig(server),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })}
	go srv.Serve(conn)
	defer srv.Close()
	transport := &http3.Transport{TLSClientConfig: client}
	defer transport.Close()
	resp := get(t, &http.Client{Transport: transport}, "https://"+conn.LocalAddr().String())
	if resp.ProtoMajor != 3 || len(resp.TLS.OCSPResponse) == 0 {
		t.Errorf("got %s and a staple of %d bytes", resp.Proto, len(resp.TLS.OCSPResponse))
	}
}

// mTLS with staples both ways, over net/http.
func TestMutual(t *testing.T) {
	ca, clients := issuer(t), issuer(t)
	cert := clients.Issue(ocsptest.Leaf{Names: []string{"client.example.com"}, Client: true, MustStaple: true})
	revoked := clients.Issue(ocsptest.Leaf{Names: []string{"gone.example.com"}, Client: true})
	clients.Responder.Revoke(revoked, 1, cert.Leaf.NotBefore)
	server := ca.Issue(ocsptest.Leaf{Names: []string{host}})
	s := newStapler(t, staple.WithStapleRevoked(true))
	if err := s.Prefetch(t.Context(), server, cert, revoked); err == nil || !strings.Contains(err.Error(), "gone.example.com") {
		t.Fatalf("got %v, want an error for the revoked certificate alone", err)
	}
	judged := make(chan error, 1)
	l := listen(t)
	serveHTTPS(t, l, s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients.Pool(),
		VerifyConnection: func(cs tls.ConnectionState) error {
			err := staple.VerifyStaple(cs)
			judged <- err
			return err
		}}))
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		wrap bool
		want error
	}{
		{"good", cert, true, nil},
		{"Must-Staple without a staple", cert, false, staple.ErrNoStaple},
		{"revoked", revoked, true, staple.ErrRevoked},
		{"revoked, and silent about it", revoked, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := strict(ca.Pool())
			client.Certificates = []tls.Certificate{*c.cert}
			if c.wrap {
				client = s.TLSConfig(client)
			}
			mustShake(t, l.Addr().String(), client) // a client is refused after its own part is done
			if got := <-judged; !isError(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// Certificates in files that others replace, for a server that reads them once
// and again on a signal, as many do: the new config is wrapped anew.
func TestReloadedConfig(t *testing.T) {
	ca := issuer(t)
	s := newStapler(t)
	dir := t.TempDir()
	load := func() *tls.Config {
		cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Prefetch(t.Context(), &cert); err != nil {
			t.Error(err)
		}
		return s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
	}
	var current atomic.Pointer[tls.Config]
	l := listen(t)
	serveHTTPS(t, l, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil }})
	for range 3 {
		cert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
		writePair(t, dir, cert)
		current.Store(load())
		if got := mustShake(t, l.Addr().String(), strict(ca.Pool())).PeerCertificates[0]; !got.Equal(cert.Leaf) {
			t.Errorf("got serial %x, want %x", got.SerialNumber, cert.Leaf.SerialNumber)
		}
	}
	if got := ca.Responder.Requests(); got != 3 {
		t.Errorf("the responder was asked %d times for three certificates", got)
	}
}
