package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

const (
	// limit is for all of the demonstration, whatever hangs.
	limit = 19 * time.Second
	// pace is the pause between rounds of handshakes.
	pace = time.Second
	// rounds with the responder there, and after it is gone.
	healthy, outage = 5, 4

	// ttl is far below the default of an hour, so that refreshes can be seen;
	// validity is far below the days that CAs give.
	ttl      = 2 * time.Second
	validity = 30 * time.Second
)

// A demo is one run of the demonstration.
type demo struct {
	out     io.Writer
	start   time.Time
	ca      *ocsptest.CA
	cert    *tls.Certificate
	stapler *staple.Stapler
	clients []client

	shakes, bad int
	longest     time.Duration // handshake of the Go client
}

// demonstrate returns an error if a handshake lacked a valid staple.
func demonstrate(ctx context.Context, fail bool, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := &demo{out: out, start: time.Now(), ca: ocsptest.NewCA(ocsptest.Options{Name: "throwaway CA"})}
	d.ca.Responder.SetValidity(validity)
	d.ca.Responder.Start()
	defer d.ca.Responder.Close()
	d.cert = d.ca.Issue(ocsptest.Leaf{Names: []string{serverName}, MustStaple: true})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	remove, err := d.gather(ln.Addr().String())
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer remove()
	d.introduce(ln.Addr().String(), fail)
	if fail {
		d.ca.Responder.Close()
		d.say("the responder is stopped before the first handshake")
	}

	// This is all that a server needs.
	d.stapler = staple.New(staple.WithTTL(ttl), staple.WithLogger(hints()), staple.WithEventFunc(d.event))
	defer d.stapler.Close()
	cfg := d.stapler.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*d.cert}})

	srv := &http.Server{
		TLSConfig:         cfg,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // the clients tell
	}
	go srv.ServeTLS(ln, "", "")
	defer srv.Close()

	if err := d.play(ctx, fail); err != nil {
		return err
	}
	return d.sumUp()
}

func (d *demo) introduce(addr string, fail bool) {
	fmt.Fprintf(d.out, `OCSP stapling with github.com/ocspstaple/staple, all on this machine:

  responder  %s   of a throwaway CA; a response is valid for %v
  server     https://%s   with a Must-Staple certificate; asks again every %v
`, d.ca.Responder.URL(), validity, addr, ttl)
	for _, c := range d.clients {
		fmt.Fprintf(d.out, "  client     %s\n", c.about)
	}
	if len(d.clients) == 1 {
		fmt.Fprintln(d.out, "             (openssl is not installed: Go's client alone)")
	}
	promise := "The first handshake waits for the first response; no later one waits."
	if fail {
		promise = "The responder is stopped before the first handshake: there is nothing to staple."
	}
	fmt.Fprintf(d.out, "\n%s\n\n", promise)
	fmt.Fprintf(d.out, "%6s  %-17s  %-7s  %-11s  %-11s  %6s  %8s\n", "time", "client", "staple", "this update", "next update", "age", "latency")
}

// play makes the handshakes.
func (d *demo) play(ctx context.Context, fail bool) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	rounds := healthy + outage
	if fail {
		rounds = 2
	}
	for i := range rounds {
		if i == healthy {
			d.ca.Responder.Close()
			d.say("the responder is stopped: staples go on")
		}
		for _, c := range d.clients {
			// Both versions carry a staple, each in its own way.
			version := uint16(tls.VersionTLS13)
			if i%2 == 1 {
				version = tls.VersionTLS12
			}
			d.show(c, c.shake(ctx, version))
		}
		if i == rounds-1 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not done after %v", limit)
			}
			return errors.New("interrupted")
		}
	}
	return nil
}

// show prints what one handshake carried.
func (d *demo) show(c client, h handshake) {
	d.shakes++
	age, this, next := "-", "-", "-"
	if !h.this.IsZero() {
		age = fmt.Sprintf("%.1f s", time.Since(h.this).Seconds())
		this, next = h.this.Local().Format(time.TimeOnly), h.next.Local().Format(time.TimeOnly)
	}
	fmt.Fprintf(d.out, "%6s  %-17s  %-7s  %-11s  %-11s  %6s  %8s\n",
		d.clock(), c.name+" "+h.version, h.status, this, next, age, millis(h.took))
	if h.err != nil {
		d.bad++
		d.say("no valid staple: %v", oneLine(h.err))
	}
	if c.pure {
		d.longest = max(d.longest, h.took)
	}
}

// event tells of what the Stapler did, in the goroutine that delivers events.
func (d *demo) event(ev staple.Event) {
	switch ev.Kind {
	case staple.EventFetched:
		d.say("the responder gave a new response, in %s", millis(ev.Duration))
	case staple.EventUnchanged:
		d.say("the responder had nothing new")
	case staple.EventFailed:
		d.say("asking the responder failed: %s", cause(ev.Err))
	case staple.EventExpiring:
		d.say("half of the time that was left is gone")
	default:
		d.say("%v", ev.Kind)
	}
}

// say prints a line between the handshakes.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%6s  -- %s\n", d.clock(), fmt.Sprintf(format, args...))
}

func (d *demo) clock() string { return fmt.Sprintf("%.1f s", time.Since(d.start).Seconds()) }

// sumUp prints the figures, and returns an error if there were bad ones.
func (d *demo) sumUp() error {
	stats := d.stapler.Stats()
	verdict := "all with a valid staple"
	if d.bad > 0 {
		verdict = fmt.Sprintf("%d WITHOUT a valid staple", d.bad)
	}
	fmt.Fprintf(d.out, `
Summary
  handshakes  %d, %s
  longest     %s, by Go's client
  responder   asked %s, %d of them answered
`, d.shakes, verdict, millis(d.longest), many(stats.Requests, "time"), d.ca.Responder.Requests())
	if d.bad > 0 {
		return fmt.Errorf("%d of %d handshakes lacked a valid staple", d.bad, d.shakes)
	}
	return nil
}

// cause leaves out of an error what is plain here: which responder.
func cause(err error) string {
	var re *staple.ResponseError
	if errors.As(err, &re) && re.Err != nil {
		return fmt.Sprintf("%v: %v", re.Reason, re.Err)
	}
	return oneLine(err)
}

func millis(t time.Duration) string { return fmt.Sprintf("%.1f ms", float64(t)/1e6) }
