// Command static serves HTTPS with a key pair from two files and staples its
// certificate.
//
//	go run ./examples/static -cert cert.pem -key key.pem -addr :8443
//
// With -store the OCSP responses outlive the process, so that after a restart
// the first handshake is stapled even if the responder is down.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ocspstaple/staple"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "static:", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("static", flag.ContinueOnError)
	flags.SetOutput(out)
	certFile := flags.String("cert", "", "`file` with the certificate chain, in PEM, the leaf first")
	keyFile := flags.String("key", "", "`file` with the private key, in PEM")
	addr := flags.String("addr", ":8443", "`address` to listen on")
	dir := flags.String("store", "", "`directory` in which OCSP responses are kept (default none)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *certFile == "" || *keyFile == "" {
		return errors.New("-cert and -key are needed; see -help")
	}

	cert, err := tls.LoadX509KeyPair(*certFile, *keyFile)
	if err != nil {
		return fmt.Errorf("-cert %s -key %s: %w", *certFile, *keyFile, err)
	}
	opts := []staple.Option{staple.WithLogger(slog.New(slog.NewTextHandler(out, nil)))}
	if *dir != "" {
		opts = append(opts, staple.WithStore(staple.DirStore(*dir)))
	}
	s := staple.New(opts...)
	defer s.Close()
	srv := &http.Server{
		Handler:           handler(s),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}),
	}
	return serve(ctx, srv, *addr, out)
}

// handler says hello, and tells a health check whether every certificate has
// its staple.
func handler(s *staple.Stapler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello")
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// serve listens on addr until ctx ends, and lets what is under way finish.
func serve(ctx context.Context, srv *http.Server, addr string, out io.Writer) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "serving https://%s\n", ln.Addr())
	finished := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		finished <- srv.Shutdown(limit)
	})()
	// No file names here: net/http would serve that pair unstapled.
	if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-finished
}
