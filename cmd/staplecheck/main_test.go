package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// asMain, in the environment, makes the test binary the program itself, so that
// exit statuses and the system's roots are the real ones.
const asMain = "STAPLECHECK_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// newCA returns a CA whose responder is on loopback until the test ends.
func newCA(t testing.TB) *ocsptest.CA {
	ca := ocsptest.NewCA()
	startResponder(t, ca)
	return ca
}

func startResponder(t testing.TB, ca *ocsptest.CA) {
	ca.Responder.Start()
	t.Cleanup(ca.Responder.Close)
}

// serve serves HTTPS until the test ends, and returns where.
func serve(t testing.TB, cfg *tls.Config) string {
	t.Helper()
	ln := listen(t)
	srv := &http.Server{TLSConfig: cfg, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// withStaple is a server's config.
func withStaple(cert *tls.Certificate, raw []byte) *tls.Config {
	c := *cert
	c.OCSPStaple = raw
	return &tls.Config{Certificates: []tls.Certificate{c}}
}

// visit makes a check by these arguments, with ca's root as that of the system.
func visit(t testing.TB, ca *ocsptest.CA, args ...string) *Report {
	t.Helper()
	o, err := parse(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	o.roots = ca.Pool()
	return check(t.Context(), o)
}

// command runs the program as a process of its own.
func command(t testing.TB, ca *ocsptest.CA, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), asMain+"=1", "SSL_CERT_FILE="+testkit.WritePEM(t, filepath.Join(t.TempDir(), "ca.pem"), "CERTIFICATE", ca.Cert.Raw), "SSL_CERT_DIR="+t.TempDir())
	_ = cmd.Run() // the status is what is looked at
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestCommand(t *testing.T) {
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
	good := serve(t, withStaple(cert, ca.Responder.Response(cert)))
	none := serve(t, withStaple(cert, nil))

	out, errs, status := command(t, ca, "-servername", "www.example.com", good)
	if status != 0 || errs != "" {
		t.Errorf("good: exit status %d, %q", status, errs)
	}
	want := regexp.MustCompile(`^server       127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+, TLS 1\.3
names        www\.example\.com
serial       [0-9a-f]{32}
issuer       CN=ocsptest CA [0-9a-f]{8},O=ocsptest
expires      [-0-9]{10} [:0-9]{8} UTC, in (89|90) days
must-staple  yes
responder    http://127\.0\.0\.1:\d+
chain        2 certificates, with the issuer
trusted      yes
staple       good
this update  [-0-9]{10} [:0-9]{8} UTC, \S+ ago
next update  [-0-9]{10} [:0-9]{8} UTC, in [34] days, (99|100) % of its life left
size         \d+ bytes
signed by    issuer, CN=ocsptest CA [0-9a-f]{8},O=ocsptest
cert id      SHA-1
clients      all take it
asked        http://127\.0\.0\.1:\d+ answered in \d+ ms: good
             this update [-0-9]{10} [:0-9]{8} UTC, next update [-0-9]{10} [:0-9]{8} UTC
result       good: a good staple, which all clients take
$`)
	if !want.MatchString(out) {
		t.Errorf("good: printed\n%s", out)
	}

	out, errs, status = command(t, ca, "-json", none)
	if status != 1 || errs != "" {
		t.Errorf("none: exit status %d, %q", status, errs)
	}
	var r Report
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil || dec.More() {
		t.Fatalf("none: %v in\n%s", err, out)
	}
	if r.Verdict != VerdictBad || r.Staple != nil || r.Answer == nil || r.Answer.Status != "good" || len(r.Refusals) != 1 || r.Refusals[0].Clients != heeding ||
		!strings.Contains(r.Reason, "Must-Staple") || r.Certificate.Trusted || !strings.Contains(r.Certificate.TrustError, "127.0.0.1") {
		t.Errorf("none: printed\n%s", out)
	}
}

// What can't be told, and mistakes in the command line.
func TestCannotTell(t *testing.T) {
	ca := ocsptest.NewCA()
	plain := listen(t)
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "220 mail.example ESMTP\r\n")
			conn.Close()
		}
	}()
	silent := listen(t) // accepts, and says nothing
	closed := listen(t)
	closed.Close()
	notPEM := filepath.Join(t.TempDir(), "not.pem")
	if err := os.WriteFile(notPEM, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no host":            {nil, "want one host[:port]"},
		"two hosts":          {[]string{"a", "b"}, "want one host[:port]"},
		"flag behind":        {[]string{"a", "-json"}, "want one host[:port] after the flags"},
		"unknown flag":       {[]string{"-colour", "a"}, "-colour"},
		"URL":                {[]string{"https://example.com/"}, "want host or host:port"},
		"port alone":         {[]string{":443"}, "want host or host:port"},
		"protocol":           {[]string{"-starttls", "pop3", "a"}, "want smtp, imap or ldap"},
		"timeout":            {[]string{"-timeout", "0s", "a"}, "want more than 0"},
		"no issuer file":     {[]string{"-issuer", notPEM + ".not", "a"}, "no such file"},
		"issuer file":        {[]string{"-issuer", notPEM, "a"}, "no certificate in PEM"},
		"host not found":     {[]string{"no..such.host"}, "no such host"},
		"port not found":     {[]string{"127.0.0.1:nosuchport"}, "nosuchport"},
		"connection refused": {[]string{closed.Addr().String()}, "refused"},
		"not TLS":            {[]string{plain.Addr().String()}, `no TLS, it begins with "220 m"`},
		"silence":            {[]string{"-timeout", "50ms", silent.Addr().String()}, "not done within 50ms"},
		"silent SMTP":        {[]string{"-timeout", "50ms", "-starttls", "smtp", silent.Addr().String()}, "STARTTLS of smtp: not done within 50ms"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, status := command(t, ca, tt.args...)
			if status != 2 || out != "" || !strings.HasPrefix(errs, "staplecheck: ") || !strings.Contains(errs, tt.want) || strings.Count(errs, "\n") != 1 {
				t.Errorf("exit status %d, %q, %q, want %q", status, out, errs, tt.want)
			}
		})
	}
	out, errs, status := command(t, ca, "-json", closed.Addr().String())
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || status != 2 || errs != "" || r.Verdict != VerdictUnknown || !strings.Contains(r.Reason, "refused") {
		t.Errorf("-json: exit status %d, %v, %q, in\n%s", status, err, errs, out)
	}
	if out, errs, status := command(t, ca, "-help"); status != 0 || !strings.Contains(out+errs, "usage: staplecheck [flags] host[:port]") {
		t.Errorf("-help: exit status %d, %q, %q", status, out, errs)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs strings.Builder
	if status := run(ctx, []string{listen(t).Addr().String()}, &out, &errs); status != 2 || out.Len() > 0 {
		t.Errorf("exit status %d, %q, %q", status, &out, &errs)
	}
}

func TestHostPort(t *testing.T) {
	for arg, want := range map[string][2]string{
		"example.com":      {"example.com", "443"},
		"example.com:":     {"example.com", "443"},
		"example.com:8443": {"example.com", "8443"},
		"192.0.2.1":        {"192.0.2.1", "443"},
		"2001:db8::1":      {"2001:db8::1", "443"},
		"[2001:db8::1]":    {"2001:db8::1", "443"},
		"[2001:db8::1]:25": {"2001:db8::1", "25"},
		"":                 {},
		":443":             {},
		"a:b:c":            {},
		"[2001:db8::1":     {},
		"[a]x":             {},
		"example.com/":     {},
	} {
		host, port, err := hostPort(arg, "443")
		if got := [2]string{host, port}; got != want || (err != nil) != (want == [2]string{}) {
			t.Errorf("%q: %q, %v, want %q", arg, got, err, want)
		}
	}
	for protocol, want := range map[string]string{"smtp": "25", "imap": "143", "ldap": "389"} {
		o, err := parse([]string{"-starttls", protocol, "a"}, io.Discard)
		if err != nil || o.port != want {
			t.Errorf("%s: %v, %v, want port %s", protocol, o, err, want)
		}
	}
}

// The manual names each member of the JSON, in its order, and no other.
func TestManual(t *testing.T) {
	src, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, manual, _ := strings.Cut(string(src), "\n// # JSON\n")
	manual, _, _ = strings.Cut(manual, "\npackage main")
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^//\t *([a-z_]+\??)(?: |$)`).FindAllStringSubmatch(manual, -1) {
		got = append(got, m[1])
	}
	if want := members(reflect.TypeFor[Report]()); !reflect.DeepEqual(got, want) {
		t.Errorf("the manual has\n%q, want\n%q", got, want)
	}
}

// members returns the names of a struct's members in JSON, and of those in them.
func members(of reflect.Type) (names []string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of.PkgPath() == "time" {
		return nil
	}
	for field := range of.Fields() {
		name, optional := strings.CutSuffix(field.Tag.Get("json"), ",omitempty")
		if optional {
			name += "?"
		}
		names = append(append(names, name), members(field.Type)...)
	}
	return names
}

// What a server says is fit to print.
func TestHostileNames(t *testing.T) {
	ca := ocsptest.NewCA(ocsptest.Options{Name: "\x1b[31mred\nresult good"})
	cert := ca.Issue(ocsptest.Leaf{Template: func(c *x509.Certificate) {
		c.DNSNames, c.Subject.CommonName = nil, "\x1b[31mred\nresult good"
		c.OCSPServer = []string{"http://127.0.0.1:1/" + strings.Repeat("x", 500)}
	}})
	r := visit(t, ca, serve(t, withStaple(cert, nil)))
	for part := range strings.Lines(r.text()) {
		if len(part) > 1000 || strings.ContainsRune(part, 0x1b) || strings.HasPrefix(part, "result good") {
			t.Errorf("printed %q", part)
		}
	}
	if got, want := line(errors.New("one\ntwo\x1b")), "one; two?"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
