package scenario_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/ocspstaple/staple"
)

const fullDiskEnv = "STAPLE_TEST_FULL_DISK"

// A disk that is full, by a limit on the size of files in a process of its
// own: Put fails, the old record stays whole, and nothing is left behind.
func TestDirStoreFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDiskEnv); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1000, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit) // coverage is written on exit
		if err := staple.DirStore(dir).Put(background, "staple-ocsp-1", make([]byte, 5000)); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("Put: %v, want %v", err, syscall.EFBIG)
		}
		return
	}
	dir := t.TempDir()
	old := bytes.Repeat([]byte("old"), 1000)
	if err := staple.DirStore(dir).Put(background, "staple-ocsp-1", old); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDirStoreFullDisk$")
	cmd.Env = append(os.Environ(), fullDiskEnv+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := staple.DirStore(dir).Get(background, "staple-ocsp-1")
	if err != nil || !bytes.Equal(got, old) {
		t.Errorf("the old record: %d bytes, %v", len(got), err)
	}
	if names := ls(t, dir); len(names) != 1 {
		t.Errorf("left in the directory: %v", names)
	}
}

// A directory that is read-only: Put fails and Get goes on. Root may write
// anywhere, so the thread that tries is nobody's as far as files go.
func TestDirStoreReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := staple.DirStore(dir).Put(background, "staple-ocsp-1", []byte("old")); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{
		dir: 0o555, filepath.Join(dir, "staple-ocsp-1.pem"): 0o444, filepath.Dir(dir): 0o755, filepath.Dir(filepath.Dir(dir)): 0o755,
	} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	type result struct {
		putErr, deleteErr, getErr error
		got                       []byte
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			_ = syscall.Setfsuid(65534)
		}
		var r result
		d := staple.DirStore(dir)
		r.putErr, r.deleteErr = d.Put(background, "staple-ocsp-1", []byte("new")), d.Delete(background, "staple-ocsp-1")
		r.got, r.getErr = d.Get(background, "staple-ocsp-1")
		c <- r
	}()
	r := <-c
	if !errors.Is(r.putErr, os.ErrPermission) || !errors.Is(r.deleteErr, os.ErrPermission) {
		t.Errorf("Put: %v, Delete: %v; want %v", r.putErr, r.deleteErr, os.ErrPermission)
	}
	if r.getErr != nil || string(r.got) != "old" {
		t.Errorf("Get: %q, %v", r.got, r.getErr)
	}
}
