package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/examples/internal/trial"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// documented returns the block of docs/proxies.md in language below heading, with
// pairs of old and new text replaced.
func documented(t *testing.T, heading, language string, replace ...string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(doc), "\n## "+heading+"\n")
	m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(below)
	if m == nil {
		t.Fatalf("docs/proxies.md: no %s below %s", language, heading)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(m[1], replace[i]) {
			t.Fatalf("docs/proxies.md: no %q below %s", replace[i], heading)
		}
	}
	return strings.NewReplacer(replace...).Replace(m[1])
}

// script writes a hook, and returns the command that runs it.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return "sh " + file + ` "$@"`
}

// serve runs a server until the test ends, and waits until it takes connections.
func serve(t *testing.T, addr, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd, out := exec.Command(testkit.Program(t, name), args...), new(trial.Output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // both end at once, with their workers
		<-end
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, out)
		}
	})
	testkit.Eventually(t, 45*time.Second, name+" listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return cmd
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// stapled returns the staple of a new handshake. It fails if the certificate
// does not, or the staple is there and does not prove it good.
func stapled(ca *ocsptest.CA, addr string) ([]byte, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr,
		&tls.Config{RootCAs: ca.Pool(), ServerName: "example.com", VerifyConnection: staple.VerifyStaple})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().OCSPResponse, nil
}

// serves reports whether a handshake at addr has what is in the file now.
func serves(ca *ocsptest.CA, addr, file string) func() bool {
	return func() bool {
		want, _ := os.ReadFile(file + ".ocsp")
		got, err := stapled(ca, addr)
		return err == nil && len(want) > 0 && string(got) == string(want)
	}
}

// bare reports whether a handshake at addr has no staple, and succeeds.
func bare(ca *ocsptest.CA, addr string) func() bool {
	return func() bool {
		got, err := stapled(ca, addr)
		return err == nil && got == nil
	}
}

// nginxConf writes a configuration whose server block is block.
func nginxConf(t *testing.T, dir, addr, block string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "nginx.conf")
	var temps string
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temps += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	conf := fmt.Sprintf("daemon off;\nerror_log stderr;\npid %s/nginx.pid;\nevents {}\nhttp {\naccess_log off;\n%sserver {\nlisten %s ssl;\n%s}\n}\n",
		dir, temps, addr, block)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// nginx staples what the file holds from its first handshake, the next response
// after the hook's reload, nothing once it has expired, and again after that.
func TestNginx(t *testing.T) {
	t.Parallel()
	nginx := testkit.Program(t, "nginx")
	ca, dir, addr := trial.Issuer(t), t.TempDir(), freeAddr(t)
	ca.Responder.SetValidity(time.Minute)
	cert := ca.Issue(ocsptest.Leaf{})
	file := save(t, dir, cert)
	conf := nginxConf(t, dir, addr, documented(t, "nginx", "nginx", "/etc/nginx/certs", dir))
	hook := script(t, documented(t, "nginx", "sh", "nginx -s reload", nginx+" -c "+conf+" -s reload"))
	start(t, hook, nil, file) // the hook fails until nginx is there
	testkit.Eventually(t, 45*time.Second, "nginx's file", func() bool { _, err := os.Stat(file + ".ocsp.conf"); return err == nil })
	serve(t, addr, "nginx", "-c", conf)
	if !serves(ca, addr, file)() {
		t.Error("the first handshake has no staple")
	}
	client(t, addr)

	ca.Responder.SetValidity(8 * time.Second)
	save(t, dir, ca.Issue(ocsptest.Leaf{}))
	testkit.Eventually(t, 45*time.Second, "the renewed certificate has its staple", serves(ca, addr, file))
	ca.Responder.SetFault(ocsptest.FaultTryLater)
	testkit.Eventually(t, 45*time.Second, "no staple after expiry", bare(ca, addr))
	if out, err := exec.Command(nginx, "-t", "-c", conf).CombinedOutput(); err != nil {
		t.Errorf("nginx would not start without the response: %v\n%s", err, out)
	}
	ca.Responder.SetValidity(time.Minute)
	ca.Responder.ClearFaults()
	testkit.Eventually(t, 45*time.Second, "a staple after the outage", serves(ca, addr, file))
}

// What docs/proxies.md says about ssl_stapling_file: without the file nginx does
// not start, and what has expired is served.
func TestNginxStaplingFile(t *testing.T) {
	t.Parallel()
	nginx := testkit.Program(t, "nginx")
	ca, dir, addr := ocsptest.NewCA(), t.TempDir(), freeAddr(t)
	cert := ca.Issue(ocsptest.Leaf{})
	file := save(t, dir, cert)
	conf := nginxConf(t, dir, addr, fmt.Sprintf("ssl_certificate %s;\nssl_certificate_key %[1]s;\nssl_stapling on;\nssl_stapling_file %[1]s.ocsp;\n", file))
	if out, err := exec.Command(nginx, "-t", "-c", conf).CombinedOutput(); err == nil {
		t.Errorf("nginx starts without the file:\n%s", out)
	}
	expired := ca.Responder.Build(cert, func(s *ocsptest.Spec) {
		for i := range s.Singles {
			s.Singles[i].ThisUpdate, s.Singles[i].NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}
	})
	if err := os.WriteFile(file+".ocsp", expired, 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, addr, "nginx", "-c", conf)
	if _, err := stapled(ca, addr); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got error %v, want an expired staple", err)
	}
}

// HAProxy staples what the file holds when it starts, what the admin socket
// brings, and nothing once that has expired.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	testkit.Program(t, "haproxy")
	testkit.Program(t, "socat")
	ca, dir, addr := trial.Issuer(t), t.TempDir(), freeAddr(t)
	sock, conf := shortPath(t, "admin.sock"), filepath.Join(dir, "haproxy.cfg")
	cert := ca.Issue(ocsptest.Leaf{})
	file := save(t, dir, cert)
	if err := os.WriteFile(conf, fmt.Appendf(nil, "global\n\tstats socket %s mode 600 level admin\ndefaults\n\tmode http\n\ttimeout client 10s\n\ttimeout server 10s\n"+
		"\ttimeout connect 10s\nfrontend f\n\tbind %s ssl crt %s\n\thttp-request return status 200\n", sock, addr, file), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stop := start(t, ":", nil, file)
	testkit.Eventually(t, 45*time.Second, "a response", func() bool { return proves(ca, file, cert) })
	stop()
	server := serve(t, addr, "haproxy", "-W", "-db", "-f", conf)
	if !serves(ca, addr, file)() {
		t.Error("the first handshake has no staple")
	}
	client(t, addr)

	reload := fmt.Sprintf("kill -USR2 %d", server.Process.Pid)
	hook := script(t, documented(t, "HAProxy", "sh", "/run/haproxy/admin.sock", sock, "systemctl reload haproxy", reload))
	old, _ := os.ReadFile(file + ".ocsp")
	ca.Responder.SetValidity(5*time.Minute + 5*time.Second) // HAProxy stops 5 minutes before the end
	start(t, hook, []staple.Option{staple.WithTTL(short)}, file)
	testkit.Eventually(t, 45*time.Second, "what the admin socket brings", func() bool {
		got, err := stapled(ca, addr)
		return err == nil && len(got) > 0 && string(got) != string(old)
	})
	ca.Responder.SetFault(ocsptest.FaultTryLater)
	testkit.Eventually(t, 45*time.Second, "no staple at the end", bare(ca, addr))
	ca.Responder.SetValidity(time.Hour)
	ca.Responder.ClearFaults()
	testkit.Eventually(t, 45*time.Second, "a staple after the outage", serves(ca, addr, file))
	renewed := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetUnauthorized(renewed) // as many CAs do in the first minutes
	save(t, dir, renewed)
	testkit.Eventually(t, 45*time.Second, "no staple after a renewal", bare(ca, addr))
	ca.Responder.SetGood(renewed)
	testkit.Eventually(t, 45*time.Second, "a staple of the renewed certificate", serves(ca, addr, file))
	ca.Responder.Revoke(renewed, 1, time.Now())
	testkit.Eventually(t, 45*time.Second, "no staple of what is revoked", bare(ca, addr))
}

// client has openssl look at the staple.
func client(t *testing.T, addr string) {
	t.Helper()
	cmd := exec.Command(testkit.Program(t, "openssl"), "s_client", "-connect", addr, "-servername", "example.com", "-status")
	out, err := cmd.CombinedOutput() // stdin is empty
	if err != nil || !strings.Contains(string(out), "Cert Status: good") {
		t.Errorf("openssl s_client -status: %v\n%s", err, out)
	}
}

// shortPath returns a path that a socket can have.
func shortPath(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "files")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, name)
}
