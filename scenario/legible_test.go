package scenario_test

import (
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// What a responder's TLS certificate says of itself commands no terminal: crypto/x509
// quotes its names as they are, before anything about it was verified.
func TestErrorsAreLegible(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		refuses := testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"a\x1b]0;owned\a\r.test"}}, Host: r.URL.Host}
		})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: refuses}))
		defer s.Close()
		err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{}))
		if err == nil || !strings.Contains(err.Error(), "owned") || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q", err)
		}
	})
}
