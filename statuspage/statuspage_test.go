package statuspage_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/statuspage"
)

// hostile is what a certificate may be named, and a responder may say.
var hostile = []string{`<script>document.title="owned"</script>`, `"><img src=x onerror=alert(1)>`, `</title><svg/onload=alert(1)>`,
	`javascript:alert(1)`, `{{.Style}}`, `&lt;b&gt;`, `a'b"c` + "`", strings.Repeat("very-long-", 20) + "name"}

// world is a Stapler with a certificate in each state, in a bubble: it starts
// the clocks at 2000-01-01.
type world struct {
	ca *ocsptest.CA
	s  *staple.Stapler
}

func newWorld(t *testing.T) *world {
	ca := ocsptest.NewCA()
	w := &world{ca: ca, s: staple.New(staple.WithHTTPClient(ca.Responder.Client()))}
	t.Cleanup(func() { w.s.Close() })
	ca.Responder.SetValidity(4 * 24 * time.Hour)
	return w
}

// know has the Stapler know a certificate, whatever comes of its first attempt: with a
// deadline Prefetch would go on until then.
func (w *world) know(l ocsptest.Leaf, prepare func(*tls.Certificate)) *tls.Certificate {
	cert := w.ca.Issue(l)
	if prepare != nil {
		prepare(cert)
	}
	_ = w.s.Prefetch(context.Background(), cert)
	return cert
}

// fill has one certificate in each state.
func (w *world) fill() {
	r := w.ca.Responder
	w.know(ocsptest.Leaf{Names: []string{"expired.example.com"}}, func(c *tls.Certificate) { r.SetValidity(time.Hour) })
	r.SetFault(ocsptest.FaultTryLater)
	time.Sleep(2 * time.Hour)
	w.know(ocsptest.Leaf{Names: []string{"pending.example.com"}, MustStaple: true}, nil)
	for _, st := range w.s.Status() { // keep these two as they are
		for _, cert := range []*x509.Certificate{st.Leaf} {
			r.SetFaultFor(&tls.Certificate{Certificate: [][]byte{cert.Raw}, Leaf: cert}, ocsptest.FaultTryLater)
		}
	}
	r.SetFault(ocsptest.FaultNone)
	r.SetValidity(4 * 24 * time.Hour)
	w.know(ocsptest.Leaf{Names: []string{"good.example.com", "www.example.com", "192.0.2.1", "a.example.com", "b.example.com", "c.example.com"}, Serial: big.NewInt(0xbeefbeefbeef)}, nil)
	w.know(ocsptest.Leaf{Names: []string{"later.example.com"}, MustStaple: true}, func(*tls.Certificate) { r.SetValidity(5 * 24 * time.Hour) })
	w.know(ocsptest.Leaf{Names: []string{"revoked.example.com"}}, func(c *tls.Certificate) { r.Revoke(c, 1, time.Now()) })
	w.know(ocsptest.Leaf{Names: []string{"unknown.example.com"}}, r.SetUnknown)
	w.know(ocsptest.Leaf{Names: []string{"none.example.com"}, NoURL: true}, nil)
}

// get asks a handler.
func get(t *testing.T, h http.Handler, target, accept string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, target, nil)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// report asks for JSON.
func report(t *testing.T, h http.Handler, target string) (r statuspage.Report) {
	t.Helper()
	rec := get(t, h, target, "application/json")
	if got := rec.Header().Get("Content-Type"); rec.Code != http.StatusOK || got != "application/json" {
		t.Fatalf("%d %s", rec.Code, got)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func firstNames(r statuspage.Report) (names []string) {
	for _, c := range r.Certificates {
		names = append(names, strings.TrimSuffix(c.Names[0], ".example.com"))
	}
	return names
}

// REQ G1: every certificate with its state, worst first, from memory.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fill()
		h := statuspage.Handler(w.s)
		r := report(t, h, "/")
		if got, want := fmt.Sprint(firstNames(r)), "[pending revoked expired unknown good later none]"; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		for state, n := range map[string]int{"good": 2, "pending": 1, "revoked": 1, "unknown": 1, "expired": 1, "none": 1} {
			if r.States[state] != n {
				t.Errorf("%s: %d, want %d", state, r.States[state], n)
			}
		}
		if r.Failing != 3 { // expired, pending, unknown
			t.Errorf("%d fail, want 3", r.Failing)
		}
		good := r.Certificates[4]
		if good.Serial != "beefbeefbeef" || len(good.Fingerprint) != 64 || len(good.Names) != 6 || good.Names[5] != "192.0.2.1" || good.State != "good" || good.MustStaple ||
			good.Responder != w.ca.Responder.URL() || good.NextUpdate.Sub(*good.ThisUpdate) != 4*24*time.Hour || good.Error != "" || good.NextRefresh == nil ||
			!good.LastSuccess.Before(time.Now().Add(1)) || good.NotAfter.Before(time.Now()) {
			t.Errorf("good: %+v", good)
		}
		if c := r.Certificates[0]; c.Failures == 0 || c.Reason == "" || !strings.Contains(c.Error, "tryLater") || !c.MustStaple || c.NextUpdate != nil {
			t.Errorf("pending: %+v", c)
		}
		for query, want := range map[string]string{"?state=good": "[good later]", "?q=BEEFBEEF": "[good]", "?q=expired": "[expired]", "?q=192.0.2": "[good]",
			"?state=revoked&q=good": "[]", "?state=nonsense": "[]", "?state=failing": "[pending expired unknown]", "?q=ocsp": fmt.Sprint(firstNames(r)[:6])} {
			if got := fmt.Sprint(firstNames(report(t, h, "/"+query))); got != want {
				t.Errorf("%s: got %v, want %v", query, got, want)
			}
		}
	})
}

// The page has what the report has, and what it links to is there.
func TestPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := statuspage.Handler(w.s)
		if body := get(t, h, "/", browser).Body.String(); !strings.Contains(body, "No certificate is known yet") {
			t.Errorf("empty page: %s", body)
		}
		w.fill()
		rec := get(t, h, "/", browser)
		body := rec.Body.String()
		for _, want := range []string{"good.example.com", "and 2 more", "serial <code>beefbeefbeef</code>", "Must-Staple", "1 to 7 of 7", "expires in 4 d", "tryLater",
			`href="?state=revoked"`, `>all <b>7</b>`, `>failing <b>3</b>`, `href="?state=failing"`, "as of <time datetime=\"2000-01-0"} {
			if !strings.Contains(body, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		if n := strings.Count(body, "<svg"); n != 4 { // good, later, expired, revoked
			t.Errorf("%d bars, want 4", n)
		}
		if strings.Contains(body, "ZgotmplZ") || strings.Contains(body, "<script") || strings.Contains(body, "style=") {
			t.Error("the page has what its policy forbids")
		}
		if body := get(t, h, "/?state=good&q=zzz", browser).Body.String(); !strings.Contains(body, "No certificate matches") {
			t.Error("nothing said of no match")
		}
		for name, want := range map[string]string{"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Vary": "Accept",
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
			if got := rec.Header().Get(name); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		csp := rec.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") || strings.Contains(csp, "unsafe") {
			t.Errorf("policy %q", csp)
		}
		if got := get(t, h, "/", "").Header().Get("Content-Type"); !strings.HasPrefix(got, "text/html") {
			t.Errorf("without Accept: %s", got)
		}
	})
}

// REQ G7: the page and the report say when the last handshake was, and of two
// certificates of one name which is which; what was replaced a day ago is not there.
func TestInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := statuspage.Handler(w.s)
		// Serial numbers that no responder has in its name, which is found, too.
		older := w.know(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: big.NewInt(0xa1a1a1a1a1)}, nil)
		w.s.Staple(older)
		served := time.Now().Truncate(time.Minute).UTC()
		time.Sleep(3*time.Hour + 20*time.Second)
		newer := w.know(ocsptest.Leaf{Names: []string{"www.example.com"}, Serial: big.NewInt(0xb2b2b2b2b2)}, nil)
		if r := report(t, h, "/?q=a1a1a1a1a1"); len(r.Certificates) != 1 || r.Certificates[0].LastHandshake == nil || !r.Certificates[0].LastHandshake.Equal(served) {
			t.Errorf("report of the older: %+v, want a handshake at %v", r.Certificates, served)
		}
		if r := report(t, h, "/?q=b2b2b2b2b2"); len(r.Certificates) != 1 || r.Certificates[0].LastHandshake != nil {
			t.Errorf("report of the newer: %+v, want no handshake", r.Certificates)
		}
		if json := get(t, h, "/?q=b2b2b2b2b2", "application/json").Body.String(); strings.Contains(json, "last_handshake") {
			t.Errorf("no handshake has a time: %s", json)
		}
		body := get(t, h, "/", browser).Body.String()
		w.s.Staple(newer)
		body += get(t, h, "/", browser).Body.String()
		for _, want := range []string{"serial <code>a1a1a1a1a1</code>", "serial <code>b2b2b2b2b2</code>", "last handshake 3 h ago", "no handshake yet", "last handshake just now"} {
			if !strings.Contains(body, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		time.Sleep(22 * time.Hour)
		if got := report(t, h, "/"); len(got.Certificates) != 1 || got.Certificates[0].Serial != "b2b2b2b2b2" || got.States["good"] != 1 {
			t.Errorf("a day later: %+v", got)
		}
	})
}

// REQ G6: a certificate that has a URI alone, as SPIFFE's, is shown and found by that.
func TestNamedByURI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, id := newWorld(t), &url.URL{Scheme: "spiffe", Host: "example.org", Path: "/service/api"}
		w.know(ocsptest.Leaf{Template: func(c *x509.Certificate) { c.DNSNames, c.Subject, c.URIs = nil, pkix.Name{}, []*url.URL{id} }}, nil)
		if names := firstNames(report(t, statuspage.Handler(w.s), "/?q=service/API")); !slices.Equal(names, []string{id.String()}) {
			t.Errorf("found %q", names)
		}
		if page := get(t, statuspage.Handler(w.s), "/", "text/html").Body.String(); !strings.Contains(page, id.String()) {
			t.Error("it has no name on the page")
		}
	})
}

// What fails is that whose last attempt did, or for which none can be made: a revoked one is in a
// state of its own.
func TestFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.know(ocsptest.Leaf{Names: []string{"revoked.example.com"}}, func(c *tls.Certificate) { w.ca.Responder.Revoke(c, 1, time.Time{}) })
		w.know(ocsptest.Leaf{Names: []string{"must.example.com"}, MustStaple: true, NoURL: true}, nil)
		w.know(ocsptest.Leaf{Names: []string{"none.example.com"}, NoURL: true}, nil)
		w.know(ocsptest.Leaf{Names: []string{"fails.example.com"}}, func(c *tls.Certificate) { w.ca.Responder.SetFaultFor(c, ocsptest.FaultTryLater) })
		r := report(t, statuspage.Handler(w.s), "/?state=failing")
		if names := firstNames(r); r.Failing != 2 || !slices.Equal(names, []string{"must", "fails"}) {
			t.Errorf("%d fail: %q", r.Failing, names)
		}
	})
}

// 450 certificates fill three pages; one that does not exist is the last one.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var certs []*tls.Certificate
		for i := range 450 {
			certs = append(certs, w.ca.Issue(ocsptest.Leaf{Names: []string{fmt.Sprintf("%d.example.com", i)}, Key: w.ca.Key()}))
		}
		if err := w.s.Prefetch(t.Context(), certs...); err != nil {
			t.Fatal(err)
		}
		h := statuspage.Handler(w.s)
		if n := len(report(t, h, "/?page=2").Certificates); n != 450 {
			t.Errorf("%d in the report, want all", n)
		}
		for query, want := range map[string][]string{
			"":                     {"1 to 200 of 450", `href="?page=2" rel="next"`},
			"?page=2":              {"201 to 400 of 450", `href="?" rel="prev"`, `href="?page=3" rel="next"`},
			"?page=99":             {"401 to 450 of 450", `href="?page=2" rel="prev"`},
			"?page=-1":             {"1 to 200 of 450"},
			"?page=x&state=good":   {"1 to 200 of 450", `href="?page=2&amp;state=good" rel="next"`},
			"?page=2&q=%22%3Cb%3E": {"No certificate matches"},
		} {
			body := get(t, h, "/"+query, browser).Body.String()
			for _, text := range want {
				if !strings.Contains(body, text) {
					t.Errorf("%q lacks %q", query, text)
				}
			}
			if strings.Contains(body, "<b>\"") || strings.Contains(body, "\"<b>") {
				t.Errorf("%q: what was asked for is not escaped", query)
			}
		}
	})
}

// What the client wants decides, and what it does not care about is HTML.
func TestAccept(t *testing.T) {
	s := staple.New()
	defer s.Close()
	for accept, want := range map[string]string{
		browser:                                 "text/html",
		"*/*":                                   "text/html",
		"application/json":                      "application/json",
		"application/json, text/html;q=0.9":     "application/json",
		"application/*;q=0.5, text/html;q=0.4":  "application/json",
		"text/html, application/json":           "text/html",
		"application/json;q=0":                  "text/html",
		"application/json;q=x":                  "text/html",
		"*/*;q=0.8, text/html;q=0.1":            "application/json",
		"APPLICATION/JSON":                      "application/json",
		"; broken, application/json":            "application/json",
		"image/png":                             "text/html",
		"application/json;q=0.2, text/*;q=0.21": "text/html",
	} {
		got := get(t, statuspage.Handler(s), "/", accept).Header().Get("Content-Type")
		if !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %s, want %s", accept, got, want)
		}
	}
}

// REQ G1: healthy while every certificate that needs a staple has one.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := statuspage.Health(w.s)
		w.know(ocsptest.Leaf{Names: []string{"good.example.com"}}, nil)
		if rec := get(t, h, "/", ""); rec.Code != http.StatusOK || rec.Body.String() != "ok\n" {
			t.Errorf("%d %q", rec.Code, rec.Body)
		}
		w.know(ocsptest.Leaf{Names: []string{"bad.example.com"}}, func(c *tls.Certificate) { w.ca.Responder.Revoke(c, 1, time.Now()) })
		w.know(ocsptest.Leaf{Names: []string{"two.example.com"}, MustStaple: true, NoURL: true}, nil)
		rec := get(t, h, "/", "")
		lines := strings.Split(strings.TrimSpace(rec.Body.String()), "\n")
		slices.Sort(lines)
		if rec.Code != http.StatusServiceUnavailable || len(lines) != 2 || !strings.Contains(lines[0], "bad.example.com") || !strings.Contains(lines[1], "two.example.com") {
			t.Errorf("%d %q", rec.Code, lines)
		}
		rec = get(t, h, "/", "application/json")
		var got struct {
			Ready   bool
			Reasons []string
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got.Ready || len(got.Reasons) != 2 || rec.Code != http.StatusServiceUnavailable {
			t.Errorf("%d %+v, %v", rec.Code, got, err)
		}
	})
}

// Nothing but GET and HEAD, and HEAD has no body.
func TestMethods(t *testing.T) {
	s := staple.New()
	defer s.Close()
	for _, h := range []http.Handler{statuspage.Handler(s), statuspage.Health(s)} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", nil))
		if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("POST: %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
		}
		srv := httptest.NewServer(h)
		res, err := http.Head(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		srv.Close()
		if res.StatusCode != http.StatusOK || res.ContentLength == 0 {
			t.Errorf("HEAD: %d, %d bytes", res.StatusCode, res.ContentLength)
		}
	}
}

// evil has certificates with hostile names, and a responder that says hostile
// things of them.
func (w *world) evil() {
	for _, name := range hostile {
		w.know(ocsptest.Leaf{Names: []string{name, "www.example.com"}, URLs: []string{"http://ocsp.example/" + name}}, nil)
	}
	w.know(ocsptest.Leaf{Names: []string{"x"}, Template: func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = nil, []net.IP(nil)
		c.Subject = pkix.Name{CommonName: "moc.elpmaxe\u202e\u200b <b>bold</b>"}
	}}, nil)
}

// What certificates and responders say is shown, and never obeyed.
func TestHostile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.evil()
		body := get(t, statuspage.Handler(w.s), "/", browser).Body.String()
		for _, bad := range []string{"<script", "<img", "onload=alert(1)>", "\u202e", "\u200b", "<b>bold", `href="javascript`, "</title><svg/"} {
			if strings.Contains(body, bad) {
				t.Errorf("the page has %q", bad)
			}
		}
		for _, want := range []string{"&lt;script&gt;", `\u202e`, "{{.Style}}", "&amp;lt;b&amp;gt;"} {
			if !strings.Contains(body, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		if n := strings.Count(body, "<tr>"); n != len(hostile)+2 {
			t.Errorf("%d rows, want %d", n, len(hostile)+2)
		}
		if json := get(t, statuspage.Handler(w.s), "/", "application/json").Body.String(); strings.Contains(json, "<script") {
			t.Error("the report has tags in it")
		}
	})
}
