package promstaple_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// rule is one of alerts.yml, as much as its lines tell.
type rule struct{ name, text, expr string }

func readRules(t *testing.T) (rules []rule) {
	t.Helper()
	data, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range strings.Split(string(data), "- alert: ")[1:] {
		name, _, _ := strings.Cut(text, "\n")
		_, expr, _ := strings.Cut(text, "expr: ")
		expr, _, _ = strings.Cut(expr, " for: ")
		rules = append(rules, rule{name: name, text: text, expr: strings.Join(strings.Fields(strings.TrimPrefix(expr, ">-")), " ")})
	}
	return rules
}

// dashboard is what the tests want to know of dashboard.json.
type dashboard struct {
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type, Query, AllValue string
			IncludeAll, Multi           bool
			Datasource                  struct{ Type, UID string }
		}
	}
	Panels []struct {
		ID                 int
		Title, Description string
		Type               string
		Datasource         struct{ Type, UID string }
		GridPos            struct{ X, Y, W, H int }
		Targets            []struct {
			RefID, Expr, LegendFormat string
			Datasource                struct{ Type, UID string }
		}
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// vocabulary returns the labels of every metric, and the values of those labels
// that have a fixed set of them, from a Stapler that has seen everything.
func vocabulary(t *testing.T) (labels map[string][]string, values map[string]bool) {
	labels, values = make(map[string][]string), make(map[string]bool)
	store := &shelf{m: make(map[string][]byte)}
	bubble(t, func(t *testing.T, w *world) {
		w.know(ocsptest.Leaf{})
		w.know(ocsptest.Leaf{NoURL: true, MustStaple: true})
		w.ca.Responder.SetFault(ocsptest.FaultTryLater)
		time.Sleep(30 * time.Hour)
		w.know(ocsptest.Leaf{WithoutIssuer: true})
		for name, series := range w.scrape(t) {
			for s := range series {
				for _, label := range strings.Split(s, ",") {
					if key, value, ok := strings.Cut(label, "="); ok {
						labels[name] = append(labels[name], key)
						values[value] = true
					}
				}
				labels[name] = append(labels[name], "") // that there is such a metric
			}
		}
	}, staple.WithStore(store))
	return labels, values
}

var (
	metricName  = regexp.MustCompile(`staple_[a-z_]+`)
	selector    = regexp.MustCompile(`(staple_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher     = regexp.MustCompile(`([a-z_]+)=~?"([^"]*)"`)
	grouping    = regexp.MustCompile(`(?:by|without|ignoring|on) \(([^)]*)\)`)
	inTemplates = regexp.MustCompile(`\{\{ ?(?:\$labels\.)?([a-z_]+) ?\}\}`)
)

// checkExpr checks that what an expression and its texts name is there.
func checkExpr(t *testing.T, where, expr, texts string, labels map[string][]string, values map[string]bool) {
	t.Helper()
	if !metricName.MatchString(expr) {
		t.Errorf("%s: no metric in %q", where, expr)
	}
	for _, name := range metricName.FindAllString(expr+texts, -1) {
		if labels[name] == nil {
			t.Errorf("%s: no metric %q", where, name)
		}
	}
	var any []string // label of the metrics in expr
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		any = append(any, labels[s[1]]...)
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(labels[s[1]], m[1]) {
				t.Errorf("%s: %s has no label %q", where, s[1], m[1])
			}
			for value := range strings.SplitSeq(m[2], "|") {
				if !values[value] {
					t.Errorf("%s: no label has the value %q", where, value)
				}
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(g[1], ", ") {
			if !slices.Contains(any, label) {
				t.Errorf("%s: no metric in %q has the label %q", where, expr, label)
			}
		}
	}
	for _, m := range inTemplates.FindAllStringSubmatch(texts, -1) {
		if label := m[1]; label != "instance" && !slices.Contains(any, label) { // Prometheus sets that one
			t.Errorf("%s: the text has the label %q, which no metric in %q has", where, label, expr)
		}
	}
}

// REQ G4: alerts and panels ask for metrics, labels and values that exist.
func TestFilesNameWhatExists(t *testing.T) {
	labels, values := vocabulary(t)
	rules := readRules(t)
	if len(rules) < 8 {
		t.Errorf("%d rules", len(rules))
	}
	for _, r := range rules {
		checkExpr(t, r.name, r.expr, r.text, labels, values)
	}
	shown := ""
	const chosen = `job=~"$job", instance=~"$instance"` // labels that Prometheus sets
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			if got, want := strings.Count(target.Expr, chosen), len(metricName.FindAllString(target.Expr, -1)); got != want {
				t.Errorf("%s: %d of %d metrics are of the instance that was chosen: %s", p.Title, got, want, target.Expr)
			}
			expr := strings.NewReplacer(chosen+", ", "", "{"+chosen+"}", "").Replace(target.Expr)
			checkExpr(t, p.Title, expr, target.LegendFormat, labels, values)
			shown += expr
		}
	}
	for name := range labels { // and nothing is measured for nobody
		if base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum"); !strings.Contains(shown, base) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// REQ G4: each rule says how bad it is, what is served meanwhile and what to do.
func TestAlerts(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range readRules(t) {
		if seen[r.name] || !strings.HasPrefix(r.name, "Staple") {
			t.Errorf("%q is not a name of its own", r.name)
		}
		seen[r.name] = true
		for _, want := range []string{`(?m)^        for: \d+[mh]$`, `(?m)^          severity: (critical|warning|info)$`, `(?m)^          summary: '.+'$`,
			`(?m)^          description: >-\n            .+$`, `serve|staple|known`, `[Cc]heck|[Rr]eplace|make it|Look`} {
			if n := len(regexp.MustCompile(want).FindAllString(r.text, -1)); n == 0 {
				t.Errorf("%s lacks %s", r.name, want)
			}
		}
	}
	for _, want := range []string{"StapleMustStapleWithoutStaple", "StapleMustStapleExpiring", "StapleExpiring", "StapleExpired", "StapleFailing", "StapleRevoked", "StapleStoreFailing",
		"StapleEventsDropped"} {
		if !seen[want] {
			t.Errorf("no alert %s", want)
		}
	}
}

// The dashboard loads into any Grafana, on whatever Prometheus it has, and its
// panels don't lie on each other.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	l := d.Templating.List
	if len(l) != 3 || l[0].Name != "datasource" || l[0].Type != "datasource" || l[0].Query != "prometheus" {
		t.Fatalf("variables %+v", l)
	}
	for i, want := range []struct{ name, query string }{{"job", "label_values(staple_certificates, job)"},
		{"instance", `label_values(staple_certificates{job=~"$job"}, instance)`}} {
		if v := l[i+1]; v.Name != want.name || v.Query != want.query || v.Type != "query" || v.AllValue != ".*" || !v.IncludeAll || !v.Multi || v.Datasource.UID != "${datasource}" {
			t.Errorf("variable %+v, want %v", v, want)
		}
	}
	if d.SchemaVersion < 39 || len(d.Panels) < 7 {
		t.Errorf("schema %d, %d panels", d.SchemaVersion, len(d.Panels))
	}
	ids, cells := make(map[int]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if p.ID <= 0 || ids[p.ID] || p.Title == "" || p.Description == "" || p.Type == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q: no id of its own, or something is missing", p.ID, p.Title)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W <= 0 || g.H <= 0 || g.X+g.W > 24 {
			t.Errorf("%s lies outside: %+v", p.Title, g)
		}
		for x := range g.W {
			for y := range g.H {
				cell := [2]int{g.X + x, g.Y + y}
				if other := cells[cell]; other != "" && other != p.Title {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				cells[cell] = p.Title
			}
		}
		refs := make(map[string]bool)
		for _, target := range p.Targets {
			if ds := target.Datasource; ds != p.Datasource || ds.Type != "prometheus" || ds.UID != "${datasource}" {
				t.Errorf("%s: datasource %+v", p.Title, ds)
			}
			if target.RefID == "" || refs[target.RefID] || strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("%s: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
	}
}

// What the alerts of expiring responses rest on: while refreshes fail, both of
// their metrics have the same labels, but for the reason and must_staple.
func TestExpiringMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := ocsptest.NewCA(), ocsptest.NewCA()
		w := newWorld(t, ca, staple.WithHTTPClient(ocsptest.Network(ca.Responder, other.Responder)))
		if err := w.list(ca.Issue(ocsptest.Leaf{}), other.Issue(ocsptest.Leaf{})); err != nil {
			t.Fatal(err)
		}
		ca.Responder.SetFault(ocsptest.FaultTryLater)
		time.Sleep(80 * time.Hour)
		got := w.scrape(t)
		for _, c := range []*ocsptest.CA{ca, other} {
			left := got["staple_response_remaining_ratio"]["must_staple=false,responder="+host(c)]
			failing := got["staple_certificates_failing"]["reason=OCSP error status tryLater,responder="+host(c)]
			if fails := c == ca; left < 0.25 != fails || failing == 1 != fails {
				t.Errorf("fails %v: got %v left, %v failing", fails, left, failing)
			}
		}
	})
}
