package main

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// What curl --cert-status has to do in a case.
const (
	takes = iota
	refuses
	varies // with its version, or it is not asked
)

// A world is what a case may change: a CA with its responder, the leaf, and what
// is stapled with it.
type world struct {
	ca     *ocsptest.CA
	issuer *ocsptest.CA // of the leaf
	cert   *tls.Certificate
	edit   func(*ocsptest.Spec)
	raw    []byte // instead of a response with edit
	args   []string
}

func issue(l ocsptest.Leaf) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.cert = w.issuer.Issue(l) }
}

// nothing is stapled.
func nothing(l ocsptest.Leaf) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.cert, w.raw = w.issuer.Issue(l), []byte{} }
}

func edited(edit func(w *world, s *ocsptest.Spec)) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.edit = func(s *ocsptest.Spec) { edit(w, s) } }
}

// aged has a response begin that long ago, and last for life.
func aged(age, life time.Duration) func(*ocsptest.Spec) {
	return func(s *ocsptest.Spec) {
		s.ProducedAt = time.Now().Add(-age)
		s.Singles[0].ThisUpdate, s.Singles[0].NextUpdate = s.ProducedAt, s.ProducedAt.Add(life)
	}
}

// another is an answer about another certificate of the same issuer.
func another(s *ocsptest.Spec) []ocsptest.Single {
	other := s.Singles[0]
	other.Serial = big.NewInt(4711)
	return []ocsptest.Single{other}
}

// below has an intermediate CA issue the leaf.
func below(t *testing.T, w *world, l ocsptest.Leaf) {
	w.issuer = w.ca.Intermediate("")
	startResponder(t, w.issuer)
	w.cert = w.issuer.Issue(l)
}

var cases = map[string]struct {
	make    func(*testing.T, *world)
	verdict Verdict
	reason  string // in the Reason
	staple  string // its status; empty: none
	answer  string // of the responder: its status or error; empty: not asked
	curl    int
}{
	"good":             {issue(ocsptest.Leaf{MustStaple: true}), VerdictGood, "good", "good", "good", takes},
	"good, a delegate": {edited(func(_ *world, s *ocsptest.Spec) { s.Sign.By = ocsptest.Delegated }), VerdictGood, "good", "good", "good", takes},
	"good, the root embedded": {edited(func(_ *world, s *ocsptest.Spec) { s.Sign.By = ocsptest.IssuerEmbedded }),
		VerdictGood, "good", "good", "good", takes},
	"good, by an intermediate": {func(t *testing.T, w *world) { below(t, w, ocsptest.Leaf{}) }, VerdictGood, "good", "good", "good", takes},
	"good, the responder fails": {func(_ *testing.T, w *world) { w.ca.Responder.SetFault(ocsptest.FaultTryLater) },
		VerdictGood, "good", "good", "OCSP error status tryLater", takes},
	"good, the responder hangs": {func(_ *testing.T, w *world) {
		w.ca.Responder.SetFault(ocsptest.FaultHang)
		w.args = []string{"-timeout", "3s"}
	}, VerdictGood, "good", "good", "not done within 3s", takes},
	"good, of another name": {func(_ *testing.T, w *world) { w.args = []string{"-servername", "www.example.org"} },
		VerdictGood, "good", "good", "good", varies},
	"the chain lacks the root, which is embedded": {func(t *testing.T, w *world) {
		w.cert = w.ca.Issue(ocsptest.Leaf{WithoutIssuer: true})
		w.edit = func(s *ocsptest.Spec) { s.Sign.By = ocsptest.IssuerEmbedded }
		w.args = []string{"-issuer", testkit.WritePEM(t, filepath.Join(t.TempDir(), "ca.pem"), "CERTIFICATE", w.ca.Cert.Raw)}
	}, VerdictBad, "the chain lacks the issuer", "good", "good", refuses},

	"revoked": {func(_ *testing.T, w *world) {
		w.ca.Responder.Revoke(w.cert, ocsp.KeyCompromise, time.Now().Add(-time.Hour))
	},
		VerdictBad, "the responder says that the certificate is revoked", "revoked", "revoked", refuses},
	"revoked, the responder fails": {func(_ *testing.T, w *world) {
		w.ca.Responder.Revoke(w.cert, ocsp.KeyCompromise, time.Now().Add(-time.Hour))
		w.ca.Responder.SetFault(ocsptest.FaultHTTP503)
	}, VerdictBad, "status revoked: keyCompromise", "revoked", "unexpected HTTP status", refuses},
	"revoked, and nothing stapled": {func(_ *testing.T, w *world) {
		w.raw = []byte{}
		w.ca.Responder.Revoke(w.cert, ocsp.KeyCompromise, time.Now().Add(-time.Hour))
	}, VerdictBad, "the responder says that the certificate is revoked", "", "revoked", refuses},
	"revoked since": {func(_ *testing.T, w *world) {
		w.raw = w.ca.Responder.Response(w.cert)
		w.ca.Responder.Revoke(w.cert, ocsp.KeyCompromise, time.Now().Add(-time.Hour))
	}, VerdictBad, "the responder says that the certificate is revoked", "good", "revoked", takes},
	"unknown": {func(_ *testing.T, w *world) { w.ca.Responder.SetUnknown(w.cert) },
		VerdictBad, "status unknown", "unknown", "unknown", refuses},
	"expired": {edited(func(_ *world, s *ocsptest.Spec) {
		s.Singles[0].ThisUpdate = s.Singles[0].ThisUpdate.Add(-48 * time.Hour)
		s.Singles[0].NextUpdate = s.Singles[0].ThisUpdate.Add(24 * time.Hour)
	}), VerdictBad, "expired", "good", "good", refuses},
	"of another certificate": {func(_ *testing.T, w *world) { w.raw = w.ca.Responder.Response(w.ca.Issue(ocsptest.Leaf{})) },
		VerdictBad, "no answer for this serial number", "good", "good", refuses},
	"of another CA": {func(_ *testing.T, w *world) {
		other := ocsptest.NewCA()
		other.Adopt(w.cert.Leaf)
		w.raw = other.Responder.Response(w.cert)
	}, VerdictBad, "another issuer", "good", "good", refuses},
	"badly signed": {edited(func(_ *world, s *ocsptest.Spec) { s.Sign.By = ocsptest.WrongKey }), VerdictBad, "bad signature", "good", "good", refuses},
	"junk":         {func(_ *testing.T, w *world) { w.raw = []byte("junk") }, VerdictBad, "malformed response", "unreadable", "good", refuses},
	"tryLater":     {edited(func(_ *world, s *ocsptest.Spec) { s.Status = ocsp.TryLater }), VerdictBad, "tryLater", "unreadable", "good", refuses},

	"none":                 {nothing(ocsptest.Leaf{}), VerdictBad, "nothing is stapled", "", "good", refuses},
	"none with MustStaple": {nothing(ocsptest.Leaf{MustStaple: true}), VerdictBad, "Must-Staple", "", "good", refuses},
	"none, no responder":   {nothing(ocsptest.Leaf{NoURL: true}), VerdictNoneNeeded, "names no responder", "", "", refuses},
	"none, an LDAP responder": {nothing(ocsptest.Leaf{URLs: []string{"ldap://ocsp.example"}}),
		VerdictNoneNeeded, "names no responder", "", "", refuses},
	"none, no responder, MustStaple": {nothing(ocsptest.Leaf{NoURL: true, MustStaple: true}), VerdictBad, "Must-Staple", "", "", refuses},
	"none, noRevAvail":               {nothing(ocsptest.Leaf{NoRevAvail: true}), VerdictNoneNeeded, "noRevAvail", "", "", refuses},
	"none, self-signed":              {nothing(ocsptest.Leaf{SelfSigned: true}), VerdictNoneNeeded, "self-signed", "", "", varies},
	"none, the certificate expired":  {nothing(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}), VerdictBad, "nothing is stapled", "", "certificate has expired", varies},

	"unknown issuer": {func(_ *testing.T, w *world) {
		other := ocsptest.NewCA()
		w.cert = other.Issue(ocsptest.Leaf{WithoutIssuer: true, MustStaple: true})
		w.raw = other.Responder.Response(w.cert)
	}, VerdictUnknown, "give it by -issuer", "good", "issuer certificate not found", varies},
	"unknown root, by -issuer": {func(t *testing.T, w *world) {
		other := newCA(t)
		w.cert = other.Issue(ocsptest.Leaf{WithoutIssuer: true})
		w.raw = other.Responder.Response(w.cert)
		w.args = []string{"-issuer", testkit.WritePEM(t, filepath.Join(t.TempDir(), "ca.pem"), "CERTIFICATE", w.ca.Cert.Raw, other.Cert.Raw)}
	}, VerdictBad, "the chain lacks the issuer", "good", "good", varies},
	"unknown root": {func(t *testing.T, w *world) {
		other := newCA(t)
		w.cert = other.Issue(ocsptest.Leaf{})
		w.raw = other.Responder.Response(w.cert)
	}, VerdictGood, "good", "good", "good", varies},
	"another CA's certificate as the issuer": {func(_ *testing.T, w *world) {
		mine, other := ocsptest.NewCA(ocsptest.Options{Name: "One"}), ocsptest.NewCA(ocsptest.Options{Name: "One"})
		w.cert = mine.Issue(ocsptest.Leaf{WithoutIssuer: true})
		w.raw = mine.Responder.Response(w.cert)
		w.cert.Certificate = append(w.cert.Certificate, other.Cert.Raw)
	}, VerdictUnknown, "did not sign this certificate", "good", "did not sign", varies},
	"the chain lacks the root": {issue(ocsptest.Leaf{WithoutIssuer: true}), VerdictBad, "the chain lacks the issuer", "good", "good", refuses},
	"the chain lacks the intermediate": {func(t *testing.T, w *world) {
		below(t, w, ocsptest.Leaf{WithoutIssuer: true})
		w.args = []string{"-issuer", testkit.WritePEM(t, filepath.Join(t.TempDir(), "ca.pem"), "CERTIFICATE", w.issuer.Cert.Raw)}
	}, VerdictBad, "the chain lacks the issuer", "good", "good", refuses},

	"too big": {edited(func(w *world, s *ocsptest.Spec) {
		for size := 0; size < 20_000; size += len(w.ca.Cert.Raw) {
			s.Certs = append(s.Certs, w.ca.Cert.Raw)
		}
	}), VerdictBad, "where they take 16376", "good", "good", refuses},
	"SHA-256": {edited(func(_ *world, s *ocsptest.Spec) {
		s.Singles[0].Hash, s.Singles[0].IssuerNameHash, s.Singles[0].IssuerKeyHash = crypto.SHA256, nil, nil
	}), VerdictBad, "SHA-256", "good", "good", varies},
	"the first of several expired": {edited(func(_ *world, s *ocsptest.Spec) {
		old := s.Singles[0]
		old.ThisUpdate = old.ThisUpdate.Add(-48 * time.Hour)
		old.NextUpdate = old.ThisUpdate.Add(24 * time.Hour)
		s.Singles = append([]ocsptest.Single{old}, s.Singles...)
	}), VerdictBad, "the first of several answers", "good", "good", refuses},
	"12 days old": {func(_ *testing.T, w *world) {
		w.cert = w.ca.Issue(ocsptest.Leaf{NotBefore: time.Now().AddDate(0, 0, -20)})
		w.edit = aged(12*24*time.Hour, 30*24*time.Hour)
	}, VerdictBad, "12 days old", "good", "good", takes},
	"almost 11 days old": {func(_ *testing.T, w *world) {
		w.cert = w.ca.Issue(ocsptest.Leaf{NotBefore: time.Now().AddDate(0, 0, -20)})
		w.edit = aged(11*24*time.Hour-time.Minute, 30*24*time.Hour)
	}, VerdictGood, "good", "good", "good", takes},
	"another certificate first": {edited(func(_ *world, s *ocsptest.Spec) { s.Singles = append(another(s), s.Singles...) }),
		VerdictBad, "the first answer in the staple is about another certificate", "good", "good", takes},
	"another certificate last": {edited(func(_ *world, s *ocsptest.Spec) { s.Singles = append(s.Singles, another(s)...) }),
		VerdictGood, "good", "good", "good", takes},
	"junk among the certificates": {edited(func(_ *world, s *ocsptest.Spec) { s.Certs = append(s.Certs, []byte{0x30, 2, 0x30, 0}) }),
		VerdictBad, "can't be read", "good", "good", refuses},
	"a decoy": {edited(func(_ *world, s *ocsptest.Spec) {
		decoy := ocsptest.NewCA()
		s.Certs = append(s.Certs, decoy.Cert.Raw)
		s.Sign.By, s.Sign.Template = ocsptest.Delegated, func(c *x509.Certificate) { c.Subject = decoy.Cert.Subject }
	}), VerdictBad, "did not sign comes first", "good", "good", refuses},
	"a decoy of the issuer": {edited(func(w *world, s *ocsptest.Spec) {
		s.Certs = append(s.Certs, ocsptest.NewCA(ocsptest.Options{Name: w.ca.Cert.Subject.CommonName}).Cert.Raw)
	}), VerdictBad, "bad signature on embedded certificate", "good", "good", takes},
	"the intermediate embedded": {func(t *testing.T, w *world) {
		below(t, w, ocsptest.Leaf{})
		w.edit = func(s *ocsptest.Spec) { s.Sign.By = ocsptest.IssuerEmbedded }
	}, VerdictBad, "the certificates that come with the staple", "good", "good", takes},
}

func TestCheck(t *testing.T) {
	curl := testkit.Program(t, "curl")
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := newCA(t)
			w := &world{ca: ca, issuer: ca, cert: ca.Issue(ocsptest.Leaf{})}
			tt.make(t, w)
			if w.raw == nil {
				w.raw = w.issuer.Responder.Build(w.cert, w.edit)
			}
			addr := serve(t, withStaple(w.cert, w.raw))
			r := visit(t, ca, append(append([]string{"-servername", "example.com"}, w.args...), addr)...)
			if r.Verdict != tt.verdict || !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("%s: %s, want %s: %s", r.Verdict, r.Reason, tt.verdict, tt.reason)
			}
			if got := (r.Staple != nil); got != (tt.staple != "") || got && r.Staple.Status != tt.staple {
				t.Errorf("staple %+v, want %q", r.Staple, tt.staple)
			}
			if a := r.Answer; (a != nil) != (tt.answer != "") || a != nil && a.Status != tt.answer && (a.Status != "" || tt.answer == "unknown" || !strings.Contains(a.Error, tt.answer)) {
				t.Errorf("answer %+v, want %q", a, tt.answer)
			}
			if got, want := r.exitStatus(), map[Verdict]int{VerdictBad: 1, VerdictUnknown: 2}[tt.verdict]; got != want {
				t.Errorf("exit status %d, want %d", got, want)
			}
			if tt.curl != varies && curlTakes(t, curl, ca, addr) != (tt.curl == takes) {
				t.Error("curl --cert-status is of another mind")
			}
			if t.Failed() {
				t.Log("\n" + r.text())
			}
		})
	}
}

// curlTakes reports whether curl --cert-status does, in TLS 1.2.
func curlTakes(t *testing.T, curl string, ca *ocsptest.CA, addr string) bool {
	_, port, _ := net.SplitHostPort(addr)
	out, err := exec.CommandContext(t.Context(), curl, "--silent", "--show-error", "--cert-status", "--noproxy", "*", "--tls-max", "1.2",
		"--cacert", testkit.WritePEM(t, filepath.Join(t.TempDir(), "root.pem"), "CERTIFICATE", ca.Cert.Raw), "--resolve", "example.com:"+port+":127.0.0.1", "https://example.com:"+port+"/").CombinedOutput()
	if err != nil {
		t.Logf("curl: %v: %s", err, out)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil
}

// The rest of what is told of a staple.
func TestFacts(t *testing.T) {
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example", "192.0.2.1"}})
	build := func(edit func(*ocsptest.Spec)) *Report {
		return visit(t, ca, "-servername", "a.example", serve(t, withStaple(cert, ca.Responder.Build(cert, edit))))
	}
	r := build(func(s *ocsptest.Spec) {
		s.Sign.By = ocsptest.Delegated
		s.Singles[0].ThisUpdate = s.Singles[0].ThisUpdate.Add(-25 * time.Hour)
		s.Singles[0].NextUpdate = s.Singles[0].ThisUpdate.Add(100 * time.Hour)
	})
	s := r.Staple
	if !s.Proven || s.SignedBy != "delegate" || s.Signer == "" || *s.LeftPercent > 75 || *s.LeftPercent < 73 || *s.AgeSeconds < 25*3600 || s.Hash != "SHA-1" {
		t.Errorf("%+v", s)
	}
	if c := r.Certificate; strings.Join(c.Names, " ") != "a.example 192.0.2.1" || !c.Trusted || !c.ChainHasIssuer || c.ChainLength != 2 {
		t.Errorf("%+v", c)
	}
	if s := build(func(s *ocsptest.Spec) { s.Singles[0].NextUpdate = time.Time{} }).Staple; s.NextUpdate != nil || s.LeftPercent != nil || !s.Proven {
		t.Errorf("no nextUpdate: %+v", s)
	}
	if s := build(func(s *ocsptest.Spec) { s.Singles[0].NextUpdate = s.Singles[0].ThisUpdate }).Staple; s.Proven || *s.LeftPercent != 0 {
		t.Errorf("nextUpdate is thisUpdate: %+v", s)
	}
}

// What a certificate, or a response without proof, says is told as near as JSON has a form
// for it: encoding/json would refuse the whole report.
func TestStrangeTimes(t *testing.T) {
	day := time.FixedZone("", 24*3600) // x/crypto/ocsp reads it as +2400
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{time.Date(2026, 5, 2, 1, 0, 0, 0, day), `"2026-05-01T01:00:00Z"`},
		{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), `"0000-01-01T00:00:00Z"`},
		{time.Date(0, 1, 1, 0, 0, 0, 0, day), `"0000-01-01T00:00:00Z"`},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, day), `"9999-12-31T00:00:00Z"`},
		{time.Date(9999, 12, 31, 1, 0, 0, 0, time.FixedZone("", -24*3600)), `"9999-12-31T23:59:59Z"`},
		{time.Time{}, "null"},
	} {
		if got, err := json.Marshal(certinfo.JSONTimeOrNil(tt.at)); err != nil || string(got) != tt.want {
			t.Errorf("%v: got %s, %v, want %s", tt.at, got, err, tt.want)
		}
		p := &peer{leaf: &x509.Certificate{NotAfter: tt.at, SerialNumber: new(big.Int)}}
		if _, err := json.Marshal(p.describe()); err != nil {
			t.Errorf("a certificate that ends %v: %v", tt.at, err)
		}
	}
}

// A server that wants a client certificate has shown its own before.
func TestClientCertificate(t *testing.T) {
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := withStaple(cert, ca.Responder.Response(cert))
		cfg.ClientAuth, cfg.MaxVersion = tls.RequireAndVerifyClientCert, version
		cfg.ClientCAs = x509.NewCertPool()
		r := visit(t, ca, serve(t, cfg))
		if r.Verdict != VerdictGood || r.TLSVersion != tls.VersionName(version) {
			b, _ := json.Marshal(r)
			t.Errorf("%s", b)
		}
	}
}
