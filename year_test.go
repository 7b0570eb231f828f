package staple_test

import (
	"crypto/tls"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/scenario/testkit"
)

// yearSeed is the seed of the year; STAPLE_SEED sets another.
func yearSeed(t testing.TB) uint64 {
	seed := uint64(1)
	if v := os.Getenv("STAPLE_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	return seed
}

// budget is how many requests outside outages a certificate may take in a day, in
// the mean, with retries and restarts: it is refreshed about twice in each half of
// its validity.
func budget(validity time.Duration) float64 {
	return 0.25 + 4*float64(day)/float64(validity)
}

// outageBudget is how many requests a responder may get in n outages of so long
// in all, for all its certificates together: the retries of five, until they are found
// to fail together, and then probes.
func outageBudget(n int, out time.Duration) float64 { return 40*out.Hours() + 150*float64(n) }

// REQ E1, REQ E2, REQ E3, REQ E4, REQ E6, REQ E7, REQ E9, REQ E10, REQ E12, REQ C2, REQ C3: a year. Whatever responders,
// clocks and restarts do, within what a validity can bridge, each handshake
// after a certificate's first successful fetch carries a valid staple.
//
// An outage lasts up to 40 % of the shortest validity at that responder. The
// server's clock is set at random within 4 minutes of everybody else's: beyond
// 5 its owner has other troubles, as fresh responses are from its future. Hours
// in which a responder is out have a bound of their own: the breaker's probes.
func TestYear(t *testing.T) {
	t.Parallel()
	weeks, sites := yearWeeks(), 200
	if !testkit.Long() {
		weeks, sites = 3, 60
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, yearSeed(t), sites)
		end := w.begun.Add(time.Duration(weeks) * 7 * day)
		for _, h := range w.hosts {
			h.plan(end, 0.02, 0.40)
		}
		w.start()
		restart, step := w.begun.Add(5*day), w.begun.Add(3*day)
		for time.Now().Before(end) {
			w.sleep(time.Duration(w.rng.Int64N(int64(time.Hour))))
			for range 20 {
				w.hook(w.sites[w.rng.IntN(len(w.sites))])
			}
			if w.rng.IntN(3) == 0 {
				w.shake(w.sites[w.rng.IntN(len(w.sites))])
			}
			w.renewDue()
			if time.Now().After(restart) {
				restart = restart.Add(day + time.Duration(w.rng.Int64N(int64(18*day))))
				w.restart()
			}
			if time.Now().After(step) {
				step = step.Add(time.Duration(w.rng.Int64N(int64(14 * day))))
				w.steps++
				w.stepped = time.Now()
				w.clock.offset.Store(w.rng.Int64N(int64(8*time.Minute)) - int64(4*time.Minute))
				w.excuse(time.Now())
			}
		}
		w.report(t, float64(weeks*7))
	})
}

// restart renews what is listed, and starts the server anew.
func (w *world) restart() {
	for _, s := range w.sites {
		if s.listed && time.Now().After(s.renew) {
			w.renewals++
			w.issue(s)
		}
	}
	w.start()
}

// report prints the figures, and fails the test where they are too high. After a failure it
// prints none: they are long, and a log is read from its end.
func (w *world) report(t *testing.T, days float64) {
	if t.Failed() {
		return
	}
	t.Logf("%.0f days, %d certificates under %d responders, %d renewals, %d restarts, %d clock steps: "+
		"%d handshakes and %d calls of the hook, none without a valid staple", days, len(w.sites), len(w.hosts), w.renewals, w.restarts, w.steps, w.shakes, w.hooks)
	w.reportReturns(t)
	for _, h := range w.hosts {
		h.mu.Lock() // requests may be under way
		defer h.mu.Unlock()
		out := time.Duration(0)
		for _, o := range h.outages {
			out += o.to.Sub(o.from)
		}
		t.Logf("%s: %d requests in %d outages of %v in all", h.url, h.probes, len(h.outages), out.Round(time.Hour))
		if most := outageBudget(len(h.outages), out); float64(h.probes) > most {
			t.Errorf("%s: %d requests in outages, want %.0f at most", h.url, h.probes, most)
		}
		for _, c := range h.classes {
			perDay := float64(c.requests) / float64(c.sites) / days
			t.Logf("%s, validity %v: %d certificates, %.2f requests for a certificate and day", h.url, c.validity, c.sites, perDay)
			if most := budget(c.validity); perDay > most {
				t.Errorf("%s, validity %v: %.2f requests for a certificate and day, want %.2f at most", h.url, c.validity, perDay, most)
			}
		}
		h.spread(t, int(days*24))
	}
}

// outageHour is how many requests a responder may get in an hour in which it is out, and
// restartHour where the server starts anew meanwhile, or its clock is set: it has to find out
// again that all fail.
const outageHour, restartHour = 240, 240 + 150

// spread fails the test if the requests of an ordinary hour are more than three times
// the mean and 16, or those in an outage more than its probes. A day after a long outage,
// which ended for all certificates at once, they are still refreshed within a few hours.
// The caller holds h.mu.
func (h *host) spread(t *testing.T, hours int) {
	var n, total, worst, worstOut int
	for hour := range hours {
		at := h.w.begun.Add(time.Duration(hour) * time.Hour)
		switch got, quiet := h.perHour[hour], h.w.quiet[hour]; {
		case h.outIn(at.Add(-time.Hour), at.Add(time.Hour)):
			worstOut = max(worstOut, got)
			if got > restartHour || got > outageHour && !quiet {
				t.Errorf("%s: %d requests in hour %d, of an outage", h.url, got, hour)
			}
		case !quiet:
			n, total, worst = n+1, total+got, max(worst, got)
		}
	}
	mean := float64(total) / float64(max(n, 1))
	t.Logf("%s: %.2f requests an hour in the mean of %d ordinary hours, %d at most; %d at most in the hours of an outage and after it",
		h.url, mean, n, worst, worstOut)
	if float64(worst) > 3*mean+16 {
		t.Errorf("%s: %d requests in an hour, %.2f in the mean", h.url, worst, mean)
	}
}

// outIn reports whether h is out at any time between from and to.
func (h *host) outIn(from, to time.Time) bool {
	for _, o := range h.outages {
		if o.from.Before(to) && from.Before(o.to) {
			return true
		}
	}
	return false
}

// afterLong is how long after a long outage a certificate in use has its staple: decision 4's
// quarter of an hour, and an attempt.
const afterLong = 15*time.Minute + 10*time.Second

// reportReturns prints how long after an outage all certificates in use that had failed
// were back. watch fails the test where that is too long.
func (w *world) reportReturns(t *testing.T) {
	for _, h := range w.hosts {
		h.mu.Lock()
		t.Logf("%s: after %d outages all certificates in use that had failed (%d) were back, after %v at most", h.url, h.returns, h.restored, h.slowest.Round(time.Second))
		if h.returns < len(h.outages)-2 { // the end of the test may come before that of an outage
			t.Errorf("%s: watched %d of %d outages", h.url, h.returns, len(h.outages))
		}
		h.mu.Unlock()
	}
}

// REQ C3, REQ E7, REQ E12: outages longer than any validity. The staple stops exactly when
// it expires, and comes back without a restart.
func TestLongOutages(t *testing.T) {
	t.Parallel()
	weeks, sites := 10, 60
	if !testkit.Long() {
		weeks, sites = 6, 18
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, yearSeed(t), sites)
		w.calm = true
		end := w.begun.Add(time.Duration(weeks) * 7 * day)
		for _, h := range w.hosts {
			h.plan(end, 1.1, 2)
		}
		for _, s := range w.sites {
			s.listed = false // what is listed is renewed by restarts alone
		}
		w.start()
		lapses, returns := 0, 0
		ends := make(map[*tls.Certificate]time.Time) // nextUpdate of what was last served
		for time.Now().Before(end) {
			w.sleep(w.untilEnd(ends))
			for _, s := range w.sites {
				w.mu.Lock()
				clear(w.fetched) // nobody is owed a staple
				w.mu.Unlock()
				cert := s.now()
				o, on := s.h.out(time.Now())
				carries := w.hook(s)
				switch until, had := ends[cert]; {
				case carries:
					ends[cert] = w.seenUntil(s)
				case on && had:
					if d := time.Since(until); d < 0 {
						t.Fatalf("%s: the staple is gone %v before it expires", s.name, -d)
					}
					delete(ends, cert)
					lapses++
				}
				if carries && on && time.Since(o.from) > s.c.validity {
					t.Fatalf("%s: a staple %v into an outage, with a validity of %v", s.name, time.Since(o.from), s.c.validity)
				}
				if last := s.h.last(time.Now()); !on && !last.IsZero() && time.Since(last) > afterLong && time.Since(s.issued) > 150*time.Minute { // a new one is first served within an hour
					if !carries {
						t.Fatalf("%s: no staple %v after the outage: %v", s.name, time.Since(last), w.s.Ready())
					}
					returns++
				}
			}
			w.renewDue()
		}
		w.reportReturns(t)
		t.Logf("%d weeks: %d staples expired in outages, to the moment; %d samples after outages, all stapled", weeks, lapses, returns)
		if lapses < sites/2 || returns < sites {
			t.Errorf("%d lapses and %d returns: too few to prove anything", lapses, returns)
		}
	})
}

// untilEnd returns how long to sleep: up to an hour, or to the nanosecond before
// the next expiry, or to that.
func (w *world) untilEnd(ends map[*tls.Certificate]time.Time) time.Duration {
	d := time.Duration(w.rng.Int64N(int64(time.Hour))) + 1
	for _, until := range ends {
		switch left := time.Until(until); {
		case left > 1:
			d = min(d, left-1)
		case left > 0:
			d = min(d, left)
		}
	}
	return d
}

// seenUntil returns the nextUpdate of what is served for s.
func (w *world) seenUntil(s *site) time.Time {
	cert, err := w.cfg.GetCertificate(asking(s.name))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.seen[&cert.OCSPStaple[0]].NextUpdate
}

// last returns when the last outage before now ended.
func (h *host) last(now time.Time) (end time.Time) {
	for _, o := range h.outages {
		if !now.Before(o.to) {
			end = o.to
		}
	}
	return end
}

// yearWeeks is 52; STAPLE_WEEKS sets fewer, to look at more seeds.
func yearWeeks() int {
	if n, err := strconv.Atoi(os.Getenv("STAPLE_WEEKS")); err == nil && n > 0 {
		return n
	}
	return 52
}
