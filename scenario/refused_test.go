package scenario_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
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
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// RFC 6960 allows some responses that some clients refuse. They are stapled, since other
// clients accept them and the CA alone can mend them. docs/clients.md lists them.

// A recipe makes a response about a certificate.
type recipe func(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate) []byte

// A dislike is a response that some client refuses.
type dislike struct {
	what    string // as in the docs
	made    recipe
	control recipe // makes one that differs in this alone; all clients accept it
}

// dislikes are the rows of the table in the docs, in order. Some rows have two.
var dislikes = []dislike{
	{"`thisUpdate` more than 11 days ago", lasting(11*day+time.Hour, 30*day), lasting(11*day-time.Hour, 30*day)},
	{"no `nextUpdate`, `thisUpdate` 1 to 2 days ago", lasting(25*time.Hour, 0), lasting(23*time.Hour, 0)},
	{"no `nextUpdate`, `thisUpdate` 1 to 2 days ago", lasting(47*time.Hour, 0), lasting(23*time.Hour, 0)},
	{"no `nextUpdate`, `thisUpdate` more than 2 days ago", lasting(49*time.Hour, 0), lasting(23*time.Hour, 0)},
	{"an answer about another certificate first", others(true), others(false)},
	{"a delegate whose common name is a host outside of the issuer's name constraints", named("ocsp.ca.test"), named("ocsp.example.com")},
	{"a delegate with a DNS name outside of the issuer's name constraints", named("delegate", "ocsp.ca.test"), named("delegate", "ocsp.example.com")},
	{"a delegate that is a CA", delegated(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true }), delegated(nil)},
	{"a delegate with a P-224 or an Ed25519 key", curve(elliptic.P224()), curve(elliptic.P256())},
	{"a delegate with a P-224 or an Ed25519 key", signed(ocsptest.Sign{By: ocsptest.Delegated, KeyType: ocsptest.Ed25519}), signed(ocsptest.Sign{By: ocsptest.Delegated, KeyType: ocsptest.RSA2048})},
	{"a delegate whose key usage has neither digitalSignature nor nonRepudiation", usage(x509.KeyUsageKeyEncipherment), usage(x509.KeyUsageContentCommitment)},
	{"a delegate whose key usage has neither digitalSignature nor nonRepudiation", usage(x509.KeyUsageCertSign), usage(0)},
	{"a delegate with a critical policyConstraints extension", critical("\x30\x03\x80\x01\x00", 36), delegated(nil)},
	{"a delegate with a critical certificatePolicies or inhibitAnyPolicy extension", critical("\x30\x06\x30\x04\x06\x02\x2a\x03", 32), delegated(nil)},
	{"a delegate with a critical certificatePolicies or inhibitAnyPolicy extension", critical("\x02\x01\x00", 54), delegated(nil)},
	{"a delegate with a critical policyMappings extension", critical("\x30\x0a\x30\x08\x06\x02\x2a\x03\x06\x02\x2a\x04", 33), delegated(nil)},
	{"a delegate with a critical cRLDistributionPoints extension", critical("\x30\x10\x30\x0e\xa0\x0c\xa0\x0a\x86\x08http://x", 31), delegated(nil)},
	{"a delegate that may also be a TLS server, or anything, where the issuer has name constraints", purposes(x509.ExtKeyUsageServerAuth), delegated(nil)},
	{"a delegate that may also be a TLS server, or anything, where the issuer has name constraints", purposes(x509.ExtKeyUsageAny), purposes(x509.ExtKeyUsageTimeStamping)},
	{"a delegate's certificate that is more than a day younger than the response", younger(25 * time.Hour), younger(23 * time.Hour)},
	{"`thisUpdate` after `producedAt`", produced(-time.Second), produced(0)},
	{"an RSASSA-PSS signature with SHA-384 or SHA-512", pss(x509.SHA384WithRSAPSS), pss(x509.SHA256WithRSAPSS)},
	{"an RSASSA-PSS signature with SHA-384 or SHA-512", pss(x509.SHA512WithRSAPSS), pss(x509.SHA256WithRSAPSS)},
}

const day = 24 * time.Hour

// lasting is a response with a thisUpdate of some age and valid for so long; for 0 it has
// no nextUpdate.
func lasting(age, valid time.Duration) recipe {
	return edited(func(s *ocsptest.Spec) {
		at := time.Now().Add(-age)
		s.Singles[0].ThisUpdate, s.Singles[0].NextUpdate = at, time.Time{}
		if valid > 0 {
			s.Singles[0].NextUpdate = at.Add(valid)
		}
	})
}

// others is a response that is about one more certificate, first or last.
func others(first bool) recipe {
	return edited(func(s *ocsptest.Spec) {
		other := s.Singles[0]
		other.Serial = big.NewInt(4711)
		s.Singles = append(s.Singles, other)
		if first {
			slices.Reverse(s.Singles)
		}
	})
}

func signed(sign ocsptest.Sign) recipe { return edited(func(s *ocsptest.Spec) { s.Sign = sign }) }

func delegated(template func(*x509.Certificate)) recipe {
	return signed(ocsptest.Sign{By: ocsptest.Delegated, Template: template})
}

func named(common string, dns ...string) recipe {
	return delegated(func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = common, dns })
}

func usage(u x509.KeyUsage) recipe { return delegated(func(c *x509.Certificate) { c.KeyUsage = u }) }

// critical is a response by a delegate with a critical extension, number n of RFC 5280 §4.2.1.
func critical(value string, n int) recipe {
	return delegated(func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: []int{2, 5, 29, n}, Critical: true, Value: []byte(value)})
	})
}

func purposes(also x509.ExtKeyUsage) recipe {
	return delegated(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, also) })
}

// younger is a response by a delegate whose certificate begins some time after producedAt.
func younger(by time.Duration) recipe {
	return edited(func(s *ocsptest.Spec) {
		at := time.Now().Add(-36 * time.Hour).Truncate(time.Second) // not 2 days: NSS allows a day, and the CA is a day old
		s.ProducedAt, s.Singles[0].ThisUpdate = at, at
		s.Sign = ocsptest.Sign{By: ocsptest.Delegated, Template: func(c *x509.Certificate) { c.NotBefore = at.Add(by) }}
	})
}

// produced is a response with a producedAt some time after thisUpdate.
func produced(after time.Duration) recipe {
	return edited(func(s *ocsptest.Spec) { s.ProducedAt = s.Singles[0].ThisUpdate.Add(after) })
}

func pss(a x509.SignatureAlgorithm) recipe {
	return signed(ocsptest.Sign{By: ocsptest.Delegated, KeyType: ocsptest.RSA2048, Algorithm: a})
}

func edited(edit func(*ocsptest.Spec)) recipe {
	return func(_ *testing.T, ca *ocsptest.CA, cert *tls.Certificate) []byte {
		return ca.Responder.Build(cert, edit)
	}
}

// curve is a response by a delegate with a key that ocsptest does not make.
func curve(c elliptic.Curve) recipe {
	return func(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate) (raw []byte) {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der := (&scene{ca: ca, signer: &x509.Certificate{}, began: time.Now()}).certificate(ca.Key(), ca.Cert, func(c *x509.Certificate) {
			c.RawSubject, c.Subject.CommonName = nil, "delegate"
		}, key.Public())
		answer := ocsp.Response{SerialNumber: cert.Leaf.SerialNumber, IssuerHash: crypto.SHA1, ThisUpdate: time.Now().Add(-time.Hour),
			NextUpdate: time.Now().Add(time.Hour), Certificate: parseCertificate(t, der)}
		fips140.WithoutEnforcement(func() { raw, err = ocsp.CreateResponse(ca.Cert, answer.Certificate, answer, key) }) // CertIDs are by SHA-1
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
}

// A market has CAs that issue servers' certificates, and clients that trust their root.
type market struct {
	ca     *ocsptest.CA // whose name constraints permit example.com alone
	root   string       // its certificate, in PEM
	both   string       // with that of ca, for `openssl ocsp`, which sees no chain
	nss    string       // a directory with a database of NSS that has the root
	home   string       // of Firefox, and its profile, with such a database
	stands []*stand
}

func newMarket(t *testing.T) *market {
	root, dir := ocsptest.NewCA(), t.TempDir()
	ca := constrained(t, root)
	m := &market{
		ca:   ca,
		root: writeCertificates(t, filepath.Join(dir, "root.pem"), root.Cert.Raw),
		both: writeCertificates(t, filepath.Join(dir, "both.pem"), root.Cert.Raw, ca.Cert.Raw),
	}
	m.nss, m.home = m.trusting(t), m.trusting(t)
	write(t, filepath.Join(m.home, "user.js"), []byte(`user_pref("network.dns.forceResolve", "127.0.0.1");`))
	return m
}

// constrained returns a CA below root that may issue certificates for example.com alone.
func constrained(t *testing.T, root *ocsptest.CA) *ocsptest.CA {
	t.Helper()
	key := testkit.NewKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "constrained CA"},
		NotBefore: root.Cert.NotBefore, NotAfter: root.Cert.NotAfter,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
		PermittedDNSDomains: []string{"example.com"}, PermittedDNSDomainsCritical: true,
	}, root.Cert, key.Public(), root.Key())
	if err != nil {
		t.Fatal(err)
	}
	return ocsptest.NewCA(ocsptest.Options{Cert: parseCertificate(t, der), Key: key})
}

// trusting makes a directory with a database of NSS that has the root.
func (m *market) trusting(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test CA", "-t", "C,,", "-i", m.root}} {
		if err := runIn(t, dir, "certutil", append(args, "-d", "sql:"+dir)...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runIn runs a program that wants a home.
func runIn(t testing.TB, home, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testkit.Program(t, name), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// A stand is a server that staples one response, and what came of it.
type stand struct {
	bench
	name    string
	row     string          // of the docs; of a control none
	cert    tls.Certificate // with what was stapled
	firefox atomic.Bool     // it sent a request

	mu      sync.Mutex        // guards refused
	refused map[string]string // why, by client
}

// open starts the server. A Stapler fetches the response, and Go's client sees it.
func (m *market) open(t *testing.T, name, row string, must bool, r recipe) {
	t.Helper()
	cert := m.ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: must,
		NotBefore: time.Now().Add(-30 * day), URLs: []string{"http://127.0.0.1:1/"}})
	st := &stand{name: fmt.Sprintf("%s, Must-Staple %v", name, must), row: row, cert: *cert, refused: make(map[string]string)}
	var path wiretap
	path.carry(r(t, m.ca, cert))
	s := testkit.Stapler(t, m.ca, staple.WithHTTPClient(path.client()))
	if err := s.Prefetch(testkit.Within(t, 10*time.Second), cert); err != nil {
		t.Fatalf("%s: %v", st.name, err)
	}
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	st.bench = bench{caPEM: m.root, addr: serve(t, &http.Server{TLSConfig: cfg, Handler: st})}
	client := (&scene{ca: m.ca}).trusting()
	client.VerifyConnection = staple.RequireStaple
	c, err := tls.Dial("tcp", st.addr, client)
	if err != nil {
		t.Fatalf("%s: %v", st.name, err)
	}
	defer c.Close()
	st.cert.OCSPStaple = c.ConnectionState().OCSPResponse
	m.stands = append(m.stands, st)
}

func (st *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.UserAgent(), "Firefox") {
		st.firefox.Store(true)
	}
	io.WriteString(w, "hello")
}

// note notes why a client refused the staple, nil if it did not.
func (st *stand) note(client string, err error) {
	if err != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.refused[client] = err.Error()
	}
}

// shoppers are the clients, in the order of the docs.
var shoppers = []string{"openssl ocsp", "curl --cert-status", "gnutls-cli", "tstclnt", "Firefox"}

func (m *market) visitors() map[string]visitor {
	return map[string]visitor{
		"openssl ocsp":       (&scene{ca: m.ca, caPEM: m.both}).opensslOCSP,
		"curl --cert-status": curl("--cert-status"),
		"gnutls-cli":         gnutls(),
		"tstclnt":            m.tstclnt,
	}
}

func (m *market) tstclnt(t testing.TB, b *bench, _ *tls.Certificate) error {
	_, port, _ := net.SplitHostPort(b.addr)
	return runIn(t, m.nss, "tstclnt", "-h", "127.0.0.1", "-p", port, "-a", "www.example.com", "-d", "sql:"+m.nss, "-T", "-O", "-F", "-M", "1")
}

// visit has each client go to each stand, several at once.
func (m *market) visit(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.browse(t) })
	places := make(chan struct{}, runtime.GOMAXPROCS(0)+1)
	for _, st := range m.stands {
		for client, visit := range m.visitors() {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				st.note(client, visit(t, &st.bench, &st.cert))
			})
		}
	}
}

// browse has Firefox, which takes seconds to start, open one page with an image from
// each stand.
func (m *market) browse(t *testing.T) {
	page := "<!DOCTYPE html><title>market</title>"
	for _, st := range m.stands {
		_, port, _ := net.SplitHostPort(st.addr)
		page += fmt.Sprintf("<img src=\"https://www.example.com:%s/\">", port)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, page)
	}))
	defer srv.Close()
	if err := runIn(t, m.home, "firefox-esr", "--headless", "--no-remote", "--profile", m.home,
		"--screenshot", filepath.Join(m.home, "page.png"), srv.URL); err != nil {
		t.Errorf("firefox: %v", err)
	}
	for _, st := range m.stands {
		if !st.firefox.Load() {
			st.note("Firefox", errors.New("no request"))
		}
	}
}

// verdict is what the docs have to say: who refuses, and who accepts.
func (st *stand) verdict() (v [2]string) {
	var refuse, accept []string
	for _, client := range shoppers {
		if st.refused[client] != "" {
			refuse = append(refuse, client)
		} else {
			accept = append(accept, client)
		}
	}
	return [2]string{strings.Join(refuse, ", "), strings.Join(accept, ", ")}
}

// documentedRow is a row of the table: what, who refuses it, who accepts it, what to do.
var documentedRow = regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|\r?$`)

// documented reads the table in the docs: the rows in order, and what each says.
func documented(t *testing.T) (rows []string, says map[string][2]string) {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "docs", "clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n## What some clients refuse")
	section, _, _ = strings.Cut(section, "\n## ")
	_, table, _ := strings.Cut(section, "| --- | --- | --- | --- |")
	says = make(map[string][2]string)
	for _, m := range documentedRow.FindAllStringSubmatch(table, -1) {
		rows, says[m[1]] = append(rows, m[1]), [2]string{m[2], m[3]}
	}
	return rows, says
}

// What some clients refuse and the library staples is in docs/clients.md: who refuses it,
// and who accepts it. A control that differs in one thing is accepted by all.
//
// REQ C4
func TestWhatSomeClientsRefuse(t *testing.T) {
	for _, tool := range []string{"openssl", "curl", "gnutls-cli", "certutil", "tstclnt", "firefox-esr"} {
		testkit.Program(t, tool)
	}
	rows, says := documented(t)
	m := newMarket(t)
	var want []string
	for _, d := range dislikes {
		if !slices.Contains(want, d.what) {
			want = append(want, d.what)
		}
		for _, must := range []bool{false, true} {
			m.open(t, d.what, d.what, must, d.made)
			m.open(t, "the control of: "+d.what, "", must, d.control)
		}
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the rows of the docs are %q, want %q", rows, want)
	}
	m.visit(t)
	says[""] = [2]string{"", strings.Join(shoppers, ", ")}
	for _, st := range m.stands {
		if got := st.verdict(); got != says[st.row] {
			t.Errorf("%s:\ngot  | %s | %s |\nwant | %s | %s |\n%.300q", st.name, got[0], got[1], says[st.row][0], says[st.row][1], st.refused)
		}
	}
}
