// Command staplecheck connects to a TLS server and shows what it staples, whether
// clients accept the staple, and what the OCSP responder answers.
//
//	go run github.com/ocspstaple/staple/cmd/staplecheck@latest [flags] host[:port]
//
// It prints one fact per line:
//
//	server       www.example.com:443 at 192.0.2.7:443, TLS 1.3
//	names        www.example.com, example.com
//	serial       5c0f23a1
//	issuer       CN=Example CA 1,O=Example
//	expires      2027-01-30 11:00:00 UTC, in 64 days
//	must-staple  yes
//	responder    http://ocsp.example.com
//	chain        2 certificates, with the issuer
//	trusted      yes
//	staple       good
//	this update  2026-11-26 20:00:00 UTC, 7h0m ago
//	next update  2026-11-30 20:00:00 UTC, in 3 days, 93 % of its life left
//	size         503 bytes
//	signed by    issuer, CN=Example CA 1,O=Example
//	cert id      SHA-1
//	clients      all take it
//	asked        http://ocsp.example.com answered in 21 ms: good
//	             this update 2026-11-27 02:00:00 UTC, next update 2026-12-01 02:00:00 UTC
//	result       good: a good staple, which all clients take
//
// The handshake verifies nothing, so that errors can be reported. The staple is
// then judged by [github.com/ocspstaple/staple.Verify] and by what clients demand
// beyond that: those of docs/clients.md, and those that use
// golang.org/x/crypto/ocsp. A status that is not proven is shown as what the
// response claims. The responder is asked from here, as a Stapler asks it, for 10 s
// at most.
//
// # Exit status
//
//	0  The staple is good and all clients take it; or the certificate needs none:
//	   it has no Must-Staple, and names no responder that can be asked, or has
//	   noRevAvail, or is self-signed. Nobody has to act.
//	1  Nothing is stapled though a responder is named or Must-Staple demands it, or
//	   some client refuses the staple, or the responder says that the certificate
//	   is revoked.
//	2  It could not tell: usage, no connection, no TLS, or the issuer was not found,
//	   without which nothing is proven. Give it by -issuer.
//
// Two facts are shown and do not change the exit status: that the certificate is not
// trusted here (a private CA, another name, expired), and that the responder does not
// answer here, since the server may reach it.
//
// # Flags
//
//	-starttls protocol  smtp, imap or ldap: ask for TLS in that protocol first.
//	                    The port is then 25, 143 or 389 by default, else 443.
//	-servername name    the name to ask for (SNI) and to expect, by default the host.
//	                    An IP address is not sent.
//	-issuer file.pem    certificates of issuers, for chains that lack them.
//	-timeout duration   for connection and handshake, and once more for the
//	                    responder; 10s by default.
//	-json               print a JSON object and nothing else on standard output.
//
// # JSON
//
// The object has these members. Those marked by "?" are left out where they do not
// apply. Members may be added in later versions. Times are as in RFC 3339.
//
//	verdict                 "good", "none needed" (both exit status 0), "bad" (1), "unknown" (2)
//	reason                  why, in a sentence
//	time                    of the check
//	server                  host:port
//	address?                the IP address and port that answered
//	tls_version?            "TLS 1.2", "TLS 1.3"
//	certificate?            what the server presents
//	  names                 DNS names and IP addresses, else what else names it
//	  serial                in hexadecimal
//	  issuer                its distinguished name
//	  not_after
//	  must_staple           true or false
//	  responders            URLs
//	  chain_length          certificates that the server sent
//	  chain_has_issuer      true or false
//	  trusted               true or false: by the roots of this machine, for the name
//	  trust_error?          why not
//	staple?                 what it staples
//	  status                "good", "revoked", "unknown", "unreadable"
//	  proven                false: status and times are what the response claims
//	  error?                why not proven, or how revoked
//	  this_update?
//	  next_update?
//	  age_seconds?          since this_update
//	  left_percent?         of the time from this_update to next_update, 0 to 100
//	  size                  in bytes
//	  signed_by?            "issuer" or "delegate", if proven
//	  signer?               the distinguished name of that
//	  hash?                 of the CertID, such as "SHA-1"
//	refusals                empty if no client is known to refuse
//	  clients               which
//	  why
//	answer?                 of the responder, if one was asked
//	  responder             its URL
//	  status?               "good", "revoked", "unknown"
//	  this_update?
//	  next_update?
//	  milliseconds          that it took, or until it was given up
//	  error?                why there is no answer that proves anything
package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// The exit statuses.
const (
	exitGood = iota
	exitBad
	exitUnknown
)

// options are what the command line says.
type options struct {
	host, port string
	serverName string
	startTLS   string // a key of startTLS; empty: TLS at once
	issuers    []*x509.Certificate
	timeout    time.Duration
	json       bool
	roots      *x509.CertPool // nil: those of the system; set by tests alone
}

// run is the command; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitGood
	}
	if err != nil {
		fmt.Fprintln(stderr, "staplecheck:", err)
		return exitUnknown
	}
	r := check(ctx, o)
	switch {
	case o.json:
		enc := json.NewEncoder(stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	case r.Certificate == nil:
		err = errors.New(r.Reason)
	default:
		_, err = io.WriteString(stdout, r.text())
	}
	if err != nil {
		fmt.Fprintln(stderr, "staplecheck:", err)
		return exitUnknown
	}
	return r.exitStatus()
}

// parse reads the command line. For -help it prints the usage to out.
func parse(args []string, out io.Writer) (*options, error) {
	var o options
	var issuers string
	flags := flag.NewFlagSet("staplecheck", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error
	flags.StringVar(&o.startTLS, "starttls", "", "ask for TLS in this `protocol` first: smtp, imap or ldap")
	flags.StringVar(&o.serverName, "servername", "", "the `name` to ask for and to expect (default the host)")
	flags.StringVar(&issuers, "issuer", "", "`file` with certificates of issuers, in PEM, for chains that lack them")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "for the connection, and once more for the responder")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(out, "usage: staplecheck [flags] host[:port]")
			flags.SetOutput(out)
			flags.PrintDefaults()
		}
		return nil, err
	}
	if flags.NArg() != 1 {
		return nil, fmt.Errorf("want one host[:port] after the flags, got %q; see -help", flags.Args())
	}
	port := "443"
	if o.startTLS != "" {
		protocol, ok := startTLS[o.startTLS]
		if !ok {
			return nil, fmt.Errorf("-starttls %s: want smtp, imap or ldap", o.startTLS)
		}
		port = protocol.port
	}
	if o.timeout <= 0 {
		return nil, fmt.Errorf("-timeout %v: want more than 0", o.timeout)
	}
	var err error
	if o.host, o.port, err = hostPort(flags.Arg(0), port); err != nil {
		return nil, err
	}
	if o.serverName == "" {
		o.serverName = o.host
	}
	if issuers != "" {
		if o.issuers, err = readIssuers(issuers); err != nil {
			return nil, fmt.Errorf("-issuer: %w", err)
		}
	}
	return &o, nil
}

// hostPort splits host, host:port, [v6]:port, [v6] and v6.
func hostPort(arg, defaultPort string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(arg)
	if err != nil {
		host, port = arg, ""
		if inner, ok := strings.CutPrefix(arg, "["); ok && strings.HasSuffix(inner, "]") {
			host = strings.TrimSuffix(inner, "]")
		}
	}
	if _, notIP := netip.ParseAddr(host); host == "" || strings.Contains(arg, "/") || notIP != nil && strings.ContainsAny(host, ":[]") {
		return "", "", fmt.Errorf("%q: want host or host:port", arg)
	}
	if port == "" {
		port = defaultPort
	}
	return host, port, nil
}

// readIssuers reads the certificates of a PEM file.
func readIssuers(name string) (certs []*x509.Certificate, err error) {
	rest, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM", name)
	}
	return certs, nil
}
