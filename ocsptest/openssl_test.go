package ocsptest_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// openssl returns a function that has openssl judge a response: the status in a word, "" if it
// is not in there, and whether the response is verified.
func openssl(t *testing.T) func(*testing.T, *ocsptest.CA, *tls.Certificate, []byte, ...string) (string, bool, string) {
	path := testkit.Program(t, "openssl")
	return func(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, der []byte, args ...string) (string, bool, string) {
		dir := t.TempDir()
		file := func(name string, data []byte) string {
			name = filepath.Join(dir, name)
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
			return name
		}
		block := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
		issuer, leaf := file("issuer.pem", block(ca.Cert.Raw)), file("leaf.pem", block(cert.Leaf.Raw))
		args = append([]string{"ocsp", "-respin", file("response.der", der), "-issuer", issuer, "-CAfile", issuer}, args...)
		out, _ := exec.Command(path, append(args, "-cert", leaf)...).CombinedOutput() // it fails for bad responses
		status := ""
		if _, rest, ok := strings.Cut(string(out), "leaf.pem: "); ok {
			status, _, _ = strings.Cut(rest, "\n")
		}
		return status, bytes.Contains(out, []byte("Response verify OK")), string(out)
	}
}

// REQ F: what is right is right for openssl: keys, signers, responder IDs, hashes.
func TestOpenSSLAccepts(t *testing.T) {
	judge := openssl(t)
	for _, typ := range []ocsptest.KeyType{ocsptest.ECDSAP256, ocsptest.ECDSAP384, ocsptest.RSA2048, ocsptest.Ed25519} {
		ca := ocsptest.NewCA(ocsptest.Options{KeyType: typ})
		cert := ca.Issue(ocsptest.Leaf{})
		for _, by := range []ocsptest.Signer{ocsptest.Direct, ocsptest.IssuerEmbedded, ocsptest.Delegated, ocsptest.DelegatedExtras} {
			for _, byKey := range []bool{false, true} {
				sign := ocsptest.Sign{By: by, KeyType: typ, ByKey: byKey}
				accepted(t, judge, ca, cert, "good", func(s *ocsptest.Spec) { s.Sign = sign })
			}
		}
		if typ == ocsptest.RSA2048 {
			accepted(t, judge, ca, cert, "good", func(s *ocsptest.Spec) { s.Sign.Algorithm = x509.SHA256WithRSAPSS })
		}
	}
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	accepted(t, judge, ca, cert, "good", func(s *ocsptest.Spec) { s.Singles[0].NextUpdate = time.Time{} })
	ca.Responder.SetCertIDs(ocsptest.SHA256Only)
	accepted(t, judge, ca, cert, "good", nil, "-sha256")
	ca.Responder.SetCertIDs(ocsptest.DualHash)
	accepted(t, judge, ca, cert, "good", nil, "-sha256")
	accepted(t, judge, ca, cert, "good", nil, "-sha1")
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
	accepted(t, judge, ca, cert, "revoked", nil)
	ca.Responder.SetUnknown(cert)
	accepted(t, judge, ca, cert, "unknown", nil)
}

// accepted wants openssl to verify a response and to say a status.
func accepted(t *testing.T, judge func(*testing.T, *ocsptest.CA, *tls.Certificate, []byte, ...string) (string, bool, string),
	ca *ocsptest.CA, cert *tls.Certificate, want string, edit func(*ocsptest.Spec), args ...string) {
	t.Helper()
	if got, ok, out := judge(t, ca, cert, ca.Responder.Build(cert, edit), args...); !ok || got != want {
		t.Errorf("verified %v, status %q, want %q:\n%s", ok, got, want, out)
	}
}

// REQ F: what is wrong is wrong for openssl too, in its own words.
func TestOpenSSLRejects(t *testing.T) {
	judge := openssl(t)
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	for by, want := range map[ocsptest.Signer]string{
		ocsptest.DelegateNoEKU:       "missing ocspsigning usage",
		ocsptest.DelegateAnyEKU:      "missing ocspsigning usage",
		ocsptest.DelegateExpired:     "certificate has expired",
		ocsptest.DelegateNotYetValid: "certificate is not yet valid",
		ocsptest.DelegateCritical:    "unhandled critical extension",
		ocsptest.DelegateOtherCA:     "certificate signature failure",
		ocsptest.DelegateOtherName:   "unable to get local issuer certificate",
		ocsptest.DelegateOfDelegate:  "certificate verify error",
		ocsptest.DelegateMissing:     "signer certificate not found",
		ocsptest.LeafSigner:          "missing ocspsigning usage",
		ocsptest.WrongKey:            "signature failure",
	} {
		der := ca.Responder.Build(cert, func(s *ocsptest.Spec) { s.Sign.By = by })
		if _, ok, out := judge(t, ca, cert, der); ok || !strings.Contains(out, want) {
			t.Errorf("%v: verified %v, want %q:\n%s", by, ok, want, out)
		}
	}
	for fault, want := range map[ocsptest.Fault]string{
		ocsptest.FaultExpired:          "status expired",
		ocsptest.FaultNotYetValid:      "status not yet valid",
		ocsptest.FaultNextBeforeThis:   "nextupdate before thisupdate",
		ocsptest.FaultWrongSerial:      "No Status found",
		ocsptest.FaultWrongNameHash:    "No Status found",
		ocsptest.FaultWrongKeyHash:     "No Status found",
		ocsptest.FaultNoSingle:         "No Status found",
		ocsptest.FaultBrokenSignature:  "signature failure",
		ocsptest.FaultUnauthorized:     "Responder Error: unauthorized",
		ocsptest.FaultTryLater:         "Responder Error: trylater",
		ocsptest.FaultMalformedRequest: "Responder Error: malformedrequest",
		ocsptest.FaultInternalError:    "Responder Error: internalerror",
		ocsptest.FaultSigRequired:      "Responder Error: sigrequired",
	} {
		ca.Responder.SetFault(fault)
		a := ask(t.Context(), ca.Responder.Client(), post(t, ca.Responder.URL(), request(t, ca, cert, 0)))
		if _, _, out := judge(t, ca, cert, a.body); !strings.Contains(out, want) {
			t.Errorf("%v: want %q:\n%s", fault, want, out)
		}
	}
}

// openssl reads a request and a response over the network itself.
func TestOpenSSLAsks(t *testing.T) {
	judge := openssl(t)
	ca := ocsptest.NewCA(ocsptest.Options{URL: "http://ocsp.example/path"})
	ca.Responder.Start()
	defer ca.Responder.Close()
	cert := ca.Issue(ocsptest.Leaf{})
	status, ok, out := judge(t, ca, cert, nil, "-url", ca.Responder.URL())
	if status != "good" || !ok || ca.Responder.Count("POST", cert) != 1 {
		t.Errorf("status %q, verified %v:\n%s", status, ok, out)
	}
}
