package ocsptest_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

// bothWays runs a test in memory and on loopback.
func bothWays(t *testing.T, test func(t *testing.T, ca *ocsptest.CA, client *http.Client)) {
	t.Run("memory", func(t *testing.T) {
		ca := ocsptest.NewCA(ocsptest.Options{URL: "http://ocsp.example/some/path"})
		test(t, ca, ca.Responder.Client())
	})
	t.Run("loopback", func(t *testing.T) {
		ca := ocsptest.NewCA(ocsptest.Options{URL: "http://ocsp.example/some/path"})
		ca.Responder.Start()
		defer ca.Responder.Close()
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		test(t, ca, &http.Client{Transport: transport})
	})
}

// REQ F: GET and POST, strictly.
func TestMethods(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		// A serial of 16 bytes of ones brings "/" and "+" into the base64, and "=" at its end.
		cert := ca.Issue(ocsptest.Leaf{Serial: new(big.Int).SetBytes(bytes.Repeat([]byte{0x7f, 0xbf, 0xef, 0xfb}, 4))})
		base, der := ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)
		text := base64.StdEncoding.EncodeToString(der)
		if !strings.Contains(text, "/") || !strings.Contains(text, "+") {
			t.Fatalf("no / or + in %s", text)
		}
		escaped := url.QueryEscape(text)
		withType := func(typ string) *http.Request {
			req := post(t, base, der)
			req.Header.Set("Content-Type", typ)
			return req
		}
		head := get(t, base+"/"+escaped)
		head.Method = http.MethodHead
		for name, test := range map[string]struct {
			req    *http.Request
			status int
		}{
			"POST":                 {post(t, base, der), 200},
			"POST with parameters": {withType("application/ocsp-request; x=y"), 200},
			"POST of another type": {withType("application/octet-stream"), 415},
			"POST without type":    {withType(""), 415},
			"POST too much":        {post(t, base, make([]byte, 70_000)), 413},
			"GET":                  {get(t, base+"/"+escaped), 200},
			"GET in lower case":    {get(t, base+"/"+strings.ReplaceAll(escaped, "%2F", "%2f")), 200},
			"GET with two slashes": {get(t, base+"//"+escaped), 400},
			"GET with bare /":      {get(t, base+"/"+strings.ReplaceAll(escaped, "%2F", "/")), 400},
			"GET with bare +":      {get(t, base+"/"+strings.ReplaceAll(escaped, "%2B", "+")), 400},
			"GET with a line":      {get(t, base+"/"+escaped[:8]+"%0A"+escaped[8:]), 400},
			"GET URL-safe":         {get(t, base+"/"+base64.RawURLEncoding.EncodeToString(der)), 400},
			"GET with a query":     {get(t, base+"/"+escaped+"?a=b"), 400},
			"GET of nothing":       {get(t, base+"/"), 400},
			"HEAD":                 {head, 405},
		} {
			a := ask(t.Context(), client, test.req)
			a.ca, a.cert = ca, cert
			if a.err != nil || a.resp.StatusCode != test.status {
				t.Errorf("%s: got %v, %v, want %d", name, a.resp, a.err, test.status)
			} else if test.status == 200 {
				good(t, a)
			}
		}
		if a := ask(t.Context(), client, post(t, base, []byte("junk"))); !bytes.Equal(a.body, ocsp.MalformedRequestErrorResponse) {
			t.Errorf("got %x for junk", a.body)
		}
	})
}

// Requests are counted by method and certificate.
func TestCounts(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		one, two := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})
		r := ca.Responder
		der := request(t, ca, one, crypto.SHA256)
		getReq := get(t, getURL(r.URL(), der))
		getReq.Header.Set("X-Test", "yes")
		ask(t.Context(), client, getReq)
		ask(t.Context(), client, post(t, r.URL(), der))
		ask(t.Context(), client, post(t, r.URL(), der))
		ask(t.Context(), client, post(t, r.URL(), request(t, ca, two, crypto.SHA1)))
		ask(t.Context(), client, post(t, r.URL(), []byte("junk")))
		got := []int{r.Requests(), r.Count("", nil), r.Count("GET", nil), r.Count("POST", nil), r.Count("", one),
			r.Count("GET", one), r.Count("POST", one), r.Count("GET", two), r.Count("POST", two), r.Count("PUT", nil), r.Peak()}
		if want := []int{5, 5, 1, 4, 3, 1, 2, 0, 1, 0, 1}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		log := r.Log()
		if len(log) != 5 {
			t.Fatalf("logged %d", len(log))
		}
		first := log[0]
		if first.Method != "GET" || first.URL != getReq.URL.String() || first.Header.Get("X-Test") != "yes" || first.Hash != crypto.SHA256 ||
			first.Serial.Cmp(one.Leaf.SerialNumber) != 0 || !bytes.Equal(first.Body, der) || first.Time.IsZero() {
			t.Errorf("got %+v", first)
		}
		if log[4].Serial != nil || !bytes.Equal(log[4].Body, []byte("junk")) {
			t.Errorf("got %+v", log[4])
		}
		r.ResetCounts()
		if r.Requests() != 0 || r.Count("GET", one) != 0 || r.Peak() != 0 || len(r.Log()) != 0 {
			t.Error("not reset")
		}
	})
}

// The log forgets the oldest, the counts do not.
func TestLogLimit(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.SetFault(ocsptest.FaultHTTP404)
	client := ca.Responder.Client()
	for range 20_001 {
		ask(t.Context(), client, get(t, ca.Responder.URL()))
	}
	if n, log := ca.Responder.Requests(), len(ca.Responder.Log()); n != 20_001 || log != 10_001 {
		t.Errorf("got %d requests, %d in the log", n, log)
	}
}

// REQ F: caching headers, ETag, Last-Modified and 304.
func TestPresign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{})
		r := ca.Responder
		r.SetPresign(true)
		r.SetValidity(100 * time.Hour)
		url := getURL(r.URL(), request(t, ca, cert, crypto.SHA1))
		fetch := func(header ...string) *answer {
			req := get(t, url)
			for i := 0; i < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			a := ask(t.Context(), r.Client(), req)
			a.ca, a.cert = ca, cert
			return a
		}
		first := fetch()
		good(t, first)
		etag, modified := first.resp.Header.Get("ETag"), first.resp.Header.Get("Last-Modified")
		if modified != time.Now().UTC().Format(http.TimeFormat) || !strings.HasPrefix(first.resp.Header.Get("Cache-Control"), "max-age=180000,") ||
			first.resp.Header.Get("Expires") != time.Now().Add(50*time.Hour).UTC().Format(http.TimeFormat) {
			t.Errorf("got header %v", first.resp.Header)
		}
		time.Sleep(50*time.Hour - time.Second)
		again := fetch()
		if !bytes.Equal(again.body, first.body) || !strings.HasPrefix(again.resp.Header.Get("Cache-Control"), "max-age=1,") {
			t.Errorf("not the same after 50 h: %v", again.resp.Header)
		}
		for _, cond := range [][]string{{"If-None-Match", etag}, {"If-Modified-Since", modified}, {"If-None-Match", etag, "If-Modified-Since", "junk"}} {
			if a := fetch(cond...); a.resp.StatusCode != 304 || len(a.body) != 0 || a.resp.Header.Get("ETag") != etag {
				t.Errorf("%v: got %s, %v", cond, a.resp.Status, a.resp.Header)
			}
		}
		for _, cond := range [][]string{{"If-None-Match", `"other"`}, {"If-Modified-Since", "Sat, 01 Jan 1999 00:00:00 GMT"}, {"If-None-Match", `"other"`, "If-Modified-Since", modified}} {
			if a := fetch(cond...); a.resp.StatusCode != 200 {
				t.Errorf("%v: got %s", cond, a.resp.Status)
			}
		}
		time.Sleep(time.Second)
		second := fetch("If-None-Match", etag)
		if second.resp.StatusCode != 200 || bytes.Equal(second.body, first.body) || second.resp.Header.Get("ETag") == etag {
			t.Errorf("not signed anew: %s", second.resp.Status)
		}
		r.Revoke(cert, ocsp.KeyCompromise, time.Time{})
		if a := fetch("If-None-Match", second.resp.Header.Get("ETag")); a.resp.StatusCode != 200 || good(t, a).Status != ocsp.Revoked {
			t.Errorf("revoked: got %s", a.resp.Status)
		}
		r.SetUnauthorized(cert)
		if a := fetch(); a.resp.Header.Get("ETag") != "" || a.resp.Header.Get("Cache-Control") != "" {
			t.Errorf("an error may be cached: %v", a.resp.Header)
		}
	})
}

// A presigned response is for who asks about the CA's certificate, and not for the same serial of
// another CA, whoever asks first.
func TestPresignSerial(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	ca.Responder.SetPresign(true)
	mine := ca.Issue(ocsptest.Leaf{})
	theirs := other.Issue(ocsptest.Leaf{Serial: mine.Leaf.SerialNumber})
	for range 2 {
		req := post(t, ca.Responder.URL(), request(t, other, theirs, crypto.SHA1))
		if a := ask(t.Context(), ca.Responder.Client(), req); !bytes.Equal(a.body, ocsp.UnauthorizedErrorResponse) {
			t.Errorf("got %x", a.body)
		}
		mustFetch(t, ca, mine)
	}
}

// A function that changes presigned responses may wait, in a bubble too, and may fail.
func TestPresignEdit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		ca.Responder.SetPresign(true)
		cert := ca.Issue(ocsptest.Leaf{})
		url := getURL(ca.Responder.URL(), request(t, ca, cert, crypto.SHA1))
		ca.Responder.SetEdit(func(*ocsptest.Spec) { panic("once") })
		func() {
			defer func() { _ = recover() }()
			ask(t.Context(), ca.Responder.Client(), get(t, url))
		}()
		ca.Responder.SetEdit(func(*ocsptest.Spec) { time.Sleep(time.Second) })
		var bodies [2][]byte
		var asking sync.WaitGroup
		for i := range bodies {
			asking.Go(func() { bodies[i] = ask(t.Context(), ca.Responder.Client(), get(t, url)).body })
		}
		asking.Wait()
		if len(bodies[0]) == 0 || !bytes.Equal(bodies[0], bodies[1]) {
			t.Errorf("got %d and %d bytes, want the same response", len(bodies[0]), len(bodies[1]))
		}
	})
}

// On loopback http.Transport repeats a GET on a connection that it had used before, if that fails:
// the fault would have gone by unnoticed.
func TestFaultsAreSeenOnLoopback(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	defer ca.Responder.Close()
	url := getURL(ca.Responder.URL(), request(t, ca, ca.Issue(ocsptest.Leaf{}), crypto.SHA1))
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	for _, fault := range []ocsptest.Fault{ocsptest.FaultReset, ocsptest.FaultRefused, ocsptest.FaultNoHost, ocsptest.FaultCloseInHeader} {
		if a := ask(t.Context(), client, get(t, url)); a.err != nil {
			t.Fatal(a.err)
		}
		ca.Responder.Script(fault)
		if a := ask(t.Context(), client, get(t, url)); a.err == nil {
			t.Errorf("%v: no error", fault)
		}
	}
}

func TestHeader(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		r := ca.Responder
		url := getURL(r.URL(), request(t, ca, ca.Issue(ocsptest.Leaf{}), crypto.SHA1))
		if h := ask(t.Context(), client, get(t, url)).resp.Header; h.Get("Cache-Control") != "" || h.Get("ETag") != "" || h.Get("Date") == "" {
			t.Errorf("got %v", h)
		}
		r.SetPresign(true)
		r.SetHeader("cache-control", "max-age=60")
		r.SetHeader("Date")
		if h := ask(t.Context(), client, get(t, url)).resp.Header; h.Get("Cache-Control") != "max-age=60" || h.Get("Date") != "" {
			t.Errorf("got %v", h)
		}
		r.ClearHeaders()
		r.SetPresign(false)
		if h := ask(t.Context(), client, get(t, url)).resp.Header; h.Get("Cache-Control") != "" || h.Get("Date") == "" {
			t.Errorf("got %v", h)
		}
		r.SetFault(ocsptest.FaultHTTP503)
		r.SetRetryAfter("7")
		if h := ask(t.Context(), client, get(t, url)).resp.Header; h.Get("Retry-After") != "7" {
			t.Errorf("got %v", h)
		}
	})
}

// A Hook sees the body and the serial, and what it handles takes nothing from the script.
func TestHook(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		cert := ca.Issue(ocsptest.Leaf{})
		der := request(t, ca, cert, crypto.SHA1)
		ca.Responder.Script(ocsptest.FaultHTTP404)
		ca.Responder.SetHook(func(w http.ResponseWriter, req *http.Request, serial *big.Int) bool {
			if got, _ := io.ReadAll(req.Body); !bytes.Equal(got, der) || serial.Cmp(cert.Leaf.SerialNumber) != 0 {
				t.Errorf("got body %x, serial %x", got, serial)
			}
			w.Header().Set("Content-Length", "9")
			w.WriteHeader(http.StatusTeapot)
			io.WriteString(w, "tea")
			return true
		})
		a := ask(t.Context(), client, post(t, ca.Responder.URL(), der))
		if a.resp.StatusCode != http.StatusTeapot || string(a.body) != "tea" || a.readErr != io.ErrUnexpectedEOF {
			t.Errorf("got %s, %q, %v", a.resp.Status, a.body, a.readErr)
		}
		ca.Responder.SetHook(func(http.ResponseWriter, *http.Request, *big.Int) bool { return false })
		if a := ask(t.Context(), client, post(t, ca.Responder.URL(), der)); a.resp.StatusCode != 404 {
			t.Errorf("got %s", a.resp.Status)
		}
	})
}

// The responder serves the issuer, outside of the counts and of all faults.
func TestIssuerURL(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		ca.Responder.SetFault(ocsptest.FaultRefused)
		fetch := func(format string) []byte {
			u := ca.Responder.IssuerURL(format)
			if !strings.HasPrefix(u, ca.Responder.URL()+"/") {
				t.Errorf("got %s", u)
			}
			return ask(t.Context(), client, get(t, u)).body
		}
		if got := fetch("der"); !bytes.Equal(got, ca.Cert.Raw) {
			t.Errorf("got DER %x", got)
		}
		if block, _ := pem.Decode(fetch("pem")); block == nil || !bytes.Equal(block.Bytes, ca.Cert.Raw) {
			t.Error("got other PEM")
		}
		p7c := fetch("p7c")
		if _, err := x509.ParseCertificate(p7c); err == nil || !bytes.Contains(p7c, ca.Cert.Raw) {
			t.Errorf("got PKCS#7 %x", p7c)
		}
		if openssl, err := exec.LookPath("openssl"); err == nil {
			cmd := exec.Command(openssl, "pkcs7", "-inform", "DER", "-print_certs", "-noout")
			cmd.Stdin = bytes.NewReader(p7c)
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(ca.Cert.Subject.CommonName)) {
				t.Errorf("openssl pkcs7: %v: %s", err, out)
			}
		} else if os.Getenv("CI") != "" {
			t.Error(err)
		}
		if n := ca.Responder.Requests(); n != 0 || len(ca.Responder.Log()) != 3 {
			t.Errorf("counted %d, logged %d", n, len(ca.Responder.Log()))
		}
	})
}

// A Network is several responders, of one CA or more, and nothing else.
func TestNetwork(t *testing.T) {
	a, b := ocsptest.NewCA(), ocsptest.NewCA()
	second := a.NewResponder("http://Second.example:8080/x")
	cert := a.Issue(ocsptest.Leaf{URLs: []string{a.Responder.URL(), second.URL()}})
	client := ocsptest.Network(a.Responder, b.Responder, second)
	der := request(t, a, cert, crypto.SHA1)
	second.Revoke(cert, ocsp.Superseded, time.Time{})
	for _, url := range []string{a.Responder.URL(), a.Responder.URL() + ":80", "http://second.example:8080/"} {
		got := ask(t.Context(), client, post(t, url, der))
		got.ca, got.cert = a, cert
		if s := good(t, got).Status; s != ocsp.Revoked {
			t.Errorf("%s: got status %d", url, s)
		}
	}
	if n, m := a.Responder.Requests(), second.Requests(); n != 2 || m != 1 {
		t.Errorf("got %d and %d requests", n, m)
	}
	if got := ask(t.Context(), client, post(t, b.Responder.URL(), der)); !bytes.Equal(got.body, ocsp.UnauthorizedErrorResponse) {
		t.Errorf("got %x", got.body)
	}
	for _, url := range []string{"http://second.example/", "https://" + strings.TrimPrefix(b.Responder.URL(), "http://"), "http://nowhere.example/"} {
		if got := ask(t.Context(), client, post(t, url, der)); got.err == nil || !strings.Contains(got.err.Error(), "no such host") {
			t.Errorf("%s: got %v", url, got.err)
		}
	}
}

// ServeHTTP works in a server that is not ours, HTTP/2 over TLS too.
func TestServeHTTP(t *testing.T) {
	ca := ocsptest.NewCA()
	srv := httptest.NewUnstartedServer(ca.Responder)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	cert := ca.Issue(ocsptest.Leaf{URLs: []string{srv.URL}})
	der := request(t, ca, cert, crypto.SHA1)
	a := ask(t.Context(), srv.Client(), post(t, srv.URL, der))
	a.ca, a.cert = ca, cert
	good(t, a)
	if got := ca.Responder.Log()[0].URL; a.resp.ProtoMajor != 2 || got != srv.URL+"/" {
		t.Errorf("got %s for %s", a.resp.Proto, got)
	}
	for _, fault := range []ocsptest.Fault{ocsptest.FaultRefused, ocsptest.FaultCloseInHeader} {
		ca.Responder.SetFault(fault)
		if a := ask(t.Context(), srv.Client(), post(t, srv.URL, der)); a.err == nil {
			t.Errorf("%v: got %s", fault, a.resp.Status)
		}
	}
}

// A fault that alters the answer is seen by who asks whether a presigned response has changed.
func TestFaultsBehindPresign(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.SetPresign(true)
	req := get(t, getURL(ca.Responder.URL(), request(t, ca, ca.Issue(ocsptest.Leaf{}), crypto.SHA1)))
	req.Header.Set("If-None-Match", ask(t.Context(), ca.Responder.Client(), req).resp.Header.Get("ETag"))
	for _, fault := range []ocsptest.Fault{ocsptest.FaultTruncated, ocsptest.FaultContentType, ocsptest.FaultNoContentType,
		ocsptest.FaultGzip, ocsptest.FaultEmptyBody, ocsptest.FaultJunkBody} {
		ca.Responder.Script(fault)
		if a := ask(t.Context(), ca.Responder.Client(), req); a.resp.StatusCode != http.StatusOK {
			t.Errorf("%v: got %s", fault, a.resp.Status)
		}
	}
	if a := ask(t.Context(), ca.Responder.Client(), req); a.resp.StatusCode != http.StatusNotModified {
		t.Errorf("without a fault: got %s", a.resp.Status)
	}
}

// A reset is one over TLS, too.
func TestResetOfTLS(t *testing.T) {
	ca := ocsptest.NewCA()
	srv := httptest.NewTLSServer(ca.Responder)
	defer srv.Close()
	ca.Responder.SetFault(ocsptest.FaultReset)
	if _, err := srv.Client().Get(srv.URL); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}
