package directions_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/directions"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/ocsptest"
)

const (
	own   = "http://ocsp.example/own"
	other = "https://ocsp.example/other"
)

// What is said of a certificate decides who is asked; while nothing is, what was said
// last does.
func TestOf(t *testing.T) {
	ca := ocsptest.NewCA()
	kinds := map[string]*x509.Certificate{
		"":            ca.Issue(ocsptest.Leaf{URLs: []string{"ldap://ocsp.example", own}}).Leaf,
		"no URL":      ca.Issue(ocsptest.Leaf{NoURL: true}).Leaf,
		"ldap":        ca.Issue(ocsptest.Leaf{URLs: []string{"ldap://ocsp.example"}}).Leaf,
		"noRevAvail":  ca.Issue(ocsptest.Leaf{URLs: []string{own}, NoRevAvail: true}).Leaf,
		"self-signed": ca.Issue(ocsptest.Leaf{URLs: []string{own}, SelfSigned: true}).Leaf,
		"five URLs":   ca.Issue(ocsptest.Leaf{URLs: []string{own, own, own, own, own}}).Leaf,
	}
	type (
		said  = directions.Said
		route = directions.Route
	)
	failed := errors.New("no answer")
	off, last := route{Need: schedule.Off, URLs: []string{other}}, route{Need: schedule.Wanted, URLs: []string{other}}
	for _, tt := range []struct {
		name   string
		leaf   string
		said   said
		failed error
		last   route
		need   schedule.Need
		urls   []string
		err    error
	}{
		{"nothing is said", "", said{}, nil, route{}, schedule.Wanted, []string{own}, nil},
		{"nothing, of no URL", "no URL", said{}, nil, route{}, schedule.None, nil, nil},
		{"nothing, of none that can be asked", "ldap", said{}, nil, route{}, schedule.None, nil, nil},
		{"nothing, of noRevAvail", "noRevAvail", said{}, nil, route{}, schedule.None, []string{own}, nil},
		{"nothing, of a self-signed one", "self-signed", said{}, nil, route{}, schedule.None, []string{own}, nil},
		{"nothing, of more than count", "five URLs", said{}, nil, route{}, schedule.Wanted, []string{own, own, own, own}, nil},
		{"nothing any more", "", said{}, nil, off, schedule.Wanted, []string{own}, nil},
		{"another URL", "", said{URLs: []string{other}}, nil, route{}, schedule.Wanted, []string{other}, nil},
		{"another URL, among others", "", said{URLs: []string{"ldap://x", other, ""}}, nil, route{}, schedule.Wanted, []string{other}, nil},
		{"a URL where there was none", "no URL", said{URLs: []string{other}}, nil, route{}, schedule.Wanted, []string{other}, nil},
		{"a URL for what has no status", "noRevAvail", said{URLs: []string{other}}, nil, route{}, schedule.None, []string{other}, nil},
		{"no URL that can be asked", "", said{URLs: []string{"ocsp.example:80"}}, nil, route{}, schedule.Wanted, nil, directions.ErrNoResponder},
		{"none that can be asked, of no URL", "no URL", said{URLs: []string{"ocsp.example:80"}}, nil, route{}, schedule.Wanted, nil, directions.ErrNoResponder},
		{"none that can be asked, after one that can", "", said{URLs: []string{"ocsp.example:80"}}, nil, last, schedule.Wanted, nil, directions.ErrNoResponder},
		{"none that can be asked, for what has no status", "noRevAvail", said{URLs: []string{"ocsp.example:80"}}, nil, route{}, schedule.None, nil, nil},
		{"off", "", said{Off: true}, nil, route{}, schedule.Off, []string{own}, nil},
		{"off, with a URL", "", said{Off: true, URLs: []string{other}}, nil, last, schedule.Off, []string{own}, nil},
		{"off, of no URL", "no URL", said{Off: true}, nil, route{}, schedule.Off, nil, nil},
		{"no answer yet", "", said{}, failed, route{}, schedule.Wanted, nil, failed},
		{"no answer yet, of no URL", "no URL", said{}, failed, route{}, schedule.Wanted, nil, failed},
		{"no answer, after Must-Staple without a URL", "no URL", said{}, failed, route{Need: schedule.Hopeless}, schedule.None, nil, nil},
		{"no answer, after none was needed", "no URL", said{}, failed, route{Need: schedule.None}, schedule.None, nil, nil},
		{"no answer yet, for what has no status", "noRevAvail", said{}, failed, route{}, schedule.None, nil, nil},
		{"no answer, after a URL", "", said{}, failed, last, schedule.Wanted, []string{other}, nil},
		{"no answer, after a URL without an issuer", "", said{}, failed, route{Need: schedule.NoIssuer, URLs: []string{other}}, schedule.Wanted, []string{other}, nil},
		{"no answer, after off", "", said{}, failed, off, schedule.Off, []string{other}, nil},
		{"no answer, after off without a URL", "", said{}, failed, route{Need: schedule.Off}, schedule.Off, nil, nil},
	} {
		leaf := kinds[tt.leaf]
		r := directions.Of(leaf, tt.said, tt.failed, tt.last)
		if r.Need != tt.need || !slices.Equal(r.URLs, tt.urls) || !errors.Is(r.Err, tt.err) {
			t.Errorf("%s: got %+v; want %v, %q, %v", tt.name, r, tt.need, tt.urls, tt.err)
		}
		if tt.err == directions.ErrNoResponder && !strings.Contains(r.Err.Error(), `WithResponders function named "ocsp.example:80", want http or https URLs`) {
			t.Errorf("%s: %v, want one that quotes the URL", tt.name, r.Err)
		}
		if o := directions.Own(leaf); tt.said.URLs == nil && !tt.said.Off && tt.failed == nil && (o.Need != r.Need || !slices.Equal(o.URLs, r.URLs)) {
			t.Errorf("%s: the certificate's own is %+v", tt.name, o)
		}
	}
}

// The function has five seconds. One that gives no answer is told apart from one that
// says nothing, and calls that never return do not pile up.
func TestAsk(t *testing.T) {
	leaf := new(x509.Certificate)
	for _, tt := range []struct {
		name string
		f    func(*x509.Certificate) ([]string, bool)
		said directions.Said
		err  string // empty: none
		slow bool
	}{
		{"no function", nil, directions.Said{}, "", false},
		{"names one", func(*x509.Certificate) ([]string, bool) { return []string{other}, true }, directions.Said{URLs: []string{other}}, "", false},
		{"says nothing", func(*x509.Certificate) ([]string, bool) { return nil, true }, directions.Said{}, "", false},
		{"off", func(l *x509.Certificate) ([]string, bool) { return nil, l != leaf }, directions.Said{Off: true}, "", false},
		{"panics", func(*x509.Certificate) ([]string, bool) { panic("not my day") }, directions.Said{}, "WithResponders function panicked: not my day", false},
		{"in time", func(*x509.Certificate) ([]string, bool) { time.Sleep(4900 * time.Millisecond); return nil, false }, directions.Said{Off: true}, "", false},
		{"slow", func(*x509.Certificate) ([]string, bool) { time.Sleep(5100 * time.Millisecond); return nil, false }, directions.Said{}, "WithResponders function: no answer in 5s: context deadline exceeded", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var calls foreign.Calls
			said, err := directions.Ask(t.Context(), &calls, tt.f, leaf)
			text := ""
			if err != nil {
				text = err.Error()
			}
			_, slow := errors.AsType[*directions.SlowError](err)
			_, panicked := errors.AsType[*foreign.PanicError](err)
			if !slices.Equal(said.URLs, tt.said.URLs) || said.Off != tt.said.Off || text != tt.err || slow != tt.slow || panicked != (tt.err != "" && !tt.slow) {
				t.Errorf("%s: %+v, %v (%T)", tt.name, said, err, err)
			}
			if slow && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want the deadline in it", tt.name, err)
			}
			time.Sleep(time.Second) // a call that was given up returns, too
		})
	}
	synctest.Test(t, func(t *testing.T) {
		var calls foreign.Calls
		free := make(chan struct{})
		var called atomic.Int64
		var err error
		for range foreign.MaxHung + 1 {
			_, err = directions.Ask(t.Context(), &calls, func(*x509.Certificate) ([]string, bool) { called.Add(1); <-free; return nil, true }, leaf)
		}
		_, slow := errors.AsType[*directions.SlowError](err)
		_, hung := errors.AsType[*foreign.HungError](err)
		if !slow || !hung || called.Load() != foreign.MaxHung || calls.Count(directions.Function) != foreign.MaxHung {
			t.Errorf("%v (%T) after %d calls", err, err, called.Load())
		}
		close(free)
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var calls foreign.Calls
	never := make(chan struct{})
	_, err := directions.Ask(ctx, &calls, func(*x509.Certificate) ([]string, bool) { <-never; return nil, true }, leaf)
	close(never)
	if _, slow := errors.AsType[*directions.SlowError](err); slow || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v (%T)", err, err)
	}
}

// A responder is known by its URL and the issuer's key; its host is compared without
// regard to case, and a URL that does not parse has none.
func TestKeys(t *testing.T) {
	r := directions.Route{URLs: []string{"http://OCSP.example:80/a", "https://b.example", "http://%zz", "http://b.example.", "HTTP://b.example:0080", "http://[::1]:8080/"}}
	want := []schedule.Key{
		{URL: "http://OCSP.example:80/a", Issuer: "key", Host: "ocsp.example:80"},
		{URL: "https://b.example", Issuer: "key", Host: "b.example:443"},
		{URL: "http://%zz", Issuer: "key"},
		{URL: "http://b.example.", Issuer: "key", Host: "b.example:80"},
		{URL: "HTTP://b.example:0080", Issuer: "key", Host: "b.example:80"},
		{URL: "http://[::1]:8080/", Issuer: "key", Host: "::1:8080"},
	}
	if got := r.Keys("key"); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := (directions.Route{}).Keys("key"); got != nil {
		t.Errorf("of nobody: %+v", got)
	}
}
