package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
)

const (
	// asMain, in the environment, makes the test binary the program itself.
	asMain = "FLEET_TEST_MAIN"
	// stubborn makes it a server that takes no notice of SIGTERM.
	stubborn = "FLEET_TEST_STUBBORN"
)

// The test is the program, too: a fleet starts its servers from it.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(stubborn) != "":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("127.0.0.1:1")
		<-time.After(time.Minute) // not for ever, whatever becomes of the test
	case os.Getenv(asMain) != "", len(os.Args) > 1 && os.Args[1] == "-serve":
		main()
	default:
		os.Exit(m.Run())
	}
}

// needRedis skips the test where there is no Redis, other than in CI.
func needRedis(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
}

// command returns the program as a process. Its servers have its standard error:
// Wait returns exec.ErrWaitDelay if one of them is still there when it has ended.
func command(t *testing.T, stderr *bytes.Buffer) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-servers", "6")
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Stderr = stderr
	cmd.WaitDelay = time.Second
	return cmd
}

// redisGone checks that the Redis that the program told of has ended.
func redisGone(t *testing.T, out string) {
	t.Helper()
	m := regexp.MustCompile(`Redis at (\S+);`).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	if c, err := net.Dial("tcp", m[1]); err == nil {
		c.Close()
		t.Error("Redis goes on")
	}
}

// REQ E5: while Redis is there few requests are made, however many servers; all
// handshakes are stapled throughout. No process is left.
func TestFleet(t *testing.T) {
	t.Parallel()
	needRedis(t)
	var buf, stderr bytes.Buffer
	cmd := command(t, &stderr)
	cmd.Stdout = &buf
	err := cmd.Run()
	out := buf.String()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %s%s", err, out, stderr.String())
	}
	redisGone(t, out)
	if !strings.Contains(out, "54 handshakes, 54 with a valid staple") {
		t.Error(out)
	}
	// Refreshes are three quarters of a second apart at least, and each is one request.
	m := regexp.MustCompile(`(?m)^ *(\d+) s +36 +36 +(\d+)$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	seconds, _ := strconv.Atoi(m[1])
	if requests, _ := strconv.Atoi(m[2]); requests < 3 || requests > 2+(seconds+1)*4/3 {
		t.Errorf("%d requests for 6 servers in %d s", requests, seconds)
	}
}

// A fleet that is stopped early leaves no process either.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	needRedis(t)
	var stderr bytes.Buffer
	cmd := command(t, &stderr)
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		fmt.Fprintln(&out, lines.Text())
		if strings.Contains(lines.Text(), " s  ") { // the first handshakes were made
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
	if err := cmd.Wait(); err == nil || errors.Is(err, exec.ErrWaitDelay) || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("got %v, want exit status 1 and no process left: %s%s", err, out.String(), stderr.String())
	}
	redisGone(t, out.String())
}

// A server that does not end when it is told to is killed, and waited for.
func TestStubborn(t *testing.T) {
	t.Setenv(stubborn, "1")
	ctx, cancel := context.WithCancel(t.Context())
	f := fleet{ca: ocsptest.NewCA(), out: onWrite(cancel)}
	if err := f.run(ctx, 2, t.TempDir(), "127.0.0.1:1", func() {}); err == nil || len(f.servers) != 2 {
		t.Errorf("got %v of %d servers", err, len(f.servers))
	}
	for _, cmd := range f.servers {
		if cmd.ProcessState == nil || cmd.ProcessState.Success() {
			t.Errorf("process %d ended as %v, want it killed", cmd.Process.Pid, cmd.ProcessState)
		}
	}
}

// onWrite is called when something is written.
type onWrite func()

func (f onWrite) Write(b []byte) (int, error) { f(); return len(b), nil }

// Bad input is an error that says what to do.
func TestRefuses(t *testing.T) {
	for _, args := range [][]string{{"-no-such-flag"}, {"-serve", t.TempDir()}} {
		if err := run(context.Background(), args, new(strings.Builder)); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
