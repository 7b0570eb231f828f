// Command quickstart shows OCSP stapling at work.
//
//	go run github.com/ocspstaple/staple/examples/quickstart@latest
//
// starts a throwaway CA, its OCSP responder and an HTTPS server on loopback,
// makes handshakes with real clients, stops the responder in between, and ends
// by itself. The exit status is 0 if every handshake carried a valid staple.
//
//	go run github.com/ocspstaple/staple/examples/quickstart@latest -cert cert.pem -key key.pem -addr :8443
//
// serves your own key pair, with staples from the responder that the
// certificate names, until it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "quickstart:", err)
	stop()
	if errors.As(err, new(usageError)) {
		os.Exit(2)
	}
	os.Exit(1)
}

// A usageError is a mistake in the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// run prints to out from several goroutines, a line at a time.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(out)
	certFile := flags.String("cert", "", "`file` with your certificate chain, in PEM, the leaf first")
	keyFile := flags.String("key", "", "`file` with its private key, in PEM")
	addr := flags.String("addr", "", "`address` to serve them on, such as :8443")
	fail := flags.Bool("fail", false, "stop the throwaway responder before the first handshake, to see what that looks like")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError(err.Error())
	}
	if flags.NArg() > 0 {
		return usageError(fmt.Sprintf("%q is not a flag; see -help", flags.Arg(0)))
	}
	var missing []string
	flags.VisitAll(func(f *flag.Flag) {
		if f.Name != "fail" && f.Value.String() == "" {
			missing = append(missing, "-"+f.Name)
		}
	})
	switch {
	case len(missing) == 3:
		return demonstrate(ctx, *fail, out)
	case len(missing) > 0:
		return usageError(fmt.Sprintf("-cert, -key and -addr go together: missing %s", strings.Join(missing, " and ")))
	case *fail:
		return usageError("-fail is for the throwaway responder, not for that of your certificate")
	}
	return serveOwn(ctx, *certFile, *keyFile, *addr, out)
}

// hints is a logger for what somebody should act on. It writes beside what the
// program prints, so that the table stays one.
func hints() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// many is a number of things, in plain English.
func many[T int | uint64](n T, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
