package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// block is a record around a response, all times as they may be.
func block(typ string, der []byte, at time.Time) []byte {
	stamp := at.Format(time.RFC3339Nano)
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der, Headers: map[string]string{"Received": stamp, "Checked": stamp}})
}

// badRecords are what may stand in a store instead of a record. ok is the
// record that was there.
func badRecords(ca *ocsptest.CA, cert *tls.Certificate, ok []byte) map[string][]byte {
	now := time.Now()
	good, _ := pem.Decode(ok)
	wrap := func(der []byte) []byte { return block("OCSP RESPONSE", der, now) }
	build := func(edit func(*ocsptest.Spec)) []byte { return wrap(ca.Responder.Build(cert, edit)) }
	flipped := bytes.Clone(good.Bytes)
	flipped[len(flipped)-1] ^= 1
	impostor := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
	return map[string][]byte{
		"empty":         {},
		"torn":          ok[:len(ok)/4],
		"torn header":   ok[:40],
		"zeros":         make([]byte, len(ok)),
		"binary junk":   bytes.Repeat([]byte{0xff, 0x00, 0x17}, 1000),
		"bare DER":      good.Bytes,
		"wrong type":    block("CERTIFICATE", good.Bytes, now),
		"another block": append(block("PRIVATE KEY", []byte("x"), now), ok...),
		"no response":   wrap(nil),
		"junk after":    wrap(append(bytes.Clone(good.Bytes), 0)),
		"huge":          append(bytes.Repeat([]byte("x\n"), 200<<10), ok...),
		"huge response": wrap(make([]byte, 129<<10)),
		"bit flipped":   wrap(flipped),
		"other leaf":    wrap(ca.Responder.Response(ca.Issue(ocsptest.Leaf{}))),
		"other CA":      wrap(impostor.Responder.Response(impostor.Issue(ocsptest.Leaf{Serial: cert.Leaf.SerialNumber}))),
		"tryLater":      wrap([]byte{0x30, 0x03, 0x0a, 0x01, 0x03}),
		"unknown":       build(func(s *ocsptest.Spec) { s.Singles[0].Status = ocsp.Unknown }),
		"expired": build(func(s *ocsptest.Spec) {
			s.Singles[0].NextUpdate = now.Add(-time.Second)
			s.Singles[0].ThisUpdate = now.Add(-time.Hour)
		}),
		"not yet": build(func(s *ocsptest.Spec) { s.Singles[0].ThisUpdate = now.Add(time.Hour) }),
		"no EKU":  build(func(s *ocsptest.Spec) { s.Sign.By = ocsptest.DelegateNoEKU }),
		"of a week ago, without end": build(func(s *ocsptest.Spec) {
			s.Singles[0].NextUpdate, s.Singles[0].ThisUpdate = time.Time{}, now.Add(-8*24*time.Hour)
		}),
	}
}

// REQ E2, REQ C4: a record that proves nothing is not stapled, costs no handshake
// anything, and is replaced as soon as there is a response.
func TestBadRecordsAreRefusedAndReplaced(t *testing.T) {
	names := []string{}
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		for name := range badRecords(ca, ca.Issue(ocsptest.Leaf{}), block("OCSP RESPONSE", []byte{0}, time.Now())) {
			names = append(names, name)
		}
	})
	for _, name := range names {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			cert := ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}})
			st := learned(t, ca, cert)
			key, ok := st.Only(t)
			st.Set(key, badRecords(ca, cert, ok)[name])
			ca.Responder.SetFault(ocsptest.FaultRefused)
			s := testkit.Stapler(t, ca, staple.WithStore(st))
			cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
			cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "a.example"))
			testkit.Unstapled(t, cs)
			if took > 0 {
				t.Errorf("%s: the handshake waited %v", name, took)
			}
			ca.Responder.SetFault(ocsptest.FaultNone)
			time.Sleep(time.Minute)
			testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "a.example")), ca)
			if _, data := st.Only(t); statusIn(t, ca, cert, data) != ocsp.Good {
				t.Errorf("%s: not replaced", name)
			}
		})
	}
}

// Headers prove nothing: whatever they say, a valid response is served and no
// other, and the responder is asked within the time that a TTL is.
func TestForgedHeaders(t *testing.T) {
	for name, headers := range map[string]map[string]string{
		"checked in the future":   {"Checked": "2200-01-01T00:00:00Z", "Received": "2200-01-01T00:00:00Z"},
		"checked in the year 1":   {"Checked": "0001-01-01T00:00:00Z", "Received": "0001-01-01T00:00:00Z"},
		"checked in 9999":         {"Checked": "9999-12-31T23:59:59Z", "Received": "9999-12-31T23:59:59Z"},
		"no times":                {"Checked": "", "Received": ""},
		"times are junk":          {"Checked": "yesterday", "Received": "\x00\xff"},
		"ETag for anything":       {"ETag": "*"},
		"ETag is not printable":   {"ETag": "\"a\x01b\""},
		"a responder of its own":  {"Responder": "http://evil.example/", "ETag": `"x"`},
		"a header of 100 KiB":     {"ETag": strings.Repeat("x", 100<<10)},
		"max-age of a century":    {"Max-Age": "3153600000", "Checked": "2200-01-01T00:00:00Z"},
		"max-age overflows":       {"Max-Age": "99999999999999999999"},
		"headers nobody knows of": {"Proc-Type": "4,ENCRYPTED", "X": "y"},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetPresign(true)
			noCaching(ca.Responder)
			cert := ca.Issue(ocsptest.Leaf{})
			st := learned(t, ca, cert)
			key, ok := st.Only(t)
			st.Set(key, forge(t, ok, headers))
			var evil int
			rt := testkit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				if strings.Contains(req.URL.Host, "evil") {
					evil++
				}
				return ca.Responder.RoundTrip(req)
			})
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: rt}), staple.WithStore(st),
				staple.WithEventFunc(func(e staple.Event) {
					if strings.Contains(e.Responder, "evil") {
						t.Errorf("%s: event names %s", name, e.Responder)
					}
				}))
			defer s.Close()
			s.Staple(cert)
			synctest.Wait()
			if !testkit.Stapled(t, s, ca, cert) {
				t.Errorf("%s: a valid response is not used", name)
			}
			limit := time.Hour + time.Minute
			if strings.HasPrefix(name, "max-age of") {
				limit = 48*time.Hour + time.Minute // as a responder's own: half of the validity
			}
			time.Sleep(limit)
			if ca.Responder.Requests() == 0 || evil > 0 {
				t.Errorf("%s: %d requests in %v, %d of them elsewhere", name, ca.Responder.Requests(), limit, evil)
			}
			for _, r := range ca.Responder.Log() {
				if etag := r.Header.Get("If-None-Match"); etag == "*" || strings.ContainsFunc(etag, unicode.IsControl) {
					t.Errorf("%s: sent If-None-Match: %.100q", name, etag) // or rather not: net/http refuses control characters
				}
			}
			for range 100 {
				time.Sleep(time.Hour)
				if !testkit.Stapled(t, s, ca, cert) { // which fails for an expired one
					t.Fatalf("%s: lost the staple", name)
				}
			}
		})
	}
}

// REQ E1: without nextUpdate a forged time of checking does not make a
// response live longer than a week.
func TestForgedHeadersWithoutNextUpdate(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetNoNextUpdate(true)
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		key, ok := st.Only(t)
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca, staple.WithStore(st))
		made := time.Now()
		for range 14 * 24 * 2 {
			st.Set(key, forge(t, ok, map[string]string{"Checked": time.Now().Format(time.RFC3339Nano)}))
			if s.Staple(cert).OCSPStaple != nil && time.Since(made) > 7*24*time.Hour {
				t.Fatalf("stapled %v after it was made", time.Since(made))
			}
			time.Sleep(30 * time.Minute)
		}
	})
}

// A record is for people and openssl too.
func TestRecordIsReadable(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	dir := t.TempDir()
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(staple.DirStore(dir)))
	if err := errors.Join(s.Prefetch(context.Background(), cert), s.Close()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "staple-ocsp-*.pem"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	record, rest := pem.Decode(data)
	if record == nil || record.Type != "OCSP RESPONSE" || record.Headers["Responder"] != ca.Responder.URL() {
		t.Fatalf("record %q", data)
	}
	if issuer, rest := pem.Decode(rest); issuer == nil || issuer.Type != "CERTIFICATE" || len(rest) > 0 || !bytes.Equal(issuer.Bytes, ca.Cert.Raw) {
		t.Fatalf("record %q, want the issuer's certificate at its end", data)
	}
	for _, h := range []string{"Received", "Checked"} {
		if at, err := time.Parse(time.RFC3339Nano, record.Headers[h]); err != nil || time.Since(at) > time.Hour {
			t.Errorf("%s: %q, %v", h, record.Headers[h], err)
		}
	}
	openssl := testkit.Program(t, "openssl")
	for name, der := range map[string][]byte{"ca.pem": ca.Cert.Raw, "leaf.pem": cert.Certificate[0]} {
		write(t, filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	var out []byte
	for _, args := range []string{ // as the doc of Store has it
		"asn1parse -in " + filepath.Base(files[0]) + " -noout -out resp.der",
		"ocsp -respin resp.der -issuer ca.pem -cert leaf.pem -CAfile ca.pem",
	} {
		cmd := exec.Command(openssl, strings.Fields(args)...)
		cmd.Dir = dir
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	if !strings.Contains(string(out), "leaf.pem: good") || !strings.Contains(string(out), "Response verify OK") {
		t.Errorf("openssl says %s", out)
	}
}

func write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(fmt.Errorf("writing: %w", err))
	}
}

// liar is a store whose records always say that they were checked just now.
type liar struct{ *testkit.Shelf }

func (l liar) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := l.Shelf.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	rec, err := records.Parse(data, now)
	if err != nil {
		return nil, err
	}
	rec.Checked = now
	return rec.Encode(), nil
}

// REQ I4: a store that says that its record was checked just now hides a revocation
// for eight refreshes, and never past half of the validity.
func TestLyingStore(t *testing.T) {
	for _, tc := range []struct{ validity, within time.Duration }{
		{10 * testkit.Day, 9*time.Hour + time.Minute}, // eight refreshes an hour apart
		{8 * time.Hour, 5 * time.Hour},
	} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetValidity(tc.validity)
			ca.Responder.SetHeader("Cache-Control") // the TTL decides
			ca.Responder.SetHeader("Expires")
			cert := ca.Issue(ocsptest.Leaf{})
			s := testkit.Stapler(t, ca, staple.WithStore(liar{new(testkit.Shelf)}))
			testkit.MustFetch(t, s, cert)
			ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
			ca.Responder.ResetCounts()
			time.Sleep(2 * time.Hour)
			if n := ca.Responder.Requests(); n > 0 {
				t.Errorf("%d requests, want those of the store to spare them at first", n)
			}
			time.Sleep(tc.within - 2*time.Hour)
			synctest.Wait()
			if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) {
				t.Errorf("validity %v: %v after %v, want %v", tc.validity, err, tc.within, staple.ErrRevoked)
			}
		})
	}
}
