package scenario_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

func writeKey(t testing.TB, path string, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return testkit.WritePEM(t, path, "PRIVATE KEY", der)
}

// The serial numbers in the index of the openssl responder.
var goodSerial, revokedSerial, strangeSerial = big.NewInt(0x1001), big.NewInt(0x1002), big.NewInt(0x1003)

// startResponder runs `openssl ocsp` for the certificates of ca until the test
// ends, and returns its URL.
func startResponder(t testing.TB, ca *ocsptest.CA, delegated bool, args ...string) string {
	t.Helper()
	openssl, dir := testkit.Program(t, "openssl"), t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	index := fmt.Sprintf("V\t491231235959Z\t\t%X\tunknown\t/CN=good\nR\t491231235959Z\t%s,keyCompromise\t%X\tunknown\t/CN=revoked\n",
		goodSerial, time.Now().Add(-time.Hour).UTC().Format("060102150405Z"), revokedSerial)
	if err := os.WriteFile(in("index.txt"), []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	caPEM := testkit.WritePEM(t, in("ca.pem"), "CERTIFICATE", ca.Cert.Raw)
	signer, key := caPEM, writeKey(t, in("ca.key"), ca.Key())
	if delegated {
		signer, key = delegate(t, ca, dir)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, openssl, append([]string{"ocsp", "-port", "0", "-index", in("index.txt"), "-CA", caPEM,
		"-rsigner", signer, "-rkey", key, "-ignore_err"}, args...)...)
	out, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = pipe, pipe
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		out.Close()
	})
	// It says "ACCEPT [::]:45661 PID=19327" once it listens.
	accept := regexp.MustCompile(`ACCEPT .*:(\d+)`)
	var said strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if m := accept.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, out)
			return "http://127.0.0.1:" + m[1]
		}
	}
	t.Fatalf("openssl ocsp did not start:\n%s", &said)
	return ""
}

// delegate makes a certificate for OCSP signing.
func delegate(t testing.TB, ca *ocsptest.CA, dir string) (cert, key string) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(0x2001), Subject: pkix.Name{CommonName: "OCSP delegate"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}, // ocsp-nocheck
	}, ca.Cert, priv.Public(), ca.Key())
	if err != nil {
		t.Fatal(err)
	}
	return testkit.WritePEM(t, filepath.Join(dir, "delegate.pem"), "CERTIFICATE", der), writeKey(t, filepath.Join(dir, "delegate.key"), priv)
}

// methods is a RoundTripper that notes the methods of requests.
type methods struct {
	http.Transport
	mu   sync.Mutex // guards used
	used []string
}

func (m *methods) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.used = append(m.used, r.Method)
	m.mu.Unlock()
	return m.Transport.RoundTrip(r)
}

// bench is a stapling server of net/http for one certificate, and what the
// tools need to visit it.
type bench struct {
	addr, caPEM string
	err         error // of Prefetch
	methods     *methods
}

func newBench(t testing.TB, ca *ocsptest.CA, cert *tls.Certificate, opts ...staple.Option) *bench {
	t.Helper()
	b := &bench{methods: new(methods), caPEM: testkit.WritePEM(t, filepath.Join(t.TempDir(), "ca.pem"), "CERTIFICATE", ca.Cert.Raw)}
	t.Cleanup(b.methods.CloseIdleConnections)
	s := testkit.Stapler(t, ca, append([]staple.Option{staple.WithHTTPClient(&http.Client{Transport: b.methods})}, opts...)...)
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	b.err = s.Prefetch(t.Context(), cert)
	b.addr = serve(t, &http.Server{TLSConfig: cfg, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })})
	return b
}

// sClient is what `openssl s_client -status` has to say.
func (b *bench) sClient(t testing.TB, version uint16) string {
	t.Helper()
	flag := map[uint16]string{tls.VersionTLS12: "-tls1_2", tls.VersionTLS13: "-tls1_3"}[version]
	out, err := exec.CommandContext(t.Context(), testkit.Program(t, "openssl"), "s_client", "-connect", b.addr, "-servername", "www.example.com",
		"-status", "-CAfile", b.caPEM, "-verify_return_error", "-verify_hostname", "www.example.com", flag).CombinedOutput()
	if err != nil {
		t.Errorf("openssl s_client: %v\n%s", err, out)
	}
	return string(out)
}

// curl visits the server with --cert-status, and returns its exit status.
func (b *bench) curl(t testing.TB, version uint16) (int, string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(b.addr)
	v := map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"}[version]
	out, err := exec.CommandContext(t.Context(), testkit.Program(t, "curl"), "--silent", "--show-error", "--cert-status", "--noproxy", "*",
		"--cacert", b.caPEM, "--tlsv"+v, "--tls-max", v, "--resolve", "www.example.com:"+port+":"+host,
		"https://www.example.com:"+port+"/").CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	} else if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}

// good says whether s_client saw a staple that says good.
func good(out string) bool {
	return strings.Contains(out, "OCSP Response Status: successful") && strings.Contains(out, "Cert Status: good")
}

// The responder of openssl, signing by itself or by delegate, asked by GET and
// by POST; its answers stapled by net/http; openssl and curl are content.
func TestOpenSSL(t *testing.T) {
	testkit.Program(t, "openssl")
	testkit.Program(t, "curl")
	for _, delegated := range []bool{false, true} {
		for _, keyType := range []ocsptest.KeyType{ocsptest.ECDSAP256, ocsptest.RSA2048} {
			ca := ocsptest.NewCA(ocsptest.Options{KeyType: keyType})
			url := startResponder(t, ca, delegated, "-nmin", "30")
			for path, method := range map[string]string{"": "GET", "/": "GET", "/?tenant=1": "POST", "/" + strings.Repeat("long/", 40): "POST"} {
				t.Run(fmt.Sprintf("delegated %v, CA %v, %s %.10s", delegated, keyType, method, path), func(t *testing.T) {
					cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: goodSerial, URLs: []string{url + path}, MustStaple: true})
					b := newBench(t, ca, cert)
					if b.err != nil {
						t.Fatal(b.err)
					}
					if got := fmt.Sprint(b.methods.used); got != "["+method+"]" {
						t.Errorf("asked by %s, want one %s", got, method)
					}
					for _, v := range versions {
						if out := b.sClient(t, v); !good(out) {
							t.Errorf("%s: openssl s_client:\n%s", tls.VersionName(v), out)
						}
						if code, out := b.curl(t, v); code != 0 || out != "hello" {
							t.Errorf("%s: curl: exit status %d\n%s", tls.VersionName(v), code, out)
						}
					}
				})
			}
		}
	}
}

// What openssl's responder does not call good is not stapled, and the server
// goes on serving.
func TestOpenSSLNotGood(t *testing.T) {
	testkit.Program(t, "openssl")
	testkit.Program(t, "curl")
	ca := ocsptest.NewCA()
	url := startResponder(t, ca, false, "-nmin", "30")
	liar := startResponder(t, ca, false, "-nmin", "30", "-badsig")
	stranger := ocsptest.NewCA()
	wrong := startResponder(t, stranger, false, "-nmin", "30")
	for _, tt := range []struct {
		name   string
		serial *big.Int
		url    string
		want   error
		reason staple.Reason
	}{
		{"revoked", revokedSerial, url, staple.ErrRevoked, 0},
		{"unknown", strangeSerial, url, staple.ErrUnknown, staple.ReasonUnknown},
		{"-badsig", goodSerial, liar, nil, staple.ReasonSignature},
		{"responder of another CA", goodSerial, wrong, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: tt.serial, URLs: []string{tt.url}})
			b := newBench(t, ca, cert)
			if b.err == nil || tt.want != nil && !errors.Is(b.err, tt.want) || tt.reason != 0 && testkit.Reason(b.err) != tt.reason {
				t.Errorf("Prefetch: %v, want %v, %v", b.err, tt.want, tt.reason)
			}
			for _, v := range versions {
				if out := b.sClient(t, v); !strings.Contains(out, "OCSP response: no response sent") {
					t.Errorf("%s: openssl s_client:\n%s", tls.VersionName(v), out)
				}
				if code, out := b.curl(t, v); code != 91 { // CURLE_SSL_INVALIDCERTSTATUS
					t.Errorf("%s: curl: exit status %d, want 91\n%s", tls.VersionName(v), code, out)
				}
			}
		})
	}
}

// Without -nmin openssl's responses have no nextUpdate.
//
// REQ B10
func TestOpenSSLNoNextUpdate(t *testing.T) {
	testkit.Program(t, "openssl")
	ca := ocsptest.NewCA()
	url := startResponder(t, ca, false)
	b := newBench(t, ca, ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: goodSerial, URLs: []string{url}}))
	if b.err != nil {
		t.Fatal(b.err)
	}
	if out := b.sClient(t, tls.VersionTLS13); !good(out) {
		t.Errorf("openssl s_client:\n%s", out)
	}
}

// With SHA-256 in the CertID openssl's responder and client agree; whether curl
// does is its version's affair (7.88 does not), which is why SHA-1 is the
// default.
//
// REQ A2
func TestOpenSSLSHA256(t *testing.T) {
	testkit.Program(t, "openssl")
	testkit.Program(t, "curl")
	ca := ocsptest.NewCA()
	url := startResponder(t, ca, false, "-nmin", "30")
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: goodSerial, URLs: []string{url}})
	b := newBench(t, ca, cert, staple.WithHash(crypto.SHA256))
	if b.err != nil {
		t.Fatal(b.err)
	}
	out := b.sClient(t, tls.VersionTLS13)
	if !good(out) || !strings.Contains(out, "Hash Algorithm: sha256") {
		t.Errorf("openssl s_client:\n%s", out)
	}
	code, said := b.curl(t, tls.VersionTLS13)
	t.Logf("curl --cert-status: exit status %d, %s", code, bytes.TrimSpace([]byte(said)))
}

// A responder killed while clients come: staples go on.
//
// REQ E6
func TestOpenSSLStopped(t *testing.T) {
	testkit.Program(t, "openssl")
	testkit.Program(t, "curl")
	ca := ocsptest.NewCA()
	var b *bench
	t.Run("while it runs", func(r *testing.T) {
		url := startResponder(r, ca, false, "-nmin", "30")
		b = newBench(t, ca, ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: goodSerial, URLs: []string{url}}))
	})
	if b == nil || b.err != nil {
		t.Fatal("no response")
	}
	if out := b.sClient(t, tls.VersionTLS13); !good(out) {
		t.Errorf("openssl s_client:\n%s", out)
	}
	if code, out := b.curl(t, tls.VersionTLS12); code != 0 {
		t.Errorf("curl: exit status %d\n%s", code, out)
	}
}

// visited has Go, openssl and curl see a staple.
func (b *bench) visited(t *testing.T, ca *ocsptest.CA, want []byte) {
	t.Helper()
	for _, v := range versions {
		client := testkit.ClientFor(ca, "www.example.com")
		client.MinVersion, client.MaxVersion = v, v
		c, err := tls.Dial("tcp", b.addr, client)
		if err != nil {
			t.Errorf("%s: %v", tls.VersionName(v), err)
			continue
		}
		if got := c.ConnectionState().OCSPResponse; !bytes.Equal(got, want) {
			t.Errorf("%s: stapled %d bytes, want %d", tls.VersionName(v), len(got), len(want))
		}
		c.Close()
		if out := b.sClient(t, v); !good(out) {
			t.Errorf("%d bytes, %s: openssl s_client:\n%s", len(want), tls.VersionName(v), out)
		}
		if code, out := b.curl(t, v); code != 0 {
			t.Errorf("%d bytes, %s: curl: exit status %d\n%s", len(want), tls.VersionName(v), code, out)
		}
	}
}
