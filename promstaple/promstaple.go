package promstaple

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	certificates = desc("staple_certificates", "Known certificates by state.", "state", "must_staple")
	failing      = desc("staple_certificates_failing", "Known certificates whose last attempt failed.", "responder", "reason")
	nextUpdate   = desc("staple_response_next_update_timestamp_seconds", "Earliest nextUpdate of the valid responses.", "responder")
	remaining    = desc("staple_response_remaining_ratio", "Least share of its validity that a valid response has left.", "responder")
	success      = desc("staple_oldest_success_timestamp_seconds", "Last success for the certificate for which that is longest ago.", "responder")
	handshakes   = desc("staple_handshakes_total", "Handshakes by the state of what was served.", "state")
	requests     = desc("staple_requests_total", "HTTP requests sent, redirects and issuers included.")
	failures     = desc("staple_attempt_failures_total", "Attempts over all responders that brought nothing.")
	dropped      = desc("staple_events_dropped_total", "Events and log records dropped because their receivers are slow.")

	descs = []*prometheus.Desc{certificates, failing, nextUpdate, remaining, success, handshakes, requests, failures, dropped}
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// collector takes what lasts from the Stapler at each scrape, and what passes
// from its events.
type collector struct {
	s           *staple.Stapler
	attempts    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	writes      *prometheus.CounterVec
	expirations prometheus.Counter
}

// New returns a Stapler, made with opts, and the collector of its metrics. The
// Stapler is the caller's to close.
func New(opts ...staple.Option) (*staple.Stapler, prometheus.Collector) {
	c := &collector{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "staple_attempts_total",
			Help: "Attempts at a responder by how they ended."}, []string{"responder", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "staple_fetch_duration_seconds",
			Help: "How long exchanges took that brought a response.", Buckets: prometheus.DefBuckets}, []string{"responder"}), // up to 10 s, the most that an attempt takes
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "staple_store_writes_total",
			Help: "Writes to the store by how they ended."}, []string{"outcome"}),
		expirations: prometheus.NewCounter(prometheus.CounterOpts{Name: "staple_expirations_total",
			Help: "Responses that expired before another came."}),
	}
	for _, outcome := range []string{"stored", "failed"} { // or the first one would not count as an increase
		c.writes.WithLabelValues(outcome)
	}
	c.s = staple.New(append(slices.Clone(opts), staple.WithEventFunc(c.event))...)
	return c.s, c
}

// own returns what counts by itself.
func (c *collector) own() []prometheus.Collector {
	return []prometheus.Collector{c.attempts, c.duration, c.writes, c.expirations}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
	for _, own := range c.own() {
		own.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.collectStatus(ch)
	c.collectStats(ch)
	for _, own := range c.own() {
		own.Collect(ch)
	}
}

func (c *collector) collectStatus(ch chan<- prometheus.Metric) {
	var counts [staple.StateNone + 1]struct{ must, others int }
	failed := make(map[[2]string]int)
	next, left, last := make(map[string]float64), make(map[string]float64), make(map[string]float64)
	now := time.Now()
	for _, st := range c.s.Status() {
		if st.MustStaple {
			counts[st.State].must++
		} else {
			counts[st.State].others++
		}
		responder := host(st.Responder)
		if st.State == staple.StateGood {
			keepLeast(next, responder, unix(st.NextUpdate))
			keepLeast(left, responder, share(st, now))
		}
		if !st.LastSuccess.IsZero() {
			keepLeast(last, responder, unix(st.LastSuccess))
		}
		if st.Err != nil && st.State != staple.StateNone { // what needs no staple does not fail
			failed[[2]string{responder, reason(st.Err)}]++
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range counts {
		gauge(certificates, float64(n.must), staple.State(state).String(), "true")
		gauge(certificates, float64(n.others), staple.State(state).String(), "false")
	}
	for key, n := range failed {
		gauge(failing, float64(n), key[:]...)
	}
	for d, byResponder := range map[*prometheus.Desc]map[string]float64{nextUpdate: next, remaining: left, success: last} {
		for responder, v := range byResponder {
			gauge(d, v, responder)
		}
	}
}

func (c *collector) collectStats(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	stats := c.s.Stats()
	for state, n := range stats.Handshakes {
		counter(handshakes, n, staple.State(state).String())
	}
	counter(requests, stats.Requests)
	counter(failures, stats.Failures)
	counter(dropped, stats.EventsDropped)
}

// event counts what happened.
func (c *collector) event(e staple.Event) {
	attempt := func(outcome string) { c.attempts.WithLabelValues(host(e.Responder), outcome).Inc() }
	switch e.Kind {
	case staple.EventFetched:
		if e.Duration == 0 {
			attempt("loaded")
		} else {
			attempt("fetched")
		}
	case staple.EventUnchanged:
		attempt("unchanged")
	case staple.EventRevoked:
		attempt("revoked")
	case staple.EventExpired:
		c.expirations.Inc()
	case staple.EventStored:
		c.writes.WithLabelValues("stored").Inc()
	case staple.EventStoreFailed:
		c.writes.WithLabelValues("failed").Inc()
	}
	if e.Kind == staple.EventFetched || e.Kind == staple.EventUnchanged || e.Kind == staple.EventFailed {
		c.failed(e.Responder, e.Err)
	}
	if e.Duration > 0 {
		c.duration.WithLabelValues(host(e.Responder)).Observe(e.Duration.Seconds())
	}
}

// failed counts what came of each responder that failed in an attempt.
func (c *collector) failed(responder string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && !errors.Is(err, staple.ErrNoIssuer) {
		for _, err := range joined.Unwrap() {
			c.failed(responder, err)
		}
		return
	}
	var re *staple.ResponseError
	if errors.As(err, &re) && re.Responder != "" && re.Reason != staple.ReasonIssuer {
		responder = re.Responder
	}
	if err != nil {
		c.attempts.WithLabelValues(host(responder), reason(err)).Inc()
	}
}

// reason says in a few words why an attempt failed.
func reason(err error) string {
	var re *staple.ResponseError
	switch {
	case errors.Is(err, staple.ErrNoIssuer): // wraps why it could not be fetched
		return "no issuer"
	case errors.Is(err, staple.ErrNoResponder):
		return "no responder"
	case errors.As(err, &re):
		return re.Reason.String()
	}
	return "other"
}

// host returns the label for a responder, without what may be secret, differ
// for each certificate, or not be UTF-8, which client_golang panics at.
func host(responder string) string {
	u, err := url.Parse(responder)
	if err != nil {
		return "invalid"
	}
	if u.Host == "" {
		return "none"
	}
	return strings.ToLower(strings.ToValidUTF8(u.Host, "?"))
}

// share returns how much of its validity the response has left, from 0 to 1.
func share(st staple.Status, now time.Time) float64 {
	whole := st.NextUpdate.Sub(st.ThisUpdate)
	if whole <= 0 {
		return 0
	}
	return min(max(float64(st.NextUpdate.Sub(now))/float64(whole), 0), 1)
}

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func keepLeast(m map[string]float64, key string, v float64) {
	if old, ok := m[key]; !ok || v < old {
		m[key] = v
	}
}
