package scenario_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// A world for an attacker on the path to a responder: certificate authorities,
// genuine responses of theirs, tools to take these apart, and the clients that
// judge what a server staples of them.

// tlv encodes an element of any size.
func tlv(tag asn1.Tag, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(parts, nil)) })
	return b.BytesOrPanic()
}

func sequence(parts ...[]byte) []byte { return tlv(asn1.SEQUENCE, parts...) }

func integer(n int) []byte {
	var b cryptobyte.Builder
	b.AddASN1Int64(int64(n))
	return b.BytesOrPanic()
}

// inside returns the content of the element that der begins with.
func inside(der []byte) []byte {
	in := cryptobyte.String(der)
	var content cryptobyte.String
	var tag asn1.Tag
	if !in.ReadAnyASN1(&content, &tag) {
		panic("not DER")
	}
	return content
}

// elements lists what a constructed element consists of.
func elements(der []byte) (list [][]byte) {
	for in := cryptobyte.String(inside(der)); !in.Empty(); {
		var e cryptobyte.String
		var tag asn1.Tag
		if !in.ReadAnyASN1Element(&e, &tag) {
			panic("not DER")
		}
		list = append(list, e)
	}
	return list
}

func explicit(n asn1.Tag) asn1.Tag { return n.ContextSpecific().Constructed() }

// A message is an OCSPResponse taken apart, all in DER. Nothing but data is signed.
type message struct {
	data, algorithm, signature []byte
	certs                      [][]byte
}

func dissect(raw []byte) *message {
	basic := elements(inside(elements(elements(elements(raw)[1])[0])[1]))
	m := &message{data: basic[0], algorithm: basic[1], signature: basic[2]}
	if len(basic) > 3 {
		m.certs = elements(elements(basic[3])[0])
	}
	return m
}

func (m *message) encode() []byte {
	parts := [][]byte{m.data, m.algorithm, m.signature}
	if len(m.certs) > 0 {
		parts = append(parts, tlv(explicit(0), sequence(m.certs...)))
	}
	return envelope(sequence(parts...))
}

// envelope wraps a BasicOCSPResponse.
func envelope(basic []byte) []byte {
	const idBasic = "\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
	return sequence([]byte{0x0a, 1, 0}, tlv(explicit(0), sequence([]byte(idBasic), tlv(asn1.OCTET_STRING, basic))))
}

// A trade is who signs responses, and by which certificate authority.
type trade struct {
	name         string
	sign         ocsptest.Sign
	rsa          bool // the CA's key
	intermediate bool // the CA is below a root
}

var trades = []trade{
	{name: "delegate by name", sign: ocsptest.Sign{By: ocsptest.Delegated}},
	{name: "delegate by key", sign: ocsptest.Sign{By: ocsptest.Delegated, ByKey: true}},
	{name: "delegate of an intermediate", sign: ocsptest.Sign{By: ocsptest.Delegated}, intermediate: true},
	{name: "root", sign: ocsptest.Sign{}},
	{name: "root by key", sign: ocsptest.Sign{ByKey: true}},
	{name: "intermediate", sign: ocsptest.Sign{}, intermediate: true},
	{name: "RSA root", sign: ocsptest.Sign{}, rsa: true},
	{name: "RSA delegate", sign: ocsptest.Sign{By: ocsptest.Delegated, KeyType: ocsptest.RSA2048}, rsa: true},
	{name: "PSS delegate", sign: ocsptest.Sign{By: ocsptest.Delegated, KeyType: ocsptest.RSA2048, Algorithm: x509.SHA256WithRSAPSS}},
}

// A scene is a trade with one certificate, and what is to be had about it.
type scene struct {
	trade
	ca            *ocsptest.CA
	dir, caPEM    string
	signer        *x509.Certificate  // whom responses name: a delegate, or the CA
	chains        []*tls.Certificate // with the issuer, and without
	began         time.Time
	first, second []byte // genuine responses

	stranger crypto.Signer
	decoys   [][]byte // the attacker's, with the signer's name; the first has another key
	// The CA's certificates for the delegate, beside the one in use.
	older, renewed, later, past []byte

	forms map[form]string // where they were seen first
	salts bool            // are of all lengths: GnuTLS 3.7 takes that of the hash alone
}

// A form is what was stapled to a certificate.
type form struct {
	raw  string
	cert *tls.Certificate
}

// beforeNow is when a scene begins: all that happens until a refresh is past for
// real clients.
const beforeNow = 3 * time.Hour

func newScene(t *testing.T, tr trade) *scene {
	s := &scene{trade: tr, dir: t.TempDir(), began: time.Now().Add(-beforeNow).Truncate(time.Second), forms: make(map[form]string)}
	var o ocsptest.Options
	if tr.rsa {
		o.KeyType = ocsptest.RSA2048
	}
	s.ca = ocsptest.NewCA(o)
	trusted := [][]byte{s.ca.Cert.Raw}
	if tr.intermediate {
		s.ca = s.ca.Intermediate("")
		trusted = append(trusted, s.ca.Cert.Raw) // for chains of the leaf alone
	}
	s.caPEM = writeCertificates(t, filepath.Join(s.dir, "ca.pem"), trusted...)
	tr.sign.NotAfter = s.began.AddDate(0, 0, 2) // before nextUpdate, so that who ends later makes a difference
	s.ca.Responder.SetSign(tr.sign)
	// The clients that ask a responder themselves find that nobody listens.
	cert := s.ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, NotBefore: s.began.AddDate(0, 0, -1), URLs: []string{"http://127.0.0.1:1/"}})
	alone := *cert
	alone.Certificate = cert.Certificate[:1:1]
	s.chains = []*tls.Certificate{cert, &alone}
	s.first, s.second = s.genuine(s.began), s.genuine(s.began.Add(30*time.Minute))
	s.signer = s.ca.Cert
	if m := dissect(s.first); len(m.certs) > 0 {
		s.signer = parseCertificate(t, m.certs[0])
	}
	s.stranger = testkit.NewKey(t)
	s.decoys = [][]byte{s.decoy(s.stranger.Public())}
	for range 17 {
		s.decoys = append(s.decoys, s.decoy(s.signer.PublicKey))
	}
	if s.delegated() {
		s.older = s.other(s.began.Add(-time.Hour), s.began.Add(beforeNow+5*time.Minute))
		s.renewed = s.other(s.began.Add(-time.Hour), s.began.AddDate(2, 0, 0))
		s.later = s.other(s.began.AddDate(0, 0, 1), s.began.AddDate(3, 0, 0))
		s.past = s.other(s.began.AddDate(-1, 0, 0), s.began.Add(-time.Minute))
	}
	return s
}

// genuine is a response that was made at that time.
func (s *scene) genuine(at time.Time) []byte {
	return s.ca.Responder.Build(s.chains[0], func(spec *ocsptest.Spec) {
		spec.ProducedAt = at
		for i := range spec.Singles {
			spec.Singles[i].ThisUpdate, spec.Singles[i].NextUpdate = at, at.AddDate(0, 0, 4)
		}
	})
}

func parseCertificate(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func writeCertificates(t testing.TB, path string, certs ...[]byte) string {
	t.Helper()
	var all []byte
	for _, der := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	write(t, path, all)
	return path
}

func (s *scene) plain() bool { return s.name == "delegate by name" || s.name == "root" }

func (s *scene) delegated() bool { return s.sign.By == ocsptest.Delegated }

func (s *scene) pss() bool { return s.sign.Algorithm == x509.SHA256WithRSAPSS }

func (s *scene) pkcs1() bool { return s.signer.PublicKeyAlgorithm == x509.RSA && !s.pss() }

func (s *scene) ecdsa() bool { return s.signer.PublicKeyAlgorithm == x509.ECDSA }

func alone(cert *tls.Certificate) bool { return len(cert.Certificate) == 1 }

// minimal is all that may be stapled of a genuine response: the delegate's
// certificate alone, or none. A root that the chain does not hold is to be there,
// or OpenSSL's clients would not find who signed.
func (s *scene) minimal(raw []byte, cert *tls.Certificate) []byte {
	m := dissect(raw)
	switch {
	case s.delegated():
	case alone(cert) && !s.intermediate:
		m.certs = [][]byte{s.ca.Cert.Raw}
	default:
		m.certs = nil
	}
	return m.encode()
}

// options are those of a Stapler that reaches its responder by c.
func (s *scene) options(cert *tls.Certificate, c *http.Client, opts ...staple.Option) []staple.Option {
	opts = append(opts, staple.WithHTTPClient(c))
	if alone(cert) {
		opts = append(opts, staple.WithIssuers(s.ca.Cert))
	}
	return opts
}

// certificate issues one by key, to which nobody but key's owner agreed.
func (s *scene) certificate(key crypto.Signer, issuer *x509.Certificate, edit func(*x509.Certificate), pub crypto.PublicKey) []byte {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	tmpl := &x509.Certificate{
		SerialNumber: serial, RawSubject: s.signer.RawSubject,
		NotBefore: s.began.Add(-time.Hour), NotAfter: s.began.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}, // ocsp-nocheck
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, pub, key)
	if err != nil {
		panic(err)
	}
	return der
}

// decoy is a certificate of the attacker's with the signer's name.
func (s *scene) decoy(pub crypto.PublicKey) []byte {
	return s.certificate(s.stranger, &x509.Certificate{RawSubject: s.signer.RawIssuer}, nil, pub)
}

// other is a certificate of the CA's for the delegate's key and name.
func (s *scene) other(from, until time.Time) []byte {
	return s.certificate(s.ca.Key(), s.ca.Cert, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, until }, s.signer.PublicKey)
}

// A wiretap lies between a Stapler and its responder: it has an answer, or none.
type wiretap struct{ body atomic.Pointer[[]byte] }

func (p *wiretap) carry(body []byte) { p.body.Store(&body) }

func (p *wiretap) client() *http.Client {
	return &http.Client{Transport: testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
		body := p.body.Load()
		if body == nil {
			return nil, errors.New("nobody answers")
		}
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {testkit.OCSPMedia}},
			Body: io.NopCloser(bytes.NewReader(*body)), ContentLength: int64(len(*body)), Request: req}, nil
	})}
}

// oneRecord is a Store that holds one thing, whatever it is asked for.
type oneRecord []byte

func (r oneRecord) Get(context.Context, string) ([]byte, error) { return r, nil }

func (r oneRecord) Put(context.Context, string, []byte) error { return nil }

func (r oneRecord) Delete(context.Context, string) error { return nil }

// judged has Go's clients judge what was stapled, by x/crypto/ocsp and by
// RequireStaple, and keeps it for others.
func (s *scene) judged(t *testing.T, when string, cert *tls.Certificate, cs *tls.ConnectionState) {
	t.Helper()
	f := form{string(cs.OCSPResponse), cert}
	if _, ok := s.forms[f]; !ok {
		s.forms[f] = when + t.Name()
	}
	if len(cs.OCSPResponse) == 0 {
		return
	}
	if err := staple.RequireStaple(*cs); err != nil {
		t.Errorf("%sRequireStaple: %v", when, err)
	}
	if s.pss() {
		return // x/crypto/ocsp knows nothing of it
	}
	if _, err := ocsp.ParseResponseForCert(cs.OCSPResponse, cert.Leaf, s.ca.Cert); err != nil {
		t.Errorf("%sx/crypto/ocsp: %v", when, err)
	}
}

// trusting is the config of a client that knows the CA.
func (s *scene) trusting() *tls.Config {
	pool := s.ca.Pool()
	pool.AddCert(s.ca.Cert)
	return &tls.Config{RootCAs: pool, ServerName: "www.example.com"}
}

// visit has real clients judge each form that was stapled, several at once.
func (s *scene) visit(t *testing.T) {
	for _, tool := range []string{"openssl", "curl", "gnutls-cli"} {
		testkit.Program(t, tool)
	}
	places := make(chan struct{}, 4)
	var wg sync.WaitGroup
	defer wg.Wait()
	for f, where := range s.forms {
		cert := *f.cert
		cert.OCSPStaple = []byte(f.raw)
		b := &bench{caPEM: s.caPEM, addr: serve(t, &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })})}
		for name, visit := range s.visitors(&cert) {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				if err := visit(t, b, &cert); err != nil {
					t.Errorf("%s, %d bytes stapled: %s: %v", where, len(f.raw), name, err)
				}
			})
		}
	}
}

// A visitor visits a server and says why it does not like what it sees.
type visitor func(t testing.TB, b *bench, cert *tls.Certificate) error

// visitors lists those that insist on a staple or, where there is none, that
// don't.
func (s *scene) visitors(cert *tls.Certificate) map[string]visitor {
	if len(cert.OCSPStaple) == 0 {
		return map[string]visitor{"openssl s_client": noneSent, "gnutls-cli": gnutls(), "curl": curl()}
	}
	all := map[string]visitor{"openssl s_client": goodSent, "openssl ocsp": s.opensslOCSP, "gnutls-cli --ocsp": gnutls("--ocsp")}
	if s.salts {
		delete(all, "gnutls-cli --ocsp")
	}
	if !alone(cert) { // curl looks for the issuer in the chain alone
		all["curl --cert-status"] = curl("--cert-status")
	}
	return all
}

func goodSent(t testing.TB, b *bench, _ *tls.Certificate) error {
	if out := b.sClient(t, tls.VersionTLS13); !good(out) {
		return errors.New(out)
	}
	return nil
}

func noneSent(t testing.TB, b *bench, _ *tls.Certificate) error {
	if out := b.sClient(t, tls.VersionTLS12); !strings.Contains(out, "OCSP response: no response sent") {
		return errors.New(out)
	}
	return nil
}

// opensslOCSP verifies a staple by itself.
func (s *scene) opensslOCSP(t testing.TB, _ *bench, cert *tls.Certificate) error {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("response.der"), cert.OCSPStaple)
	out, err := runTool(t, "openssl", "ocsp", "-respin", in("response.der"), "-CAfile", s.caPEM,
		"-issuer", writeCertificates(t, in("issuer.pem"), s.ca.Cert.Raw), "-cert", writeCertificates(t, in("leaf.pem"), cert.Certificate[0]))
	if err != nil || !strings.Contains(out, "leaf.pem: good") || !strings.Contains(out, "Response verify OK") {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

func curl(args ...string) visitor {
	return func(t testing.TB, b *bench, _ *tls.Certificate) error {
		host, port, _ := net.SplitHostPort(b.addr)
		out, err := runTool(t, "curl", append(args, "--silent", "--show-error", "--noproxy", "*", "--cacert", b.caPEM,
			"--resolve", "www.example.com:"+port+":"+host, "https://www.example.com:"+port+"/")...)
		if err != nil || out != "hello" {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	}
}

func gnutls(args ...string) visitor {
	return func(t testing.TB, b *bench, _ *tls.Certificate) error {
		_, port, _ := net.SplitHostPort(b.addr)
		out, err := runTool(t, "gnutls-cli", append(args, "--x509cafile", b.caPEM, "--sni-hostname", "www.example.com",
			"--verify-hostname", "www.example.com", "--port", port, "127.0.0.1")...)
		if err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	}
}

// runTool runs a tool without the user's settings.
func runTool(t testing.TB, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), testkit.Program(t, tool), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// network is what a new Stapler staples that gets body from its responder.
func (s *scene) network(t *testing.T, body []byte) []byte {
	t.Helper()
	var path wiretap
	path.carry(body)
	cert := s.chains[0]
	st := staple.New(s.options(cert, path.client())...)
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	_ = st.Prefetch(context.Background(), cert) // what is stapled tells
	return st.Staple(cert).OCSPStaple
}
