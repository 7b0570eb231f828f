// Command fleet shows servers that share OCSP responses through Redis, so that
// one of them asks the responder for all:
//
//	go run ./examples/fleet
//
// It starts a throwaway CA and responder, a redis-server (or uses the one at
// -redis), and as many server processes as -servers says, which serve one
// certificate. Then it makes handshakes with all of them, counts the requests
// that the responder gets, stops Redis to show that staples go on, and ends with
// status 0 if each handshake had a valid staple.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/redisstore"
	"github.com/redis/go-redis/v9"
)

const (
	name     = "fleet.example.com"
	ttl      = time.Second // asks again so soon, to have something to see
	validity = time.Minute
	grace    = 3 * time.Second // for a server to end, before it is killed
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		stop()
		os.Exit(1)
	}
}

// run is the demonstration; with -serve it is one server of the fleet.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(out)
	servers := flags.Int("servers", 8, "`number` of server processes")
	addr := flags.String("redis", "", "`address` of a Redis or Valkey to use (default: start a redis-server)")
	dir := flags.String("serve", "", "serve the key pair in this `directory`; used by the program itself")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *dir != "":
		return serve(ctx, *dir, *addr, out)
	case *servers < 1:
		return fmt.Errorf("-servers %d is not positive", *servers)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return show(ctx, *servers, *addr, out)
}

// serve is one server: this is all that a member of a fleet has to do.
func serve(ctx context.Context, dir, addr string, out io.Writer) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	redis.SetLogger(quiet{})
	client := redisstore.Client(&redis.UniversalOptions{Addrs: []string{addr}})
	defer client.Close()
	s := staple.New(staple.WithStore(redisstore.New(client, "")), staple.WithTTL(ttl))
	defer s.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	fmt.Fprintln(out, l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			_ = c.(*tls.Conn).HandshakeContext(ctx)
		}()
	}
}

// quiet keeps go-redis from writing to standard error while Redis is stopped.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// show runs the fleet and tells what it does.
func show(ctx context.Context, servers int, addr string, out io.Writer) error {
	dir, err := os.MkdirTemp("", "staple-fleet")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var stopRedis func() // nil: it is not ours
	if addr == "" {
		if addr, stopRedis, err = startRedis(ctx, dir); err != nil {
			return err
		}
		defer stopRedis()
	}
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	defer ca.Responder.Close()
	ca.Responder.SetValidity(validity)
	ca.Responder.SetHeader("Cache-Control") // the TTL decides alone
	if err := writePair(dir, ca.Issue(ocsptest.Leaf{Names: []string{name}, MustStaple: true})); err != nil {
		return err
	}
	f := &fleet{ca: ca, out: out}
	return f.run(ctx, servers, dir, addr, stopRedis)
}

// fleet is the servers, and what was seen of them.
type fleet struct {
	ca              *ocsptest.CA
	out             io.Writer
	servers         []*exec.Cmd
	addrs           []string
	begun           time.Time
	shakes, stapled int
	last            error
}

// run starts the servers, uses them, and returns when they have ended.
func (f *fleet) run(ctx context.Context, servers int, dir, addr string, stopRedis func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.wait() // a program that leaves first leaves them behind
	defer cancel()
	if err := f.start(ctx, servers, dir, addr); err != nil {
		return err
	}
	fmt.Fprintf(f.out, "%d server processes share Redis at %s; each asks again after %v\n\n", servers, addr, ttl)
	fmt.Fprintln(f.out, "  time  handshakes  stapled  requests to the responder")
	f.watch(ctx, 6)
	if stopRedis != nil {
		stopRedis()
		fmt.Fprintln(f.out, " Redis is stopped: each server asks for itself, and goes on with what it holds")
		f.watch(ctx, 3)
	}
	fmt.Fprintf(f.out, "\n%d handshakes, %d with a valid staple\n", f.shakes, f.stapled)
	if f.stapled < f.shakes || f.shakes == 0 {
		return fmt.Errorf("%d handshakes without a valid staple: %w", f.shakes-f.stapled, f.last)
	}
	return ctx.Err()
}

// start starts the servers, which end with ctx: see wait.
func (f *fleet) start(ctx context.Context, servers int, dir, addr string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f.begun = time.Now()
	for range servers {
		cmd := exec.CommandContext(ctx, self, "-serve", dir, "-redis", addr)
		cmd.Stderr = os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = grace
		said, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		f.servers = append(f.servers, cmd)
		line, err := bufio.NewReader(said).ReadString('\n')
		if err != nil {
			return fmt.Errorf("a server did not start: %w", err)
		}
		f.addrs = append(f.addrs, strings.TrimSpace(line))
	}
	return nil
}

// wait returns when all servers have ended, as they do when the context of start
// is over. How they ended is of no interest: what they served was seen.
func (f *fleet) wait() {
	for _, cmd := range f.servers {
		_ = cmd.Wait()
	}
}

// watch makes handshakes with every server, once a second.
func (f *fleet) watch(ctx context.Context, times int) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range times {
		for _, addr := range f.addrs {
			f.shakes++
			if err := f.shake(ctx, addr); err != nil {
				f.last = err
				continue
			}
			f.stapled++
		}
		fmt.Fprintf(f.out, "%4.0f s  %10d  %7d  %d\n", time.Since(f.begun).Seconds(), f.shakes, f.stapled, f.ca.Responder.Requests())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// shake makes one handshake, which fails without a good staple.
func (f *fleet) shake(ctx context.Context, addr string) error {
	d := tls.Dialer{Config: &tls.Config{RootCAs: f.ca.Pool(), ServerName: name, VerifyConnection: staple.RequireStaple}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// startRedis starts a redis-server, or valkey-server, on loopback.
func startRedis(ctx context.Context, dir string) (addr string, stop func(), err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if path, err = exec.LookPath("valkey-server"); err != nil {
			return "", nil, errors.New("neither redis-server nor valkey-server is installed: name one that runs with -redis")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.CommandContext(ctx, path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	for client.Ping(ctx).Err() != nil {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			stop()
			return "", nil, fmt.Errorf("%s did not start: %w", path, ctx.Err())
		}
	}
	return addr, stop, nil
}
