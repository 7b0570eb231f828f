//lint:file-ignore SA1019 NameToCertificate is deprecated, and honoured.

package tlschoice_test

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/tlschoice"
	"github.com/ocspstaple/staple/ocsptest"
)

// A Source makes crypto/tls's choice itself. These tests compare the two over
// random hellos: first what real servers do with one and the same ClientHello,
// then, for many more, the hook with a copy of crypto/tls's code.

// hooked returns a copy of base that chooses by a Source.
func hooked(base *tls.Config, indexed bool) *tls.Config {
	cfg := base.Clone()
	src := tlschoice.Take(cfg)
	if indexed {
		src = src.Indexed()
	}
	cfg.GetCertificate = src.Choose
	return cfg
}

// choosy are keys that tell when they are used, which is all that a server
// does with the certificate that it chose. None of them signs anything.
type choosy struct {
	crypto.Signer
	used func()
}

var errUsed = errors.New("this is the one")

func (k choosy) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	k.used()
	return nil, errUsed
}

// choosyRSA can decrypt, which static RSA key exchange asks for.
type choosyRSA struct{ choosy }

func (k choosyRSA) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) {
	k.used()
	return nil, errUsed
}

// oneWord is a connection on which the client has said its one word.
type oneWord struct {
	net.Conn // nil
	in       *bytes.Reader
	out      bytes.Buffer
}

func (w *oneWord) Read(b []byte) (int, error)       { return w.in.Read(b) }
func (w *oneWord) Write(b []byte) (int, error)      { return w.out.Write(b) }
func (w *oneWord) Close() error                     { return nil }
func (w *oneWord) SetDeadline(time.Time) error      { return nil }
func (w *oneWord) SetWriteDeadline(time.Time) error { return nil }
func (w *oneWord) SetReadDeadline(time.Time) error  { return nil }
func (w *oneWord) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *oneWord) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// helloOf returns the bytes of a ClientHello, with a server name that Go's
// client would not send as it is.
func helloOf(client *tls.Config, name string) []byte {
	client.ServerName, client.InsecureSkipVerify = strings.Repeat("x", len(name)), true
	w := &oneWord{in: bytes.NewReader(nil)}
	tls.Client(w, client).Handshake()
	raw := w.out.Bytes()
	if name != "" {
		raw = bytes.Replace(raw, []byte(client.ServerName), []byte(name), 1)
	}
	return raw
}

// verdict is what a server does with a ClientHello: the certificate whose key
// it uses, or else that it sends in the clear, or else its error.
func (s *rack) verdict(server *tls.Config, hello []byte) string {
	s.used = -1
	w := &oneWord{in: bytes.NewReader(hello)}
	err := tls.Server(w, server).Handshake()
	if s.used < 0 {
		for i, c := range s.certs {
			if bytes.Contains(w.out.Bytes(), c.Certificate[0]) {
				s.used = i
			}
		}
	}
	return fmt.Sprint(s.used, " ", err)
}

// rack is a random list of certificates for the names below.
type rack struct {
	certs []tls.Certificate
	used  int // the one whose key was used last
}

var certNames = [][]string{
	{"www.example.com"}, {"*.example.com"}, {"www.example.com", "api.example.com"}, {"*.a.example.com", "example.com"},
	{"WWW.Example.COM"}, {"192.0.2.1"}, {"2001:db8::1", "six.example.com"}, {"localhost"}, {"under_score.example.com"}, {"other.test", "*.test"},
}

var helloNames = []string{
	"", "www.example.com", "WWW.example.com", "api.example.com", "x.example.com", "a.example.com", "b.a.example.com", "example.com",
	"unknown.invalid", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:DB8:0::1", "[2001:db8::1]", "six.example.com", "localhost",
	"under_score.example.com", "*.example.com", "x.y.example.com", "other.test", "more.test", "test", "-x.example.com", "x", "*",
}

func newRack(r *rand.Rand, stock []tls.Certificate) *rack {
	s := new(rack)
	for i := range 2 + r.IntN(6) {
		c := stock[r.IntN(len(stock))]
		key := choosy{c.PrivateKey.(crypto.Signer), func() { s.used = i }}
		c.PrivateKey = key
		if _, ok := key.Public().(*rsa.PublicKey); ok && r.IntN(4) > 0 {
			c.PrivateKey = choosyRSA{key}
		}
		if r.IntN(2) == 0 {
			c.Leaf = nil
		}
		if r.IntN(8) == 0 {
			c.SupportedSignatureAlgorithms = some(r, schemes)
		}
		if r.IntN(40) == 0 {
			c.PrivateKey = "no key"
		}
		s.certs = append(s.certs, c)
	}
	return s
}

var schemes = []tls.SignatureScheme{tls.PKCS1WithSHA256, tls.PSSWithSHA256, tls.PSSWithSHA512, tls.ECDSAWithP256AndSHA256,
	tls.ECDSAWithP384AndSHA384, tls.Ed25519, tls.PKCS1WithSHA1, tls.ECDSAWithSHA1}

// some returns a random part of all, in random order, of one element at least.
func some[T any](r *rand.Rand, all []T) []T {
	out := slices.Clone(all)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:1+r.IntN(len(out))]
}

// stock makes certificates of each kind for each set of names.
func stock() (all []tls.Certificate) {
	ca := ocsptest.NewCA()
	for _, kind := range []ocsptest.KeyType{ocsptest.ECDSAP256, ocsptest.ECDSAP384, ocsptest.RSA2048, ocsptest.Ed25519} {
		var key crypto.Signer
		for _, names := range certNames {
			c := ca.Issue(ocsptest.Leaf{Names: names, Key: key, KeyType: kind, NoURL: true})
			key = c.PrivateKey.(crypto.Signer)
			all = append(all, *c)
		}
	}
	return all
}

// randomConfig is a server's config over certs, as odd as they come.
func randomConfig(r *rand.Rand, certs []tls.Certificate) *tls.Config {
	c := &tls.Config{Certificates: certs}
	if r.IntN(4) == 0 {
		c.MaxVersion = tls.VersionTLS12
	}
	if r.IntN(8) == 0 {
		c.MinVersion = tls.VersionTLS13
		c.MaxVersion = 0
	}
	if r.IntN(4) == 0 {
		c.CurvePreferences = some(r, []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384})
	}
	if r.IntN(4) == 0 {
		c.CipherSuites = some(r, suites)
	}
	if r.IntN(4) == 0 {
		c.NameToCertificate = make(map[string]*tls.Certificate)
		for range 1 + r.IntN(3) {
			c.NameToCertificate[strings.ToLower(helloNames[r.IntN(len(helloNames))])] = &certs[r.IntN(len(certs))]
		}
	}
	if r.IntN(6) == 0 {
		pick := &certs[r.IntN(len(certs))]
		c.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			switch len(h.ServerName) % 3 {
			case 0:
				return nil, nil
			case 1:
				return pick, nil
			}
			return nil, errors.New("no idea")
		}
	}
	return c
}

var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA,
}

func randomClient(r *rand.Rand) *tls.Config {
	c := &tls.Config{CurvePreferences: some(r, []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521})}
	switch r.IntN(4) {
	case 0:
		c.MaxVersion = tls.VersionTLS12
	case 1:
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	case 2:
		c.MinVersion = tls.VersionTLS13
	}
	if r.IntN(2) == 0 {
		c.CipherSuites = some(r, suites)
	}
	return c
}

// Two real servers, one with the config and one with a copy that has our hook, choose
// the same certificate, or fail in the same way, for the same ClientHello.
func TestChoiceOfServers(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 600
	}
	all := stock()
	counts := map[string]int{}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range n / 6 {
		rack := newRack(r, all)
		base := randomConfig(r, rack.certs)
		hook := hooked(base, true)
		if r.IntN(3) == 0 { // all of it behind GetConfigForClient
			base, hook = perClient(base), perClient(hooked(base, false))
		}
		for range 6 {
			name := helloNames[r.IntN(len(helloNames))]
			hello := helloOf(randomClient(r), name)
			want := rack.verdict(base, hello)
			if got := rack.verdict(hook, hello); got != want {
				t.Fatalf("seed %d: SNI %q: %s, crypto/tls: %s", seed, name, got, want)
			}
			counts[want[:strings.IndexByte(want, ' ')]]++
		}
	}
	refused := n * 2 / 3
	if fips140.Enabled() { // which leaves less for the two sides to agree on
		refused = n * 3 / 4
	}
	if counts["0"]*3 > n*2 || counts["-1"] > refused || counts["3"] == 0 {
		t.Errorf("a poor mix of hellos: %v", counts)
	}
}

// perClient has a server take a config from GetConfigForClient.
func perClient(c *tls.Config) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS10, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c, nil }}
}

// The hook chooses as crypto/tls does, also for hellos that no client sends.
func TestChoiceOfHook(t *testing.T) {
	n := 40_000
	if testing.Short() {
		n = 4000
	}
	all := stock()
	odd := []string{"www.example.com.", "192.0.2.1.", "[192.0.2.1]", "[192.0.2.1", "192.0.2.1]", "[]", ".", "..", "*", "*.", "Kelvin.example.com",
		"\xff.example.com", "www.example.com..", "::ffff:192.0.2.1", "[www.example.com]", "fe80::1%eth0", " www.example.com"}
	for i := range all { // names that no CA would sign, in the parsed certificate alone
		if i%3 == 0 {
			leaf := *all[i].Leaf
			leaf.DNSNames = append(slices.Clone(leaf.DNSNames), odd[i%len(odd)], odd[(i*7)%len(odd)])
			all[i].Leaf = &leaf
		}
	}
	names := append(slices.Clone(helloNames), odd...)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range n / 40 {
		rack := newRack(r, all)
		for i := range rack.certs { // keep the odd names
			if rack.certs[i].Leaf == nil && r.IntN(4) > 0 {
				for _, c := range all {
					if bytes.Equal(c.Certificate[0], rack.certs[i].Certificate[0]) {
						rack.certs[i].Leaf = c.Leaf
					}
				}
			}
		}
		base := randomConfig(r, rack.certs)
		hook := hooked(base, r.IntN(4) > 0).GetCertificate
		for range 40 {
			h := randomHello(r, names)
			want, wantErr := chosen(base, h)
			got, err := hook(h)
			if at, wantAt := place(base, got), place(base, want); at != wantAt || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Fatalf("seed %d: SNI %q: certificate %d, %v; crypto/tls: %d, %v", seed, h.ServerName, at, err, wantAt, wantErr)
			}
		}
	}
}

func randomHello(r *rand.Rand, names []string) *tls.ClientHelloInfo {
	h := &tls.ClientHelloInfo{
		ServerName:        names[r.IntN(len(names))],
		SupportedVersions: some(r, []uint16{tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS11, tls.VersionTLS10}),
		SupportedCurves:   some(r, []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}),
		SupportedPoints:   []uint8{0},
		CipherSuites:      some(r, append([]uint16{tls.TLS_AES_128_GCM_SHA256}, suites...)),
	}
	slices.Sort(h.SupportedVersions)
	slices.Reverse(h.SupportedVersions)
	if r.IntN(4) > 0 {
		h.SignatureSchemes = some(r, schemes)
	}
	return h
}

// place finds a certificate in the list by its key, which no other has.
func place(base *tls.Config, c *tls.Certificate) int {
	if c == nil {
		return -1
	}
	return slices.IndexFunc(base.Certificates, func(l tls.Certificate) bool { return &l.Certificate[0][0] == &c.Certificate[0][0] })
}

// chosen is crypto/tls.Config.getCertificate of Go 1.26.
func chosen(c *tls.Config, h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.GetCertificate != nil && (len(c.Certificates) == 0 || len(h.ServerName) > 0) {
		if cert, err := c.GetCertificate(h); cert != nil || err != nil {
			return cert, err
		}
	}
	if len(c.Certificates) == 0 {
		return nil, nil
	}
	if len(c.Certificates) == 1 {
		return &c.Certificates[0], nil
	}
	if c.NameToCertificate != nil {
		name := strings.ToLower(h.ServerName)
		if cert, ok := c.NameToCertificate[name]; ok {
			return cert, nil
		}
		if len(name) > 0 {
			labels := strings.Split(name, ".")
			labels[0] = "*"
			if cert, ok := c.NameToCertificate[strings.Join(labels, ".")]; ok {
				return cert, nil
			}
		}
	}
	for _, cert := range c.Certificates {
		if h.SupportsCertificate(&cert) == nil {
			return &cert, nil
		}
	}
	return &c.Certificates[0], nil
}
