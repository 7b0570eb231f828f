package staple_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// A genuine response can be padded by anyone on the path, in its unsigned part,
// until clients choke on it. These are about what that may do.

// sized makes a good response of that many bytes, by an extension.
func sized(t testing.TB, ca *ocsptest.CA, cert *tls.Certificate, size int) []byte {
	t.Helper()
	pad := size - 1000
	for range 100 { // signatures vary in length
		raw := ca.Responder.Build(cert, func(s *ocsptest.Spec) {
			s.Extensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 99999, 1}, Value: make([]byte, pad)}}
		})
		if len(raw) == size {
			return raw
		}
		pad += size - len(raw)
	}
	t.Fatalf("no response of %d bytes", size)
	return nil
}

// serving is a RoundTripper that answers with body.
func serving(body []byte) *http.Client {
	return &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {ocspMedia}},
			Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req}, nil
	})}
}

// copies has a response come with so many copies of the CA's certificate, and
// otherwise say what it did at the time.
func copies(ca *ocsptest.CA, n int, at time.Time) func(*ocsptest.Spec) {
	return func(s *ocsptest.Spec) {
		s.ProducedAt = at
		for i := range s.Singles {
			s.Singles[i].ThisUpdate, s.Singles[i].NextUpdate = at, at.AddDate(0, 0, 4)
		}
		s.Certs = slices.Repeat([][]byte{ca.Cert.Raw}, n)
	}
}

// REQ C4: what is longer than TLS clients take, or has more certificates, is not
// stapled, whether the network, a store or the source has it.
func TestNothingTooLongIsStapled(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		now := time.Now()
		for _, size := range []int{staple.MaxStaple, staple.MaxStaple + 1} {
			cert := ca.Issue(ocsptest.Leaf{})
			raw := sized(t, ca, cert, size)
			everyWayIn(t, ca, cert, raw, size == staple.MaxStaple)
		}
		for _, n := range []int{staple.MaxCerts, staple.MaxCerts + 1} {
			cert := ca.Issue(ocsptest.Leaf{})
			raw := ca.Responder.Build(cert, copies(ca, n, now))
			everyWayIn(t, ca, cert, raw, n == staple.MaxCerts)
		}
	})
}

// everyWayIn offers raw in every way, and sees whether it is stapled.
func everyWayIn(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, raw []byte, want bool) {
	t.Helper()
	down := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, http.ErrHandlerTimeout })}
	st := new(shelf)
	if err := stapler(t, ca, staple.WithStore(st)).Prefetch(context.Background(), cert); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	key, _ := st.only(t)
	st.set(key, block("OCSP RESPONSE", raw, time.Now()))
	preset := *cert
	preset.OCSPStaple = raw
	for name, c := range map[string]struct {
		cert *tls.Certificate
		opts []staple.Option
	}{
		"network": {cert, []staple.Option{staple.WithHTTPClient(serving(raw))}},
		"store":   {cert, []staple.Option{staple.WithHTTPClient(down), staple.WithStore(st)}},
		"source":  {&preset, []staple.Option{staple.WithHTTPClient(down)}},
	} {
		s := stapler(t, ca, c.opts...)
		err := s.Prefetch(context.Background(), c.cert)
		if got := bytes.Equal(s.Staple(c.cert).OCSPStaple, raw); got != want {
			t.Errorf("%s: %d bytes: stapled %v, want %v: %v", name, len(raw), got, want, err)
		}
		if name == "network" && (reason(err) == staple.ReasonTooLarge) == want {
			t.Errorf("%d bytes: Prefetch: %v", len(raw), err)
		}
	}
}

// REQ B12, REQ C4: a revocation counts, however long, but isn't shown.
func TestPaddedRevocation(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		s := stapler(t, ca, staple.WithStapleRevoked(true))
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		ca.Responder.SetFault(ocsptest.FaultPadded20K)
		time.Sleep(2 * time.Hour)
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) || s.Staple(cert).OCSPStaple != nil {
			t.Errorf("padded: Ready says %v, %d bytes stapled", err, len(s.Staple(cert).OCSPStaple))
		}
		ca.Responder.ClearFaults()
		time.Sleep(24 * time.Hour)
		if s.Staple(cert).OCSPStaple == nil {
			t.Error("not padded: not stapled, though it was asked for")
		}
	})
}

// REQ B15: the same, signed, in more bytes is no news: it is neither stapled nor
// stored. In fewer it is.
func TestPaddedReplay(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		begun, st, events := time.Now(), new(shelf), new(ledger)
		s := stapler(t, ca, staple.WithStore(st), staple.WithEventFunc(func(e staple.Event) {
			if e.Kind != staple.EventStored {
				events.add(e.Kind)
			}
		}))
		cert := ca.Issue(ocsptest.Leaf{})
		for _, step := range []struct {
			copies int
			news   bool
		}{{2, true}, {3, false}, {60, false}, {300, false}, {1, true}, {2, false}, {0, true}, {1, false}} {
			before := s.Staple(cert).OCSPStaple
			ca.Responder.SetEdit(copies(ca, step.copies, begun))
			had := len(events.all())
			if before == nil {
				if err := s.Prefetch(context.Background(), cert); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			now := s.Staple(cert).OCSPStaple
			if changed := !bytes.Equal(now, before); changed != step.news {
				t.Errorf("%d copies: %d bytes, after %d", step.copies, len(now), len(before))
			}
			want := staple.EventUnchanged
			if step.news {
				want = staple.EventFetched
			}
			if kinds := events.all()[had:]; len(kinds) == 0 || kinds[0] != want.String() {
				t.Errorf("%d copies: events %v, the first to be %v", step.copies, events.all(), want)
			}
			_, data := st.only(t)
			if record, _ := pem.Decode(data); record == nil || !bytes.Equal(record.Bytes, now) {
				t.Errorf("%d copies: what is stored is not what is stapled", step.copies)
			}
			if err := s.Ready(); err != nil {
				t.Errorf("%d copies: %v", step.copies, err)
			}
		}
	})
}

// What is signed the same, by a delegate whose certificate ends later, is news,
// though it is longer; the reverse is none, though it is shorter.
//
// REQ B6, REQ B15
func TestDelegateRenewed(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		begun := time.Now()
		by := func(life time.Duration, names ...string) func(*ocsptest.Spec) {
			return func(s *ocsptest.Spec) {
				copies(ca, 0, begun)(s)
				s.Sign = ocsptest.Sign{By: ocsptest.Delegated, Template: func(c *x509.Certificate) {
					c.NotAfter, c.DNSNames = begun.Add(life), names
				}}
			}
		}
		s, cert := stapler(t, ca), ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetEdit(by(12 * time.Hour))
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		short := s.Staple(cert).OCSPStaple
		ca.Responder.SetEdit(by(60*time.Hour, "responder.example"))
		time.Sleep(2 * time.Hour)
		long := s.Staple(cert).OCSPStaple
		if len(long) <= len(short) {
			t.Errorf("%d bytes after %d: the renewed certificate's are not taken", len(long), len(short))
		}
		ca.Responder.SetEdit(by(12 * time.Hour))
		time.Sleep(2 * time.Hour)
		if !bytes.Equal(s.Staple(cert).OCSPStaple, long) {
			t.Error("the one that ends sooner replaced the other")
		}
		time.Sleep(10 * time.Hour)
		if !stapled(t, s, ca, cert) {
			t.Error("not stapled after the end of the first certificate")
		}
	})
}

// REQ C4: clients go on while someone pads every response, and at the very limit.
func TestOpenSSLPadded(t *testing.T) {
	needTool(t, "openssl")
	needTool(t, "curl")
	ca := ocsptest.NewCA()
	for _, fault := range []ocsptest.Fault{ocsptest.FaultPadded20K, ocsptest.FaultPadded70K, ocsptest.FaultPadded120K, ocsptest.FaultJunkCertificate} {
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
		good := ca.Responder.Response(cert)
		preset := *cert
		preset.OCSPStaple = good
		ca.Responder.SetFault(fault)
		b := newBench(t, ca, &preset, staple.WithHTTPClient(ca.Responder.Client()))
		if b.err != nil {
			t.Errorf("%v: %v", fault, b.err)
		}
		b.visited(t, fault.String(), ca, good)
	}
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	most := sized(t, ca, cert, staple.MaxStaple)
	newBench(t, ca, cert, staple.WithHTTPClient(serving(most))).visited(t, "the longest staple", ca, most)
}

// visited has Go, openssl and curl see a staple.
func (b *bench) visited(t *testing.T, name string, ca *ocsptest.CA, want []byte) {
	t.Helper()
	for _, v := range versions {
		client := clientFor(ca, "www.example.com")
		client.MinVersion, client.MaxVersion = v, v
		c, err := tls.Dial("tcp", b.addr, client)
		if err != nil {
			t.Errorf("%s, %s: %v", name, tls.VersionName(v), err)
			continue
		}
		if got := c.ConnectionState().OCSPResponse; !bytes.Equal(got, want) {
			t.Errorf("%s, %s: stapled %d bytes, want %d", name, tls.VersionName(v), len(got), len(want))
		}
		c.Close()
		if out := b.sClient(t, v); !good(out) {
			t.Errorf("%s, %s: openssl s_client:\n%s", name, tls.VersionName(v), out)
		}
		if code, out := b.curl(t, v); code != 0 {
			t.Errorf("%s, %s: curl: exit status %d\n%s", name, tls.VersionName(v), code, out)
		}
	}
}
