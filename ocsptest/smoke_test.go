package ocsptest_test

import (
	"bytes"
	"crypto/x509"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		c := ca.Issue(ocsptest.Leaf{})
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "example.com"}); err != nil {
			t.Fatal(err)
		}
		der, _ := ocsp.CreateRequest(c.Leaf, ca.Cert, nil)
		cl := ca.Responder.Client()
		cl.Timeout = 10 * time.Second
		for _, f := range append(ocsptest.Faults(), 0) {
			ca.Responder.Script(f)
			resp, err := cl.Post(ca.Responder.URL(), "application/ocsp-request", bytes.NewReader(der))
			if err != nil {
				t.Logf("%v: %v", f, err)
				continue
			}
			if resp.StatusCode == http.StatusMethodNotAllowed {
				t.Log(f, resp.Status)
			}
			b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
			r, perr := ocsp.ParseResponseForCert(b, c.Leaf, ca.Cert)
			t.Log(f, resp.Status, len(b), err, perr, r != nil)
		}
		t.Log(ca.Responder.Requests(), ca.Responder.Count("POST", c))
	})
}
