package promstaple_test

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// series returns which series of metrics have a label of a responder's.
func series(all map[string]map[string]float64, responder string) (names []string) {
	for name, of := range all {
		for labels := range of {
			if strings.Contains(labels, "responder="+responder) {
				names = append(names, name+"{"+labels+"}")
			}
		}
	}
	return names
}

// REQ I7: the series of a responder that no certificate names any more go, and
// those of one that is named stay, though it is not asked for days.
func TestRespondersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := ocsptest.NewCA(), ocsptest.NewCA()
		second := ca.NewResponder("http://second.example")
		w := newWorld(t, ca, staple.WithHTTPClient(ocsptest.Network(ca.Responder, second, other.Responder)))
		ca.Responder.SetFault(ocsptest.FaultHTTP404) // so that both are asked
		second.SetDelay(delay)
		other.Responder.SetDelay(delay)
		second.SetValidity(40 * 24 * time.Hour)
		second.SetPresign(true) // and the second not again for weeks
		second.SetHeader("Cache-Control", "max-age=3000000")
		if err := w.list(ca.Issue(ocsptest.Leaf{URLs: []string{ca.Responder.URL(), second.URL()}})); err != nil {
			t.Fatal(err)
		}
		gone := other.Issue(ocsptest.Leaf{})
		if err := w.s.Prefetch(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		w.s.Forget(gone)
		for range 3 {
			time.Sleep(24*time.Hour + time.Minute)
			w.scrape(t)
		}
		if got := series(w.scrape(t), host(other)); len(got) > 0 {
			t.Errorf("a certificate is gone, and left %q", got)
		}
		for range 3 {
			time.Sleep(24*time.Hour + time.Minute)
			w.scrape(t)
		}
		got := w.scrape(t)["staple_attempts_total"]
		for _, want := range []string{"outcome=unexpected HTTP status,responder=" + host(ca), "outcome=fetched,responder=second.example"} {
			if got[want] != 1 {
				t.Errorf("%s: got %v, want 1, in %v", want, got[want], got)
			}
		}
		if err := w.s.Prefetch(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		if n := w.scrape(t)["staple_attempts_total"]["outcome=fetched,responder="+host(other)]; n != 1 {
			t.Errorf("a certificate is back: %v responses, want 1", n)
		}
	})
}

// REQ I7: what is left of responders that only WithResponders names are those that
// were asked within a day.
func TestAskedWithinADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		host := func(leaf *x509.Certificate) string { return leaf.DNSNames[0] + ".invalid" }
		w := newWorld(t, ca, staple.WithHTTPClient(ca.Responder.Client()),
			staple.WithResponders(func(leaf *x509.Certificate) ([]string, bool) { return []string{"http://" + host(leaf)}, true }))
		key := ca.Key()
		for day := range 10 {
			for i := range 20 {
				cert := ca.Issue(ocsptest.Leaf{Key: key, Names: []string{fmt.Sprintf("%d-%d", day, i)}})
				_ = w.s.Prefetch(t.Context(), cert) // no such host
				w.s.Forget(cert)
			}
			time.Sleep(2 * time.Hour)
			if got := w.scrape(t)["staple_attempts_total"]; len(got) != 20 {
				t.Errorf("day %d: %d series, want 20", day, len(got))
			}
			time.Sleep(23 * time.Hour)
		}
	})
}

// REQ I7: no label is longer than 64 bytes, and what is cut breaks no scrape.
func TestLabelLength(t *testing.T) {
	for r := range staple.Reason(255) {
		if len(r.String()) > 64 {
			t.Errorf("reason %q", r)
		}
	}
	long := strings.Repeat("a", 60)
	urls := map[string]string{ // by the names of certificates
		"a": "http://" + long + "." + long + ".example:8080/", "b": "http://b." + long + "." + long + ".example:8080/", // cut to the same
		"c": "http://" + strings.Repeat("é", 100), "d": "http://" + long + ".abc",
	}
	responders := func(leaf *x509.Certificate) ([]string, bool) { return []string{urls[leaf.DNSNames[0]]}, true }
	bubble(t, func(t *testing.T, w *world) {
		for name := range urls {
			w.know(ocsptest.Leaf{Names: []string{name}})
		}
		all := w.scrape(t)
		for name, of := range all {
			for labels := range of {
				for label := range strings.SplitSeq(labels, ",") {
					if _, value, _ := strings.Cut(label, "="); len(value) > 64 {
						t.Errorf("%s: %s", name, label)
					}
				}
			}
		}
		for _, want := range []string{"..." + long[12:] + ".example:8080", long + ".abc"} {
			if len(series(all, want)) == 0 {
				t.Errorf("no responder %s in %v", want, all["staple_response_remaining_ratio"])
			}
		}
	}, staple.WithResponders(responders))
}
