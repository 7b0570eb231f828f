package scenario_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

var background = context.Background()

func TestDirStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d := staple.DirStore(dir)
	if _, err := d.Get(background, "staple-ocsp-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get from no directory: %v", err)
	}
	if err := d.Delete(background, "staple-ocsp-1"); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	for _, data := range []string{"one", "", strings.Repeat("long", 20000), "two"} {
		if err := d.Put(background, "staple-ocsp-1", []byte(data)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Get(background, "staple-ocsp-1"); err != nil || string(got) != data {
			t.Fatalf("Get: %.20q, %v, want %.20q", got, err, data)
		}
	}
	if runtime.GOOS != "windows" {
		for name, want := range map[string]fs.FileMode{dir: 0o700, filepath.Dir(dir): 0o700, filepath.Join(dir, "staple-ocsp-1.pem"): 0o600} {
			if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want permissions %v", name, fi.Mode(), err, want)
			}
		}
	}
	if err := d.Delete(background, "staple-ocsp-1"); err != nil {
		t.Error(err)
	}
	if names := ls(t, dir); len(names) != 0 {
		t.Errorf("left in the directory: %v", names)
	}
	ended, cancel := context.WithCancel(background)
	cancel()
	_, getErr := d.Get(ended, "k")
	for _, err := range []error{getErr, d.Put(ended, "k", nil), d.Delete(ended, "k")} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
	}
}

func ls(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Any key makes a name that is legal on Windows too, inside of the directory,
// and different keys make different names, whatever the file system's case.
func TestDirStoreNames(t *testing.T) {
	legal := regexp.MustCompile(`^[a-z0-9-]{8,100}\.pem$`)
	root := t.TempDir()
	dir := filepath.Join(root, "store")
	d := staple.DirStore(dir)
	keys := []string{"", ".", "..", "../up", "/etc/passwd", `c:\x`, "a/b", "a\x00b", "CON", "con", "nul", "aux.pem", "UPPER-CASE-KEY", "upper-case-key",
		"trailing.", "trailing ", "example.com+rsa", "ünïcödé", strings.Repeat("x", 300), "staple-temp-1", "staple-ocsp-" + strings.Repeat("a", 64), "a:b", "*?\"<>|"}
	for _, key := range keys {
		if err := d.Put(background, key, []byte(key)); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for _, key := range keys {
		if got, err := d.Get(background, key); err != nil || string(got) != key {
			t.Errorf("%q: got %q, %v", key, got, err)
		}
	}
	names := ls(t, dir)
	for _, name := range names {
		if !legal.MatchString(name) {
			t.Errorf("name %q", name)
		}
	}
	if len(names) != len(keys) || len(ls(t, root)) != 1 {
		t.Errorf("%d names for %d keys; in the directory above: %v", len(names), len(keys), ls(t, root))
	}
}

// Writers and readers at one time, over several DirStores: a reader finds one
// whole record or another.
func TestDirStoreIsAtomic(t *testing.T) {
	dir := t.TempDir()
	record := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 10_000*(i+1)) }
	put := func(i int) error { return staple.DirStore(dir).Put(background, "staple-ocsp-1", record(i)) }
	if err := put(0); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	errs := make(chan error, 8)
	for i := range 4 {
		writers.Go(func() {
			for range 50 {
				if err := put(i); err != nil {
					errs <- err
					return
				}
			}
		})
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got, err := staple.DirStore(dir).Get(background, "staple-ocsp-1")
				if err != nil || len(got) == 0 || !bytes.Equal(got, record(int(got[0]-'a'))) {
					errs <- fmt.Errorf("read %d bytes, %w", len(got), err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if names := ls(t, dir); len(names) != 1 {
		t.Errorf("left in the directory: %v", names)
	}
}

// What is no record's file does not fill the memory, and does not hang.
func TestDirStoreStrangeFiles(t *testing.T) {
	dir := t.TempDir()
	d := staple.DirStore(dir)
	name := filepath.Join(dir, "staple-ocsp-1.pem")
	f, err := os.Create(name)
	if err == nil {
		err = errors.Join(f.Truncate(1<<40), f.Close()) // sparse
	}
	if err != nil {
		t.Skip("no sparse files here:", err)
	}
	if _, err := d.Get(background, "staple-ocsp-1"); err == nil {
		t.Error("Get of 1 TiB: no error")
	}
	if err := errors.Join(os.Remove(name), os.Mkdir(name, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(background, "staple-ocsp-1"); err == nil {
		t.Error("Get of a directory: no error")
	}
	if err := d.Put(background, "staple-ocsp-1", nil); err == nil {
		t.Error("Put over a directory: no error")
	}
	if names := ls(t, dir); len(names) != 1 {
		t.Errorf("left in the directory: %v", names)
	}
}

// Temporary files of processes that were killed go after an hour. What is no file stays.
func TestDirStoreSweeps(t *testing.T) {
	dir := t.TempDir()
	d := staple.DirStore(dir)
	for name, age := range map[string]time.Duration{"staple-temp-old": 2 * time.Hour, "staple-temp-new": time.Minute, "other": 48 * time.Hour} {
		name = filepath.Join(dir, name)
		write(t, name, []byte("x"))
		if err := os.Chtimes(name, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	folder := filepath.Join(dir, "staple-temp-folder")
	if err := errors.Join(os.Mkdir(folder, 0o700), os.Chtimes(folder, time.Time{}, time.Now().Add(-2*time.Hour))); err != nil {
		t.Fatal(err)
	}
	for range 2000 { // one in 64 sweeps, so that none does is as likely as 2e-14
		if err := d.Put(background, "staple-ocsp-1", nil); err != nil {
			t.Fatal(err)
		}
		if len(ls(t, dir)) < 5 {
			break
		}
	}
	if got := fmt.Sprint(ls(t, dir)); got != "[other staple-ocsp-1.pem staple-temp-folder staple-temp-new]" {
		t.Errorf("left: %v", got)
	}
}

// Records that were not written for a week and have expired go, a bounded number
// at once, and nothing else does.
func TestDirStoreSweepsRecords(t *testing.T) {
	const many = 600
	dir := t.TempDir()
	record := func(typ string, expires time.Time) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: typ, Headers: map[string]string{"Expires": expires.UTC().Format(time.RFC3339)}})
	}
	now := time.Now()
	old, past := now.Add(-8*24*time.Hour), record("OCSP RESPONSE", now.Add(-time.Hour))
	put := func(name string, data []byte, written time.Time) {
		name = filepath.Join(dir, name)
		write(t, name, data)
		if err := os.Chtimes(name, time.Time{}, written); err != nil {
			t.Fatal(err)
		}
	}
	put("staple-ocsp-put.pem", past, now)
	put("staple-ocsp-written.pem", past, now.Add(-6*24*time.Hour))
	put("staple-ocsp-valid.pem", record("OCSP RESPONSE", now.Add(time.Hour)), old)
	put("staple-ocsp-torn.pem", past[:len(past)/2], old)
	put("staple-ocsp-other.pem", record("CERTIFICATE", now.Add(-time.Hour)), old)
	put("staple-ocsp-says-nothing.pem", block("OCSP RESPONSE", nil, old), old)
	put("staple-ocsp-1.txt", past, old)
	put("example.com.pem", past, old)
	put("key-0123456789.pem", past, old)
	keep := ls(t, dir)
	for i := range many {
		put(fmt.Sprint("staple-ocsp-old-", i, ".pem"), past, old)
	}
	d := staple.DirStore(dir)
	before := len(keep) + many
	for range 3000 { // one in 64 sweeps, and three do: that fewer do is as likely as 1e-17
		if err := d.Put(background, "staple-ocsp-put", past); err != nil {
			t.Fatal(err)
		}
		n := len(ls(t, dir))
		if before-n > 256 {
			t.Fatalf("%d records removed at once", before-n)
		}
		if before = n; n == len(keep) {
			break
		}
	}
	if got := ls(t, dir); !slices.Equal(got, keep) {
		t.Errorf("left: %.1000q, want %q", got, keep)
	}
}

// A directory that can't be: staples go on, and it costs one warning.
func TestDirStoreBelowAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var log testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithStore(staple.DirStore(filepath.Join(file, "dir"))), staple.WithLogger(log.Logger()))
		certs := []*tls.Certificate{ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{})}
		if err := s.Prefetch(background, certs...); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Hour)
		for _, c := range certs {
			if !testkit.Stapled(t, s, ca, c) {
				t.Error("not stapled")
			}
		}
		if loud := log.Loud(); len(loud) != 1 || !strings.Contains(loud[0], "could not be stored") {
			t.Errorf("logged %q, want one warning", loud)
		}
	})
}

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
			if got != nil && !bytes.Equal(got, want) || got == nil && testkit.Reason(err) != staple.ReasonNetwork {
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
