package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The test is the program, too: a fleet starts its servers from it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-serve" {
		main()
		return
	}
	os.Exit(m.Run())
}

// REQ E5: while Redis is there few requests are made, however many servers; all
// handshakes are stapled throughout.
func TestFleet(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"-servers", "6"}, &out); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if !strings.Contains(out.String(), "54 handshakes, 54 with a valid staple") {
		t.Error(out.String())
	}
	// Refreshes are three quarters of a second apart at least, and each is one request.
	m := regexp.MustCompile(`(?m)^ *(\d+) s +36 +36 +(\d+)$`).FindStringSubmatch(out.String())
	if m == nil {
		t.Fatal(out.String())
	}
	seconds, _ := strconv.Atoi(m[1])
	if requests, _ := strconv.Atoi(m[2]); requests < 3 || requests > 2+(seconds+1)*4/3 {
		t.Errorf("%d requests for 6 servers in %d s", requests, seconds)
	}
}

// Bad input is an error that says what to do.
func TestRefuses(t *testing.T) {
	for _, args := range [][]string{{"-no-such-flag"}, {"-serve", t.TempDir()}} {
		if err := run(context.Background(), args, new(strings.Builder)); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
