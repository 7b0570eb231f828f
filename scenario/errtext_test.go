package scenario_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// once fails the test unless the text of err says the package's name once, and
// each of the parts once, in their order, on one line.
func once(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", parts)
		return
	}
	text, at := err.Error(), 0
	if strings.Count(text, "staple: ") != 1 || !strings.HasPrefix(text, "staple: ") || strings.Contains(text, "\n") {
		t.Errorf("not one line with one prefix: %q", text)
	}
	for _, part := range parts {
		i := strings.Index(text, part)
		if strings.Count(text, part) != 1 || i < at {
			t.Errorf("%q: want %q once, and in this order", text, parts)
		}
		at = i
	}
}

// REQ G1: an error that wraps others repeats neither the package's name nor the
// responder's, and is found in all the ways that they are.
func TestErrorSaysThingsOnce(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		ca.Responder.SetFault(ocsptest.FaultHTTP503)
		certs := testkit.Leaves(ca, 100)
		err := s.Prefetch(background, certs...) // the responder fails for some, and is not asked about the rest
		spared := slices.DeleteFunc(err.(interface{ Unwrap() []error }).Unwrap(), func(err error) bool { return testkit.Reason(err) != staple.ReasonUnavailable })
		if len(spared) < 50 {
			t.Fatalf("%d not asked about: %v", len(spared), err)
		}
		once(t, spared[0], `.example.com" (serial `, ca.Responder.URL(), "responder unavailable, not asked: ", "unexpected HTTP status: 503")

		other := ocsptest.NewCA()
		other.Responder.SetFault(ocsptest.FaultTryLater)
		err = testkit.Stapler(t, other).Prefetch(background, other.Issue(ocsptest.Leaf{URLs: []string{"http://a.example", "http://b.example"}}))
		once(t, err, "http://a.example: ", "; ", "http://b.example: ")
	})
}

// The errors of Prefetch that no responder is to blame for.
func TestPrefetchErrorTexts(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		err := s.Prefetch(background, cert, nil, ca.Issue(ocsptest.Leaf{WithoutIssuer: true}))
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != 2 || lines[0] != "staple: certificate 1 is nil or empty" || !strings.Contains(lines[1], "): issuer certificate not found, wanted ") {
			t.Errorf("%q", lines)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		err = s.Prefetch(background, ca.Issue(ocsptest.Leaf{Names: []string{"b.example"}}))
		once(t, err, `"b.example" (serial `, "): closed")
		if !errors.Is(err, staple.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	})
}

// REQ B13: how and when a certificate was revoked is not lost after the event.
func TestRevocationIsDescribed(t *testing.T) {
	for _, tc := range []struct {
		reason int
		at     time.Time
		want   string
	}{
		{ocsp.KeyCompromise, time.Date(1999, 12, 24, 18, 0, 0, 0, time.UTC), "keyCompromise since 1999-12-24T18:00:00Z"},
		{ocsp.CertificateHold, time.Unix(0, 0), "certificateHold since 1970-01-01: the CA never issued it"},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := testkit.Stapler(t, ca)
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
			ca.Responder.Revoke(cert, tc.reason, tc.at)
			check := func(fails bool) {
				t.Helper()
				got := s.Prefetch(background, cert)
				for what, err := range map[string]error{"Prefetch": got, "Ready": s.Ready(), "Status": s.Status()[0].Err} {
					if !errors.Is(err, staple.ErrRevoked) || testkit.Reason(err) != staple.ReasonRevoked {
						t.Errorf("%s: %v: not ErrRevoked, or reason %v", what, err, testkit.Reason(err))
					}
					if what != "Status" || !fails {
						once(t, err, ca.Responder.URL()+": status revoked: "+tc.want)
					}
				}
			}
			check(false)
			ca.Responder.SetFault(ocsptest.FaultTryLater)
			time.Sleep(20 * time.Hour)
			if st := s.Status()[0]; st.Failures == 0 || !strings.Contains(st.Err.Error(), "tryLater") || !strings.Contains(st.Err.Error(), tc.want) {
				t.Errorf("%d failures, %v", st.Failures, st.Err)
			}
			check(true)
		})
	}
}

// REQ E7: what has expired is that, whatever the last attempt failed of.
func TestExpiredIsBoth(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		testkit.MustFetch(t, s, cert)
		ca.Responder.SetFault(ocsptest.FaultUnauthorized)
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		for _, err := range []error{s.Ready(), s.Prefetch(background, cert)} {
			if !errors.Is(err, staple.ErrExpired) || testkit.Reason(err) != staple.ReasonUnauthorized {
				t.Errorf("%v, want ErrExpired and why", err)
			}
			once(t, err, `"a.example"`, "has expired at 2000-01-0", "; the last attempt: OCSP responder "+ca.Responder.URL(), "unauthorized")
		}
	})
}

// REQ D2, REQ G1: Ready names first what clients refuse, then what they may.
func TestReadyInOrder(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		know := func(l ocsptest.Leaf, names ...string) (certs []*tls.Certificate) {
			for _, name := range names {
				l.Names = []string{name}
				certs = append(certs, ca.Issue(l))
			}
			_ = s.Prefetch(background, certs...)
			return certs
		}
		testkit.List(t, s, know(ocsptest.Leaf{}, "expired-b", "expired-a")...)
		revoked := ca.Issue(ocsptest.Leaf{Names: []string{"revoked"}})
		ca.Responder.Revoke(revoked, ocsp.Superseded, time.Time{})
		testkit.List(t, s, revoked)
		_ = s.Prefetch(background, revoked)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		time.Sleep(100 * time.Hour)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		know(ocsptest.Leaf{}, "new-f", "new-c", "new-b", "new-e", "new-a", "new-d")
		know(ocsptest.Leaf{MustStaple: true}, "must-b", "must-a")
		var names []string
		for line := range strings.SplitSeq(s.Ready().Error(), "\n") {
			_, rest, _ := strings.Cut(line, `"`)
			name, _, _ := strings.Cut(rest, `"`)
			names = append(names, name)
		}
		if len(names) != 11 || !slices.Equal(names[:5], []string{"must-a", "must-b", "revoked", "expired-a", "expired-b"}) ||
			!strings.HasPrefix(names[5], "new-") || !slices.IsSorted(names[5:10]) {
			t.Errorf("%q", names)
		}
	})
}

// What came instead of a response is shown as far as it fits into a line.
func TestWhatCameIsShown(t *testing.T) {
	for f, want := range map[ocsptest.Fault]string{
		ocsptest.FaultJunkBody:      ": malformed response: OCSPResponse, in 300 bytes that begin \"",
		ocsptest.FaultTrailingAfter: " bytes that begin \"0\\x82\\x0",
		ocsptest.FaultNotModified:   ": unexpected HTTP status: 304 Not Modified\n",
		ocsptest.FaultSHA1Signature: "weak signature algorithm: ECDSA with SHA-1 (OID 1.2.840.10045.4.1)\n",
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetFault(f)
			err := testkit.Stapler(t, ca).Prefetch(background, ca.Issue(ocsptest.Leaf{}))
			if got := fmt.Sprintln(err); !strings.Contains(got, want) || strings.ContainsFunc(strings.TrimSpace(got), func(c rune) bool { return c < ' ' || c > '~' }) || len(got) > 500 {
				t.Errorf("%v: %q, want %q in it", f, got, want)
			}
		})
	}
}

// opensslPair has openssl make a CA and a certificate of it, which names a
// responder, and returns the pair. keys are the arguments of genpkey for the
// CA's key, sign those of x509 that say how it signs.
func opensslPair(t *testing.T, keys, sign []string) tls.Certificate {
	t.Helper()
	openssl, dir := testkit.Program(t, "openssl"), t.TempDir()
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
			log := new(testkit.Logbook)
			s := staple.New(staple.WithLogger(log.Logger()), staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
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
			if loud := log.Loud(); len(loud) != 1 || !strings.HasPrefix(loud[0], "issuer of the certificate can't be used") {
				t.Errorf("logged %q", loud)
			}
		})
	}
}

// What a chain has, however much it is named as the issuer, keeps nobody from asking where the
// certificate says: it may be a tenant's, or one that the owner has mended since.
//
// REQ A5
func TestUnsupportedInTheChain(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		lone := ca.Issue(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{ca.Responder.IssuerURL("der")}})
		junk := bytes.Replace(ca.Cert.Raw, []byte("\x2a\x86\x48\xce\x3d\x03\x01\x07"), []byte("\x2a\x86\x48\xce\x3d\x03\x01\x08"), 1)
		theirs := *lone
		theirs.Certificate = [][]byte{lone.Certificate[0], junk}
		s := testkit.Stapler(t, ca)
		s.Staple(&theirs)
		synctest.Wait()
		if err := s.Prefetch(testkit.Within(t, time.Minute), lone); err != nil {
			t.Error(err)
		}
	})
}

// A certificate of the issuer's name whose key did not sign, as the CA's old one
// in a chain file, is mentioned: what is missing is another one.
//
// REQ A5
func TestWrongIssuerOfTheName(t *testing.T) {
	old := ocsptest.NewCA(ocsptest.Options{Name: "Intermediate"})
	ca := ocsptest.NewCA(ocsptest.Options{Name: "Intermediate"})
	cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: true})
	s := testkit.Stapler(t, ca)
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

// malformed returns a certificate with a URI of 60 KB that does not parse.
func malformed(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 6, Bytes: []byte("http://[" + strings.Repeat("x", 60<<10))}})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}}, &x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// REQ I5: what a certificate, its chain or a responder says makes an error of 4 KB at
// most; its fields have the URL whole.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("\"x\\", 5<<10)
	says := func(err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	for name, tc := range map[string]struct {
		leaf  ocsptest.Leaf
		world func(*http.Request) (*http.Response, error)
	}{
		"URLs and names": {ocsptest.Leaf{Names: []string{long, long, long}, URLs: []string{"http://a.example/" + long, "http://b.example/" + long, "http://c.example/" + long, "http://d.example/" + long}}, says(errors.New("no " + long))},
		"no issuer":      {ocsptest.Leaf{Names: []string{long}, WithoutIssuer: true, IssuerURLs: []string{"http://a.example/" + long, "http://b.example/" + long}}, says(errors.New("no " + long))},
		"another's issuer": {ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{"http://a.example/" + long}}, func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		}},
	} {
		testkit.Bubble(t, func(t *testing.T, _ *ocsptest.CA) {
			ca := ocsptest.NewCA(ocsptest.Options{Name: "CA " + long})
			cert := ca.Issue(tc.leaf)
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(tc.world)}))
			defer s.Close()
			cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			err := s.Prefetch(background, cert)
			for what, err := range map[string]error{"Prefetch": err, "Ready": s.Ready(), "Status": s.Status()[0].Err} {
				if err == nil || len(err.Error()) > 4<<10 {
					t.Errorf("%s, %s: %d bytes: %.300v", name, what, len(err.Error()), err)
				}
			}
			var re *staple.ResponseError
			if !errors.As(err, &re) || len(re.Responder) < 15<<10 {
				t.Errorf("%s: %.300v: want the URL whole in a field", name, err)
			}
			runtime.KeepAlive(cfg)
		})
	}
	s := staple.New()
	defer s.Close()
	if err := s.Prefetch(background, malformed(t)); err == nil || len(err.Error()) > 4<<10 || !strings.Contains(err.Error(), "does not parse") {
		t.Errorf("malformed: %.300v", err)
	}
}
