package ocsphttp_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// A conduct is how a responder answers a method.
type conduct byte

const (
	answers conduct = 'a' // rightly
	useless conduct = 'u' // 500
	silent  conduct = 's' // closes the connection
	away    conduct = 'r' // refuses connections
)

func (c conduct) answer() (*http.Response, error) {
	switch c {
	case useless:
		return says(500, "", nil), nil
	case silent:
		return nil, io.EOF
	case away:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	return good(), nil
}

// story plays attempts about one certificate, a minute after one another.
type story struct {
	m     ocsphttp.Memory
	tries ocsphttp.Tries
	now   time.Time
}

// play makes attempts at a responder and returns how each asked.
func (s *story) play(t *testing.T, get, post conduct, attempts int) string {
	t.Helper()
	var all []string
	for range attempts {
		f := &fake{answer: func(_ int, r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return get.answer()
			}
			return post.answer()
		}}
		q := question(0)
		q.First, q.May = s.m.Plan(&s.tries, true, s.now.UnixNano())
		_, l, _ := f.client().Ask(t.Context(), q)
		s.m.Learn(&s.tries, q.First, l, s.now.UnixNano())
		all = append(all, strings.ReplaceAll(f.methods(), " ", "+"))
		s.now = s.now.Add(time.Minute)
	}
	return strings.Join(all, " ")
}

func newStory() *story { return &story{now: time.Unix(946684800, 0)} }

// REQ A6: which method attempts begin with, and what follows at once, as a
// responder changes.
func TestMethods(t *testing.T) {
	type act struct {
		get, post conduct
		want      string
	}
	for name, acts := range map[string][]act{
		"answers both":           {{answers, answers, "GET GET GET"}},
		"GET alone":              {{answers, useless, "GET GET"}},
		"POST alone":             {{useless, answers, "GET+POST POST POST"}},
		"POST alone, GET closes": {{silent, answers, "GET POST POST"}},
		"neither, useless":       {{useless, useless, "GET+POST GET GET"}},
		"neither, silent":        {{silent, silent, "GET POST GET POST GET"}},
		"away":                   {{away, away, "GET GET GET"}, {answers, answers, "GET"}},
		"POST alone, then away":  {{useless, answers, "GET+POST"}, {away, away, "POST POST"}, {useless, answers, "POST"}},

		// What POST alone is answered by comes back after any outage.
		"POST alone, then 500":  {{useless, answers, "GET+POST"}, {useless, useless, "POST+GET POST GET POST GET POST"}, {useless, answers, "GET POST POST"}},
		"POST alone, then hung": {{silent, answers, "GET POST"}, {silent, silent, "POST GET POST"}, {silent, answers, "GET POST POST"}},
		// So does GET.
		"GET again, at once":       {{useless, answers, "GET+POST POST"}, {answers, useless, "POST+GET GET"}},
		"GET again, next time":     {{useless, answers, "GET+POST POST"}, {answers, silent, "POST GET GET"}},
		"GET again, patience":      {{useless, useless, "GET+POST"}, {silent, useless, "GET"}, {answers, useless, "POST GET GET"}},
		"GET alone, after it hung": {{silent, silent, "GET POST GET"}, {answers, useless, "POST+GET GET"}},
		"both, after GET hung":     {{silent, answers, "GET POST"}, {answers, answers, "POST POST"}},
	} {
		s := newStory()
		for i, a := range acts {
			if got := s.play(t, a.get, a.post, strings.Count(a.want, " ")+1); got != a.want {
				t.Errorf("%s, act %d: %s, want %s", name, i+1, got, a.want)
			}
		}
	}
}

// REQ A6: that POST worked is remembered for a day.
func TestPostForADay(t *testing.T) {
	s := newStory()
	s.play(t, useless, answers, 1)
	s.now = s.now.Add(24*time.Hour - 2*time.Minute)
	if got := s.play(t, useless, answers, 2); got != "POST GET+POST" {
		t.Errorf("%s before and after a day is over, want POST GET+POST", got)
	}
	s.now = s.now.Add(24 * time.Hour)
	if got := s.play(t, answers, answers, 2); got != "GET GET" {
		t.Errorf("%s where GET works again, want GET GET", got)
	}
}

// What did no better is not tried again for 15 minutes while nothing valid is
// held, and for an hour while something is; the other hash for an hour.
func TestPauses(t *testing.T) {
	const change = ocsphttp.Post | ocsphttp.PastCaches | ocsphttp.OtherHash
	var m ocsphttp.Memory
	var tries ocsphttp.Tries
	at := time.Unix(946684800, 0)
	plan := func(after time.Duration, valid bool) ocsphttp.Way {
		_, may := m.Plan(&tries, valid, at.Add(after).UnixNano())
		return may
	}
	if got := plan(0, true); got != change {
		t.Errorf("at first %b may be tried, want %b", got, change)
	}
	m.Learn(&tries, 0, ocsphttp.Learned{Reply: ocsphttp.Useless, Failed: change}, at.UnixNano())
	for _, c := range []struct {
		after         time.Duration
		without, with ocsphttp.Way
	}{
		{0, 0, 0},
		{15*time.Minute - 1, 0, 0},
		{15 * time.Minute, change &^ ocsphttp.OtherHash, 0},
		{time.Hour - 1, change &^ ocsphttp.OtherHash, 0},
		{time.Hour, change, change},
		{-time.Hour, change, change}, // the clock was set back
	} {
		if without, with := plan(c.after, false), plan(c.after, true); without != c.without || with != c.with {
			t.Errorf("after %v %b may be tried without a valid response and %b with one, want %b and %b", c.after, without, with, c.without, c.with)
		}
		if old := tries.Old(at.Add(c.after).UnixNano()); old != (c.with == change) {
			t.Errorf("after %v: old %v", c.after, old)
		}
	}
	// The other method is a matter of the responder, the others of the certificate.
	if _, may := m.Plan(new(ocsphttp.Tries), false, at.UnixNano()); may != change&^ocsphttp.Post {
		t.Errorf("of another certificate %b may be tried, want all but POST", may)
	}
	// What helps has no pause.
	m.Learn(new(ocsphttp.Tries), 0, ocsphttp.Learned{Reply: ocsphttp.Taken, Helped: ocsphttp.PastCaches}, at.UnixNano())
	if _, may := m.Plan(new(ocsphttp.Tries), true, at.UnixNano()); may&ocsphttp.PastCaches == 0 {
		t.Error("past caches is not tried again though it helped")
	}
}

// REQ A2: the hash that was taken is asked first for an hour, or until the other is, if
// that brought nothing for a day.
func TestHashForAnHour(t *testing.T) {
	var m ocsphttp.Memory
	var tries ocsphttp.Tries
	at := time.Unix(946684800, 0)
	first := func(after time.Duration) ocsphttp.Way {
		way, _ := m.Plan(&tries, true, at.Add(after).UnixNano())
		return way
	}
	helped := ocsphttp.Learned{Reply: ocsphttp.Taken, Helped: ocsphttp.OtherHash}
	m.Learn(&tries, 0, helped, at.UnixNano())
	if a, b := first(time.Hour-1), first(time.Hour); a != ocsphttp.OtherHash || b != 0 {
		t.Errorf("%b within an hour, %b after it", a, b)
	}
	m.Learn(&tries, ocsphttp.OtherHash, helped, at.UnixNano())
	if a := first(0); a != 0 {
		t.Errorf("%b after the first hash was taken again", a)
	}

	// Where the first hash brings answers, the other one is for one certificate alone.
	m.Learn(&tries, 0, ocsphttp.Learned{Reply: ocsphttp.Taken, Good: true}, at.UnixNano())
	m.Learn(&tries, 0, helped, at.UnixNano())
	if a := first(0); a != 0 {
		t.Errorf("%b after one certificate needed the other hash", a)
	}
	after := at.Add(24 * time.Hour)
	m.Learn(&tries, 0, helped, after.UnixNano())
	if a := first(24 * time.Hour); a != ocsphttp.OtherHash {
		t.Errorf("%b where the first hash has brought nothing for a day", a)
	}
}
