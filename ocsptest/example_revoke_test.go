package ocsptest_test

import (
	"fmt"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// What a responder says is set per certificate and may change at any time.
func ExampleResponder_Revoke() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	show := func() {
		resp, err := ocsp.ParseResponseForCert(ca.Responder.Response(cert), cert.Leaf, ca.Cert)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(resp.Status == ocsp.Revoked, resp.NextUpdate.Sub(resp.ThisUpdate))
	}
	show()
	ca.Responder.SetValidity(time.Hour)
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
	show()
	// Output:
	// false 96h0m0s
	// true 1h0m0s
}
