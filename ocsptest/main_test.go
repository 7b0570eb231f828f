package ocsptest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/fips140"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

// TestMain fails if a test leaves a goroutine of this package, of its server or of a client
// behind.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if stacks := leaks(); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}

// stacks returns what all goroutines do.
func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// leaks returns the goroutines that run our code or net/http's. They get a moment to end: a
// connection that was closed is noticed by its reader a little later.
func leaks() string {
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		left = nil
		for i, stack := range strings.Split(stacks(), "\n\n") {
			if i > 0 && (strings.Contains(stack, "ocsptest") || strings.Contains(stack, "net/http")) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

// request encodes a request by x/crypto/ocsp, which is not ours and needs SHA-1 to be allowed.
func request(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, hash crypto.Hash) (der []byte) {
	t.Helper()
	var err error
	fips140.WithoutEnforcement(func() {
		der, err = ocsp.CreateRequest(cert.Leaf, ca.Cert, &ocsp.RequestOptions{Hash: hash})
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// sha1Sum hashes what CertIDs and responder IDs name.
func sha1Sum(data []byte) (sum []byte) {
	fips140.WithoutEnforcement(func() {
		digest := sha1.Sum(data)
		sum = digest[:]
	})
	return sum
}

// getURL is where a request is by GET.
func getURL(base string, der []byte) string {
	return strings.TrimSuffix(base, "/") + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(der))
}

// An answer is what came of a request.
type answer struct {
	resp     *http.Response
	body     []byte
	readErr  error // from the body
	err      error // instead of a response
	cert     *tls.Certificate
	ca       *ocsptest.CA
	memory   bool
	started  time.Time
	finished time.Time
}

// ask sends a request and reads at most a MiB of the answer.
func ask(ctx context.Context, client *http.Client, req *http.Request) *answer {
	a := &answer{started: time.Now()}
	a.resp, a.err = client.Do(req.WithContext(ctx))
	if a.err == nil {
		defer a.resp.Body.Close()
		a.body, a.readErr = io.ReadAll(io.LimitReader(a.resp.Body, 1<<20))
	}
	a.finished = time.Now()
	return a
}

// post makes a request by POST.
func post(t *testing.T, url string, der []byte) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(der))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	return req
}

// get makes a request by GET.
func get(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// fetch asks by POST, in memory, with SHA-1, and parses the response.
func fetch(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate) (*ocsp.Response, error) {
	t.Helper()
	return fetchHash(t, ca, cert, crypto.SHA1)
}

// fetchHash is fetch with another hash.
func fetchHash(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, hash crypto.Hash) (*ocsp.Response, error) {
	t.Helper()
	req := post(t, ca.Responder.URL(), request(t, ca, cert, hash))
	a := ask(t.Context(), ca.Responder.Client(), req)
	if a.err != nil || a.readErr != nil {
		t.Fatalf("request failed: %v, %v", a.err, a.readErr)
	}
	if got := a.resp.Header.Get("Content-Type"); a.resp.StatusCode != 200 || got != "application/ocsp-response" {
		t.Fatalf("got %s with %q: %s", a.resp.Status, got, a.body)
	}
	return ocsp.ParseResponseForCert(a.body, cert.Leaf, ca.Cert)
}

// mustFetch is fetch where a response is expected.
func mustFetch(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate) *ocsp.Response {
	t.Helper()
	resp, err := fetch(t, ca, cert)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// verify checks the chain of a certificate as a client would.
func verify(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, name string) {
	t.Helper()
	opts := x509.VerifyOptions{Roots: ca.Pool(), Intermediates: x509.NewCertPool(), DNSName: name}
	for _, der := range cert.Certificate[1:] {
		issuer, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		opts.Intermediates.AddCert(issuer)
	}
	if _, err := cert.Leaf.Verify(opts); err != nil {
		t.Errorf("chain: %v", err)
	}
}
