package ocspresp_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A bench is where `openssl ocsp` judges: it has the certificates of each world in
// files.
type bench struct {
	t       testing.TB
	program string
	dir     string
	files   map[*world][2]string // the CA's, and the leaf's
}

func newBench(t testing.TB) *bench {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	} else if err != nil {
		return nil
	}
	return &bench{t, program, t.TempDir(), make(map[*world][2]string)}
}

func (b *bench) write(name string, data []byte) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// judge returns nil where `openssl ocsp` verifies a response, with the chain that is
// served and no more, as curl does, and under each hash of a CertID for which it finds
// an answer calls it good at this time.
func (b *bench) judge(w *world, raw []byte) error {
	b.t.Helper()
	files, ok := b.files[w]
	if !ok {
		for i, cert := range [][]byte{w.ca.Raw, w.leaf.Raw} {
			files[i] = b.write(fmt.Sprintf("%d-%d.pem", len(b.files), i), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
		}
		b.files[w] = files
	}
	args := []string{"ocsp", "-no_nonce", "-respin", b.write("r.der", raw), "-CAfile", files[0]}
	// With -issuer it would trust the issuer's signature, whatever it says.
	if text := b.run(append(args, "-verify_other", files[0])...); !strings.Contains(text, "Response verify OK") {
		return errors.New(text)
	}
	args = append(args, "-issuer", files[0])
	for _, hash := range []string{"-sha1", "-sha256", "-sha384", "-sha512"} {
		args = append(args, hash, "-cert", files[1])
	}
	return said(b.run(args...), files[1])
}

func (b *bench) run(args ...string) string {
	b.t.Helper()
	out, err := exec.CommandContext(b.t.Context(), b.program, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// said reads what `openssl ocsp` prints about a certificate.
func said(text, leaf string) error {
	if !strings.Contains(text, "Response verify OK") {
		return errors.New(text)
	}
	found := 0
	for _, part := range strings.Split(text, leaf+": ")[1:] {
		if strings.HasPrefix(part, "ERROR: No Status found") {
			continue
		}
		if !strings.HasPrefix(part, "good\n") { // else it begins with a WARNING, or is another status
			return errors.New(part)
		}
		found++
	}
	if found == 0 {
		return errors.New("no status found")
	}
	return nil
}
