package consumer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The modules and their tests build where this machine can't run them, and vet
// finds nothing there. Two of the platforms have words of 32 bits.
// REQ H4
func TestVet(t *testing.T) {
	for _, platform := range []string{"windows/amd64", "darwin/arm64", "freebsd/amd64", "linux/386", "linux/arm", "js/wasm"} {
		system, processor, _ := strings.Cut(platform, "/")
		env := append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "GOWORK=off", "CGO_ENABLED=0")
		for _, folder := range released {
			t.Run(platform+"/"+folder, func(t *testing.T) {
				run(t, filepath.Join(tree, folder), env, "go", "vet", "./...")
			})
		}
	}
}
