package staple_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Go makes no zip of a module in which two paths differ by case alone, and some
// file systems hold only one of them.
// REQ H1
func TestPathsDifferByMoreThanCase(t *testing.T) {
	seen := make(map[string]string)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		folded := strings.ToLower(path)
		if other, ok := seen[folded]; ok {
			t.Errorf("two paths differ by case alone: %s, %s", other, path)
		}
		seen[folded] = path
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < 100 {
		t.Errorf("saw %d paths, want the whole tree", len(seen))
	}
}
