package scenario_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ E1: what came from the store is not written back.
func TestRestartWritesNothing(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		synctest.Wait()
		before := st.Puts
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		s.Staple(cert)
		time.Sleep(time.Second)
		synctest.Wait()
		if !testkit.Stapled(t, s, ca, cert) || st.Puts != before {
			t.Errorf("%d writes after a restart", st.Puts-before)
		}
	})
}

// REQ C4, REQ A5: a staple that the source set is judged once the issuer is known, also
// where the chain without it was served before.
func TestStapleOfSourceWaitsForItsIssuer(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		cert.OCSPStaple = ca.Responder.Response(cert)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		lone := *cert
		lone.Certificate = cert.Certificate[:1]
		s := testkit.Stapler(t, ca)
		s.Staple(&lone)
		time.Sleep(time.Second)
		if got := s.Status()[0].State; got != staple.StatePending {
			t.Fatalf("without the issuer: %v", got)
		}
		s.Staple(cert)
		time.Sleep(time.Second)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("the source's staple is not used: %+v", s.Status()[0])
		}
	})
}

// What a source returns with an error is returned with it.
func TestSourceFailsWithACertificate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert, fails := ca.Issue(ocsptest.Leaf{}), errors.New("no")
		s := testkit.Stapler(t, ca)
		server := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, fails })
		if got, err := server(testkit.Asking("example.com")); got != cert || err != fails {
			t.Errorf("%v, %v", got == cert, err)
		}
		client := s.GetClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, fails })
		if got, err := client(new(tls.CertificateRequestInfo)); got != cert || err != fails {
			t.Errorf("for a client: %v, %v", got == cert, err)
		}
	})
}

// hung is a user's transport that never returns, until it is let go.
type hung struct {
	over   chan struct{}
	closed atomic.Int32
}

func (h *hung) RoundTrip(*http.Request) (*http.Response, error) {
	<-h.over
	return nil, errors.New("over")
}

func (h *hung) CloseIdleConnections() { h.closed.Add(1) }

// The second Close waits for nothing, and none closes connections that are a user's.
func TestCloseTwice(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		h := &hung{over: make(chan struct{})}
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: h}))
		s.Staple(ca.Issue(ocsptest.Leaf{}))
		time.Sleep(time.Second)
		if err := s.Close(); err == nil {
			t.Error("the first Close names nothing that hangs")
		}
		begun := time.Now()
		if err := s.Close(); err != nil || time.Since(begun) > 0 || h.closed.Load() > 0 {
			t.Errorf("%v after %v; connections closed %d times", err, time.Since(begun), h.closed.Load())
		}
		close(h.over)
	})
}

// REQ D4: one protocol is no challenge unless it is that of ACME.
func TestOneProtocol(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
		for proto, want := range map[string]bool{"h2": true, "acme-tls/1": false} {
			hello := testkit.Asking("example.com")
			hello.SupportedProtos = []string{proto}
			if got, err := hook(hello); err != nil || (got.OCSPStaple != nil) != want {
				t.Errorf("%s: stapled %v, %v", proto, got.OCSPStaple != nil, err)
			}
		}
	})
}

// REQ C5, REQ C7: a client certificate waits for its first response in TLS 1.3 alone,
// where it can carry one, and only for the first; a request made by hand does not fail.
func TestClientWaits(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(time.Second)
		s := testkit.Stapler(t, ca)
		ask := func(s *staple.Stapler, cert *tls.Certificate, cri *tls.CertificateRequestInfo) (took time.Duration) {
			begun := time.Now()
			hook := s.GetClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil })
			if got, err := hook(cri); err != nil || got == nil {
				t.Errorf("%v, %v", got, err)
			}
			return time.Since(begun)
		}
		tls12, tls13 := &tls.CertificateRequestInfo{Version: tls.VersionTLS12}, &tls.CertificateRequestInfo{Version: tls.VersionTLS13}
		must := func() *tls.Certificate { return ca.Issue(ocsptest.Leaf{MustStaple: true, Client: true}) }
		for _, cri := range []*tls.CertificateRequestInfo{nil, tls12} {
			if took := ask(s, must(), cri); took > 0 {
				t.Errorf("%+v: waited for %v", cri, took)
			}
		}
		cert := must()
		if first, again := ask(s, cert, tls13), ask(s, cert, tls13); first != time.Second || again != 0 {
			t.Errorf("TLS 1.3: waited for %v, then for %v", first, again)
		}
		time.Sleep(time.Minute)
		s.Close()
		if took := ask(s, must(), tls13); took > 0 {
			t.Errorf("after Close: waited for %v", took)
		}
	})
}

// REQ C4: a staple that a source sets later is judged, too, and used where it is newer.
func TestSourceSetsAnother(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		good := ca.Responder.Response(cert)
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		s := testkit.Stapler(t, ca)
		for _, own := range [][]byte{nil, []byte("junk"), good} {
			c := *cert
			c.OCSPStaple = own
			s.Staple(&c)
			time.Sleep(time.Second)
		}
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not used: %+v", s.Status()[0])
		}
	})
}
