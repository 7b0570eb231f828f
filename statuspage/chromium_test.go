package statuspage_test

import (
	"bytes"
	"image/color"
	"image/png"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/statuspage"
)

// chromium runs a headless browser on a page, with a profile of its own.
func chromium(t *testing.T, url string, args ...string) (stdout, stderr string) {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is not installed")
		}
		t.Skip("chromium is not installed")
	}
	cmd := exec.Command(path, append(append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--enable-logging=stderr", "--user-data-dir=" + t.TempDir()}, args...), url)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium: %v: %s", err, said.String())
	}
	return out.String(), said.String()
}

// known is a Stapler that knows certificates of every kind, hostile ones among them.
func known(t *testing.T) *staple.Stapler {
	w := newWorld(t)
	w.know(ocsptest.Leaf{Names: []string{"shop.example.com", "www.shop.example.com"}}, nil)
	w.know(ocsptest.Leaf{Names: []string{"api.example.com"}, MustStaple: true}, nil)
	w.know(ocsptest.Leaf{Names: []string{"intranet.example.com"}, NoURL: true}, nil)
	w.know(ocsptest.Leaf{Names: []string{"new.example.com"}}, w.ca.Responder.SetUnknown)
	cert := w.ca.Issue(ocsptest.Leaf{Names: []string{"mail.example.com"}, MustStaple: true})
	w.ca.Responder.SetFaultFor(cert, ocsptest.FaultTryLater)
	_ = w.s.Prefetch(t.Context(), cert)
	revoked := w.ca.Issue(ocsptest.Leaf{Names: []string{"old.example.com"}})
	w.ca.Responder.Revoke(revoked, 1, revoked.Leaf.NotBefore)
	_ = w.s.Prefetch(t.Context(), revoked)
	w.evil()
	return w.s
}

// In a real browser the page makes nothing of hostile names, breaks no rule of
// its own policy, and shows something, on a desk and on a phone, by day and by
// night. STAPLE_SCREENSHOTS names a directory to keep the pictures in.
func TestChromium(t *testing.T) {
	srv := httptest.NewServer(statuspage.Handler(known(t)))
	defer srv.Close()
	dom, said := chromium(t, srv.URL, "--dump-dom")
	for _, bad := range []string{"<img", "<script", "<b>bold", "<title>owned"} { // in text < is escaped
		if strings.Contains(dom, bad) {
			t.Errorf("the document has %q", bad)
		}
	}
	if want := "<title>OCSP staples</title>"; !strings.Contains(dom, want) {
		t.Errorf("the document lacks %q", want)
	}
	if !strings.Contains(dom, "old.example.com") || strings.Contains(said, "Content Security Policy") || strings.Contains(said, "CONSOLE") {
		t.Errorf("the browser says: %s", said)
	}
	dir := os.Getenv("STAPLE_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for name, args := range map[string][]string{
		"desk-light":  {"--window-size=1280,1000"},
		"desk-dark":   {"--window-size=1280,1000", "--blink-settings=preferredColorScheme=0"},
		"phone-light": {"--window-size=500,1400"},
		"phone-dark":  {"--window-size=500,1400", "--blink-settings=preferredColorScheme=0"},
	} {
		file := filepath.Join(dir, name+".png")
		chromium(t, srv.URL, append(args, "--screenshot="+file)...)
		back, colours := look(t, file)
		if colours < 20 {
			t.Errorf("%s: %d colours, the page is blank", name, colours)
		}
		if dark := back < 0x60; dark != strings.HasSuffix(name, "dark") {
			t.Errorf("%s: its background is %#x", name, back)
		}
	}
}

// look returns how light the corner of a picture is, and how many colours it has.
func look(t *testing.T, file string) (corner uint8, colours int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[color.Color]bool)
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y += 3 {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x += 3 {
			seen[img.At(x, y)] = true
		}
	}
	return color.GrayModel.Convert(img.At(2, 2)).(color.Gray).Y, len(seen)
}
