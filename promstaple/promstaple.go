package promstaple

import (
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	certificates = desc("staple_certificates", "Certificates in use by state.", "state", "must_staple")
	failing      = desc("staple_certificates_failing", "Certificates in use whose last attempt failed, or that none can be made for.", "responder", "reason")
	nextUpdate   = desc("staple_response_next_update_timestamp_seconds", "Earliest nextUpdate of the valid responses.", "responder")
	remaining    = desc("staple_response_remaining_ratio", "Least share of its validity that a valid response has left.", "responder", "must_staple")
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

const (
	// maxLabel is how long the label of a responder may be, in bytes.
	maxLabel = 64
	// keepCounters is how long the counters of a responder stay that no certificate
	// in use names and nobody asks.
	keepCounters = 24 * time.Hour
)

// collector takes what lasts from the Stapler at each scrape, and what passes
// from its events.
type collector struct {
	s           *staple.Stapler
	attempts    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	writes      *prometheus.CounterVec
	expirations prometheus.Counter

	mu    sync.Mutex           // guards the rest
	named map[string]time.Time // when the responder of each label was last named, or asked
	swept time.Time            // when named was last looked through
}

// New returns a Stapler, made with opts, and the collector of its metrics. The
// Stapler is the caller's to close.
func New(opts ...staple.Option) (*staple.Stapler, prometheus.Collector) {
	c := &collector{
		named: make(map[string]time.Time),
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
	next, left, last := make(map[string]float64), make(map[[2]string]float64), make(map[string]float64)
	now := time.Now()
	all := c.s.Status()
	c.keep(all, now)
	for _, st := range all {
		if st.MustStaple {
			counts[st.State].must++
		} else {
			counts[st.State].others++
		}
		responder := host(st.Responder)
		if st.State == staple.StateGood {
			keepLeast(next, responder, unix(st.NextUpdate))
			keepLeast(left, [2]string{responder, strconv.FormatBool(st.MustStaple)}, share(st, now))
		}
		if !st.LastSuccess.IsZero() {
			keepLeast(last, responder, unix(st.LastSuccess))
		}
		if err := failure(st); err != nil {
			failed[[2]string{responder, reason(err)}]++
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
	for key, v := range left {
		gauge(remaining, v, key[:]...)
	}
	for d, byResponder := range map[*prometheus.Desc]map[string]float64{nextUpdate: next, success: last} {
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
	attempt := func(outcome string) { c.attempts.WithLabelValues(c.ask(e.Responder), outcome).Inc() }
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
		c.duration.WithLabelValues(c.ask(e.Responder)).Observe(e.Duration.Seconds())
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
		c.attempts.WithLabelValues(c.ask(responder), reason(err)).Inc()
	}
}

// ask returns the label for a responder that was asked, whose counters stay.
func (c *collector) ask(responder string) string {
	label, now := host(responder), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named[label] = now
	c.sweepLocked(now)
	return label
}

// keep has the counters stay of all responders that certificates in use name.
func (c *collector) keep(all []staple.Status, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range all {
		c.named[host(st.Responder)] = now
		if st.Leaf == nil {
			continue
		}
		for _, url := range st.Leaf.OCSPServer {
			c.named[host(url)] = now
		}
	}
	c.sweepLocked(now)
}

// sweepLocked drops the counters of responders that are gone. It does so once in
// an hour: certificates of strangers may name thousands.
func (c *collector) sweepLocked(now time.Time) {
	if now.Sub(c.swept) < time.Hour {
		return
	}
	c.swept = now
	for label, at := range c.named {
		if now.Sub(at) > keepCounters {
			delete(c.named, label)
			c.attempts.DeletePartialMatch(prometheus.Labels{"responder": label})
			c.duration.DeleteLabelValues(label)
		}
	}
}

// failure returns why the last attempt failed, or none can be made; nil otherwise. Err of a revoked
// certificate says that first, and of one that needs no staple why it needs none.
func failure(st staple.Status) error {
	revoked := st.State == staple.StateRevoked
	if st.State == staple.StateNone || revoked && st.Failures == 0 {
		return nil
	}
	if both, ok := st.Err.(interface{ Unwrap() []error }); ok && revoked {
		return errors.Join(both.Unwrap()[1:]...)
	}
	return st.Err
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
// for each certificate, or not be UTF-8, which client_golang panics at. Of a long
// name it is the end, which tells whose it is.
func host(responder string) string {
	u, err := url.Parse(responder)
	if err != nil {
		return "invalid"
	}
	if u.Host == "" {
		return "none"
	}
	label := strings.ToLower(strings.ToValidUTF8(u.Host, "?"))
	if cut := "..."; len(label) > maxLabel {
		label = cut + strings.ToValidUTF8(label[len(label)-maxLabel+len(cut):], "")
	}
	return label
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

func keepLeast[K comparable](m map[K]float64, key K, v float64) {
	if old, ok := m[key]; !ok || v < old {
		m[key] = v
	}
}
