package held_test

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/held"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// begun is when the first response of each test was signed.
var begun = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) int64 { return begun.Add(d).UnixNano() }

// der has the form of a response, with what is signed in it and what is not.
func der(signed, unsigned string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0)
		b.AddASN1(tag.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1})
				b.AddASN1(tag.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte(signed)) })
						b.AddASN1OctetString([]byte(unsigned))
					})
				})
			})
		})
	})
	return b.BytesOrPanic()
}

// An edit changes an answer.
type edit func(*held.Answer)

// answer is one that came 10 s after it was signed, d after begun, and lasts for 4 days.
func answer(d time.Duration, edits ...edit) *held.Answer {
	this := begun.Add(d)
	a := &held.Answer{
		Proof: &ocspresp.Proof{Status: ocsp.Good, ThisUpdate: this, ProducedAt: this, NextUpdate: this.AddDate(0, 0, 4), Limit: this.AddDate(0, 0, 4),
			Raw: der("of "+this.String(), "")},
		Responder: "http://ocsp.example", Received: this.Add(10 * time.Second).UnixNano(), Checked: this.Add(10 * time.Second).UnixNano(),
		MaxAge: time.Hour, Validator: ocsphttp.Validator{ETag: `"1"`},
	}
	for _, e := range edits {
		e(a)
	}
	return a
}

func revoked(a *held.Answer)   { a.Status, a.Raw = ocsp.Revoked, der(string(a.Raw)+" revoked", "") }
func unlimited(a *held.Answer) { a.NextUpdate = time.Time{} }
func big(a *held.Answer)       { a.Raw = append(a.Raw, make([]byte, 1<<14-8)...) }
func notNew(a *held.Answer)    { a.Proof = nil } // a 304

func limit(d time.Duration) edit { return func(a *held.Answer) { a.Limit = begun.Add(d) } }

func producedAt(d time.Duration) edit {
	return func(a *held.Answer) {
		a.ProducedAt, a.Raw = begun.Add(d), der(string(a.Raw)+"produced "+d.String(), "")
	}
}

func unsigned(s string) edit {
	return func(a *held.Answer) { a.Raw = der("of "+a.ThisUpdate.String(), s) }
}

func checked(d time.Duration) edit { return func(a *held.Answer) { a.Checked = at(d) } }

const (
	hour = time.Hour
	day  = 24 * hour
)

// REQ B15: which answer takes the place of what is held, and what it then is.
func TestTake(t *testing.T) {
	none := ocspresp.Reason(0)
	for _, tt := range []struct {
		name   string
		had    *held.Answer // nil: nothing
		came   *held.Answer
		after  time.Duration // what time it is
		news   bool
		state  held.State
		until  time.Duration
		reason ocspresp.Reason
	}{
		{"the first", nil, answer(0), hour, true, held.Good, 4 * day, none},
		{"the first, revoked", nil, answer(0, revoked), hour, true, held.Revoked, 4 * day, none},
		{"newer", answer(0), answer(day), day, true, held.Good, 5 * day, none},
		{"newer, and ends sooner, as its nextUpdate does", answer(0), answer(day, limit(2*day), func(a *held.Answer) { a.NextUpdate = a.Limit }), day, true, held.Good, 2 * day, none},
		{"newer, and cut short by a delegate's certificate", answer(0), answer(day, limit(2*day)), day, false, held.Good, 4 * day, none},
		{"cut short, where what is held has expired", answer(0, limit(day)), answer(day, limit(25*hour)), day, true, held.Good, 25 * hour, none},
		{"older", answer(day), answer(0), day, false, held.Good, 5 * day, ocspresp.Replay},
		{"older and revoked", answer(day), answer(0, revoked), day, false, held.Good, 5 * day, ocspresp.Replay},
		{"produced earlier", answer(0, producedAt(hour)), answer(0), day, false, held.Good, 4 * day, ocspresp.Replay},
		{"produced later", answer(0), answer(0, producedAt(hour)), day, true, held.Good, 4 * day, none},
		{"revoked at the same time", answer(0), answer(0, revoked), day, true, held.Revoked, 4 * day, none},
		{"good at the same time as revoked", answer(0, revoked), answer(0), day, false, held.Revoked, 4 * day, ocspresp.Replay},
		{"good later", answer(0, revoked), answer(hour), day, true, held.Good, 4*day + hour, none},
		{"the same signed bytes", answer(0), answer(0, unsigned("more"), checked(day)), day, false, held.Good, 4 * day, none},
		{"the same, with a delegate's certificate that ends later", answer(0, limit(2*day)), answer(0, unsigned("more")), day, true, held.Good, 4 * day, none},
		{"the same, with one that ends sooner", answer(0), answer(0, unsigned("more"), limit(2*day)), day, false, held.Good, 4 * day, none},
		{"304", answer(0), answer(0, notNew, checked(day)), day, false, held.Good, 4 * day, none},
		{"304, revoked", answer(0, revoked), answer(0, notNew, checked(day)), day, false, held.Revoked, 4 * day, none},
		{"too big", answer(0), answer(day, big), day, false, held.Good, 4 * day, ocspresp.TooLarge},
		{"too big and revoked", answer(0), answer(day, revoked, big), day, true, held.Revoked, 5 * day, none},
		{"without nextUpdate", nil, answer(0, unlimited), hour, true, held.Good, hour + 10*time.Second, none},
		{"without nextUpdate, received too long ago", answer(0, unlimited, checked(2*hour)), answer(hour, unlimited), 150 * time.Minute, false, held.Good, 3 * hour, none},
		{"the same, where what is held has lapsed, too", answer(0, unlimited), answer(hour, unlimited), 150 * time.Minute, true, held.Good, 2*hour + 10*time.Second, none},
		{"the same, where revoked is held", answer(0, revoked), answer(hour, unlimited), 150 * time.Minute, true, held.Good, 2*hour + 10*time.Second, none},
		{"the same, and revoked", answer(0, unlimited, checked(2*hour)), answer(hour, unlimited, revoked), 150 * time.Minute, true, held.Revoked, 2*hour + 10*time.Second, none},
		{"without nextUpdate, confirmed", answer(0, unlimited), answer(0, notNew, checked(day)), day, false, held.Good, day + hour, none},
		{"without nextUpdate, past what it rests on", answer(0, unlimited, limit(day)), answer(0, notNew, checked(day-time.Minute)), day, false, held.Good, day, none},
	} {
		had, rules := new(held.Response), held.Rules{TTL: hour}
		if tt.had != nil {
			var err error
			if had, _, err = had.Take(tt.had, rules, tt.had.Received); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
		}
		got, news, err := had.Take(tt.came, rules, at(tt.after))
		var refused *ocspresp.Error
		if errors.As(err, &refused) != (tt.reason != none) || refused != nil && refused.Reason != tt.reason {
			t.Errorf("%s: error %v, want reason %v", tt.name, err, tt.reason)
		}
		if news != tt.news || got.State != tt.state || got.Until != at(tt.until) {
			t.Errorf("%s: news %v, state %v until %v; want %v, %v, %v", tt.name, news, got.State, time.Unix(0, got.Until).UTC(), tt.news, tt.state, begun.Add(tt.until))
		}
		if err != nil && got != had || tt.news && !bytes.Equal(got.Raw, tt.came.Raw) || !tt.news && !bytes.Equal(got.Raw, had.Raw) {
			t.Errorf("%s: something else is held", tt.name)
		}
		if staple := got.StapleAt(at(tt.after)); (staple != nil) != (tt.state == held.Good && tt.after < tt.until) {
			t.Errorf("%s: %d bytes are stapled", tt.name, len(staple))
		}
		if got.At(got.Until-1) != tt.state || tt.state == held.Good && got.At(got.Until) != held.Expired {
			t.Errorf("%s: not %v until its end", tt.name, tt.state)
		}
	}
}

// REQ E9: what confirms a response before it came, by a clock that was set back, counts; what
// confirms it twice does not.
func TestConfirm(t *testing.T) {
	had, _, _ := new(held.Response).Take(answer(day), held.Rules{TTL: hour}, at(day))
	again := func(d time.Duration) *held.Answer { return answer(day, notNew, checked(d)) }
	if got, _, _ := had.Take(again(day), held.Rules{TTL: hour}, at(day+hour)); got != had {
		t.Error("an earlier confirmation counts")
	}
	if got, _, _ := had.Take(again(hour), held.Rules{TTL: hour}, at(hour)); got == had || got.Checked != at(hour) {
		t.Error("one by a clock that was set back does not count")
	}
	got, _, err := had.Take(again(2*day), held.Rules{TTL: hour}, at(2*day))
	if err != nil || got.Checked != at(2*day) || got.Received() != had.Received() || had.Checked == got.Checked {
		t.Errorf("confirmed: %v, received %v, checked %v", err, got.Received(), got.Checked)
	}
}

// REQ C4: a revocation is stapled where that is wanted, and fits.
func TestStapleRevoked(t *testing.T) {
	for _, tt := range []struct {
		rules held.Rules
		came  *held.Answer
		want  bool
	}{
		{held.Rules{}, answer(0, revoked), false},
		{held.Rules{StapleRevoked: true}, answer(0, revoked), true},
		{held.Rules{StapleRevoked: true}, answer(0, revoked, big), false},
	} {
		got, _, err := new(held.Response).Take(tt.came, tt.rules, at(0))
		if err != nil || (got.StapleAt(at(hour)) != nil) != tt.want {
			t.Errorf("%+v, %d bytes: %v, stapled: want %v", tt.rules, len(tt.came.Raw), err, tt.want)
		}
		if got.StapleAt(got.Until) != nil {
			t.Error("stapled past its end")
		}
	}
}

// REQ E9: a response that is counted from its receipt is not served where that is in
// the future: the clock was set back.
func TestClockSetBack(t *testing.T) {
	open, _, _ := new(held.Response).Take(answer(0, unlimited), held.Rules{TTL: hour}, at(0))
	limited, _, _ := new(held.Response).Take(answer(0), held.Rules{TTL: hour}, at(0))
	for _, tt := range []struct {
		now           time.Duration
		open, limited bool
	}{
		{0, true, true},
		{10*time.Second - 5*time.Minute, true, true},
		{10*time.Second - 5*time.Minute - 1, false, true},
		{hour + 10*time.Second - 1, true, true},
		{hour + 10*time.Second, false, true},
		{4*day - 1, false, true},
		{4 * day, false, false},
	} {
		if open.Current(at(tt.now)) != tt.open || limited.Current(at(tt.now)) != tt.limited {
			t.Errorf("at %v: without nextUpdate %v, with it %v", tt.now, open.Current(at(tt.now)), limited.Current(at(tt.now)))
		}
	}
}

// REQ A10: requests are conditional until an eighth of the life is left, by what the responder that
// confirmed it last gave.
func TestCondition(t *testing.T) {
	h, _, _ := new(held.Response).Take(answer(0), held.Rules{TTL: hour}, at(0))
	last := 4*day - 12*hour
	if h.Condition(at(last)).ETag != `"1"` || h.Condition(at(last)+1) != (ocsphttp.Validator{}) || h.Condition(at(4*day)) != (ocsphttp.Validator{}) {
		t.Error("requests are conditional too long, or not long enough")
	}
	if n := h.WithoutValidator(); n == h || n.Condition(at(hour)) != (ocsphttp.Validator{}) || n.WithoutValidator() != n || n.Until != h.Until {
		t.Error("another responder is asked by this one's validator")
	}
	n, _, _ := h.Take(answer(0, notNew, checked(day)), held.Rules{TTL: hour}, at(day))
	if n.Validator() != h.Validator() {
		t.Error("a 304 changes the validator")
	}
	other := answer(0, checked(day), func(a *held.Answer) { a.Validator = ocsphttp.Validator{ETag: `"2"`} })
	if n, _, _ = h.Take(other, held.Rules{TTL: hour}, at(day)); n.Validator().ETag != `"2"` {
		t.Error("the validator is not that of who confirmed it last")
	}
	other.Responder, other.Checked = "", at(2*day) // a record
	if n, _, _ = n.Take(other, held.Rules{TTL: hour}, at(2*day)); n.Validator().ETag != `"2"` {
		t.Error("the validator is of nobody")
	}
}

// Certificates of private CAs that end in 9999 do not overflow.
func TestNanos(t *testing.T) {
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
	if got := held.Nanos(end); got <= at(0) || got+int64(time.Second) < got {
		t.Errorf("the year 9999 is %d", got)
	}
	if held.Nanos(-1) != 0 || held.Nanos(1) != int64(time.Second) {
		t.Error("seconds are wrong")
	}
}
