// Command files keeps the OCSP response of each certificate in a file, for servers
// that staple from one: docs/proxies.md sets up nginx, HAProxy and Envoy.
//
//	go run ./examples/files -hook 'systemctl reload haproxy' /etc/haproxy/certs/*.pem
//
// Beside NAME.pem, a certificate and its issuer, it keeps NAME.pem.ocsp, in DER.
// A new good response replaces it; a failure changes nothing. It is removed when
// it expires, the certificate is revoked, or NAME.pem holds another one.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/ocspstaple/staple"
)

// hookTime is how long the hook may take.
const hookTime = 30 * time.Second

func main() {
	hook := flag.String("hook", ":", "shell `command` to run at the start and after a change, until it succeeds, for 30 s at most; \"$@\" in it are the files")
	every := flag.Duration("every", time.Minute, "how often the certificates are read again")
	ttl := flag.Duration("ttl", time.Hour, "how long a response is used before the responder is asked again")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: files [flags] NAME.pem...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := keep(context.Background(), flag.Args(), *hook, *every, slog.Default(), staple.WithTTL(*ttl)); err != nil {
		slog.Error("not started", "error", err)
		os.Exit(1)
	}
}

// keep keeps the responses of the certificates in files until ctx ends.
func keep(ctx context.Context, files []string, hook string, every time.Duration, log *slog.Logger, opts ...staple.Option) error {
	var certs []*tls.Certificate
	for _, file := range files {
		cert, err := read(file)
		if err != nil {
			return err
		}
		certs = append(certs, cert)
	}
	switch {
	case len(certs) == 0:
		return errors.New("no PEM file is named; see -help")
	case every <= 0:
		return fmt.Errorf("-every %v is not positive", every)
	}
	timer := time.NewTimer(every) // has the loop do what an event function may not, as it takes long
	s := staple.New(append(opts, staple.WithLogger(log), staple.WithEventFunc(func(staple.Event) { timer.Reset(0) }))...)
	defer s.Close()
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = s.Prefetch(limit, certs...) // judges what the files hold, too; failures are logged, and tried again
	var changed []string            // since the hook last succeeded: all, as it may have failed in another process
	for _, file := range files {
		changed = append(changed, file+".ocsp")
	}
	for ; ctx.Err() == nil; timer.Reset(every) {
		for _, file := range files {
			if changes, err := update(s, file); err != nil {
				log.Error("file stays as it is", "error", err)
			} else if changes && !slices.Contains(changed, file+".ocsp") {
				changed = append(changed, file+".ocsp")
			}
		}
		if len(changed) > 0 {
			if out, err := run(ctx, hook, changed); err != nil {
				log.Error("hook failed", "files", changed, "output", string(out), "error", err)
			} else {
				log.Info("hook ran", "files", changed, "output", string(out))
				changed = nil
			}
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return nil
}

// run calls the hook. One that hangs, or leaves a process behind that keeps its output open, must
// not keep what expires from being removed.
func run(ctx context.Context, hook string, files []string) (out []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", hook, "sh"}, files...)...)
	cmd.WaitDelay = time.Second
	out, err = cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) { // it succeeded
		err = nil
	}
	return out, err
}

// update makes NAME.pem.ocsp hold what is to be stapled now, and reports a change.
func update(s *staple.Stapler, file string) (bool, error) {
	cert, err := read(file)
	if err != nil {
		return false, err
	}
	name, raw := file+".ocsp", s.Staple(cert).OCSPStaple
	switch {
	case bytes.Equal(raw, cert.OCSPStaple):
		return false, nil
	case len(raw) == 0:
		return true, os.Remove(name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".staple-*") // HAProxy reads no file whose name has a dot in front
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(f.Name(), name)
}

// read returns the certificates in a PEM file, and the response beside it.
func read(file string) (*tls.Certificate, error) {
	data, err := os.ReadFile(file)
	cert := new(tls.Certificate)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert.Certificate = append(cert.Certificate, block.Bytes)
		}
	}
	if err == nil && len(cert.Certificate) == 0 {
		err = errors.New(file + ": no certificate in PEM")
	}
	cert.OCSPStaple, _ = os.ReadFile(file + ".ocsp") // if there is one
	return cert, err
}
