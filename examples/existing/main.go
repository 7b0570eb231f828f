// Command existing is an ordinary HTTPS server that reloads its certificate whenever
// the files change. The three lines marked with +++ make it staple.
//
//	go run ./examples/existing -cert cert.pem -key key.pem -addr :8443
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/ocspstaple/staple"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "existing:", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("existing", flag.ContinueOnError)
	flags.SetOutput(out)
	var files pair
	flags.StringVar(&files.certFile, "cert", "", "`file` with the certificate chain, in PEM, the leaf first")
	flags.StringVar(&files.keyFile, "key", "", "`file` with the private key, in PEM")
	addr := flags.String("addr", ":8443", "`address` to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if files.certFile == "" || files.keyFile == "" {
		return errors.New("-cert and -key are needed; see -help")
	}
	if _, err := files.get(nil); err != nil {
		return err
	}

	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "hello")
		}),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{GetCertificate: files.get},
	}

	s := staple.New()                          // +++
	defer s.Close()                            // +++
	srv.TLSConfig = s.TLSConfig(srv.TLSConfig) // +++

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

// pair is a certificate and its key in files that someone else renews.
type pair struct {
	certFile, keyFile string

	mu     sync.Mutex // guards the rest
	cert   *tls.Certificate
	loaded time.Time // of the certificate's file
}

// get is a tls.Config.GetCertificate. A renewal that cannot be read, such as
// one that is half written, leaves the old certificate in place.
func (p *pair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.certFile)
	if p.cert != nil && (err != nil || info.ModTime().Equal(p.loaded)) {
		return p.cert, nil
	}
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil && p.cert == nil {
		return nil, fmt.Errorf("-cert %s -key %s: %w", p.certFile, p.keyFile, err)
	}
	if err == nil {
		p.cert, p.loaded = &cert, info.ModTime()
	}
	return p.cert, nil
}
