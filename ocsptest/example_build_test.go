package ocsptest_test

import (
	"fmt"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// Build shapes a response for code that reads them: here one that says two things at once.
func ExampleResponder_Build() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	der := ca.Responder.Build(cert, func(s *ocsptest.Spec) {
		revoked := s.Singles[0]
		revoked.Status, revoked.RevokedAt = ocsp.Revoked, time.Now()
		s.Singles = append(s.Singles, revoked)
	})
	resp, err := ocsp.ParseResponseForCert(der, cert.Leaf, ca.Cert)
	fmt.Println(resp.Status == ocsp.Good, err) // x/crypto/ocsp takes the first
	// Output: true <nil>
}
