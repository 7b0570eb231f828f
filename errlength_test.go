package staple_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

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
		bubble(t, func(t *testing.T, _ *ocsptest.CA) {
			ca := ocsptest.NewCA(ocsptest.Options{Name: "CA " + long})
			cert := ca.Issue(tc.leaf)
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: roundTripper(tc.world)}))
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
