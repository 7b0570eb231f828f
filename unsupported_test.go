package staple_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// opensslPair has openssl make a CA and a certificate of it, which names a
// responder, and returns the pair. keys are the arguments of genpkey for the
// CA's key, sign those of x509 that say how it signs.
func opensslPair(t *testing.T, keys, sign []string) tls.Certificate {
	t.Helper()
	openssl, dir := needTool(t, "openssl"), t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(openssl, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
	}
	extensions := "authorityInfoAccess=OCSP;URI:http://ocsp.example\nsubjectAltName=DNS:unsupported.example\n"
	if err := os.WriteFile(filepath.Join(dir, "ext"), []byte(extensions), 0o600); err != nil {
		t.Fatal(err)
	}
	run(append([]string{"genpkey", "-out", "ca.key"}, keys...)...)
	run("req", "-x509", "-key", "ca.key", "-subj", "/CN=Odd CA", "-days", "30", "-out", "ca.pem")
	run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "leaf.key", "-subj", "/CN=leaf", "-out", "leaf.csr")
	run(append([]string{"x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-extfile", "ext", "-out", "leaf.pem"}, sign...)...)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "leaf.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	cert.Certificate = append(cert.Certificate, block.Bytes)
	return cert
}

// An issuer that is there but whose key, or whose signature on the certificate,
// crypto/x509 can't work with is called that: not missing, in the error, the log
// and Ready, and nobody is asked.
//
// REQ A5
func TestUnsupportedIssuers(t *testing.T) {
	for name, tc := range map[string]struct {
		keys, sign []string
		want       string
	}{
		"brainpool":   {[]string{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"}, nil, "the issuer's key of type brainpoolP256r1 "},
		"Ed448":       {[]string{"-algorithm", "ED448"}, nil, "the issuer's key of type Ed448 "},
		"RSA-PSS key": {[]string{"-algorithm", "RSA-PSS"}, nil, "the issuer's key of type id-RSASSA-PSS "},
		"PSS with a salt of its own": {[]string{"-algorithm", "RSA"}, []string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:20", "-sha256"},
			"the certificate's signature of type RSASSA-PSS with unsupported parameters"},
	} {
		t.Run(name, func(t *testing.T) {
			cert := opensslPair(t, tc.keys, tc.sign)
			log := new(logbook)
			s := staple.New(staple.WithLogger(log.logger()), staple.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				t.Errorf("asked %v", r.URL)
				return nil, errors.New("not here")
			})}))
			err := s.Prefetch(context.Background(), &cert)
			if !errors.Is(err, staple.ErrNoIssuer) {
				t.Fatalf("got %v, want ErrNoIssuer", err)
			}
			once(t, err, `"unsupported.example"`, `issuer certificate "CN=Odd CA" is there`, tc.want, "is not supported by crypto/x509")
			if ready := s.Ready(); ready == nil || ready.Error() != err.Error() {
				t.Errorf("Ready: %v, want %v", ready, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if loud := log.loud(); len(loud) != 1 || !strings.HasPrefix(loud[0], "issuer of the certificate can't be used") {
				t.Errorf("logged %q", loud)
			}
		})
	}
}

// A certificate of the issuer's name whose key did not sign, as the CA's old one
// in a chain file, is mentioned: what is missing is another one.
//
// REQ A5
func TestWrongIssuerOfTheName(t *testing.T) {
	old := ocsptest.NewCA(ocsptest.Options{Name: "Intermediate"})
	ca := ocsptest.NewCA(ocsptest.Options{Name: "Intermediate"})
	cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: true})
	s := stapler(t, ca)
	for what, chain := range map[string][][]byte{"the old one": {old.Cert.Raw}, "junk before it": {{0x30, 0}, old.Cert.Raw}} {
		c := *ca.Issue(ocsptest.Leaf{WithoutIssuer: true})
		c.Certificate = slices.Concat(c.Certificate[:1], chain)
		err := s.Prefetch(context.Background(), &c)
		if !errors.Is(err, staple.ErrNoIssuer) {
			t.Fatalf("%s: %v, want ErrNoIssuer", what, err)
		}
		once(t, err, "issuer certificate not found: one named", "is there, but it did not sign this certificate")
	}
	err := s.Prefetch(context.Background(), cert)
	once(t, err, "issuer certificate not found, wanted")
}

// REQ B12
func TestVerify(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	raw := ca.Responder.Response(cert)
	if r, err := staple.Verify(raw, cert.Leaf, ca.Cert); err != nil || r == nil || r.Status != ocsp.Good || r.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 {
		t.Errorf("good: %+v, %v", r, err)
	}
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, cert.Leaf.NotBefore)
	if r, err := staple.Verify(ca.Responder.Response(cert), cert.Leaf, ca.Cert); !errors.Is(err, staple.ErrRevoked) || r == nil || r.Status != ocsp.Revoked || r.RevocationReason != ocsp.KeyCompromise {
		t.Errorf("revoked: %+v, %v", r, err)
	}
	r, err := staple.Verify(raw[:len(raw)-1], cert.Leaf, ca.Cert)
	if r != nil || staple.ReasonOf(err) != staple.ReasonMalformed {
		t.Errorf("cut: %+v, %v", r, err)
	}
	// The serial number is the same: only the issuer's signature tells them apart.
	theirs := other.Issue(ocsptest.Leaf{Serial: cert.Leaf.SerialNumber})
	if r, err := staple.Verify(other.Responder.Response(theirs), cert.Leaf, other.Cert); r != nil || !errors.Is(err, staple.ErrNoIssuer) {
		t.Errorf("another issuer: %+v, %v", r, err)
	}
	for _, nils := range [][2]bool{{true, false}, {false, true}} {
		leaf, issuer := cert.Leaf, ca.Cert
		if nils[0] {
			leaf = nil
		}
		if nils[1] {
			issuer = nil
		}
		if r, err := staple.Verify(raw, leaf, issuer); r != nil || !errors.Is(err, staple.ErrNoIssuer) {
			t.Errorf("nil: %+v, %v", r, err)
		}
	}
}
