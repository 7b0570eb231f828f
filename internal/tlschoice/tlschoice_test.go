//lint:file-ignore SA1019 NameToCertificate is deprecated, and honoured.

package tlschoice_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ocspstaple/staple/internal/tlschoice"
	"github.com/ocspstaple/staple/ocsptest"
)

// counted counts the looks that SupportsCertificate takes at a key.
type counted struct {
	crypto.Signer
	looks *atomic.Int64
}

func (c counted) Public() crypto.PublicKey {
	c.looks.Add(1)
	return c.Signer.Public()
}

// What a handshake costs does not grow with the list: neither for a name that
// no certificate has (crypto/tls parses or matches every one), nor for a
// client that supports none of the 10,000.
//
// REQ C6
func TestChoiceAmongMany(t *testing.T) {
	var looks atomic.Int64
	model := ocsptest.NewCA().Issue(ocsptest.Leaf{NoURL: true})
	key := counted{model.PrivateKey.(crypto.Signer), &looks}
	base := new(tls.Config)
	for i := range 10_000 {
		base.Certificates = append(base.Certificates, tls.Certificate{Certificate: model.Certificate, PrivateKey: key,
			Leaf: &x509.Certificate{Raw: model.Leaf.Raw, DNSNames: []string{fmt.Sprintf("host%d.example.com", i)}}})
	}
	hook := hooked(base, true).GetCertificate
	rsa := asking("")
	rsa.SignatureSchemes = []tls.SignatureScheme{tls.PSSWithSHA256}
	for _, tt := range []struct {
		name  string
		hello *tls.ClientHelloInfo
		want  int
	}{
		{"unknown name", asking("nobody.example.com"), 0},
		{"last of all", asking("host9999.example.com"), 9999},
		{"no name, supports none", rsa, 0},
		{"unknown address", asking("192.0.2.77"), 0},
	} {
		looks.Store(0)
		const runs = 10
		allocs := testing.AllocsPerRun(runs, func() {
			got, err := hook(tt.hello)
			if err != nil || got == nil || got.Leaf != base.Certificates[tt.want].Leaf {
				t.Fatalf("%s: got another certificate, %v", tt.name, err)
			}
		})
		if n := looks.Load() / (runs + 1); allocs > 40 || n > 10 {
			t.Errorf("%s: %v allocations, %d looks at keys", tt.name, allocs, n)
		}
	}
}

// asking is a ClientHelloInfo by hand.
func asking(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        name,
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.Ed25519},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
		SupportedPoints:   []uint8{0},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}
}

// A client presents the first certificate that the server can use, else none.
func TestChooseClient(t *testing.T) {
	ca := ocsptest.NewCA()
	first := ca.Issue(ocsptest.Leaf{KeyType: ocsptest.ECDSAP384, Client: true, NoURL: true})
	second := ca.Issue(ocsptest.Leaf{Client: true, NoURL: true})
	src := tlschoice.Take(&tls.Config{Certificates: []tls.Certificate{*first, *second}})
	for _, tt := range []struct {
		name string
		cri  *tls.CertificateRequestInfo
		want *tls.Certificate
	}{
		{"both", &tls.CertificateRequestInfo{Version: tls.VersionTLS13,
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384}}, first},
		{"the second", &tls.CertificateRequestInfo{Version: tls.VersionTLS13,
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}, second},
		{"none", &tls.CertificateRequestInfo{Version: tls.VersionTLS13, SignatureSchemes: []tls.SignatureScheme{tls.Ed25519}}, nil},
		{"no request", nil, nil},
	} {
		got := src.ChooseClient(tt.cri)
		if want := tt.want; want == nil && len(got.Certificate) > 0 || want != nil && got.Leaf != want.Leaf {
			t.Errorf("%s: got another certificate", tt.name)
		}
	}
}

// What is taken is no longer in the config, or crypto/tls would choose by itself;
// and NameToCertificate, a map, is not shared with who may write it.
func TestTake(t *testing.T) {
	cert := ocsptest.NewCA().Issue(ocsptest.Leaf{NoURL: true})
	names := map[string]*tls.Certificate{"a.example": cert}
	cfg := &tls.Config{Certificates: make([]tls.Certificate, 2), NameToCertificate: names}
	src := tlschoice.Take(cfg).Indexed()
	if len(cfg.Certificates) > 0 || cfg.NameToCertificate != nil {
		t.Error("the config has certificates still")
	}
	delete(names, "a.example")
	if got, err := src.Choose(asking("a.example")); got != cert || err != nil {
		t.Errorf("got %p, %v, want %p: what was listed by that name", got, err, cert)
	}
}

var hook func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// REQ C6: a hook that lives for one handshake costs its closure alone.
func TestChooseAllocatesNothing(t *testing.T) {
	ca, cfg := ocsptest.NewCA(), new(tls.Config)
	cert := ca.Issue(ocsptest.Leaf{NoURL: true})
	certs := []tls.Certificate{*cert}
	hello := asking("example.com")
	if n := testing.AllocsPerRun(100, func() {
		cfg.Certificates = certs
		src := tlschoice.Take(cfg)
		hook = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return src.Choose(h) }
		if got, err := hook(hello); got != &certs[0] || err != nil {
			t.Fatalf("got %p, %v, want %p", got, err, &certs[0])
		}
	}); n != 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}
