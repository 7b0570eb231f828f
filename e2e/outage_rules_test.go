package e2e

import (
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// A span is when an alert fired first, and last.
type span struct{ from, to time.Duration }

// timeline returns when each alert fired, from the first scrape on, as a Prometheus
// has it that evaluates its rules each 5 minutes: a series for which the expression
// held for as long as the rule wants.
func timeline(t *testing.T, rules []rulefmt.Rule, all []scrape) map[string]span {
	t.Helper()
	db, engine := prometheusOf(t, all)
	fired := make(map[string]span)
	for _, rule := range rules {
		since := make(map[string]time.Time) // that it holds for a series
		for i := 0; i < len(all); i += 5 {
			s := all[i]
			still := make(map[string]time.Time)
			for _, series := range holds(t, engine, db, rule.Expr, s.at) {
				still[series] = s.at
				if from, ok := since[series]; ok {
					still[series] = from
				}
				if s.at.Sub(still[series]) >= time.Duration(rule.For) {
					f, ok := fired[rule.Alert]
					if f.to = s.at.Sub(all[0].at); !ok {
						f.from = f.to
					}
					fired[rule.Alert] = f
				}
			}
			since = still
		}
	}
	return fired
}

// REQ G8: in an outage that outlasts the responses each alert fires when it has
// to, the critical ones a day before clients refuse and when they do, and none
// before or after.
func TestAlertsInOutage(t *testing.T) {
	const begun, ended = 24 * time.Hour, 134 * time.Hour // responses are valid for 96
	all := scrapes(t, 144*time.Hour, func(d *drama) {
		d.list(ocsptest.Leaf{Names: []string{"a.example"}})
		d.list(ocsptest.Leaf{Names: []string{"b.example"}, MustStaple: true})
		time.AfterFunc(begun, func() { d.ca.Responder.SetFault(ocsptest.FaultHTTP503) })
		time.AfterFunc(ended, d.ca.Responder.ClearFaults)
	})
	got := timeline(t, alertRules(t), all)
	const hour = time.Hour
	for name, want := range map[string]struct{ from, to span }{ // the last success was up to an hour before
		"StapleFailing":                 {span{begun + hour, begun + 2*hour}, span{ended - hour, ended + hour}},
		"StapleMustStapleExpiring":      {span{begun + 71*hour, begun + 73*hour}, span{begun + 95*hour, begun + 96*hour}},
		"StapleExpiring":                {span{begun + 71*hour, begun + 73*hour}, span{begun + 95*hour, begun + 96*hour}},
		"StapleMustStapleWithoutStaple": {span{begun + 95*hour, begun + 97*hour}, span{ended - hour, ended + hour}},
		"StapleExpired":                 {span{begun + 95*hour, begun + 97*hour}, span{ended - hour, ended + hour}},
	} {
		f, ok := got[name]
		if !ok || f.from < want.from.from || f.from > want.from.to || f.to < want.to.from || f.to > want.to.to {
			t.Errorf("%s fired from %v to %v, want from %v and to %v", name, f.from, f.to, want.from, want.to)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("there fired, too: %v", got)
	}
}

// REQ G8: an alert of Must-Staple certificates is not about others, and the other
// way round.
func TestAlertsByMustStaple(t *testing.T) {
	for must, want := range map[bool]string{true: "StapleMustStapleExpiring", false: "StapleExpiring"} {
		all := scrapes(t, 9*time.Hour, func(d *drama) {
			d.ca.Responder.SetValidity(10 * time.Hour)
			d.list(ocsptest.Leaf{MustStaple: must})
			d.ca.Responder.SetFault(ocsptest.FaultHTTP503)
		})
		got := timeline(t, alertRules(t), all)
		delete(got, "StapleFailing")
		if _, ok := got[want]; !ok || len(got) != 1 {
			t.Errorf("Must-Staple %v: got %v, want %s", must, got, want)
		}
	}
}

// REQ G8: in a healthy week no alert fires, whether the responder signs each
// response anew, one for days in advance, or fails for half an hour each night.
func TestNoAlertInHealthyWeek(t *testing.T) {
	for name, arrange := range map[string]func(*ocsptest.Responder){
		"signed anew": func(*ocsptest.Responder) {},
		"signed in advance": func(r *ocsptest.Responder) {
			r.SetPresign(true)
			r.SetValidity(7 * 24 * time.Hour)
		},
		"half an hour each night": func(r *ocsptest.Responder) {
			var fail func()
			fail = func() {
				r.SetFault(ocsptest.FaultHTTP503)
				time.AfterFunc(30*time.Minute, r.ClearFaults)
				time.AfterFunc(24*time.Hour, fail)
			}
			time.AfterFunc(3*time.Hour, fail)
		},
		"valid for an hour": func(r *ocsptest.Responder) { r.SetValidity(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := scrapes(t, 7*24*time.Hour, func(d *drama) {
				arrange(d.ca.Responder)
				d.list(ocsptest.Leaf{Names: []string{"a.example"}})
				d.list(ocsptest.Leaf{Names: []string{"b.example"}, MustStaple: true})
				d.list(ocsptest.Leaf{Names: []string{"c.example"}, NoURL: true})
			}, staple.WithStore(staple.DirStore(t.TempDir())))
			if got := timeline(t, alertRules(t), all); len(got) > 0 {
				t.Errorf("there fired %v", got)
			}
		})
	}
}
