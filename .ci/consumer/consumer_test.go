package consumer

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each module comes by go get of it alone, into a module that has nothing yet,
// and a program that uses it builds and runs.
// REQ H1, REQ H2
func TestGet(t *testing.T) {
	version := next(t)
	env := newEnv(t, newProxy(t, version))
	for _, folder := range released {
		t.Run(folder, func(t *testing.T) {
			dir, pkg := t.TempDir(), path.Join(root, folder)
			source, err := os.ReadFile(filepath.Join("testdata", path.Base(pkg), "main.go"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "main.go"), string(source))
			run(t, dir, env, "go", "mod", "init", "example.com/consumer")
			run(t, dir, env, "go", "get", pkg)
			got := run(t, dir, env, "go", "list", "-m", root, pkg)
			if want := root + " " + version + "\n" + pkg + " " + version + "\n"; got != want {
				t.Errorf("got the modules %q, want %q", got, want)
			}
			args := []string{"run", "."}
			if folder == "redisstore" {
				args = append(args, newRedis(t))
			}
			if got := run(t, dir, env, "go", args...); got != "works\n" {
				t.Errorf("the program printed %q", got)
			}
		})
	}
}

// The quickstart runs by its import path, where there is no module.
// REQ H2
func TestQuickstart(t *testing.T) {
	version := next(t)
	env := newEnv(t, newProxy(t, version))
	out := run(t, t.TempDir(), env, "go", "run", root+"/examples/quickstart@"+version)
	if !strings.Contains(out, "all with a valid staple") {
		t.Errorf("it printed:\n%s", out)
	}
}

// NEWS.md has a section for the next release, which the modules name.
// REQ H2
func TestNews(t *testing.T) {
	news, err := os.ReadFile(filepath.Join(tree, "NEWS.md"))
	if err != nil {
		t.Fatal(err)
	}
	version := next(t)
	if !regexp.MustCompile(`(?m)^## ` + regexp.QuoteMeta(version) + `( |$)`).Match(news) {
		t.Errorf("NEWS.md has no section %s", version)
	}
}

// newRedis starts a Redis that ends with the test, and returns its address.
func newRedis(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			return addr
		}
	}
	t.Fatal("redis-server did not start")
	return ""
}

// staplecheck runs by its import path, too. Nobody listens at that port: it says so,
// and could not tell.
// REQ H2
func TestStaplecheck(t *testing.T) {
	version := next(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", root+"/cmd/staplecheck@"+version, "127.0.0.1:1")
	cmd.Dir, cmd.Env = t.TempDir(), newEnv(t, newProxy(t, version))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "connection refused") || !strings.Contains(string(out), "exit status 2") {
		t.Errorf("%v\n%s", err, out)
	}
}
