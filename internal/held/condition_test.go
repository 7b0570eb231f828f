package held_test

import (
	"crypto/tls"
	"errors"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

// take returns what is held after answers, each at the time at which it was checked.
func take(t *testing.T, answers ...*held.Answer) *held.Response {
	t.Helper()
	h := new(held.Response)
	for _, a := range answers {
		n, _, err := h.Take(a, held.Rules{TTL: hour}, a.Checked)
		if err != nil {
			t.Fatal(err)
		}
		h = n
	}
	return h
}

func lasts(d time.Duration) edit {
	return func(a *held.Answer) { a.NextUpdate = begun.Add(d); a.Limit = a.NextUpdate }
}

func fill(n int) edit {
	return func(a *held.Answer) { a.Raw = append(a.Raw, make([]byte, n-len(a.Raw))...) }
}

// Only what is good, and newer, is cut short by a delegate's certificate: anyone on the
// path may put an older one there, which must not hide a revocation, or that it ended.
//
// REQ B15, REQ I1
func TestWhatIsCutShort(t *testing.T) {
	for name, tt := range map[string]struct {
		had, came *held.Answer
		news      bool
		state     held.State
		reason    ocspresp.Reason
	}{
		"good, with the same nextUpdate":      {answer(0), answer(day, lasts(4*day), limit(2*day)), false, held.Good, 0},
		"revoked":                             {answer(0), answer(day, revoked, limit(2*day)), true, held.Revoked, 0},
		"good, where a revocation is held":    {answer(0, revoked), answer(day, limit(2*day)), true, held.Good, 0},
		"good, where one without end is held": {answer(0, unlimited), answer(hour/2, limit(50*time.Minute)), true, held.Good, 0},
		"older":                               {answer(day), answer(0, lasts(5*day), limit(2*day)), false, held.Good, ocspresp.Replay},
		"revoked twice in a second":           {answer(0, revoked), answer(0, revoked, producedAt(0)), true, held.Revoked, 0},
		"without end, the same again":         {answer(0, unlimited), answer(0, unlimited, checked(hour)), false, held.Good, 0},
		"as long as what is stapled":          {answer(0), answer(day, fill(16376)), true, held.Good, 0},
		"longer by a byte":                    {answer(0), answer(day, fill(16377)), false, held.Good, ocspresp.TooLarge},
	} {
		got, news, err := take(t, tt.had).Take(tt.came, held.Rules{TTL: hour}, max(tt.came.Checked, tt.had.Checked))
		if news != tt.news || got.State != tt.state || (err != nil) != (tt.reason != 0) || err != nil && err.(*ocspresp.Error).Reason != tt.reason {
			t.Errorf("%s: news %v, state %v, %v", name, news, got.State, err)
		}
	}
}

// What confirms a response changes when it was checked, and not when it came.
//
// REQ A10, REQ C3
func TestWhatIsConfirmed(t *testing.T) {
	late := func(a *held.Answer) { a.Received = a.Checked }
	first := take(t, answer(0, checked(hour), limit(2*day)))
	if first.Received() != at(10*time.Second) || first.End() != begun.Add(4*day).Unix() {
		t.Errorf("received %v, ends %v", first.Received(), first.End())
	}
	for _, a := range []*held.Answer{answer(0, notNew, checked(hour)), answer(0, notNew, checked(hour-1))} {
		if got, _, _ := first.Take(a, held.Rules{TTL: hour}, at(hour)); got != first {
			t.Error("what was checked no later confirms it")
		}
	}
	if got := take(t, answer(0), answer(0, notNew, checked(day), late)); got.Received() != at(10*time.Second) {
		t.Errorf("confirmed, and received %v", got.Received())
	}
	other := func(a *held.Answer) { a.Validator = ocsphttp.Validator{ETag: `"3"`} }
	of := func(a *held.Answer) { a.Responder = "" } // a record
	for name, a := range map[string]*held.Answer{"a 304": answer(0, notNew, checked(day), other), "a record": answer(0, checked(day), other, of)} {
		if got := take(t, answer(0), a); got.Validator().ETag != `"1"` {
			t.Errorf("the validator is that of %s", name)
		}
	}
}

// What the schedule is told, and what is told of an end that came.
//
// REQ C3, REQ E3, REQ E9
func TestSpans(t *testing.T) {
	limited, open, bad := take(t, answer(0)), take(t, answer(0, unlimited)), take(t, answer(0, revoked))
	for name, tt := range map[string]struct {
		h    *held.Response
		want schedule.Held
	}{
		"nothing": {new(held.Response), schedule.Held{}},
		"good":    {limited, schedule.Held{From: at(0), Until: at(4 * day), Checked: at(10 * time.Second), MaxAge: int64(hour), Length: int64(4 * day)}},
		"cut short by its delegate's certificate": {take(t, answer(0, limit(day))), schedule.Held{From: at(0), Until: at(day), Checked: at(10 * time.Second),
			MaxAge: int64(hour), Length: int64(4 * day)}},
		"without nextUpdate": {open, schedule.Held{Open: true, From: at(10 * time.Second), Until: at(hour + 10*time.Second), Checked: at(10 * time.Second),
			MaxAge: int64(hour)}},
		"revoked": {bad, schedule.Held{From: at(0), Until: at(4 * day), Checked: at(10 * time.Second), MaxAge: int64(hour), Length: int64(4 * day), Silent: true}},
	} {
		if got := tt.h.Scheduled(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	if bad.At(at(5*day)) != held.Revoked || new(held.Response).At(0) != held.Pending {
		t.Error("what is not good expires")
	}
	if open.Condition(at(hour/4)).ETag == "" || open.Condition(at(-hour)) != (ocsphttp.Validator{}) {
		t.Error("a request is conditional on what came by a clock that was set back")
	}
}

// What has ended says when, and what came of the last attempt.
func TestLapsed(t *testing.T) {
	h, last := take(t, answer(0)), errors.New("staple: no luck")
	until := "staple: OCSP response has expired at " + begun.Add(4*day).UTC().Format(time.RFC3339)
	for _, tt := range []struct {
		last error
		want string
	}{{nil, until}, {last, until + "; the last attempt: no luck"}} {
		err := h.Lapsed(tt.last)
		if got := err.Error(); got != tt.want || !errors.Is(err, ocspresp.ErrExpired) || tt.last != nil && !errors.Is(err, last) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// An error that a caller keeps does not keep the certificate that was served, which has
// the private key.
func TestLapsedKeepsNoKey(t *testing.T) {
	key, err := func() (weak.Pointer[tls.Certificate], error) {
		h, cert := take(t, answer(0)), &tls.Certificate{Certificate: [][]byte{{1}}}
		h.Copy.Store(cert)
		return weak.Make(cert), h.Lapsed(nil)
	}()
	runtime.GC()
	if key.Value() != nil {
		t.Error("the certificate is still there")
	}
	runtime.KeepAlive(err)
}

// REQ B15: while no response is needed nothing is served, and all is remembered.
func TestUnneeded(t *testing.T) {
	for _, tt := range []struct {
		held   *held.Answer
		state  held.State // where it is needed, two days on
		stands bool
	}{
		{answer(0), held.Good, true},
		{answer(0, limit(day)), held.Expired, false},
		{answer(0, revoked), held.Revoked, true},
		{answer(0, revoked, limit(day)), held.Revoked, true},
	} {
		now := at(2 * day)
		needed := take(t, tt.held)
		h := needed.Needed(false)
		if h.At(now) != held.None || h.StapleAt(now) != nil || h.Current(now) || h.Scheduled() != (schedule.Held{}) {
			t.Errorf("%v: something is served: %+v", tt.state, h)
		}
		if h.Stands(now) != tt.stands {
			t.Errorf("%v: stands %v", tt.state, !tt.stands)
		}
		if again := h.Needed(true); again.At(now) != tt.state || again.Scheduled() != needed.Scheduled() {
			t.Errorf("%v, needed again: %+v", tt.state, again)
		}
		if _, _, err := h.Take(answer(-day), held.Rules{TTL: hour}, now); err == nil {
			t.Errorf("%v: an older answer takes its place", tt.state)
		}
		if n, news, err := h.Take(answer(time.Second, limit(day)), held.Rules{TTL: hour}, at(hour)); tt.state == held.Good && (news || err != nil || n.Until != h.Until) {
			t.Errorf("%v: cut short by a delegate's certificate: %v", tt.state, err)
		}
		if n, _, err := h.Take(answer(0, notNew, checked(day)), held.Rules{TTL: hour}, now); err != nil || !n.Unneeded {
			t.Errorf("%v: a 304 has it served: %v", tt.state, err)
		}
		if n, news, err := h.Take(answer(day), held.Rules{TTL: hour}, now); err != nil || !news || n.At(now) != held.Good {
			t.Errorf("%v: a newer answer is not served: %v", tt.state, err)
		}
	}
}

// What is confirmed after the responder said unknown is good again.
func TestConfirmedAfterUnknown(t *testing.T) {
	h := take(t, answer(0, unlimited)).With(held.Unknown)
	n, _, err := h.Take(answer(0, notNew, checked(day)), held.Rules{TTL: hour}, at(day))
	if err != nil || n.At(at(day)) != held.Good || h.At(at(day)) != held.Unknown {
		t.Errorf("got %v and %v", n.At(at(day)), err)
	}
	if limited := take(t, answer(0)).With(held.Unknown); limited.At(at(day)) != held.Good || limited.At(at(5*day)) != held.Unknown || !limited.Stands(at(day)) {
		t.Error("what is valid by the right clock is unknown")
	}
}

// A 304 confirms what its request was about, and not what has come meanwhile.
func TestConfirmsNoOther(t *testing.T) {
	had, other := take(t, answer(0, unlimited)), take(t, answer(hour, unlimited, checked(hour)))
	for _, tt := range []struct {
		about *held.Response
		until time.Duration
	}{{other, 150 * time.Minute}, {had, 2 * hour}, {new(held.Response), 2 * hour}} {
		about := func(a *held.Answer) { a.About = tt.about }
		n, _, err := other.Take(answer(0, notNew, about, checked(90*time.Minute)), held.Rules{TTL: hour}, at(90*time.Minute))
		if err != nil || n.Until != at(tt.until) {
			t.Errorf("served until %v, want %v: %v", time.Unix(0, n.Until).UTC(), begun.Add(tt.until), err)
		}
	}
}
