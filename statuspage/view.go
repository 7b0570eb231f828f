package statuspage

import (
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ocspstaple/staple"
)

const (
	perPage  = 200
	maxNames = 4   // shown of a certificate, then their number
	maxText  = 300 // runes of a name or an error
)

// view is what the template shows. Everything in it that came from outside is
// printable: what a name says must be what one sees.
type view struct {
	Style      template.CSS
	Time       time.Time
	Tabs       []tab
	State      string
	Text       string
	Rows       []row
	From, To   int // of Matches
	Matches    int
	Prev, Next string // "": none
}

// tab chooses a state, or those that fail.
type tab struct {
	Name, Mark, Link string
	Count            int
	Current          bool
}

type row struct {
	State, Mark, Means string
	Names              []string
	More               int // names
	Serial             string
	MustStaple         bool
	Missing            bool // Must-Staple without a valid staple
	Responder          string
	Why                string // it is in state none
	Bar                *bar
	Update, Refresh    string
	This, Next         string // update: hovering shows nothing on a phone
	Failures           int
	Error              string
	LastSuccess        string
	Served             string // when last
}

// bar is the validity of a response, in hundredths of it.
type bar struct {
	Spent, Now, Refresh float64
	HasRefresh          bool
	Bad                 bool // nothing good comes of it any more
	Says                string
}

// marks tell the states apart for those who don't see colours.
func mark(state string) string {
	marks := map[string]string{"good": "✓", "revoked": "✕", "expired": "!", "unknown": "?", "pending": "…", "none": "–", failing: "↻"}
	return marks[state]
}

// means says what a state is, as a tooltip.
func means(state staple.State) string {
	switch state {
	case staple.StateGood:
		return "a valid response is stapled"
	case staple.StateRevoked:
		return "the certificate is revoked: replace it"
	case staple.StateExpired:
		return "the response has expired and no other came: nothing is stapled"
	case staple.StateUnknown:
		return "the responder does not know the certificate: nothing is stapled"
	case staple.StatePending:
		return "no response yet: nothing is stapled"
	}
	return "needs no staple"
}

func newView(r *Report, q query, style template.CSS) *view {
	v := &view{Style: style, Time: r.Time, State: q.state, Text: printable(q.text), Matches: len(r.Certificates)}
	total := 0
	for _, n := range r.States {
		total += n
	}
	v.Tabs = []tab{{Name: "all", Count: total, Link: link("", q.text, 1), Current: q.state == ""}}
	add := func(name string, count int) {
		v.Tabs = append(v.Tabs, tab{Name: name, Mark: mark(name), Count: count, Link: link(name, q.text, 1), Current: q.state == name})
	}
	for _, state := range order {
		add(state.String(), r.States[state.String()])
	}
	add(failing, r.Failing)
	page, _ := strconv.Atoi(q.page)
	page = min(max(page, 1), (len(r.Certificates)-1)/perPage+1)
	from := (page - 1) * perPage
	to := min(from+perPage, len(r.Certificates))
	for _, c := range r.Certificates[from:to] {
		v.Rows = append(v.Rows, newRow(c, r.Time))
	}
	v.From, v.To = min(from+1, to), to
	if page > 1 {
		v.Prev = link(q.state, q.text, page-1)
	}
	if to < len(r.Certificates) {
		v.Next = link(q.state, q.text, page+1)
	}
	return v
}

// link returns the query for a part of the report.
func link(state, text string, page int) string {
	q := url.Values{}
	if state != "" {
		q.Set("state", state)
	}
	if text != "" {
		q.Set("q", text)
	}
	if page > 1 {
		q.Set("page", strconv.Itoa(page))
	}
	return "?" + q.Encode()
}

func newRow(c Certificate, now time.Time) row {
	r := row{State: c.State, Mark: mark(c.State), Means: means(c.state), Serial: c.Serial, MustStaple: c.MustStaple, Responder: printable(c.Responder),
		Failures: c.Failures, Error: printable(c.cause), Missing: c.missing}
	if c.missing {
		r.Means = "Must-Staple without a valid staple: clients refuse it"
	}
	if c.state == staple.StateNone && c.Error == "" && c.leaf != nil {
		r.Why = whyNone(c.leaf, now)
	}
	for i, name := range c.Names {
		if i == maxNames {
			r.More = len(c.Names) - maxNames
			break
		}
		r.Names = append(r.Names, printable(name))
	}
	if c.NextUpdate != nil {
		r.Bar = newBar(c, now)
		r.Update = expiry(c, now)
		r.This, r.Next = stamp(at(c.ThisUpdate)), stamp(*c.NextUpdate)
	}
	if c.NextRefresh != nil {
		r.Refresh = relative(*c.NextRefresh, now)
	}
	if c.LastSuccess != nil {
		r.LastSuccess = relative(*c.LastSuccess, now)
	}
	r.Served = served(c.LastHandshake, now)
	return r
}

// served says when the last handshake was, which is known to the minute.
func served(last *time.Time, now time.Time) string {
	switch {
	case last == nil:
		return "no handshake yet"
	case now.Sub(*last) < time.Minute:
		return "last handshake just now"
	}
	return "last handshake " + span(now.Sub(*last).Truncate(time.Minute)) + " ago"
}

func newBar(c Certificate, now time.Time) *bar {
	from, to := at(c.ThisUpdate), at(c.NextUpdate)
	share := func(t time.Time) float64 {
		if !to.After(from) {
			return 100
		}
		return 100 * min(max(float64(t.Sub(from))/float64(to.Sub(from)), 0), 1)
	}
	b := &bar{Spent: share(now), Now: share(now), Bad: c.state != staple.StateGood || !now.Before(to)}
	b.Says = fmt.Sprintf("valid from %s to %s, %.0f %% of it is over", stamp(from), stamp(to), b.Spent)
	if c.NextRefresh != nil {
		b.HasRefresh, b.Refresh = true, share(*c.NextRefresh)
		b.Says += ", next refresh " + stamp(*c.NextRefresh)
	}
	return b
}

func stamp(t time.Time) string { return t.Format("2006-01-02 15:04:05 UTC") }

// expiry says until when the response lasts. That a certificate is revoked does
// not expire.
func expiry(c Certificate, now time.Time) string {
	switch {
	case c.state == staple.StateRevoked:
		return "next update " + relative(*c.NextUpdate, now)
	case !now.Before(*c.NextUpdate):
		return "expired " + span(now.Sub(*c.NextUpdate).Round(time.Second)) + " ago"
	}
	return "expires " + relative(*c.NextUpdate, now)
}

// relative says when t is, in its two largest units.
func relative(t, now time.Time) string {
	d := t.Sub(now).Round(time.Second)
	if d < 0 {
		return span(-d) + " ago"
	}
	return "in " + span(d)
}

func span(d time.Duration) string {
	units := []struct {
		name string
		of   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.of && i < len(units)-1 {
			continue
		}
		out := fmt.Sprintf("%d %s", d/u.of, u.name)
		if rest := d % u.of; i+1 < len(units) && rest >= units[i+1].of {
			out += fmt.Sprintf(" %d %s", rest/units[i+1].of, units[i+1].name)
		}
		return out
	}
	return ""
}

// printable returns s as one sees it: what turns the direction of text, breaks
// lines or shows nothing is written as its code, and the length is bounded.
func printable(s string) string {
	var b strings.Builder
	n := 0
	for _, c := range s {
		if n++; n > maxText {
			b.WriteRune('…')
			break
		}
		switch {
		case c == '\n':
			b.WriteByte(' ')
		case unicode.IsGraphic(c):
			b.WriteRune(c)
		default:
			fmt.Fprintf(&b, "\\u%04x", c)
		}
	}
	return b.String()
}
