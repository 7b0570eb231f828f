package scenario_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// attrs returns the attributes of a record.
func attrs(r slog.Record) map[string]slog.Value {
	m := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool { m[a.Key] = a.Value; return true })
	return m
}

// trouble is something that an operator has to act on.
type trouble struct {
	name  string
	leaf  ocsptest.Leaf
	make  func(ca *ocsptest.CA, cert *tls.Certificate) // before the certificate is known
	late  func(ca *ocsptest.CA, cert *tls.Certificate) // once it is stapled
	says  []string                                     // in the message: what happened, what to do
	err   string                                       // in the error
	level slog.Level                                   // 0: not looked at
	attrs map[string]string                            // more of them
	runs  time.Duration
}

var troubles = []trouble{
	{name: "responder gone for good", make: fault(ocsptest.FaultNoHost), runs: 20 * time.Hour,
		says: []string{"nothing is stapled", "check the responder"}, err: "no such host"},
	{name: "portal", make: fault(ocsptest.FaultHTML), runs: 20 * time.Hour,
		says: []string{"nothing is stapled", "check the responder"}, err: "text/html"},
	{name: "Must-Staple", leaf: ocsptest.Leaf{MustStaple: true}, make: fault(ocsptest.FaultHTTP500), runs: 20 * time.Hour,
		says: []string{"Must-Staple", "clients will refuse it", "check the responder"}, err: "500 Internal Server Error"},
	{name: "Must-Staple without a responder", leaf: ocsptest.Leaf{MustStaple: true, NoURL: true}, runs: 20 * time.Hour,
		says: []string{"Must-Staple", "no OCSP responder", "replace it"}, err: "no OCSP responder"},
	{name: "no issuer", leaf: ocsptest.Leaf{WithoutIssuer: true}, runs: 20 * time.Hour,
		says: []string{"issuer", "not found", "WithIssuers"}, err: `issuer certificate not found, wanted "CN=`},
	{name: "no issuer, Must-Staple", leaf: ocsptest.Leaf{WithoutIssuer: true, MustStaple: true}, runs: 20 * time.Hour, level: slog.LevelError,
		says: []string{"issuer", "not found", "clients will refuse it", "WithIssuers"}, err: `issuer certificate not found, wanted "CN=`},
	{name: "issuer not to be had", leaf: ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{"http://gone.example/ca.der"}}, runs: 20 * time.Hour,
		says: []string{"issuer", "not found", "WithIssuers"}, err: "\": issuer certificate at http://gone.example/ca.der: unexpected HTTP status: "},
	{name: "revoked", runs: 20 * time.Hour, says: []string{"revoked", "replace it"}, err: "keyCompromise since",
		attrs: map[string]string{"revocation_reason": "keyCompromise", "never_issued": "false"},
		make:  func(ca *ocsptest.CA, c *tls.Certificate) { ca.Responder.Revoke(c, ocsp.KeyCompromise, time.Time{}) }},
	{name: "never issued", runs: 20 * time.Hour, says: []string{"revoked"}, err: "never issued it",
		attrs: map[string]string{"revocation_reason": "certificateHold", "never_issued": "true"},
		make: func(ca *ocsptest.CA, c *tls.Certificate) {
			ca.Responder.Revoke(c, ocsp.CertificateHold, time.Unix(0, 0))
		}},
	{name: "about to expire", late: fault(ocsptest.FaultHTTP403), runs: 60 * time.Hour,
		says: []string{"expires soon", "check the responder"}, err: "403 Forbidden"},
	{name: "about to expire, Must-Staple", leaf: ocsptest.Leaf{MustStaple: true}, late: fault(ocsptest.FaultHTTP403), runs: 60 * time.Hour,
		says: []string{"Must-Staple", "expires soon", "clients will refuse it", "check the responder"}, err: "403 Forbidden"},
}

func fault(f ocsptest.Fault) func(*ocsptest.CA, *tls.Certificate) {
	return func(ca *ocsptest.CA, _ *tls.Certificate) { ca.Responder.SetFault(f) }
}

// REQ D2, REQ E8, REQ G3: what the operator reads at 3 a.m. says what happened, to
// which certificate, at which responder, what is served meanwhile and what to
// do; once a day, by a constant message, with everything else in attributes.
func TestLogIsForTheOperator(t *testing.T) {
	for _, tc := range troubles {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
			tc.leaf.Names, tc.leaf.Serial = []string{"shop.example"}, big.NewInt(0xc0ffee)
			cert := ca.Issue(tc.leaf)
			if tc.make != nil {
				tc.make(ca, cert)
			}
			cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			_ = s.Prefetch(background, cert)
			if tc.late != nil {
				tc.late(ca, cert)
			}
			for end := time.Now().Add(tc.runs); time.Now().Before(end); time.Sleep(10 * time.Minute) {
				testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "shop.example"))
			}
			var loud []slog.Record
			for _, r := range log.All() {
				if strings.Contains(r.Message, "shop.example") || strings.Contains(r.Message, "http://") || strings.ContainsAny(r.Message, "0123456789%") {
					t.Errorf("%s: message %q is not a constant", tc.name, r.Message)
				}
				if r.Level >= slog.LevelWarn {
					loud = append(loud, r)
				}
			}
			if len(loud) != 1 {
				t.Fatalf("%s: %d records at warn or above, want 1: %q", tc.name, len(loud), log.Loud())
			}
			checkRecord(t, ca, tc, loud[0])
		})
	}
}

func checkRecord(t *testing.T, ca *ocsptest.CA, tc trouble, r slog.Record) {
	t.Helper()
	a := attrs(r)
	if tc.level != 0 && r.Level != tc.level {
		t.Errorf("%s: level %v, want %v", tc.name, r.Level, tc.level)
	}
	for _, want := range tc.says {
		if !strings.Contains(r.Message, want) {
			t.Errorf("%s: message %q does not say %q", tc.name, r.Message, want)
		}
	}
	if name, serial := a["certificate"].String(), a["serial"].String(); name != "shop.example" || serial != "c0ffee" {
		t.Errorf("%s: certificate=%s serial=%s", tc.name, name, serial)
	}
	if got := a["responder"].String(); got != ca.Responder.URL() && !tc.leaf.NoURL {
		t.Errorf("%s: responder=%q", tc.name, got)
	}
	if got := fmt.Sprint(a["error"]); !strings.Contains(got, tc.err) {
		t.Errorf("%s: error=%q, want %q in it", tc.name, got, tc.err)
	}
	if got, want := a["stapled"].Bool(), tc.late != nil; a["stapled"].Kind() != slog.KindBool || got != want {
		t.Errorf("%s: stapled=%v, want %v", tc.name, got, want)
	}
	if got, ok := a["served_until"]; ok != a["stapled"].Bool() || ok && got.Time().Before(r.Time) {
		t.Errorf("%s: served_until=%v, stapled=%v", tc.name, got, a["stapled"])
	}
	for key, want := range tc.attrs {
		if got := fmt.Sprint(a[key]); got != want {
			t.Errorf("%s: %s=%s, want %s", tc.name, key, got, want)
		}
	}
	if a["event"].Kind() != slog.KindString {
		t.Errorf("%s: no event", tc.name)
	}
	for key := range a {
		if key == "" || key == "!BADKEY" || strings.ToLower(key) != key {
			t.Errorf("%s: key %q", tc.name, key)
		}
	}
}

// REQ G3: when a response has expired, what that means for clients is said.
func TestLogOfExpiry(t *testing.T) {
	for must, want := range map[bool]string{false: "has expired, nothing is stapled", true: "has expired, clients will refuse it"} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
			cert := ca.Issue(ocsptest.Leaf{MustStaple: must})
			if err := s.Prefetch(background, cert); err != nil {
				t.Fatal(err)
			}
			ca.Responder.SetFault(ocsptest.FaultTryLater)
			time.Sleep(100 * time.Hour)
			i := slices.IndexFunc(log.All(), func(r slog.Record) bool { return attrs(r)["event"].String() == "expired" })
			if i < 0 {
				t.Fatal("not logged")
			}
			r := log.All()[i]
			if _, ok := attrs(r)["served_until"]; ok || !strings.Contains(r.Message, want) || strings.Contains(r.Message, "Must-Staple") != must || r.Level != slog.LevelError {
				t.Errorf("%v: %q, %v", r.Level, r.Message, attrs(r))
			}
		})
	}
}

// REQ E8, REQ G3: a responder that is gone for good costs one warning per
// certificate and day, and good news none.
func TestLogIsQuiet(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()), staple.WithStore(new(testkit.Shelf)))
		var certs []*tls.Certificate
		for range 3 {
			certs = append(certs, ca.Issue(ocsptest.Leaf{}))
		}
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*certs[0], *certs[1], *certs[2]}})
		time.Sleep(10 * 24 * time.Hour)
		if loud := log.Loud(); len(loud) > 0 || len(log.All()) == 0 {
			t.Errorf("in ten good days: %q, and %d records at debug", loud, len(log.All())-len(loud))
		}
		ca.Responder.SetFault(ocsptest.FaultHTTP404)
		time.Sleep(5 * 24 * time.Hour)
		perDay := map[string]int{}
		for _, r := range log.All() {
			if a := attrs(r); r.Level == slog.LevelWarn && a["certificate"].Kind() == slog.KindString {
				perDay[a["serial"].String()+r.Time.Format(time.DateOnly)]++
			}
		}
		for k, n := range perDay {
			if n > 1 {
				t.Errorf("%d warnings for %s", n, k)
			}
		}
		if n := len(log.Loud()); n == 0 || n > 3*6+1 {
			t.Errorf("%d loud records in 5 days of outage for 3 certificates", n)
		}
		runtime.KeepAlive(cfg) // which lists the certificates
	})
}

// REQ G3: without a logger nothing is written anywhere.
func TestSilentWithoutALogger(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, old := os.Stdout, os.Stderr, slog.Default()
	os.Stdout, os.Stderr = w, w
	slog.SetDefault(slog.New(slog.NewTextHandler(w, nil)))
	func() {
		defer func() { os.Stdout, os.Stderr = stdout, stderr; slog.SetDefault(old) }()
		for _, f := range []ocsptest.Fault{ocsptest.FaultRefused, ocsptest.FaultHTML, ocsptest.FaultBrokenSignature} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetFault(f)
				s := testkit.Stapler(t, ca)
				_ = s.Prefetch(background, ca.Issue(ocsptest.Leaf{MustStaple: true}))
				time.Sleep(48 * time.Hour)
			})
		}
	}()
	w.Close()
	if out, err := io.ReadAll(r); err != nil || len(out) > 0 {
		t.Errorf("written: %q, %v", out, err)
	}
}

// REQ B13, REQ G2: events come in the order of what happened, and say it all.
func TestEvents(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var events []staple.Event // read after synctest.Wait
		s := testkit.Stapler(t, ca, staple.WithStore(new(testkit.Shelf)), staple.WithEventFunc(nil),
			staple.WithEventFunc(func(e staple.Event) { events = append(events, e) }))
		ca.Responder.SetPresign(true)
		ca.Responder.SetDelay(70 * time.Millisecond)
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
		time.Sleep(60 * time.Hour) // past half of the validity: signed anew
		ca.Responder.SetFault(ocsptest.FaultTryLater)
		time.Sleep(100 * time.Hour)
		ca.Responder.SetFault(ocsptest.FaultNone)
		time.Sleep(3 * time.Hour)
		ca.Responder.Revoke(cert, ocsp.CertificateHold, time.Unix(0, 0))
		time.Sleep(50 * time.Hour)
		synctest.Wait()
		var kinds []string
		for _, e := range events {
			if k := e.Kind.String(); len(kinds) == 0 || kinds[len(kinds)-1] != k && k != "stored" {
				kinds = append(kinds, k)
			}
			checkEvent(t, ca, cert, e)
		}
		want := "fetched unchanged fetched"
		if got := strings.Join(kinds, " "); !strings.HasPrefix(got, want) || !strings.Contains(got, "failed expiring failed expired failed fetched") ||
			!strings.Contains(got, "revoked") || strings.Index(got, "revoked") < strings.Index(got, "expired") {
			t.Errorf("events: %s", got)
		}
		runtime.KeepAlive(cfg) // which lists the certificates
	})
}

func checkEvent(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, e staple.Event) {
	t.Helper()
	if e.Leaf == nil || !e.Leaf.Equal(cert.Leaf) || e.Responder != ca.Responder.URL() {
		t.Errorf("%v: leaf %v, responder %q", e.Kind, e.Leaf, e.Responder)
	}
	switch e.Kind {
	case staple.EventFetched, staple.EventRevoked:
		want := ocsp.Good
		if e.Kind == staple.EventRevoked {
			want = ocsp.Revoked
			if r := e.Response; r == nil || r.RevocationReason != ocsp.CertificateHold || r.RevokedAt.Unix() != 0 ||
				!errors.Is(e.Err, staple.ErrRevoked) || !strings.Contains(e.Err.Error(), "never issued") {
				t.Errorf("never issued: %+v", e)
			}
		} else if e.Err != nil {
			t.Errorf("fetched: %v", e.Err)
		}
		r := e.Response
		if r == nil || r.Status != want || r.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 || r.NextUpdate.IsZero() || r.ProducedAt.IsZero() {
			t.Fatalf("%v: response %+v", e.Kind, r)
		}
		parsed, err := ocsp.ParseResponseForCert(r.Raw, cert.Leaf, ca.Cert)
		if err != nil || !parsed.NextUpdate.Equal(r.NextUpdate) || !parsed.ThisUpdate.Equal(r.ThisUpdate) || parsed.Status != r.Status {
			t.Errorf("%v: Raw says %+v, %v; the response %+v", e.Kind, parsed, err, r)
		}
		if e.Duration != 70*time.Millisecond {
			t.Errorf("%v: took %v, want 70ms", e.Kind, e.Duration)
		}
	case staple.EventUnchanged, staple.EventStored:
		if e.Err != nil {
			t.Errorf("%v: %v", e.Kind, e.Err)
		}
	case staple.EventFailed, staple.EventExpiring, staple.EventExpired:
		if testkit.Reason(e.Err) != staple.ReasonTryLater {
			t.Errorf("%v: %v", e.Kind, e.Err)
		}
	}
}

// REQ G1: what came from a responder took time, though in a bubble it does not, or it would look
// as if it came from the store.
func TestTakesTimeInBubble(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var took atomic.Int64
		s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithEventFunc(func(e staple.Event) { took.Store(int64(e.Duration)) }))
		defer s.Close()
		if err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{})); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if took.Load() <= 0 {
			t.Errorf("took %d ns", took.Load())
		}
	})
}

// REQ G1, REQ G2: while everything of the user's hangs, Status, Ready, Stats and
// handshakes do not; events that do not fit are counted.
func TestNothingBlocks(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		h := &stuck{free: make(chan struct{})}
		var seen atomic.Int64
		s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(stuckShelf(h, "Put")),
			staple.WithEventFunc(func(staple.Event) { h.wait(); seen.Add(1) }))
		var certs []*tls.Certificate
		key := ca.Key()
		for range 1500 {
			certs = append(certs, ca.Issue(ocsptest.Leaf{Key: key}))
		}
		if err := s.Prefetch(background, certs...); err != nil {
			t.Fatal(err)
		}
		ca.Responder.SetFault(ocsptest.FaultHang)
		hung := ca.Issue(ocsptest.Leaf{Names: []string{"hung.example"}})
		s.Staple(hung)
		begun := time.Now()
		if n := len(s.Status()); n != 1501 {
			t.Errorf("%d certificates in Status", n)
		}
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), `"hung.example"`) || !strings.Contains(err.Error(), "no response yet") {
			t.Errorf("Ready: %v", err)
		}
		if !testkit.Stapled(t, s, ca, certs[7]) {
			t.Error("not stapled")
		}
		if took := time.Since(begun); took > 0 {
			t.Errorf("took %v", took)
		}
		// One is being delivered and 1,024 wait.
		if got := s.Stats().EventsDropped; got < 1500-1025 {
			t.Errorf("%d events dropped, want at least %d", got, 1500-1025)
		}
		h.release()
		time.Sleep(time.Second)
		if got := seen.Load(); got < 1025 {
			t.Errorf("%d events delivered after all, want the 1,025 that were kept", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// REQ D2, REQ G1: Ready says of each certificate which it is, who was asked and
// what is wrong, and does not fill a page when all are.
func TestReadySays(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		s := testkit.Stapler(t, ca)
		if err := s.Ready(); err != nil {
			t.Errorf("with no certificate: %v", err)
		}
		for i := range 25 {
			_ = s.Prefetch(background, ca.Issue(ocsptest.Leaf{Names: []string{fmt.Sprintf("n%d.example", i)}, Key: ca.Key()}))
		}
		err := s.Ready()
		if err == nil {
			t.Fatal("ready without a response")
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != 11 || !strings.Contains(lines[10], "15 more") {
			t.Errorf("%d lines: %v", len(lines), err)
		}
		for _, want := range []string{".example\" (serial ", ca.Responder.URL()} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("Ready says %q, without %q", lines[0], want)
			}
		}
	})
}

// REQ G4: Stats tells what was served, by state.
func TestStatsByState(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		good, none, revoked, unknown := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{NoURL: true}), ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})
		ca.Responder.Revoke(revoked, 0, time.Time{})
		ca.Responder.SetUnknown(unknown)
		_ = s.Prefetch(context.Background(), good, none, revoked, unknown)
		for i, c := range []*tls.Certificate{good, none, revoked, unknown} {
			for range i + 1 {
				s.Staple(c)
			}
		}
		var want staple.Stats
		want.Handshakes[staple.StateGood], want.Handshakes[staple.StateNone] = 1, 2
		want.Handshakes[staple.StateRevoked], want.Handshakes[staple.StateUnknown] = 3, 4
		if got := s.Stats(); got.Handshakes != want.Handshakes || got.Failures != 1 || got.Requests != uint64(ca.Responder.Requests()) {
			t.Errorf("got %+v, want handshakes %v, 1 failure and %d requests", got, want.Handshakes, ca.Responder.Requests())
		}
	})
}

// REQ G5: the end of an outage is one info line, which says how long it was: for a
// certificate that somebody was told of, and for a responder that failed for several.
func TestRecoveryIsTold(t *testing.T) {
	for _, n := range []int{1, 3} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var log testkit.Logbook
			s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
			certs := testkit.Leaves(ca, n)
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			cfg := testkit.List(t, s, certs...)
			time.Sleep(2 * time.Hour)
			ca.Responder.ClearFaults()
			time.Sleep(time.Hour)
			var told []slog.Record
			for _, r := range log.All() {
				if r.Level == slog.LevelInfo {
					told = append(told, r)
				}
			}
			if len(told) == 0 || len(told) > n { // the first certificates may fail before others are known
				t.Fatalf("%d certificates: %d lines at info: %v", n, len(told), told)
			}
			responder := slices.DeleteFunc(slices.Clone(told), func(r slog.Record) bool { return r.Message != "OCSP responder works again" })
			if want := min(n-1, 1); len(responder) != want {
				t.Errorf("%d certificates: told %d times that the responder works again, want %d", n, len(responder), want)
			}
			if d, ok := attrs(told[0])["failed_for"].Any().(time.Duration); !ok || d < 2*time.Hour-time.Minute || d > 2*time.Hour+15*time.Minute {
				t.Errorf("%d certificates: failed_for=%v in %q", n, d, told[0].Message)
			}
			runtime.KeepAlive(cfg)
		})
	}
}

// REQ G3: a certificate that names no responder is one line at debug level, however many
// handshakes it has, and names it by what it has in place of DNS names.
func TestNoResponderIsOneLine(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()))
		cert := ca.Issue(ocsptest.Leaf{NoURL: true, Template: func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses, c.EmailAddresses = nil, nil, []string{"who@example.org"}
		}})
		for range 3 {
			s.Staple(cert)
			time.Sleep(9 * time.Hour)
		}
		all := log.All()
		if len(all) != 1 || all[0].Level != slog.LevelDebug || !strings.Contains(all[0].Message, "names no OCSP responder") {
			t.Fatalf("%d lines: %v", len(all), all)
		}
		if got := attrs(all[0])["certificate"].String(); got != "who@example.org" {
			t.Errorf("it is about %q", got)
		}
	})
}

// REQ G6: an error about a date in the future has the time by this host's clock, which
// may be the one that is wrong.
func TestFutureNamesTheClock(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultNotYetValid)
		s := testkit.Stapler(t, ca)
		err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{}))
		if want := "while this host's clock says 2000-01-01"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	})
}
