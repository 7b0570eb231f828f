//go:build unix

package records_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ocspstaple/staple/internal/records"
)

// REQ E2: what is no regular file is not read: a pipe would never end, and a device
// looks like an empty record.
func TestDirReadsFilesAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(os.DevNull, filepath.Join(dir, "staple-ocsp-1.pem")); err != nil {
		t.Fatal(err)
	}
	if data, err := records.Dir(dir).Get(context.Background(), "staple-ocsp-1"); err == nil {
		t.Errorf("%d bytes of a device", len(data))
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "staple-ocsp-2.pem"), 0o600); err != nil {
		t.Skip("no pipes here:", err)
	}
	// It may take the place of a file at any time, so to look before it is opened does not do.
	if data, err := records.Dir(dir).Get(context.Background(), "staple-ocsp-2"); err == nil { // that this ends is the test
		t.Errorf("%d bytes of a pipe", len(data))
	}
}
