package promstaple_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/promstaple"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// delay is how long responders take: in a bubble nothing takes time by itself.
const delay = 70 * time.Millisecond

// world is a Stapler, the registry of its metrics, and a responder.
type world struct {
	ca  *ocsptest.CA
	s   *staple.Stapler
	reg *prometheus.Registry

	lists []*tls.Config // which keep their certificates in use
}

// bubble runs a test in a world where time takes no time.
func bubble(t *testing.T, f func(*testing.T, *world), opts ...staple.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		f(t, newWorld(t, ca, append([]staple.Option{staple.WithHTTPClient(ca.Responder.Client())}, opts...)...))
	})
}

func newWorld(t *testing.T, ca *ocsptest.CA, opts ...staple.Option) *world {
	t.Helper()
	ca.Responder.SetDelay(delay)
	s, metrics := promstaple.New(opts...)
	w := &world{ca: ca, s: s, reg: prometheus.NewPedanticRegistry()} // which checks Describe
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		runtime.KeepAlive(w.lists)
	})
	w.reg.MustRegister(metrics)
	return w
}

// know has the Stapler know a certificate, whatever comes of it.
func (w *world) know(l ocsptest.Leaf, prepare ...func(*tls.Certificate)) *tls.Certificate {
	cert := w.ca.Issue(l)
	for _, p := range prepare {
		p(cert)
	}
	_ = w.list(cert)
	return cert
}

// list has certificates in use until the end of the test, and a response fetched
// for each.
func (w *world) list(certs ...*tls.Certificate) error {
	base := new(tls.Config)
	for _, cert := range certs {
		base.Certificates = append(base.Certificates, *cert)
	}
	w.lists = append(w.lists, w.s.TLSConfig(base))
	return w.s.Prefetch(context.Background(), certs...)
}

// scrape returns every series of the metrics, and lints them.
func (w *world) scrape(t *testing.T) map[string]map[string]float64 {
	t.Helper()
	synctest.Wait() // for the events
	families, err := w.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]map[string]float64)
	add := func(name, labels string, v float64) {
		if out[name] == nil {
			out[name] = make(map[string]float64)
		}
		out[name][labels] = v
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := strings.Join(labels, ",")
			if h := m.GetHistogram(); h != nil {
				add(f.GetName()+"_count", key, float64(h.GetSampleCount()))
				add(f.GetName()+"_sum", key, h.GetSampleSum())
				for _, b := range h.GetBucket() {
					add(f.GetName()+"_bucket", key+fmt.Sprintf(",le=%g", b.GetUpperBound()), float64(b.GetCumulativeCount()))
				}
				continue
			}
			add(f.GetName(), key, m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	problems, err := testutil.GatherAndLint(w.reg)
	if len(problems) > 0 || err != nil {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	return out
}

// want checks the series of a metric that are not zero. The world's responder
// is R in it.
func (w *world) want(t *testing.T, name string, want ...string) {
	t.Helper()
	var got []string
	for labels, v := range w.scrape(t)[name] {
		if v != 0 {
			labels = strings.ReplaceAll(labels, host(w.ca), "R")
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %g", labels, v)))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

// near checks the one series of a metric.
func (w *world) near(t *testing.T, name, labels string, want, tolerance float64) {
	t.Helper()
	series := w.scrape(t)[name]
	if got, ok := series[labels]; !ok || math.Abs(got-want) > tolerance {
		t.Errorf("%s{%s}: got %v, want %v", name, labels, series, want)
	}
}

// host returns the label of a CA's responder.
func host(ca *ocsptest.CA) string { return strings.TrimPrefix(ca.Responder.URL(), "http://") }

// seconds returns t as a metric has it.
func seconds(t time.Time) float64 { return float64(t.Unix()) }

// REQ G4: what is always there is there at 0, so that it differs from what is
// not scraped, and nothing else is.
func TestNoCertificate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		got := w.scrape(t)
		sizes := make(map[string]int)
		for name, series := range got {
			sizes[name] = len(series)
			for labels, v := range series {
				if v != 0 {
					t.Errorf("%s{%s}: got %v, want 0", name, labels, v)
				}
			}
		}
		want := map[string]int{"staple_certificates": 12, "staple_handshakes_total": 6, "staple_requests_total": 1, "staple_attempt_failures_total": 1,
			"staple_store_writes_total": 2, "staple_expirations_total": 1, "staple_events_dropped_total": 1}
		if fmt.Sprint(sizes) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", sizes, want)
		}
		for _, state := range []string{"pending", "good", "revoked", "unknown", "expired", "none"} {
			for _, must := range []string{"true", "false"} {
				if _, ok := got["staple_certificates"]["must_staple="+must+",state="+state]; !ok {
					t.Errorf("no %s, Must-Staple %s", state, must)
				}
			}
			if _, ok := got["staple_handshakes_total"]["state="+state]; !ok {
				t.Errorf("no handshakes in state %s", state)
			}
		}
	})
}

// REQ G4: certificates in each state, with and without Must-Staple, and what is
// served with them.
func TestStates(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.ca.Responder
		fail := func(c *tls.Certificate) { r.SetFaultFor(c, ocsptest.FaultTryLater) }
		var certs []*tls.Certificate
		know := func(l ocsptest.Leaf, prepare ...func(*tls.Certificate)) {
			certs = append(certs, w.know(l, prepare...))
		}
		r.SetValidity(time.Hour)
		know(ocsptest.Leaf{Names: []string{"expired.example"}})
		know(ocsptest.Leaf{Names: []string{"gone.example"}, MustStaple: true})
		for _, c := range certs {
			fail(c)
		}
		r.SetValidity(4 * 24 * time.Hour)
		time.Sleep(2 * time.Hour)
		w.want(t, "staple_certificates", "must_staple=false,state=expired 1", "must_staple=true,state=expired 1")
		w.want(t, "staple_expirations_total", "2")

		know(ocsptest.Leaf{})
		know(ocsptest.Leaf{MustStaple: true})
		know(ocsptest.Leaf{MustStaple: true})
		know(ocsptest.Leaf{MustStaple: true}, fail)
		know(ocsptest.Leaf{MustStaple: true, NoURL: true})
		know(ocsptest.Leaf{}, r.SetUnknown)
		know(ocsptest.Leaf{}, func(c *tls.Certificate) { r.Revoke(c, 1, time.Now()) })
		know(ocsptest.Leaf{NoURL: true})
		w.want(t, "staple_certificates", "must_staple=false,state=expired 1", "must_staple=true,state=expired 1", "must_staple=false,state=good 1",
			"must_staple=true,state=good 2", "must_staple=true,state=pending 2", "must_staple=false,state=unknown 1",
			"must_staple=false,state=revoked 1", "must_staple=false,state=none 1")
		for _, c := range certs {
			w.s.Staple(c)
		}
		w.want(t, "staple_handshakes_total", "state=expired 2", "state=good 3", "state=pending 2", "state=unknown 1", "state=revoked 1", "state=none 1")
	})
}

// REQ G4: seconds to expiry and the age of the last success, of the certificate
// that is worst off, for each responder by itself.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := ocsptest.NewCA(), ocsptest.NewCA()
		w := newWorld(t, ca, staple.WithHTTPClient(ocsptest.Network(ca.Responder, other.Responder)))
		other.Responder.SetValidity(40 * 24 * time.Hour)
		if err := w.list(other.Issue(ocsptest.Leaf{})); err != nil {
			t.Fatal(err)
		}
		other.Responder.SetFault(ocsptest.FaultTryLater)
		begun := time.Now()
		for name, days := range map[string]time.Duration{"a": 5, "b": 4, "c": 6} { // in Status by name
			ca.Responder.SetValidity(days * 24 * time.Hour)
			w.know(ocsptest.Leaf{Names: []string{name + ".example"}})
		}
		ca.Responder.SetFault(ocsptest.FaultTryLater)
		R, O := "responder="+host(ca), "responder="+host(other)
		w.near(t, "staple_response_remaining_ratio", "must_staple=false,"+R, 1, 0.001)
		time.Sleep(72 * time.Hour)
		w.near(t, "staple_response_remaining_ratio", "must_staple=false,"+R, 0.25, 0.001)
		w.near(t, "staple_response_remaining_ratio", "must_staple=false,"+O, 1-3.0/40, 0.001)
		w.near(t, "staple_response_next_update_timestamp_seconds", R, seconds(begun.Add(96*time.Hour)), 2)
		w.near(t, "staple_response_next_update_timestamp_seconds", O, seconds(begun.Add(960*time.Hour)), 2)
		w.near(t, "staple_oldest_success_timestamp_seconds", R, seconds(begun), 2)
		time.Sleep(23*time.Hour + 59*time.Minute)
		w.near(t, "staple_response_remaining_ratio", "must_staple=false,"+R, 0, 0.001)
		time.Sleep(2 * time.Minute) // b has expired, a is next
		w.near(t, "staple_response_next_update_timestamp_seconds", R, seconds(begun.Add(120*time.Hour)), 2)
		w.near(t, "staple_response_remaining_ratio", "must_staple=false,"+R, 0.2, 0.001)
		w.near(t, "staple_oldest_success_timestamp_seconds", R, seconds(begun), 2) // b is in need of one still
		time.Sleep(60 * 24 * time.Hour)
		if got := w.scrape(t)["staple_response_remaining_ratio"]; len(got) > 0 { // nor a number that is no share
			t.Errorf("remaining ratio of nothing: %v", got)
		}
	})
}

// REQ G4: a responder that confirms what is held is a success, though the
// response grows old.
func TestUnchanged(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.ca.Responder
		r.SetPresign(true)
		r.SetHeader("Cache-Control") // the TTL decides
		r.SetHeader("Expires")
		w.know(ocsptest.Leaf{Names: []string{"a.example"}}) // 304
		first := time.Now()
		r.SetHeader("ETag")
		r.SetHeader("Last-Modified")
		w.know(ocsptest.Leaf{Names: []string{"b.example"}}) // the same bytes
		time.Sleep(24 * time.Hour)
		got := w.scrape(t)
		R := "responder=" + host(w.ca)
		if n := got["staple_attempts_total"]["outcome=unchanged,"+R]; n < 30 || n > 80 {
			t.Errorf("%v attempts brought nothing new, want about 48", n)
		}
		w.near(t, "staple_response_remaining_ratio", "must_staple=false,"+R, 0.75, 0.001)
		if n := got["staple_oldest_success_timestamp_seconds"][R]; n < seconds(first.Add(22*time.Hour)) {
			t.Errorf("oldest success %v after the start", n-seconds(first))
		}
		w.want(t, "staple_certificates_failing")
		w.want(t, "staple_attempt_failures_total")
	})
}

// REQ G4: what fails is counted by responder and reason while it fails.
func TestFailing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.ca.Responder
		begun := time.Now()
		held := w.know(ocsptest.Leaf{})
		r.SetFaultFor(held, ocsptest.FaultHTTP500)
		time.Sleep(3 * time.Hour)
		for range 2 {
			w.know(ocsptest.Leaf{}, func(c *tls.Certificate) { r.SetFaultFor(c, ocsptest.FaultTryLater) })
		}
		w.know(ocsptest.Leaf{}, r.SetUnknown)
		w.know(ocsptest.Leaf{WithoutIssuer: true})
		w.know(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{"ftp://ca.example"}})
		w.know(ocsptest.Leaf{}, func(c *tls.Certificate) { // of a CA that no other certificate brings
			*c = *ocsptest.NewCA().Issue(ocsptest.Leaf{WithoutIssuer: true, URLs: []string{r.URL()}, IssuerURLs: []string{"http://ca.example/no-such-file"}})
		})
		w.know(ocsptest.Leaf{MustStaple: true, NoURL: true})
		w.know(ocsptest.Leaf{NoURL: true}) // needs nothing
		w.know(ocsptest.Leaf{})            // good
		w.know(ocsptest.Leaf{}, func(c *tls.Certificate) { c.Certificate[0] = []byte("no certificate") })
		w.want(t, "staple_certificates_failing", "reason=unexpected HTTP status,responder=R 1", "reason=OCSP error status tryLater,responder=R 2",
			"reason=status unknown,responder=R 1", "reason=no issuer,responder=R 3", "reason=no responder,responder=none 1")
		w.want(t, "staple_certificates", "must_staple=false,state=good 2", "must_staple=false,state=pending 5", "must_staple=false,state=unknown 1",
			"must_staple=true,state=pending 1", "must_staple=false,state=none 2")
		w.near(t, "staple_oldest_success_timestamp_seconds", "responder="+host(w.ca), seconds(begun), 2) // not that of those without any
		if n := w.scrape(t)["staple_attempt_failures_total"][""]; n != float64(w.s.Stats().Failures) || n < 6 {
			t.Errorf("%v failed attempts, want %d", n, w.s.Stats().Failures)
		}
		got := w.scrape(t)["staple_attempts_total"]
		for _, want := range []string{"outcome=unexpected HTTP status,responder=R", "outcome=OCSP error status tryLater,responder=R", "outcome=status unknown,responder=R",
			"outcome=no issuer,responder=R", "outcome=no responder,responder=none", "outcome=fetched,responder=R"} {
			if got[strings.ReplaceAll(want, "R", host(w.ca))] == 0 {
				t.Errorf("no attempt with %s: %v", want, got)
			}
		}
		r.ClearFaults()
		time.Sleep(12 * time.Hour)
		w.want(t, "staple_certificates_failing", "reason=status unknown,responder=R 1", "reason=no issuer,responder=R 3", "reason=no responder,responder=none 1")
	})
}

// REQ G4: that a certificate is revoked is no failure, or each alert for one that refreshes fail
// for would fire for its neighbours. A failure after that is counted by its own reason.
func TestRevokedDoesNotFail(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.know(ocsptest.Leaf{}, func(c *tls.Certificate) { w.ca.Responder.Revoke(c, 1, time.Time{}) })
		time.Sleep(3 * time.Hour)
		w.want(t, "staple_certificates", "must_staple=false,state=revoked 1")
		w.want(t, "staple_certificates_failing")
		w.ca.Responder.SetFault(ocsptest.FaultTryLater)
		time.Sleep(3 * time.Hour)
		w.want(t, "staple_certificates_failing", "reason=OCSP error status tryLater,responder=R 1")
	})
}

// REQ G4: what is switched off does not fail any more.
func TestSwitchedOff(t *testing.T) {
	on := true
	var mu sync.Mutex // guards on
	responders := func(*x509.Certificate) ([]string, bool) { mu.Lock(); defer mu.Unlock(); return nil, on }
	bubble(t, func(t *testing.T, w *world) {
		w.ca.Responder.SetFault(ocsptest.FaultTryLater)
		w.know(ocsptest.Leaf{})
		w.want(t, "staple_certificates_failing", "reason=OCSP error status tryLater,responder=R 1")
		mu.Lock()
		on = false
		mu.Unlock()
		time.Sleep(12 * time.Hour)
		w.want(t, "staple_certificates_failing")
		w.want(t, "staple_certificates", "must_staple=false,state=none 1")
	}, staple.WithResponders(responders))
}

// REQ G4: attempts by how they ended, how long they took, and requests.
func TestAttempts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.know(ocsptest.Leaf{})
		w.know(ocsptest.Leaf{})
		w.know(ocsptest.Leaf{}, func(c *tls.Certificate) { w.ca.Responder.Revoke(c, 1, time.Now()) })
		w.want(t, "staple_attempts_total", "outcome=fetched,responder=R 2", "outcome=revoked,responder=R 1")
		w.know(ocsptest.Leaf{}, func(c *tls.Certificate) { c.OCSPStaple = w.ca.Responder.Response(c) }) // taken, and asked about all the same
		if n := w.scrape(t)["staple_attempts_total"]["outcome=loaded,responder="+host(w.ca)]; n != 1 {
			t.Errorf("%v loaded from the source, want 1", n)
		}
		w.ca.Responder.SetFault(ocsptest.FaultRefused)
		w.know(ocsptest.Leaf{})
		got := w.scrape(t)
		R := "responder=" + host(w.ca)
		n := got["staple_fetch_duration_seconds_count"][R]
		if sum := got["staple_fetch_duration_seconds_sum"][R]; n < 3 || math.Abs(sum-n*delay.Seconds()) > 1e-6 {
			t.Errorf("%v fetches took %v s, want %v each", n, sum, delay)
		}
		for le, want := range map[string]float64{"0.05": 0, "0.1": n, "10": n} {
			if v := got["staple_fetch_duration_seconds_bucket"][R+",le="+le]; v != want {
				t.Errorf("%v fetches took up to %s s, want %v", v, le, want)
			}
		}
		if len(got["staple_fetch_duration_seconds_bucket"]) != 11 {
			t.Errorf("buckets %v", got["staple_fetch_duration_seconds_bucket"])
		}
		if n := got["staple_requests_total"][""]; n != float64(w.s.Stats().Requests) || n < 4 {
			t.Errorf("%v requests, want %d", n, w.s.Stats().Requests)
		}
	})
}

// Where one responder fails and the next one answers, both count.
func TestSecondAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		dead, alive := ca.NewResponder(""), ca.NewResponder("")
		dead.SetFault(ocsptest.FaultHTTP404)
		alive.SetDelay(delay)
		w := newWorld(t, ca, staple.WithHTTPClient(ocsptest.Network(dead, alive)))
		w.know(ocsptest.Leaf{URLs: []string{dead.URL(), alive.URL()}})
		alive.SetFault(ocsptest.FaultTryLater)
		w.know(ocsptest.Leaf{URLs: []string{dead.URL(), alive.URL()}})
		got := w.scrape(t)["staple_attempts_total"]
		for series, want := range map[string]float64{
			"outcome=unexpected HTTP status,responder=" + strings.TrimPrefix(dead.URL(), "http://"):      2,
			"outcome=fetched,responder=" + strings.TrimPrefix(alive.URL(), "http://"):                    1,
			"outcome=OCSP error status tryLater,responder=" + strings.TrimPrefix(alive.URL(), "http://"): 1,
		} {
			if got[series] != want {
				t.Errorf("%s: %v, want %v, in %v", series, got[series], want, got)
			}
		}
	})
}

// shelf is a Store that may fail.
type shelf struct {
	mu   sync.Mutex // guards the rest
	m    map[string][]byte
	fail error
}

func (s *shelf) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.m[key]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

func (s *shelf) Put(_ context.Context, key string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.m[key] = slices.Clone(data)
	}
	return s.fail
}

func (s *shelf) Delete(context.Context, string) error { return nil }

// REQ G4: writes to the store, and what a restart finds in it.
func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, store := ocsptest.NewCA(), &shelf{m: make(map[string][]byte)}
		opts := []staple.Option{staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(store)}
		w := newWorld(t, ca, opts...)
		cert := w.know(ocsptest.Leaf{})
		w.want(t, "staple_store_writes_total", "outcome=stored 1")
		store.fail = errors.New("disk full")
		w.know(ocsptest.Leaf{})
		w.know(ocsptest.Leaf{})
		w.want(t, "staple_store_writes_total", "outcome=stored 1", "outcome=failed 2")

		ca.Responder.SetFault(ocsptest.FaultRefused)
		w = newWorld(t, ca, opts...)
		if err := w.s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		w.want(t, "staple_attempts_total", "outcome=loaded,responder=R 1")
		w.want(t, "staple_certificates", "must_staple=false,state=good 1")
		w.want(t, "staple_requests_total")
		w.want(t, "staple_fetch_duration_seconds_count")
	})
}

// REQ G4: events that are dropped are missing, and counted.
func TestDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, free := ocsptest.NewCA(), make(chan struct{})
		w := newWorld(t, ca, staple.WithHTTPClient(ca.Responder.Client()), staple.WithEventFunc(func(staple.Event) { <-free }))
		var certs []*tls.Certificate
		key := ca.Key()
		for range 1100 {
			certs = append(certs, ca.Issue(ocsptest.Leaf{Key: key}))
		}
		if err := w.s.Prefetch(t.Context(), certs...); err != nil {
			t.Fatal(err)
		}
		w.want(t, "staple_events_dropped_total", "75") // one is being delivered, 1,024 wait
		w.want(t, "staple_certificates", "must_staple=false,state=good 1100")
		close(free)
		w.want(t, "staple_attempts_total", "outcome=fetched,responder=R 1025")
	})
}
