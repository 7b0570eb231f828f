package consumer

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The root module and its tests build where this machine can't run them, and vet
// finds nothing there. Two of the platforms have words of 32 bits. The nested
// modules are not vetted: what they build with takes minutes on each platform.
// REQ H4
func TestVet(t *testing.T) {
	for _, platform := range []string{"windows/amd64", "darwin/arm64", "freebsd/amd64", "linux/386", "linux/arm", "js/wasm"} {
		system, processor, _ := strings.Cut(platform, "/")
		env := append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "GOWORK=off", "CGO_ENABLED=0")
		t.Run(platform, func(t *testing.T) { run(t, tree, env, "go", "vet", "./...") })
	}
}

// Words of 32 bits align a plain int64 to half of what its atomics need, and
// such a program panics. The Examples do most of what a server does.
// REQ H4
func TestWordsOf32Bits(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("this processor may not run the programs")
	}
	env := append(os.Environ(), "GOARCH=386", "GOWORK=off", "CGO_ENABLED=0")
	for _, folder := range released {
		run(t, filepath.Join(tree, folder), env, "go", "test", "-count=1", "-run=^Example", "./...")
	}
}
