package records_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/records"
)

var at = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func sample() records.Record {
	return records.Record{Response: []byte("response"), Issuer: []byte("issuer"), Responder: "http://ocsp.example",
		ETag: `"1"`, LastModified: "Thu, 26 Nov 2026 11:00:00 GMT", MaxAge: time.Hour,
		Received: at.Add(-time.Hour).UnixNano(), Checked: at.UnixNano(), Until: at.Add(time.Hour).UnixNano()}
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got, err := records.Parse(want.Encode(), at.UnixNano())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Response, want.Response) || !bytes.Equal(got.Issuer, want.Issuer) || got.Responder != want.Responder || got.ETag != want.ETag ||
		got.LastModified != want.LastModified || got.MaxAge != want.MaxAge || got.Received != want.Received || got.Checked != want.Checked {
		t.Errorf("got %+v, want %+v", got, want)
	}
	bare := records.Record{Response: []byte("x")}
	if got, err := records.Parse(bare.Encode(), at.UnixNano()); err != nil || got.Issuer != nil || got.MaxAge != 0 {
		t.Errorf("without an issuer: %+v, %v", got, err)
	}
}

// What a header says is believed within limits, and nothing that would end it is
// written.
//
// REQ E2
func TestHeadersAreNotTrusted(t *testing.T) {
	r := sample()
	r.ETag, r.Responder, r.LastModified = "a\nExpires: 9999-01-01T00:00:00Z", "http://x\r\ny", strings.Repeat("x", 2000)
	data := r.Encode()
	if bytes.Contains(data, []byte("9999")) {
		t.Errorf("a line break ends a header:\n%s", data)
	}
	if got, err := records.Parse(data, at.UnixNano()); err != nil || got.ETag != "" || got.Responder != "" || got.LastModified != "" {
		t.Errorf("%+v, %v", got, err)
	}
	r = sample()
	for name, checked := range map[string]time.Time{"in an hour": at.Add(time.Hour), "next year": at.AddDate(1, 0, 0), "in 1800": at.AddDate(-226, 0, 0)} {
		text := strings.Replace(string(r.Encode()), "Checked: 2026-11-26T12:00:00Z", "Checked: "+checked.Format(time.RFC3339), 1)
		if got, err := records.Parse([]byte(text), at.UnixNano()); err != nil || got.Checked != 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	r.Checked = at.Add(4 * time.Minute).UnixNano()
	if got, _ := records.Parse(r.Encode(), at.UnixNano()); got.Checked != at.UnixNano() {
		t.Errorf("a clock ahead by 4 minutes: checked %v", time.Unix(0, got.Checked))
	}
	for _, v := range []string{"-1", "x", "99999999999999999999"} {
		text := strings.Replace(string(r.Encode()), "Max-Age: 3600", "Max-Age: "+v, 1)
		if got, err := records.Parse([]byte(text), at.UnixNano()); err != nil || got.MaxAge != 0 {
			t.Errorf("Max-Age %s: %+v, %v", v, got, err)
		}
	}
}

// REQ I4
func TestNoRecord(t *testing.T) {
	r := sample()
	ok := r.Encode()
	for name, data := range map[string][]byte{
		"empty": nil, "junk": []byte("junk"), "torn": ok[:len(ok)/4], "another type": bytes.ReplaceAll(ok, []byte("OCSP RESPONSE"), []byte("CERTIFICATE")),
		"huge": append(ok, make([]byte, records.MaxSize)...),
	} {
		if got, err := records.Parse(data, at.UnixNano()); err != records.ErrForm {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestExpired(t *testing.T) {
	r := sample()
	for d, want := range map[time.Duration]bool{time.Minute: false, 61 * time.Minute: true} {
		if got := records.Expired(r.Encode(), at.Add(d)); got != want {
			t.Errorf("after %v: %v", d, got)
		}
	}
	if records.Expired([]byte("junk"), at) {
		t.Error("what is no record has expired")
	}
}

func FuzzParse(f *testing.F) {
	r := sample()
	f.Add(r.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := records.Parse(data, at.UnixNano())
		if (r == nil) == (err == nil) {
			t.Fatalf("%v, %v", r, err)
		}
		if r == nil {
			return
		}
		again, err := records.Parse(r.Encode(), at.UnixNano())
		if err != nil || !bytes.Equal(again.Response, r.Response) || again.Checked != r.Checked || again.MaxAge != r.MaxAge || r.Checked > at.UnixNano() {
			t.Fatalf("%+v, then %+v, %v", r, again, err)
		}
		if !bytes.Equal(again.Issuer, r.Issuer) || again.Received != r.Received || again.ETag != r.ETag || again.LastModified != r.LastModified {
			t.Fatalf("%+v, then %+v", r, again)
		}
	})
}
