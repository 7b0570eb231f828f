package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// A genuine response can be padded: by anyone on the path in its unsigned part, by
// the responder anywhere. These are about how much is too much for clients.

// maxStaple is the longest response that is stapled: OpenSSL's clients take one
// record of 2^14 bytes, less the headers.
const maxStaple = 16_376

// sized makes a good response of that many bytes, by a signed extension.
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

// padded has a response come with so many copies of the CA's certificate, and
// otherwise say what it did at the time.
func padded(ca *ocsptest.CA, n int, at time.Time) func(*ocsptest.Spec) {
	return func(s *ocsptest.Spec) {
		s.ProducedAt = at
		for i := range s.Singles {
			s.Singles[i].ThisUpdate, s.Singles[i].NextUpdate = at, at.AddDate(0, 0, 4)
		}
		s.Certs = slices.Repeat([][]byte{ca.Cert.Raw}, n)
	}
}

// REQ C4: what is longer than TLS clients take is not stapled, whether the network,
// a store or the source has it. What was added on the way does not count.
func TestNothingTooLongIsStapled(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		for _, tt := range []struct {
			size, copies int
			want         bool
		}{
			{maxStaple, 0, true},
			{maxStaple + 1, 0, false},
			{maxStaple, 1, true},
			{maxStaple, 200, true},
			{maxStaple + 1, 1, false},
			{1500, 9, true},
		} {
			cert := ca.Issue(ocsptest.Leaf{})
			bare := sized(t, ca, cert, tt.size)
			m := dissect(bare)
			m.certs = slices.Repeat([][]byte{ca.Cert.Raw}, tt.copies)
			everyWayIn(t, cert, m.encode(), bare, tt.want)
		}
	})
}

// everyWayIn offers raw in every way, and sees whether what is genuine in it is
// stapled.
func everyWayIn(t *testing.T, cert *tls.Certificate, raw, bare []byte, want bool) {
	t.Helper()
	var network, down wiretap
	network.carry(raw)
	preset := *cert
	preset.OCSPStaple = raw
	for name, c := range map[string]struct {
		cert *tls.Certificate
		opts []staple.Option
	}{
		"network": {cert, []staple.Option{staple.WithHTTPClient(network.client())}},
		"store":   {cert, []staple.Option{staple.WithHTTPClient(down.client()), staple.WithStore(oneRecord(block("OCSP RESPONSE", raw, time.Now())))}},
		"source":  {&preset, []staple.Option{staple.WithHTTPClient(down.client())}},
	} {
		s := staple.New(c.opts...)
		err := s.Prefetch(context.Background(), c.cert)
		got := s.Staple(c.cert).OCSPStaple
		if want && !bytes.Equal(got, bare) || !want && got != nil {
			t.Errorf("%s: %d bytes in %d: stapled %d, want %v: %v", name, len(bare), len(raw), len(got), want, err)
		}
		if name == "network" && (testkit.Reason(err) == staple.ReasonTooLarge) == want {
			t.Errorf("%d bytes in %d: Prefetch: %v", len(bare), len(raw), err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// REQ B12, REQ C4: a revocation counts, however long, and is shown if that was asked
// for and clients take it.
func TestPaddedRevocation(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		var path wiretap
		path.carry(ca.Responder.Response(cert))
		s := testkit.Stapler(t, ca, staple.WithStapleRevoked(true), staple.WithHTTPClient(path.client()))
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		path.carry(sized(t, ca, cert, maxStaple+1))
		time.Sleep(2 * time.Hour)
		if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) || s.Staple(cert).OCSPStaple != nil {
			t.Errorf("too long: Ready says %v, %d bytes stapled", err, len(s.Staple(cert).OCSPStaple))
		}
		bare := ca.Responder.Response(cert)
		m := dissect(bare)
		m.certs = slices.Repeat([][]byte{ca.Cert.Raw}, 60)
		path.carry(m.encode())
		time.Sleep(24 * time.Hour)
		if got := s.Staple(cert).OCSPStaple; !bytes.Equal(got, bare) {
			t.Errorf("padded on the way: %d bytes stapled, want %d", len(got), len(bare))
		}
	})
}

// REQ B15: the same, signed, in more bytes or in fewer is no news: it is neither
// stapled nor stored.
func TestPaddedReplay(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		begun, st, events := time.Now(), new(testkit.Shelf), new(testkit.Ledger)
		s := testkit.Stapler(t, ca, staple.WithStore(st), staple.WithEventFunc(func(e staple.Event) {
			if e.Kind != staple.EventStored {
				events.Add(e.Kind)
			}
		}))
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetEdit(padded(ca, 2, begun))
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // for the event
		first := s.Staple(cert).OCSPStaple
		for _, copies := range []int{3, 60, 300, 1, 0, 2} {
			ca.Responder.SetEdit(padded(ca, copies, begun))
			had := len(events.All())
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if got := s.Staple(cert).OCSPStaple; !bytes.Equal(got, first) {
				t.Errorf("%d copies: %d bytes, after %d", copies, len(got), len(first))
			}
			news := events.All()[had:]
			if want := staple.EventUnchanged.String(); len(news) == 0 || slices.ContainsFunc(news, func(kind string) bool { return kind != want }) {
				t.Errorf("%d copies: events %v, want %v alone", copies, news, want)
			}
			_, data := st.Only(t)
			if record, _ := pem.Decode(data); record == nil || !bytes.Equal(record.Bytes, first) {
				t.Errorf("%d copies: what is stored is not what is stapled", copies)
			}
			if err := s.Ready(); err != nil {
				t.Errorf("%d copies: %v", copies, err)
			}
		}
	})
}

// What is signed the same, by a delegate whose certificate ends later, is news,
// though it is longer; the reverse is none, though it is shorter.
//
// REQ B6, REQ B15
func TestDelegateRenewed(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		begun := time.Now()
		by := func(life time.Duration, names ...string) func(*ocsptest.Spec) {
			return func(s *ocsptest.Spec) {
				padded(ca, 0, begun)(s)
				s.Sign = ocsptest.Sign{By: ocsptest.Delegated, Template: func(c *x509.Certificate) {
					c.NotAfter, c.DNSNames = begun.Add(life), names
				}}
			}
		}
		s, cert := testkit.Stapler(t, ca), ca.Issue(ocsptest.Leaf{})
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
		if !testkit.Stapled(t, s, ca, cert) {
			t.Error("not stapled after the end of the first certificate")
		}
	})
}

// REQ C4: clients take what is stapled while someone pads every response, and the
// longest that is.
func TestOpenSSLPadded(t *testing.T) {
	testkit.Program(t, "openssl")
	testkit.Program(t, "curl")
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	for _, size := range []int{1500, maxStaple} {
		bare := sized(t, ca, cert, size)
		m := dissect(bare)
		m.certs = slices.Repeat([][]byte{ca.Cert.Raw}, 70<<10/len(ca.Cert.Raw))
		var path wiretap
		path.carry(m.encode())
		newBench(t, ca, cert, staple.WithHTTPClient(path.client())).visited(t, ca, bare)
	}
}
