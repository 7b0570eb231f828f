package staple_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// REQ I4: a limit that docs/security.md tells is that of the source. The tests that it names
// show that there is one, and take its size from the source, too.
func TestFiguresOfTheDocs(t *testing.T) {
	said := strings.Join(strings.Fields(readDoc(t, "docs/security.md")), " ")
	for _, c := range []struct{ doc, file, code string }{
		{"256 requests are in flight, 32 at a responder, 64 at a host and port; half of them", "internal/schedule/places.go", "Limits{First: 4, Responder: 32, Host: 64, All: 256, Unproven: 128}"},
		{"one of many once a minute", "install.go", "rechainGap = time.Minute"},
		{"go after a week without a handshake", "cache.go", "idleLife = 7 * 24 * time.Hour"},
		{"16 KiB at most; four of one name are", "internal/issuers/issuers.go", "namesakes = byte(4)"},
		{"eight of the peer's certificates", "internal/issuers/peer.go", "maxOfPeer = 8"},
		{"of an issuer's certificate 16 KiB are taken", "internal/issuers/download.go", "maxDER = 16 << 10"},
		{"128 KiB of an answer are read", "internal/ocsphttp/client.go", "MaxBody = 128 << 10"},
		{"of an error 500 bytes", "internal/ocsphttp/errors.go", "maxDetail = 500"},
		{"of those that may sign 16", "internal/ocspresp/issuer.go", "maxDelegates = 16"},
		{"of at most 4 KiB are remembered", "internal/ocspresp/signer.go", "maxRemembered = 4 << 10"},
	} {
		if !strings.Contains(said, c.doc) {
			t.Errorf("docs/security.md does not say %q", c.doc)
		}
		if code := readDoc(t, c.file); !strings.Contains(code, c.code) {
			t.Errorf("%s has no %s, as docs/security.md says: %q", c.file, c.code, c.doc)
		}
	}
}

// readDoc returns the text of a file of the repository.
func readDoc(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Skip("not a clone of the repository: " + name + " is missing")
	}
	return string(data)
}
