package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocspstaple/staple"
)

// serveOwn serves a key pair of the user's until ctx ends.
func serveOwn(ctx context.Context, certFile, keyFile, addr string, out io.Writer) error {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return fmt.Errorf("-cert %s -key %s: %w", certFile, keyFile, err)
	}
	if err := stapleable(cert.Leaf, time.Now()); err != nil {
		return fmt.Errorf("-cert %s: %w", certFile, err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("-addr %s: %w", addr, err)
	}

	w := &watcher{out: out}
	w.stapler = staple.New(staple.WithLogger(hints()), staple.WithEventFunc(w.event))
	introduceOwn(out, reachable(ln.Addr()), cert.Leaf)
	srv := &http.Server{
		TLSConfig: w.stapler.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(rw, "hello")
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(out, "", log.Ltime),
	}
	w.report()
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, "", "") }()
	select {
	case err = <-served:
	case <-ctx.Done():
		err = srv.Close()
	}
	err = errors.Join(err, w.stapler.Close()) // from here on there are no events
	w.sumUp()
	return err
}

// stapleable says early what would otherwise be found out by waiting.
func stapleable(leaf *x509.Certificate, now time.Time) error {
	for _, url := range leaf.OCSPServer {
		if scheme, _, _ := strings.Cut(strings.ToLower(url), ":"); scheme == "http" || scheme == "https" {
			if now.After(leaf.NotAfter) {
				return fmt.Errorf("the certificate expired on %s, and no client will ask for its status", leaf.NotAfter.Format(time.DateOnly))
			}
			return nil
		}
	}
	return errors.New("the certificate has no OCSP URL (http or https), so there is nothing to staple; " +
		"several public CAs, such as Let's Encrypt, have given up OCSP")
}

// reachable returns an address that clients on this machine can use: one that
// stands for all of them, as that of -addr :8443 does, is none.
func reachable(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return net.JoinHostPort("localhost", strconv.Itoa(tcp.Port))
	}
	return addr.String()
}

func introduceOwn(out io.Writer, addr string, leaf *x509.Certificate) {
	name := leaf.Subject.String()
	sni := ""
	if len(leaf.DNSNames) > 0 {
		name = strings.Join(leaf.DNSNames, ", ")
		sni = " -servername " + strings.Replace(leaf.DNSNames[0], "*", "www", 1)
	}
	fmt.Fprintf(out, `serving      https://%s   until you press Ctrl-C
certificate  %s, valid until %s
responder    %s
try          openssl s_client -connect %s%s -status </dev/null

`, addr, name, leaf.NotAfter.Format(time.DateOnly), strings.Join(leaf.OCSPServer, " "), addr, sni)
}

// A watcher prints what happens to the certificate.
type watcher struct {
	out     io.Writer
	stapler *staple.Stapler

	mu            sync.Mutex // guards the rest
	status, ready string     // as printed last
}

func (w *watcher) event(ev staple.Event) {
	switch {
	case ev.Err != nil:
		w.print(ev.Kind.String(), oneLine(ev.Err))
	case ev.Responder != "":
		w.print(ev.Kind.String(), fmt.Sprintf("from %s in %s", ev.Responder, millis(ev.Duration)))
	default:
		w.print(ev.Kind.String(), "")
	}
	w.report()
}

// report prints what is new since the last time.
func (w *watcher) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := "not known"
	for _, st := range w.stapler.Status() { // there is one certificate
		status = describe(st)
	}
	if status != w.status {
		w.status = status
		w.print("status", status)
	}
	ready := "yes"
	if err := w.stapler.Ready(); err != nil {
		ready = "no: " + oneLine(err)
	}
	if ready != w.ready {
		w.ready = ready
		w.print("ready", ready)
	}
}

// describe says in a line what is known of a certificate. Before the first
// attempt has come to an end that is nothing: it may not have been read yet, and
// who says "pending" without "Must-Staple" has people think that it isn't.
func describe(st staple.Status) string {
	if st.State == staple.StatePending && st.Failures == 0 && st.Err == nil {
		return "the responder is asked for the first time"
	}
	s := st.State.String()
	if st.MustStaple {
		s += ", Must-Staple"
	}
	if !st.ThisUpdate.IsZero() {
		s += fmt.Sprintf(", this update %s, next update %s", local(st.ThisUpdate), local(st.NextUpdate))
	}
	if !st.NextRefresh.IsZero() {
		s += ", next asked " + local(st.NextRefresh)
	}
	if st.Failures > 0 {
		s += ", " + many(st.Failures, "failure")
	}
	return s
}

func local(t time.Time) string { return t.Local().Format(time.DateTime) }

func (w *watcher) print(what, text string) {
	fmt.Fprintf(w.out, "%s %-9s  %s\n", time.Now().Format(time.TimeOnly), what, text)
}

// sumUp prints what was served.
func (w *watcher) sumUp() {
	stats := w.stapler.Stats()
	var total uint64
	for _, n := range stats.Handshakes {
		total += n
	}
	fmt.Fprintf(w.out, "\nstopped: %s, %d with a good staple; the responder was asked %s, %s failed\n",
		many(total, "handshake"), stats.Handshakes[staple.StateGood], many(stats.Requests, "time"), many(stats.Failures, "attempt"))
}
