package scenario_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ A5: the issuer is found in the chain, in WithIssuers and by caIssuers;
// its signature decides, not its name.
func TestIssuerIsFound(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
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
			s := testkit.Stapler(t, ca, tc.opt)
			err := s.Prefetch(context.Background(), tc.cert)
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
			if tc.name == "PKCS#7" && (testkit.Reason(err) != staple.ReasonIssuer || !strings.Contains(err.Error(), "unsupported")) {
				t.Errorf("PKCS#7: %v", err)
			}
			if got := testkit.Stapled(t, s, ca, tc.cert); got != (tc.want == nil) {
				t.Errorf("%s: stapled %v", tc.name, got)
			}
		}
	})
}

// REQ A5: a certificate that did not sign the leaf is not its issuer, wherever it
// comes from: nobody is asked on its word.
func TestDownloadedIssuerSignedNothing(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		impostor := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
		asked := 0
		client := &http.Client{Transport: testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, "issuer.") {
				return impostor.Responder.RoundTrip(req)
			}
			asked++
			return ca.Responder.RoundTrip(req)
		})}
		cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{impostor.Responder.IssuerURL("der")}})
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(client))
		err := s.Prefetch(context.Background(), cert)
		if !errors.Is(err, staple.ErrNoIssuer) || testkit.Reason(err) != staple.ReasonIssuer {
			t.Errorf("got %v, want ErrNoIssuer for %v", err, staple.ReasonIssuer)
		}
		if asked > 0 || testkit.Stapled(t, s, ca, cert) {
			t.Errorf("%d requests about the impostor's certificate", asked)
		}
	})
}

// A chain that is completed later is looked at when it is met, wherever that
// is, also where another attempt is due some time: what waits gets its response.
func TestIssuerComesWithAnotherChain(t *testing.T) {
	ways := map[string]func(*testing.T, *staple.Stapler, *tls.Certificate){
		"Staple":   func(_ *testing.T, s *staple.Stapler, c *tls.Certificate) { s.Staple(c) },
		"a source": func(t *testing.T, s *staple.Stapler, c *tls.Certificate) { s.Staple(testkit.Anew(t, c)) },
		"Prefetch": func(t *testing.T, s *staple.Stapler, c *tls.Certificate) {
			if err := s.Prefetch(t.Context(), testkit.Anew(t, c)); err != nil {
				t.Error(err)
			}
		},
		"TLSConfig": func(t *testing.T, s *staple.Stapler, c *tls.Certificate) { testkit.List(t, s, c) },
	}
	for way, meet := range ways {
		for _, urls := range [][]string{nil, {"http://gone.example/ca.der"}} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				full := ca.Issue(ocsptest.Leaf{MustStaple: true, IssuerURLs: urls})
				bare := *full
				bare.Certificate = full.Certificate[:1]
				s := testkit.Network(t, []*ocsptest.Responder{ca.Responder})
				if err := s.Prefetch(t.Context(), &bare); !errors.Is(err, staple.ErrNoIssuer) {
					t.Fatal(err)
				}
				time.Sleep(24 * time.Hour) // retries are rare now
				meet(t, s, full)
				synctest.Wait()
				if !testkit.Stapled(t, s, ca, full) || s.Ready() != nil {
					t.Errorf("%s, caIssuers %q: not stapled with the full chain: %v", way, urls, s.Ready())
				}
			})
		}
	}
}

// A chain that stays wrong is looked at once, however often it is served, and
// one that comes while an attempt is under way is used by that.
func TestChainIsLookedAtOnce(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var failed int // read after synctest.Wait
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder}, staple.WithEventFunc(func(staple.Event) { failed++ }))
		wrong := ca.Issue(ocsptest.Leaf{IssuerURLs: []string{"http://gone.example/ca.der"}})
		wrong.Certificate[1] = ocsptest.NewCA().Cert.Raw
		for range 1000 {
			s.Staple(testkit.Anew(t, wrong))
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if failed < 60 || failed > 120 {
			t.Errorf("%d attempts in 16 hours, want those of retries that grow to 15 minutes", failed)
		}
	})
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		stuck := ca.NewResponder("")
		stuck.SetFault(ocsptest.FaultHang)
		full := ca.Issue(ocsptest.Leaf{IssuerURLs: []string{stuck.URL() + "/x"}})
		bare := *full
		bare.Certificate = full.Certificate[:1]
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder, stuck})
		s.Staple(&bare)
		time.Sleep(time.Second)
		if err := s.Prefetch(t.Context(), full); err != nil {
			t.Errorf("a chain that comes during a download: %v", err)
		}
	})
}

// A certificate without a well-defined end has one in the year 9999 (RFC 5280
// §4.1.2.5), which is no number of nanoseconds.
func TestNoWellDefinedExpiry(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		cert := ca.Issue(ocsptest.Leaf{NotAfter: end})
		ca.Responder.SetEdit(func(spec *ocsptest.Spec) {
			for i := range spec.Singles {
				spec.Singles[i].NextUpdate = end
			}
		})
		s := testkit.Stapler(t, ca)
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("not stapled")
		}
		if got := ca.Responder.Requests(); got < 48 || got > 80 {
			t.Errorf("%d requests in 48 hours, want one an hour or a little more", got)
		}
	})
}

// REQ A5, REQ E4: certificates of one issuer share its download, at once and in
// turn, whatever hangs elsewhere.
func TestIssuerIsDownloadedOnce(t *testing.T) {
	bare := func(ca *ocsptest.CA, n int) (certs []*tls.Certificate) {
		for range n {
			certs = append(certs, ca.Issue(ocsptest.Leaf{Key: ca.Key(), WithoutIssuer: true, IssuerURLs: []string{ca.Responder.IssuerURL("der")}}))
		}
		return certs
	}
	for _, one := range []bool{false, true} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s, certs := testkit.Stapler(t, ca), bare(ca, 300)
			if !one {
				if err := s.Prefetch(context.Background(), certs...); err != nil {
					t.Fatal(err)
				}
			}
			for _, cert := range certs[:100] {
				if err := s.Prefetch(context.Background(), cert); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
			}
			if n := len(ca.Responder.Log()) - ca.Responder.Requests(); n != 1 {
				t.Errorf("one after the other %v: %d downloads for one issuer", one, n)
			}
		})
	}
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		a, b := ca.NewResponder(""), ca.NewResponder("")
		other := ocsptest.NewCA()
		s := testkit.Network(t, []*ocsptest.Responder{other.Responder, a, b})
		for _, r := range []*ocsptest.Responder{a, b} {
			r.SetFault(ocsptest.FaultHang)
			for range 40 {
				testkit.List(t, s, ca.Issue(ocsptest.Leaf{Key: ca.Key(), URLs: []string{r.URL()}}))
			}
		}
		time.Sleep(time.Second)
		if err := s.Prefetch(context.Background(), bare(other, 1)...); err != nil {
			t.Errorf("with 64 exchanges that hang: %v", err)
		}
	})
}

// A caIssuers URL that is dead, or has the certificate of another CA, is not
// asked once for each certificate; what is mended is seen within a minute, and
// by a certificate alone at its next retry.
func TestIssuerDownloadFails(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		other := ocsptest.NewCA()
		for _, u := range []string{"http://gone.example/ca.der", other.Responder.IssuerURL("der"), ca.Responder.IssuerURL("p7c")} {
			var asked, mended atomic.Int64
			inner := ocsptest.Network(ca.Responder, other.Responder)
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.String() == u {
					if asked.Add(1); mended.Load() > 0 {
						r, _ = http.NewRequestWithContext(r.Context(), http.MethodGet, ca.Responder.IssuerURL("der"), nil)
					}
				}
				return inner.Transport.RoundTrip(r)
			})}))
			leaf := ocsptest.Leaf{Key: ca.Key(), WithoutIssuer: true, IssuerURLs: []string{u}}
			first := ca.Issue(leaf)
			if err := s.Prefetch(context.Background(), first); testkit.Reason(err) != staple.ReasonIssuer || !errors.Is(err, staple.ErrNoIssuer) ||
				!strings.Contains(err.Error(), "issuer certificate at "+u+": ") || strings.Contains(err.Error(), "OCSP responder") {
				t.Errorf("%s: %v", u, err)
			}
			time.Sleep(1500 * time.Millisecond)
			if n := asked.Load(); n != 2 {
				t.Errorf("%s: asked %d times for one certificate, want a retry after a second", u, n)
			}
			certs := []*tls.Certificate{first}
			for range 200 {
				certs = append(certs, ca.Issue(leaf))
			}
			testkit.List(t, s, certs...)
			time.Sleep(time.Hour)
			if n := asked.Load(); n > 70 {
				t.Errorf("%s: asked %d times in an hour for %d certificates, want once a minute", u, n, len(certs))
			}
			mended.Store(1)
			cert := ca.Issue(leaf)
			time.Sleep(time.Minute)
			if err := s.Prefetch(context.Background(), cert); err != nil {
				t.Errorf("%s: mended: %v", u, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A caIssuers URL that hangs is not taken for a responder that does.
func TestIssuerDownloadHangs(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		stuck := ca.NewResponder("")
		stuck.SetFault(ocsptest.FaultHang)
		var events []staple.Event // read after synctest.Wait
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder, stuck}, staple.WithEventFunc(func(e staple.Event) { events = append(events, e) }))
		err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{stuck.URL() + "/x"}}))
		if !errors.Is(err, staple.ErrNoIssuer) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "issuer certificate at "+stuck.URL()) {
			t.Error(err)
		}
		synctest.Wait()
		if len(events) != 1 || events[0].Responder != ca.Responder.URL() {
			t.Errorf("%+v, want one event that names the responder %s", events, ca.Responder.URL())
		}
	})
}

// REQ E13: the issuer of a certificate that is not valid yet is not looked for before
// it is. What is said of it is from when.
func TestNoIssuerBeforeItIsValid(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		gone := ca.NewResponder("")
		gone.SetFault(ocsptest.FaultHTTP404)
		from := time.Now().Add(10 * time.Hour)
		cert := ca.Issue(ocsptest.Leaf{NotBefore: from, WithoutIssuer: true, IssuerURLs: []string{gone.URL() + "/ca.der"}})
		s := testkit.Network(t, []*ocsptest.Responder{ca.Responder, gone})
		cfg := testkit.List(t, s, cert)
		err := s.Prefetch(t.Context(), cert)
		if err == nil || !strings.Contains(err.Error(), "not valid before "+from.UTC().Format(time.RFC3339)) {
			t.Errorf("%v, want from when it is valid", err)
		}
		time.Sleep(9 * time.Hour)
		if n := s.Stats().Requests; n > 0 {
			t.Errorf("%d requests before it is valid", n)
		}
		time.Sleep(time.Hour)
		if n := s.Stats().Requests; n == 0 {
			t.Error("its issuer is not looked for when it is valid")
		}
		runtime.KeepAlive(cfg)
	})
}
