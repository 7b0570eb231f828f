package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A pebble is Let's Encrypt's ACME server for tests, as a process, with an OCSP
// responder, which it has none of its own, that signs with its intermediate's
// key and answers for what it issued.
type pebble struct {
	directory string         // URL
	http      *http.Client   // trusts the server
	roots     *x509.CertPool // trust what it issues
	responder *ocsptest.Responder

	management string
	stop       func()
}

// startPebble starts one that comes to tlsPort to validate, whatever the host.
func startPebble(t *testing.T, tlsPort int) *pebble {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "pebble")
	// Its version is that of go.mod.
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/letsencrypt/pebble/v2/cmd/pebble").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var late lateHandler
	front := &http.Server{Handler: &late}
	l := listen(t)
	go front.Serve(l)
	t.Cleanup(func() { front.Close() })

	own := ocsptest.NewCA() // of its ACME interface
	cert := own.Issue(ocsptest.Leaf{Names: []string{"127.0.0.1"}, NoURL: true})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dns := startDNS(t)
	acme, management := freeAddrs(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": acme, "managementListenAddress": management, "tlsPort": tlsPort, "httpPort": 1,
		"certificate":      testkit.WritePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Certificate...),
		"privateKey":       testkit.WritePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", key),
		"ocspResponderURL": "http://" + l.Addr().String(),
		"keyAlgorithm":     "rsa", // the others' keys are not given out
		"profiles":         map[string]any{"default": map[string]any{"description": "ten days", "validityPeriod": 10 * 24 * 3600}},
		"retryAfter":       map[string]any{"authz": 1, "order": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}

	p := &pebble{directory: "https://" + acme + "/dir", management: "https://" + management, roots: x509.NewCertPool()}
	p.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: own.Pool()}}}
	p.run(t, exec.Command(program, "-config", file, "-dnsserver", dns))
	ca := p.authority(t, "http://"+l.Addr().String())
	p.responder = ca.Responder
	p.responder.SetHook(func(_ http.ResponseWriter, _ *http.Request, serial *big.Int) bool {
		p.ask(t, ca, serial)
		return false
	})
	late.set(p.responder)
	return p
}

// run runs the process until the test ends, or stop is called.
func (p *pebble) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0") // a second try would find no order in the gate
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stop = sync.OnceFunc(func() {
		p.http.CloseIdleConnections()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	t.Cleanup(p.stop)
	for _, url := range []string{p.directory, p.management + "/roots/0"} {
		testkit.Eventually(t, patience, "Pebble answers", func() bool {
			resp, err := p.http.Get(url)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
}

// authority returns Pebble's intermediate, as a CA that answers for it at url.
func (p *pebble) authority(t *testing.T, url string) *ocsptest.CA {
	t.Helper()
	root, err := x509.ParseCertificate(p.get(t, "/roots/0"))
	if err != nil {
		t.Fatal(err)
	}
	p.roots.AddCert(root)
	cert, err := x509.ParseCertificate(p.get(t, "/intermediates/0"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS1PrivateKey(p.get(t, "/intermediate-keys/0"))
	if err != nil {
		t.Fatal(err)
	}
	return ocsptest.NewCA(ocsptest.Options{Cert: cert, Key: key, URL: url})
}

// get returns what the management interface has under path, out of its PEM.
func (p *pebble) get(t *testing.T, path string) []byte {
	t.Helper()
	resp, err := p.http.Get(p.management + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s: no PEM in %q", path, data)
	}
	return block.Bytes
}

// ask tells the responder what Pebble knows of a certificate.
func (p *pebble) ask(t *testing.T, ca *ocsptest.CA, serial *big.Int) {
	resp, err := p.http.Get(fmt.Sprintf("%s/cert-status-by-serial/%x", p.management, serial))
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	var known struct{ Status, Certificate string }
	if err := json.NewDecoder(resp.Body).Decode(&known); err != nil {
		return // not issued: the responder says so
	}
	block, _ := pem.Decode([]byte(known.Certificate))
	if block == nil {
		t.Errorf("no certificate in %+v", known)
		return
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Error(err)
		return
	}
	ca.Adopt(leaf)
}

// A lateHandler passes requests on to a handler that is not there at first.
type lateHandler struct {
	mu sync.Mutex
	h  http.Handler
}

func (l *lateHandler) set(h http.Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h = h
}

func (l *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	h := l.h
	l.mu.Unlock()
	if h == nil {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	h.ServeHTTP(w, r)
}

// freeAddrs returns two addresses for a process that can't choose its own. What
// has the system choose a port must listen already: it may be given one of these.
func freeAddrs(t *testing.T) (a, b string) {
	t.Helper()
	var addrs [2]string
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs[i] = l.Addr().String()
	}
	return addrs[0], addrs[1]
}

// startDNS runs a DNS server for which every host is this one.
func startDNS(t *testing.T) (addr string) {
	t.Helper()
	l := listen(t)
	srv := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for _, question := range q.Question {
			if question.Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{A: net.IPv4(127, 0, 0, 1),
					Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}})
			}
		}
		_ = w.WriteMsg(m)
	})}
	go srv.ActivateAndServe()
	t.Cleanup(func() { srv.Shutdown() })
	return l.Addr().String()
}
