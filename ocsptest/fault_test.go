package ocsptest_test

import (
	"context"
	"crypto"
	"crypto/fips140"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// noRedirects hands out redirects instead of following them.
func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func TestFaultsInMemory(t *testing.T) {
	for _, fault := range ocsptest.Faults() {
		t.Run(fault.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := ocsptest.NewCA()
				cert := ca.Issue(ocsptest.Leaf{})
				ca.Responder.SetFault(fault)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				client := ca.Responder.Client()
				client.CheckRedirect = noRedirects
				a := ask(ctx, client, post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
				a.ca, a.cert, a.memory = ca, cert, true
				check(t, fault, a)
			})
		})
	}
}

// What has expired has nothing else wrong with it, however young the certificate is.
func TestExpiredYoungLeaf(t *testing.T) {
	for _, age := range []time.Duration{0, time.Minute, 4 * time.Minute, 9 * time.Minute} {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-age)})
		url := getURL(ca.Responder.URL(), request(t, ca, cert, crypto.SHA1))
		for _, fault := range []ocsptest.Fault{ocsptest.FaultExpired, ocsptest.FaultStaleCache} {
			ca.Responder.SetFault(fault)
			a := ask(t.Context(), ca.Responder.Client(), get(t, url))
			if _, err := staple.Verify(a.body, cert.Leaf, ca.Cert); !errors.Is(err, staple.ErrExpired) {
				t.Errorf("%v of a certificate that is %v old: %v", fault, age, err)
			}
		}
	}
}

func TestFaultsOnLoopback(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	defer ca.Responder.Close()
	cert := ca.Issue(ocsptest.Leaf{})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: noRedirects}
	for _, fault := range ocsptest.Faults() {
		t.Run(fault.String(), func(t *testing.T) {
			ca.Responder.SetFault(fault)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if fault == ocsptest.FaultHang { // the hook runs just before
				ca.Responder.SetHook(func(http.ResponseWriter, *http.Request, *big.Int) bool { cancel(); return false })
				defer ca.Responder.SetHook(nil)
			}
			if fault == ocsptest.FaultSlowBody {
				client := &http.Client{Transport: cancelAfterHeader{transport, cancel}}
				a := ask(ctx, client, post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
				check(t, fault, a)
				return
			}
			a := ask(ctx, client, post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
			a.ca, a.cert = ca, cert
			check(t, fault, a)
		})
	}
}

// cancelAfterHeader ends a request when its header is there: the body must not be yet.
type cancelAfterHeader struct {
	next   http.RoundTripper
	cancel context.CancelFunc
}

func (c cancelAfterHeader) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	c.cancel()
	return resp, err
}

// check runs the check of a fault.
func check(t *testing.T, fault ocsptest.Fault, a *answer) {
	t.Helper()
	f := faultChecks[fault]
	if f == nil {
		t.Fatal("no check for this fault")
	}
	fips140.WithoutEnforcement(func() { f(t, a) }) // some verify SHA-1, which must be there to be right
}

// The list is complete: as many faults as checks, with distinct names.
func TestFaultNames(t *testing.T) {
	names := make(map[string]bool)
	for _, f := range ocsptest.Faults() {
		names[f.String()] = true
	}
	if len(names) != len(faultChecks) || len(names) < 40 || names["none"] {
		t.Errorf("got %d names for %d checks", len(names), len(faultChecks))
	}
	if got := ocsptest.FaultNone.String(); got != "none" {
		t.Errorf("got %q", got)
	}
}

func TestStaleCache(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetFault(ocsptest.FaultStaleCache)
	req := get(t, getURL(ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
	a := ask(t.Context(), ca.Responder.Client(), req)
	a.ca, a.cert = ca, cert
	if good(t, a).NextUpdate.After(time.Now()) || a.resp.Header.Get("Age") == "" {
		t.Errorf("not stale: %v", a.resp.Header)
	}
	req.Header.Set("Cache-Control", "no-cache")
	a = ask(t.Context(), ca.Responder.Client(), req)
	a.ca, a.cert = ca, cert
	if good(t, a).NextUpdate.Before(time.Now()) || a.resp.Header.Get("Age") != "" {
		t.Errorf("stale: %v", a.resp.Header)
	}
}

func TestGETRefused(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetFault(ocsptest.FaultGETRefused)
	a := ask(t.Context(), ca.Responder.Client(), get(t, getURL(ca.Responder.URL(), request(t, ca, cert, crypto.SHA1))))
	if a.resp.StatusCode != 405 || a.resp.Header.Get("Allow") != "POST" {
		t.Errorf("got %s, %v", a.resp.Status, a.resp.Header)
	}
}

// A redirect is good for who repeats the request: net/http does so with a GET, and makes a POST
// a GET without a body.
func TestRedirect(t *testing.T) {
	ca := ocsptest.NewCA(ocsptest.Options{URL: "http://ocsp.example/path/"})
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetFault(ocsptest.FaultRedirect)
	der := request(t, ca, cert, crypto.SHA1)
	a := ask(t.Context(), ca.Responder.Client(), get(t, getURL(ca.Responder.URL(), der)))
	a.ca, a.cert = ca, cert
	good(t, a)
	if n := ca.Responder.Count("GET", cert); n != 2 {
		t.Errorf("got %d requests", n)
	}
	a = ask(t.Context(), ca.Responder.Client(), post(t, ca.Responder.URL(), der))
	if a.resp.StatusCode != 400 {
		t.Errorf("got %s for a POST that became a GET", a.resp.Status)
	}
	ca.Responder.SetFault(ocsptest.FaultRedirectLoop)
	a = ask(t.Context(), ca.Responder.Client(), get(t, getURL(ca.Responder.URL(), der)))
	if a.err == nil || !strings.Contains(a.err.Error(), "stopped after 10 redirects") {
		t.Errorf("got %v", a.err)
	}
}

// Script goes first, then the certificate's fault, then the general one.
func TestFaultOrder(t *testing.T) {
	ca := ocsptest.NewCA()
	one, two := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})
	r := ca.Responder
	want := func(cert *tls.Certificate, want ocsp.ResponseStatus) {
		t.Helper()
		if want == ocsp.Success {
			mustFetch(t, ca, cert)
			return
		}
		wantStatus(t, ca, cert, want)
	}
	r.SetFault(ocsptest.FaultTryLater)
	r.SetFaultFor(one, ocsptest.FaultInternalError)
	r.Script(ocsptest.FaultNone, ocsptest.FaultSigRequired)
	want(one, ocsp.Success)
	want(two, ocsp.SignatureRequired)
	want(one, ocsp.InternalError)
	want(two, ocsp.TryLater)
	r.SetFaultFor(one, ocsptest.FaultNone)
	want(one, ocsp.Success)
	want(two, ocsp.TryLater)
	r.SetFaultFor(one, ocsptest.FaultTryLater)
	r.Script(ocsptest.FaultTryLater)
	r.ClearFaults()
	want(one, ocsp.Success)
	want(two, ocsp.Success)
	var got []ocsptest.Fault
	for _, q := range r.Log()[:3] {
		got = append(got, q.Fault)
	}
	if got[0] != ocsptest.FaultNone || got[1] != ocsptest.FaultSigRequired || got[2] != ocsptest.FaultInternalError {
		t.Errorf("logged %v", got)
	}
}

// A fault that is in the signature fits every kind of key.
func TestFaultsWithEveryKey(t *testing.T) {
	for _, typ := range []ocsptest.KeyType{ocsptest.ECDSAP384, ocsptest.RSA2048, ocsptest.Ed25519} {
		t.Run(typ.String(), func(t *testing.T) {
			ca := ocsptest.NewCA(ocsptest.Options{KeyType: typ})
			cert := ca.Issue(ocsptest.Leaf{})
			for _, fault := range ocsptest.Faults() {
				if fault < ocsptest.FaultBrokenSignature {
					continue
				}
				ca.Responder.SetFault(fault)
				a := ask(t.Context(), ca.Responder.Client(), post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
				_, b := decode(t, a.body)
				byCA := ca.Cert.CheckSignature(algorithm(typ), b.Data.Raw, b.Signature.Bytes) == nil
				if byCA != (fault == ocsptest.FaultUnknownAlgorithm) {
					t.Errorf("%v: signed by the CA: %v", fault, byCA)
				}
			}
		})
	}
}

func algorithm(typ ocsptest.KeyType) x509.SignatureAlgorithm {
	return map[ocsptest.KeyType]x509.SignatureAlgorithm{
		ocsptest.ECDSAP384: x509.ECDSAWithSHA384, ocsptest.RSA2048: x509.SHA256WithRSA, ocsptest.Ed25519: x509.PureEd25519,
	}[typ]
}
