package staple_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// REQ A5: the issuer is found in the chain, in WithIssuers and by caIssuers;
// its signature decides, not its name.
func TestIssuerIsFound(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		name := ca.Cert.Subject.CommonName
		impostor := ocsptest.NewCA(ocsptest.Options{Name: name})
		stranger := ocsptest.NewCA()
		chain := func(l ocsptest.Leaf, more ...*x509.Certificate) *tls.Certificate {
			l.WithoutIssuer = true
			c := ca.Issue(l)
			for _, m := range more {
				c.Certificate = append(c.Certificate, m.Raw)
			}
			return c
		}
		for _, tc := range []struct {
			name string
			cert *tls.Certificate
			opt  staple.Option
			want error
		}{
			{"in the chain", chain(ocsptest.Leaf{}, ca.Cert), nil, nil},
			{"behind others", chain(ocsptest.Leaf{}, stranger.Cert, impostor.Cert, ca.Cert), nil, nil},
			{"cross-signed", chain(ocsptest.Leaf{}, ca.CrossSign(stranger)), nil, nil},
			{"WithIssuers", chain(ocsptest.Leaf{}), staple.WithIssuers(nil, impostor.Cert, ca.Cert), nil},
			{"DER", chain(ocsptest.Leaf{IssuerURLs: []string{ca.Responder.IssuerURL("der")}}), nil, nil},
			{"PEM", chain(ocsptest.Leaf{IssuerURLs: []string{"ldap://x.example/", ca.Responder.IssuerURL("pem")}}), nil, nil},
			{"nowhere", chain(ocsptest.Leaf{}), nil, staple.ErrNoIssuer},
			{"same name, another key", chain(ocsptest.Leaf{}, impostor.Cert), staple.WithIssuers(impostor.Cert), staple.ErrNoIssuer},
			{"PKCS#7", chain(ocsptest.Leaf{IssuerURLs: []string{ca.Responder.IssuerURL("p7c")}}), nil, staple.ErrNoIssuer},
		} {
			s := stapler(t, ca, tc.opt)
			err := s.Prefetch(context.Background(), tc.cert)
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
			if tc.name == "PKCS#7" && (reason(err) != staple.ReasonIssuer || !strings.Contains(err.Error(), "unsupported")) {
				t.Errorf("PKCS#7: %v", err)
			}
			if got := stapled(t, s, ca, tc.cert); got != (tc.want == nil) {
				t.Errorf("%s: stapled %v", tc.name, got)
			}
		}
	})
}

// A source that completes its chain later is served from then on.
func TestIssuerComesWithAnotherChain(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: true})
		s := stapler(t, ca)
		if err := s.Prefetch(context.Background(), cert); !errors.Is(err, staple.ErrNoIssuer) {
			t.Fatal(err)
		}
		full := *cert
		full.Certificate = [][]byte{cert.Certificate[0], ca.Cert.Raw}
		s.Staple(&full)
		synctest.Wait()
		if !stapled(t, s, ca, &full) || s.Ready() != nil {
			t.Errorf("not stapled with the full chain: %v", s.Ready())
		}
	})
}

// A certificate without a well-defined end has one in the year 9999 (RFC 5280
// §4.1.2.5), which is no number of nanoseconds.
func TestNoWellDefinedExpiry(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		cert := ca.Issue(ocsptest.Leaf{NotAfter: end})
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) {
			for i := range spec.Singles {
				spec.Singles[i].NextUpdate = end
			}
		})
		s := stapler(t, ca)
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if !stapled(t, s, ca, cert) {
			t.Error("not stapled")
		}
		if got := ca.Responder.Requests(); got < 48 || got > 80 {
			t.Errorf("%d requests in 48 hours, want one an hour or a little more", got)
		}
	})
}
