package staple_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

const (
	killEnv   = "STAPLE_TEST_KILL"
	killKeys  = 4
	killTimes = 200
	killLanes = 4
)

// killRecord is what a child writes: the generation in front, and enough of it
// for a write to take a while.
func killRecord(gen int) []byte {
	return fmt.Appendf(nil, "%08d %s end", gen, strings.Repeat(fmt.Sprint(gen%10), 40_000+gen%1000))
}

// TestKillChild is the process that is killed: it writes record after record
// and says so, a byte for each, on its standard output.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return // run by TestKilledWhileWriting alone
	}
	for gen := 0; ; gen++ {
		if err := staple.DirStore(dir).Put(background, fmt.Sprint("staple-ocsp-", gen%killKeys), killRecord(gen)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
			os.Exit(1)
		}
	}
}

// REQ E1: a process that is killed while it writes leaves each record old or
// new, and whole.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	times := killTimes / killLanes
	if testing.Short() {
		times /= 10
	}
	var lanes sync.WaitGroup
	for range killLanes {
		dir := t.TempDir()
		lanes.Go(func() { killLane(t, dir, times) })
	}
	lanes.Wait()
}

// killLane kills one process after the other over one directory.
func killLane(t *testing.T, dir string, times int) {
	most := 0
	for i := range times {
		said := killOne(t, dir)
		most = max(most, said)
		for key := range killKeys {
			data, err := staple.DirStore(dir).Get(background, fmt.Sprint("staple-ocsp-", key))
			if err != nil {
				if os.IsNotExist(err) && most <= key {
					continue // never written
				}
				t.Error(err)
				return
			}
			var gen int
			if _, err := fmt.Sscanf(string(data[:min(8, len(data))]), "%d", &gen); err != nil || !bytes.Equal(data, killRecord(gen)) {
				t.Errorf("kill %d: record %d is torn: %d bytes that begin %.20q", i, key, len(data), data)
				return
			}
			// What was said to be written is there, this child's or a later one.
			if last := lastOf(said, key); last >= 0 && gen != last && gen != last+killKeys {
				t.Errorf("kill %d: record %d is of generation %d, but %d writes were done", i, key, gen, said)
			}
		}
	}
}

// lastOf returns the last generation of key among the first n.
func lastOf(n, key int) int {
	if n <= key {
		return -1
	}
	return n - 1 - (n-1-key)%killKeys
}

// killOne starts a child, kills it after a random number of writes, in the
// middle of the next, and returns how many it said were done.
func killOne(t *testing.T, dir string) (said int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), killEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return 0
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return 0
	}
	n, err := io.ReadFull(out, make([]byte, 1+rand.IntN(10)))
	if err != nil {
		t.Errorf("the child wrote %d records: %v", n, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	rest, _ := io.ReadAll(out)
	_ = cmd.Wait() // killed
	return n + len(rest)
}

// REQ E1, REQ C4: whatever part of a record a crash leaves, in whatever file
// system, nothing bad is stapled: the prefix of each length, and the rest
// zeros, as a file has that was not synced.
func TestTornRecords(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	dir := t.TempDir()
	st := staple.DirStore(dir)
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(st))
	if err := s.Prefetch(context.Background(), cert); err != nil {
		t.Fatal(err)
	}
	want := s.Staple(cert).OCSPStaple
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, ls(t, dir)[0])
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	ca.Responder.SetFault(ocsptest.FaultRefused)
	for n := 0; n < len(whole); n += 1 + len(whole)/150 {
		for _, torn := range [][]byte{whole[:n], append(bytes.Clone(whole[:n]), make([]byte, len(whole)-n)...)} {
			write(t, name, torn)
			s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(st))
			err := s.Prefetch(context.Background(), cert)
			got := s.Staple(cert).OCSPStaple
			if got != nil && !bytes.Equal(got, want) || got == nil && reason(err) != staple.ReasonNetwork {
				t.Fatalf("%d of %d bytes: stapled %d bytes, %v", n, len(whole), len(got), err)
			}
			if block, _ := pem.Decode(torn); block == nil && got != nil {
				t.Fatalf("%d of %d bytes: stapled what is not there", n, len(whole))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
