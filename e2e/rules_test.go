package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/promstaple"
)

var promQL = parser.NewParser(parser.Options{})

// alertRules are promstaple's, read as Prometheus reads them.
func alertRules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile("../promstaple/alerts.yml", false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var rules []rulefmt.Rule
	for _, g := range groups.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

func TestDashboardQueries(t *testing.T) {
	data, err := os.ReadFile("../promstaple/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			n++
			expr := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(target.Expr)
			if _, err := promQL.ParseExpr(expr); err != nil {
				t.Errorf("%s: %v", panel.Title, err)
			}
		}
	}
	if n < 7 {
		t.Errorf("got %d queries", n)
	}
}

// A scrape is what Prometheus takes at one moment.
type scrape struct {
	at       time.Time
	families []*dto.MetricFamily
}

// scrapes runs a server with the collector in virtual time and scrapes it each
// minute for length. play arranges what goes wrong, and may return what a source
// serves later.
func scrapes(t *testing.T, length time.Duration, play func(*drama), opts ...staple.Option) (all []scrape) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		s, collector := promstaple.New(append([]staple.Option{staple.WithHTTPClient(ca.Responder.Client())}, opts...)...)
		defer s.Close()
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(collector)
		d := &drama{t: t, ca: ca, s: s}
		play(d)
		defer runtime.KeepAlive(d)
		for range int(length / time.Minute) {
			time.Sleep(time.Minute)
			synctest.Wait()
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, scrape{time.Now(), families})
		}
	})
	return all
}

type drama struct {
	t  *testing.T
	ca *ocsptest.CA
	s  *staple.Stapler

	lists []*tls.Config // which keep their certificates in use
}

// list has a certificate in use to the end.
func (d *drama) list(l ocsptest.Leaf) {
	cert := d.ca.Issue(l)
	d.lists = append(d.lists, d.s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}))
	_ = d.s.Prefetch(d.t.Context(), cert)
}

// serve has a certificate served and settled.
func (d *drama) serve(l ocsptest.Leaf) {
	_ = d.s.Prefetch(d.t.Context(), d.ca.Issue(l)) // what fails is the test's subject
}

// firing returns the names of the alerts that fire at the last scrape: whose
// expression held at each scrape for as long as the rule wants.
func firing(t *testing.T, rules []rulefmt.Rule, all []scrape) (names []string) {
	t.Helper()
	db, engine := prometheusOf(t, all)
	for _, rule := range rules {
		for i := len(all) - 1; i >= 0 && len(holds(t, engine, db, rule.Expr, all[i].at)) > 0; i-- {
			if all[len(all)-1].at.Sub(all[i].at) >= time.Duration(rule.For) {
				names = append(names, rule.Alert)
				break
			}
		}
	}
	return names
}

// prometheusOf returns a Prometheus that took all scrapes.
func prometheusOf(t *testing.T, all []scrape) (*teststorage.TestStorage, *promql.Engine) {
	t.Helper()
	db := teststorage.New(t)
	app := db.Appender(t.Context())
	for _, s := range all {
		for _, f := range s.families {
			for _, m := range f.Metric {
				ls := labels.NewBuilder(labels.FromStrings("__name__", f.GetName(), "instance", "server:9100"))
				for _, l := range m.Label {
					ls.Set(l.GetName(), l.GetValue())
				}
				if m.Histogram != nil { // no rule is about one
					continue
				}
				if _, err := app.Append(0, ls.Labels(), s.at.UnixMilli(), m.GetGauge().GetValue()+m.GetCounter().GetValue()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: patience, LookbackDelta: 5 * time.Minute, Parser: promQL})
	t.Cleanup(func() { engine.Close() })
	return db, engine
}

// holds returns the series for which an expression holds, by their labels.
func holds(t *testing.T, engine *promql.Engine, db *teststorage.TestStorage, expr string, at time.Time) (series []string) {
	t.Helper()
	q, err := engine.NewInstantQuery(context.Background(), db, nil, expr, at)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	v, err := q.Exec(context.Background()).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	for _, sample := range v {
		series = append(series, sample.Metric.String())
	}
	return series
}

// fullDisk is a store that keeps nothing.
type fullDisk struct{ staple.DirStore }

func (fullDisk) Put(context.Context, string, []byte) error { return os.ErrPermission }

// Each alert fires where it has to, by Prometheus's own evaluation of what a
// real collector gave, and none where all is well.
func TestAlertRules(t *testing.T) {
	rules := alertRules(t)
	quick := ocsptest.Leaf{}
	must := ocsptest.Leaf{MustStaple: true}
	store := t.TempDir()
	for _, c := range []struct {
		name string
		d    time.Duration
		play func(*drama)
		opts []staple.Option
		want []string
	}{
		{"all is well", 6 * time.Hour, func(d *drama) { d.serve(quick); d.serve(must); d.serve(ocsptest.Leaf{NoURL: true}) },
			[]staple.Option{staple.WithStore(staple.DirStore(store))}, nil},
		{"revoked", 2 * time.Hour, func(d *drama) {
			cert := d.ca.Issue(quick)
			d.ca.Responder.Revoke(cert, 1, time.Time{})
			_ = d.s.Prefetch(d.t.Context(), cert)
		}, nil, []string{"StapleRevoked"}},
		{"Must-Staple, and the responder is down", time.Hour / 2, func(d *drama) { d.ca.Responder.SetFault(ocsptest.FaultHTTP503); d.serve(must) },
			nil, []string{"StapleMustStapleWithoutStaple"}},
		{"Must-Staple without a responder", time.Hour / 2, func(d *drama) { d.serve(ocsptest.Leaf{MustStaple: true, NoURL: true}) },
			nil, []string{"StapleMustStapleWithoutStaple"}},
		{"an outage of two hours", 4 * time.Hour, func(d *drama) {
			d.serve(quick)
			d.ca.Responder.SetFault(ocsptest.FaultHTTP503)
		}, nil, []string{"StapleFailing"}},
		{"an outage of most of the validity", 7 * time.Hour, func(d *drama) {
			d.ca.Responder.SetValidity(8 * time.Hour)
			d.serve(quick)
			d.ca.Responder.SetFault(ocsptest.FaultTryLater)
		}, nil, []string{"StapleExpiring", "StapleFailing"}},
		{"an outage longer than the validity", 12 * time.Hour, func(d *drama) {
			d.ca.Responder.SetValidity(8 * time.Hour)
			d.serve(quick)
			d.ca.Responder.SetFault(ocsptest.FaultTryLater)
		}, nil, []string{"StapleExpired", "StapleFailing"}},
		{"a store that fails", 3 * time.Hour, func(d *drama) { d.serve(quick) },
			[]staple.Option{staple.WithStore(fullDisk{})}, []string{"StapleStoreFailing"}},
		{"nothing known", 2 * time.Hour, func(*drama) {}, nil, []string{"StapleNoCertificates"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := scrapes(t, c.d, c.play, c.opts...)
			if got := firing(t, rules, all); !slices.Equal(slices.Sorted(slices.Values(got)), c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
