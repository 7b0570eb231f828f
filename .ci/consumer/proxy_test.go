package consumer

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const (
	// tree is the root of the repository.
	tree = "../.."
	// root is the path of its root module; the others' begin with it.
	root = "github.com/ocspstaple/staple"
)

// released are the folders of the modules that a release tags.
var released = []string{".", "redisstore", "promstaple"}

// next returns the version that the modules of the repository require of each
// other, which is that of the next release. They all have to name the same.
func next(t *testing.T) string {
	t.Helper()
	version := ""
	for _, name := range goMods(t) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		mod, err := modfile.Parse(name, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range mod.Require {
			if r.Mod.Path != root && !strings.HasPrefix(r.Mod.Path, root+"/") {
				continue
			}
			if version == "" {
				version = r.Mod.Version
			}
			if r.Mod.Version != version {
				t.Fatalf("%s requires %s, others %s: .ci/release sets the version everywhere", name, r.Mod, version)
			}
		}
	}
	if version == "" {
		t.Fatal("no module requires the root")
	}
	return version
}

// goMods returns the names of all go.mod files of the tree.
func goMods(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(tree, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "go.mod" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// newProxy makes a file proxy that has version of each released module, and
// returns its URL. A zip is made as Go makes it, within the same limits: of all
// files but those of nested modules.
func newProxy(t *testing.T, version string) (url string) {
	t.Helper()
	proxy := t.TempDir()
	for _, folder := range released {
		m := module.Version{Path: path.Join(root, folder), Version: version}
		goMod, err := os.ReadFile(filepath.Join(tree, folder, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(proxy, filepath.FromSlash(m.Path), "@v")
		if err := os.MkdirAll(at, 0o777); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(at, "list"), version+"\n")
		write(t, filepath.Join(at, version+".info"), `{"Version":"`+version+`"}`)
		write(t, filepath.Join(at, version+".mod"), string(goMod))
		f, err := os.Create(filepath.Join(at, version+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		if err := zip.CreateFromDir(f, m, filepath.Join(tree, folder)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + filepath.ToSlash(proxy)
}

// newEnv is the environment of a consumer who has nothing yet. Modules of others
// come from where this machine gets them.
func newEnv(t *testing.T, proxy string) []string {
	t.Helper()
	theirs := strings.TrimSpace(run(t, tree, nil, "go", "env", "GOPROXY"))
	return append(os.Environ(),
		"GOPROXY="+proxy+","+theirs,
		"GONOPROXY=none", // though the machine's may name us
		"GONOSUMDB="+root,
		"GOMODCACHE="+t.TempDir(), // the machine's own must not come to hold this
		"GOFLAGS=-modcacherw -trimpath",
		"GOWORK=off",
	)
}

// run runs a command in dir, with env or else our environment, and returns its
// standard output.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stdout, stderr strings.Builder
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, &stdout, &stderr)
	}
	return stdout.String()
}

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
}
