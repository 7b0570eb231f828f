package clients_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A client is one program, called in one way.
type client struct {
	name string
	how  string                                    // it is called
	tool string                                    // its program; none for Go
	pkg  string                                    // of Debian
	run  func(t *testing.T, w *world, vs []*visit) // makes it visit each, and sets said

	// What it has to refuse, always and with Must-Staple, whatever is written in
	// the tables. A good staple with SHA-1 nobody may refuse.
	refuses, refusesMust []shape
}

var (
	bad     = []shape{revoked, expired}
	badNone = []shape{revoked, expired, missing}
)

var clients = []client{
	{name: "Go", how: "`crypto/tls` as it is", run: each(goClient(nil))},
	{name: "Go VerifyStaple", how: "`VerifyConnection: staple.VerifyStaple`", run: each(goClient(staple.VerifyStaple)),
		refuses: bad, refusesMust: badNone},
	{name: "Go RequireStaple", how: "`VerifyConnection: staple.RequireStaple`", run: each(goClient(staple.RequireStaple)),
		refuses: badNone, refusesMust: badNone},
	{name: "openssl s_client", how: "`openssl s_client -status`", tool: "openssl", pkg: "openssl", run: each(sClient)},
	{name: "curl", how: "`curl`", tool: "curl", pkg: "curl", run: each(curl())},
	{name: "curl --cert-status", how: "`curl --cert-status`", tool: "curl", pkg: "curl", run: each(curl("--cert-status")),
		refuses: badNone, refusesMust: badNone},
	{name: "gnutls-cli", how: "`gnutls-cli`", tool: "gnutls-cli", pkg: "gnutls-bin", run: each(gnutls),
		refuses: bad, refusesMust: badNone},
	{name: "wget2", how: "`wget2`", tool: "wget2", pkg: "wget2", run: each(wget2),
		refuses: bad, refusesMust: badNone},
	{name: "git", how: "`git ls-remote`", tool: "git", pkg: "git", run: each(git),
		refuses: bad, refusesMust: badNone},
	{name: "tstclnt", how: "`tstclnt -T -O -F -M 1`", tool: "tstclnt", pkg: "libnss3-tools", run: tstclnt,
		refuses: badNone, refusesMust: badNone},
	{name: "Chromium", how: "`chromium --headless`", tool: "chromium", pkg: "chromium", run: chromium,
		refuses: []shape{revoked}, refusesMust: []shape{revoked}},
	{name: "Firefox", how: "`firefox-esr --headless`", tool: "firefox-esr", pkg: "firefox-esr", run: firefox,
		refuses: []shape{revoked}, refusesMust: []shape{revoked, missing}},
}

// command runs a program with nothing of the environment but the path, so that
// no proxy and no settings of the user's are in the way.
func command(t *testing.T, home, name string, args ...string) (code int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Errorf("%s: %v\n%s", name, errors.Join(err, ctx.Err()), said)
	}
	return cmd.ProcessState.ExitCode(), string(said)
}

// each makes a client for one server a client for many.
func each(f func(t *testing.T, w *world, v *visit)) func(*testing.T, *world, []*visit) {
	return func(t *testing.T, w *world, vs []*visit) {
		var wg sync.WaitGroup
		places := make(chan struct{}, runtime.GOMAXPROCS(0)+1)
		for _, v := range vs {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				f(t, w, v)
			})
		}
		wg.Wait()
	}
}

// reasons are the words of all tools for the few reasons that there are.
var reasons = []struct {
	said   *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`Could not find certificate ID`), "no such CertID"},
	{regexp.MustCompile(`revocation reason|chain is revoked|has been revoked|alert: revoked certificate|tstclnt: 3$|net_error -206\b`), "revoked"},
	{regexp.MustCompile(`response has expired|data are old`), "expired"},
	{regexp.MustCompile(`No OCSP response|OCSP status is missing`), "no staple"},
	{regexp.MustCompile(`tstclnt: 2$`), "no staple or a bad one"},
	{regexp.MustCompile(`alert: bad certificate`), "alert bad certificate"},
	{regexp.MustCompile(`certificate verification failed`), "verification failed"},
}

// judge sets what a tool did from its exit status and what it printed.
func (v *visit) judge(t *testing.T, code int, out string) {
	if code == 0 {
		v.said = "accepts"
		return
	}
	for _, r := range reasons {
		if r.said.MatchString(out) {
			v.said = "refuses: " + r.reason
			return
		}
	}
	v.said = "refuses"
	t.Errorf("%s: refuses for no reason that is known: exit status %d\n%s", v, code, out)
}

// goClient is net/http's, with a way to look at staples.
func goClient(verify func(tls.ConnectionState) error) func(*testing.T, *world, *visit) {
	return func(t *testing.T, w *world, v *visit) {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: w.ca.Pool(), VerifyConnection: verify},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", v.addr)
			},
		}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Get("https://" + host + "/")
		switch {
		case err == nil:
			resp.Body.Close()
			v.said = "accepts"
			v.inspect(t, w, resp.TLS.OCSPResponse)
		case errors.Is(err, staple.ErrRevoked):
			v.said = "refuses: revoked"
		case errors.Is(err, staple.ErrNoStaple):
			v.said = "refuses: no staple"
		case errors.Is(err, staple.ErrExpired):
			v.said = "refuses: expired"
		default:
			t.Errorf("%s: %v", v, err)
		}
	}
}

var certStatus = regexp.MustCompile(`Cert Status: (\w+)`)

// sClient shows a staple, and judges the chain alone.
func sClient(t *testing.T, w *world, v *visit) {
	code, out := command(t, filepath.Dir(w.caPEM), "openssl", "s_client", "-connect", v.addr, "-servername", host, "-status",
		"-CAfile", w.caPEM, "-verify_return_error", "-verify_hostname", host)
	v.judge(t, code, out)
	if m := certStatus.FindStringSubmatch(out); m != nil {
		v.said += ", shows " + m[1]
	} else if strings.Contains(out, "OCSP response: no response sent") {
		v.said += ", shows none"
	} else {
		t.Errorf("%s: openssl shows nothing:\n%s", v, out)
	}
}

func curl(args ...string) func(*testing.T, *world, *visit) {
	return func(t *testing.T, w *world, v *visit) {
		code, out := command(t, filepath.Dir(w.caPEM), "curl", append(args, "--silent", "--show-error", "--cacert", w.caPEM,
			"--resolve", host+":"+v.port+":127.0.0.1", "https://"+host+":"+v.port+"/")...)
		v.judge(t, code, out)
	}
}

func gnutls(t *testing.T, w *world, v *visit) {
	code, out := command(t, filepath.Dir(w.caPEM), "gnutls-cli", "--x509cafile", w.caPEM, "--sni-hostname", host,
		"--verify-hostname", host, "--port", v.port, "127.0.0.1")
	v.judge(t, code, out)
}

func wget2(t *testing.T, w *world, v *visit) {
	code, out := command(t, t.TempDir(), "wget2", "--no-config", "--ca-certificate", w.caPEM, "--tries=1", "-O", "/dev/null",
		"https://localhost:"+v.port+"/")
	v.judge(t, code, out)
}

// git speaks TLS by the GnuTLS of libcurl, in Debian. There is no repository, so
// that it always fails; what counts is whether it got as far as to ask for one.
func git(t *testing.T, w *world, v *visit) {
	_, out := command(t, t.TempDir(), "git", "-c", "http.sslCAInfo="+w.caPEM,
		"-c", "http.curloptResolve="+host+":"+v.port+":127.0.0.1", "ls-remote", "https://"+host+":"+v.port+"/")
	v.judgeServed(t, out)
}

// judgeServed is judge for a client that served says more of than its exit status.
func (v *visit) judgeServed(t *testing.T, out string) {
	v.settle(t)
	code := 1
	if v.served {
		code = 0
	}
	v.judge(t, code, out)
}

// tstclnt looks at staples (-T) when told that it has to know about revocation
// (-F) from OCSP (-M 1) before it sends anything (-O). Its exit status says how
// that went: 2 is for no data, old or invalid data, 3 for revoked.
func tstclnt(t *testing.T, w *world, vs []*visit) {
	dir := t.TempDir()
	trustNSS(t, w, dir)
	each(func(t *testing.T, w *world, v *visit) {
		code, out := command(t, dir, "tstclnt", "-h", "127.0.0.1", "-p", v.port, "-a", host, "-d", "sql:"+dir, "-T", "-O", "-F", "-M", "1")
		v.judge(t, code, fmt.Sprintf("%s\ntstclnt: %d", out, code))
	})(t, w, vs)
}

// trustNSS makes a certificate database of NSS in dir that trusts the CA.
func trustNSS(t *testing.T, w *world, dir string) {
	t.Helper()
	testkit.Program(t, "certutil")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test CA", "-t", "C,,", "-i", w.caPEM}} {
		if code, out := command(t, dir, "certutil", append(args, "-d", "sql:"+dir)...); code != 0 {
			t.Fatalf("certutil: exit status %d: %s", code, out)
		}
	}
}
