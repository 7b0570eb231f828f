// Command autocert serves HTTPS with certificates that it gets by ACME, and
// staples them.
//
//	go run ./examples/autocert -host www.example.com -directory https://acme.example/directory
//
// Without -directory the CA is autocert's default, Let's Encrypt, whose
// certificates name no OCSP responder any more: they pass through unstapled.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/ocspstaple/staple"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "autocert:", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("autocert", flag.ContinueOnError)
	flags.SetOutput(out)
	hosts := flags.String("host", "", "`names` to get certificates for, separated by commas")
	dir := flags.String("cache", "autocert-cache", "`directory` for certificates, keys and OCSP responses")
	addr := flags.String("addr", ":443", "`address` to listen on; CAs connect to port 443")
	directory := flags.String("directory", autocert.DefaultACMEDirectory, "`URL` of the CA's ACME directory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *hosts == "" {
		return errors.New("-host is needed; see -help")
	}

	cache := autocert.DirCache(*dir)
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		HostPolicy: autocert.HostWhitelist(strings.Split(*hosts, ",")...),
		Cache:      cache,
		Client:     &acme.Client{DirectoryURL: *directory},
	}
	s := staple.New(
		staple.WithStore(cache), // responses live beside the certificates
		staple.WithLogger(slog.New(slog.NewTextHandler(out, nil))),
	)
	defer s.Close()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "hello")
		}),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         s.TLSConfig(m.TLSConfig()),
	}
	return serve(ctx, srv, *addr, out)
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
	if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-finished
}
