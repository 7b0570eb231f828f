//go:build unix

package records_test

import (
	"context"
	"os"
	"path/filepath"
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
}
