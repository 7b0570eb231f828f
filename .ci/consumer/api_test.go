package consumer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// REQ H3: a name that goes is told of, and refused unless NEWS names it.
func TestAPI(t *testing.T) {
	scratch := t.TempDir()
	if err := os.CopyFS(scratch, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(scratch, ".git")); err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) {
		run(t, scratch, nil, "git", append([]string{"-c", "user.name=ci", "-c", "user.email=ci@example.com"}, args...)...)
	}
	gone := filepath.Join(scratch, "gone.go")
	write(t, gone, "package staple\n\n// Gone goes.\nfunc Gone() {}\n")
	git("init", "-q")
	git("add", "-A")
	git("commit", "-q", "-m", "a release")
	git("tag", "v0.0.1")
	api := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(scratch, ".ci", "api"), "v0.0.1", ".")
		cmd.Dir = scratch
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if out, err := api(); err == nil || !strings.Contains(out, "NEWS.md does not name Gone") {
		t.Errorf("Gone is gone: %v\n%s", err, out)
	}
}
