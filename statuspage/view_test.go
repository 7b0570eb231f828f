package statuspage_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/statuspage"
)

// fleet is certificates of every kind, at their worst: what Status says of them is
// made up, apart from the certificates.
func fleet() []staple.Status {
	ca, now := ocsptest.NewCA(), time.Now()
	long := "http://ocsp.example.net/" + strings.Repeat("a-long-path/", 30)
	down := &staple.ResponseError{Responder: long, Reason: staple.ReasonUnavailable,
		Err: &staple.ResponseError{Responder: long, Reason: staple.ReasonNetwork, Err: errors.New("dial tcp: connection refused")}}
	held := func(st staple.Status, name string, age, left time.Duration) staple.Status {
		st.Leaf = ca.Issue(ocsptest.Leaf{Names: []string{name + ".example.com"}, MustStaple: st.MustStaple, Key: ca.Key()}).Leaf
		if st.Responder == "" {
			st.Responder = "http://ocsp.example.net/"
		}
		if age != 0 {
			st.ThisUpdate, st.LastSuccess, st.NextUpdate = now.Add(-age), now.Add(-age), now.Add(left)
		}
		st.NextRefresh = now.Add(90 * time.Second)
		return st
	}
	day := 24 * time.Hour
	return []staple.Status{
		held(staple.Status{State: staple.StateGood}, "good", day, 3*day),
		held(staple.Status{State: staple.StateGood, Responder: long, Failures: 7, Err: down}, "good-failing", 3*day, 12*time.Hour),
		held(staple.Status{State: staple.StatePending}, "pending", 0, 0),
		held(staple.Status{State: staple.StatePending, Failures: 2, Err: down}, "pending-failing", 0, 0),
		held(staple.Status{State: staple.StateUnknown, Failures: 1, Err: staple.ErrUnknown}, "unknown", 0, 0),
		held(staple.Status{State: staple.StateExpired, Failures: 31, Err: errors.Join(down, errors.New("staple: other"))}, "expired", 4*day, -18*time.Second),
		held(staple.Status{State: staple.StateRevoked, Err: &staple.ResponseError{Responder: "http://ocsp.example.net/",
			Reason: staple.ReasonRevoked, Err: errors.New("keyCompromise since 2026-11-01")}}, "revoked", day, 3*day),
		held(staple.Status{State: staple.StateExpired, MustStaple: true, Failures: 3, Err: down}, "must-expired", 4*day, -time.Hour),
		held(staple.Status{State: staple.StatePending, MustStaple: true}, "must-pending", 0, 0),
		held(staple.Status{State: staple.StateGood, MustStaple: true}, "must-good", day, 4*day),
		{State: staple.StateNone, Err: errors.New("certificate has expired"), Leaf: ca.Issue(ocsptest.Leaf{Names: []string{"over.example.com"}, NoURL: true}).Leaf},
		{State: staple.StateNone, Leaf: ca.Issue(ocsptest.Leaf{Names: []string{"none.example.com"}, NoURL: true}).Leaf},
	}
}

// table returns the page's rows by the first name in them, without ".example.com".
func table(t *testing.T, all []staple.Status) (names []string, rows map[string]string) {
	t.Helper()
	slices.Reverse(all) // the page has an order of its own
	body := get(t, statuspage.HandlerOf(func() []staple.Status { return all }), "/", browser).Body.String()
	rows = make(map[string]string)
	for _, m := range regexp.MustCompile(`(?s)<tr[^>]*>\n<td.*?</tr>`).FindAllString(body, -1) {
		name := regexp.MustCompile(`<bdi>([^<]*?)(?:\.example\.com)?</bdi>`).FindStringSubmatch(m)[1]
		names = append(names, name)
		rows[name] = m
	}
	return names, rows
}

// Who looks at the top of the page sees what needs somebody, and by how much.
func TestWorstFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, rows := table(t, fleet())
		want := "[must-pending must-expired revoked expired unknown pending-failing good-failing pending good must-good none over]"
		if fmt.Sprint(names) != want {
			t.Errorf("got %v, want %v", names, want)
		}
		for name, row := range rows {
			missing := name == "must-pending" || name == "must-expired"
			if got := strings.Contains(row, `<tr class="missing">`) && strings.Contains(row, "Must-Staple without a valid staple"); got != missing {
				t.Errorf("%s: missing is %v", name, got)
			}
			over := strings.HasSuffix(name, "expired") || name == "revoked"
			if got := strings.Contains(row, `class="bar over"`); got != over {
				t.Errorf("%s: its bar is over: %v", name, got)
			}
		}
	})
}

// A Must-Staple certificate that has expired itself needs something else.
func TestExpiredCertificate(t *testing.T) {
	leaf := ocsptest.NewCA().Issue(ocsptest.Leaf{MustStaple: true, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}).Leaf
	_, rows := table(t, []staple.Status{{State: staple.StateNone, MustStaple: true, Leaf: leaf}})
	if row := rows["example.com"]; strings.Contains(row, "without a valid staple") || !strings.Contains(row, "the certificate has expired") {
		t.Error(row)
	}
}

// What a row says is true of its state, and the times are there to read.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // at 2000-01-01 00:00:00 UTC
		_, rows := table(t, fleet())
		for name, want := range map[string][]string{
			"good":            {">expires in 3 d<", "this update 1999-12-31 00:00:00 UTC", "next update 2000-01-04 00:00:00 UTC"},
			"expired":         {`<span class="line bad">expired 18 s ago<`, "next update 1999-12-31 23:59:42 UTC"},
			"revoked":         {`<span class="line">next update in 3 d<`, ">status revoked: keyCompromise since 2026-11-01<"},
			"good-failing":    {"7 failed", ">responder unavailable, not asked: network failure: dial tcp: connection refused<"},
			"pending-failing": {">responder unavailable, not asked: network failure: dial tcp: connection refused (ocsp.example.net)<"},
			"none":            {"names no responder"},
		} {
			for _, text := range want {
				if !strings.Contains(rows[name], text) {
					t.Errorf("%s lacks %q: %s", name, text, rows[name])
				}
			}
			if name != "good" && strings.Contains(rows[name], "expires in 3 d") || strings.Contains(rows[name], "expires 18") {
				t.Errorf("%s expires: %s", name, rows[name])
			}
		}
	})
}

// Errors have their reason first, and no URL that stands above them.
func TestCauses(t *testing.T) {
	at := func(u string, err error) error {
		return &staple.ResponseError{Responder: u, Reason: staple.ReasonTimeout, Err: err}
	}
	const here, other = "http://here.example/", "http://other.example/path"
	for _, tt := range []struct {
		err  error
		want string
	}{
		{at(here, nil), "timeout"},
		{at(here, at(here, errors.New("x"))), "timeout: timeout: x"},
		{at(here, at("", errors.New("x"))), "timeout: timeout: x"},
		{at(other, at(other, nil)), "timeout: timeout (other.example)"},
		{at(other, nil), "timeout (other.example)"},
		{at("::", nil), "timeout (::)"},
		{errors.Join(at(here, nil), at(other, nil)), "timeout; timeout (other.example)"},
		{fmt.Errorf("%w: %w", staple.ErrNoIssuer, errors.Join(at(other, nil), at(other, staple.ErrExpired))),
			"issuer certificate not found: timeout (other.example); timeout: OCSP response has expired (other.example)"},
		{fmt.Errorf("staple: both %w and %w", at(here, nil), at(other, nil)), "both staple: OCSP responder " + here + ": timeout and staple: OCSP responder " + other + ": timeout"},
		{&url.Error{Op: "Get", URL: other, Err: errors.New("x")}, `Get &#34;` + other + `&#34;: x`},
		{staple.ErrNoResponder, "no OCSP responder"},
	} {
		all := []staple.Status{{Responder: here, Failures: 1, Err: tt.err}}
		_, rows := table(t, all)
		if row := rows["certificate that does not parse"]; !strings.Contains(row, "<bdi>"+tt.want+"</bdi>") {
			t.Errorf("%v: got %s, want %s", tt.err, row, tt.want)
		}
		if c := report(t, statuspage.HandlerOf(func() []staple.Status { return all }), "/").Certificates[0]; c.Error != tt.err.Error() {
			t.Errorf("the report has %q, want all of %q", c.Error, tt.err)
		}
	}
}

// The longest error that a Stapler has, of a download from where nothing is, has
// its reason on the page.
func TestIssuerCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		long := "http://ca.example/" + strings.Repeat("a-long-path/", 30)
		w.know(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{long}}, nil)
		_, rows := table(t, w.s.Status())
		row := rows["example.com"]
		if strings.Contains(row, "a-long-path") || !strings.Contains(row, "issuer certificate not found") || !strings.Contains(row, "(ca.example)</bdi>") {
			t.Error(row)
		}
	})
}

// State none says why, where that is certain.
func TestWhyNone(t *testing.T) {
	acme := func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}, Critical: true, Value: []byte{4, 0}})
	}
	ca := ocsptest.NewCA()
	for want, l := range map[string]ocsptest.Leaf{
		"names no responder":                             {NoURL: true},
		"names no responder that can be asked over HTTP": {URLs: []string{"ldap://ocsp.example/", "http://"}},
		"says noRevAvail: its status is not published":   {NoRevAvail: true},
		"self-signed":                    {SelfSigned: true},
		"acme-tls/1 challenge":           {Template: acme},
		"switched off by WithResponders": {URLs: []string{"ldap://ocsp.example/", "HTTPS://ocsp.example/"}},
	} {
		leaf := ca.Issue(l).Leaf
		_, rows := table(t, []staple.Status{{State: staple.StateNone, Leaf: leaf}})
		if row := rows["example.com"]; !strings.Contains(row, `<span class="quiet">`+want+`</span>`) || strings.Contains(row, `quiet">none<`) {
			t.Errorf("want %q, got %s", want, row)
		}
	}
	own := *ca.Issue(ocsptest.Leaf{SelfSigned: true}).Leaf
	own.Signature, own.OCSPServer = []byte("no"), []string{"http://ocsp.example/"}
	broken := errors.New("does not parse at all")
	for _, st := range []staple.Status{{State: staple.StateNone, Leaf: &own}, {State: staple.StateNone, Err: broken}, {Leaf: ca.Issue(ocsptest.Leaf{NoURL: true}).Leaf}} {
		_, rows := table(t, []staple.Status{st})
		for _, row := range rows {
			for _, guess := range []string{"switched off", "names no responder", "self-signed"} {
				if strings.Contains(row, guess) || st.Err != nil && !strings.Contains(row, broken.Error()) {
					t.Errorf("%v: %s", st.State, row)
				}
			}
		}
	}
}
