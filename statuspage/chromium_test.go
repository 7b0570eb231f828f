package statuspage_test

import (
	"bytes"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"github.com/ocspstaple/staple/statuspage"
)

// chromium runs a headless browser on a page, with a profile of its own.
func chromium(t *testing.T, url string, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(testkit.Program(t, "chromium"), append(append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
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
	w.know(ocsptest.Leaf{Names: []string{"short.example.com"}, NoRevAvail: true}, nil)
	w.know(ocsptest.Leaf{Names: []string{"own.example.com"}, SelfSigned: true}, nil)
	w.evil()
	return w.s
}

// sites serves the status page at /, and /phone, which shows it 360 pixels wide:
// no window of a headless Chromium is as narrow as a phone. When the page has
// been loaded the title says how wide it turned out, and how much of it does not
// fit: what a table cuts off is not in its width.
func sites(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		if r.FormValue("framed") != "" { // the rest of the policy stays
			policy := strings.Replace(rec.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'", "", 1)
			w.Header().Set("Content-Security-Policy", policy)
		}
		_, _ = w.Write(rec.Body.Bytes())
	})
	mux.HandleFunc("/phone", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!doctype html><meta name="color-scheme" content="light dark"><title>no page</title>
<iframe src="/?framed=1" style="position:absolute;left:0;top:0;width:360px;height:3800px;border:0"
onload="var d=contentDocument, r=d.documentElement, cut=[...d.querySelectorAll('tbody *')].filter(
e => e.getBoundingClientRect().right > 360 || e.clientWidth && e.scrollWidth > e.clientWidth);
document.title=r.clientWidth+' of '+r.scrollWidth+', '+cut.length+' cut, in '+d.title"></iframe>`)
	})
	return mux
}

// In a real browser the page makes nothing of hostile names, breaks no rule of
// its own policy, and shows something, on a desk and on a phone, by day and by
// night. STAPLE_SCREENSHOTS names a directory to keep the pictures in.
func TestChromium(t *testing.T) {
	srv := httptest.NewServer(sites(statuspage.Handler(known(t))))
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
	worst := httptest.NewServer(sites(statuspage.HandlerOf(fleet)))
	defer worst.Close()
	for name, args := range map[string][]string{
		"desk-light":  {"--window-size=1280,1400"},
		"desk-dark":   {"--window-size=1280,1400", "--blink-settings=preferredColorScheme=0"},
		"phone-light": {"--window-size=500,3800"},
		"phone-dark":  {"--window-size=500,3800", "--blink-settings=preferredColorScheme=0"},
	} {
		for kind, url := range map[string]string{"hostile": srv.URL, "worst": worst.URL} {
			width := 1280
			if strings.HasPrefix(name, "phone") {
				url, width = url+"/phone", 360
			}
			picture(t, kind+"-"+name, url, width, args)
		}
	}
	for _, url := range []string{srv.URL, worst.URL} { // nothing to scroll to the side for
		if dom, said := chromium(t, url+"/phone", "--dump-dom"); !strings.Contains(dom, "<title>360 of 360, 0 cut, in OCSP staples</title>") || strings.Contains(said, "CONSOLE") {
			t.Errorf("on a phone: %.200s; the browser says: %s", dom, said)
		}
	}
}

// picture checks what the browser draws at the left, so wide.
func picture(t *testing.T, name, url string, width int, args []string) {
	t.Helper()
	dir := os.Getenv("STAPLE_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	file := filepath.Join(dir, name+".png")
	chromium(t, url, append(args, "--screenshot="+file)...)
	back, colours := look(t, file, width)
	if colours < 20 {
		t.Errorf("%s: %d colours, the page is blank", name, colours)
	}
	if dark := back < 0x60; dark != strings.HasSuffix(name, "dark") {
		t.Errorf("%s: its background is %#x", name, back)
	}
}

// look returns how light the corner of a picture is, and how many colours the
// first width columns have.
func look(t *testing.T, file string, width int) (corner uint8, colours int) {
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
		for x := img.Bounds().Min.X; x < min(width, img.Bounds().Max.X); x += 3 {
			seen[img.At(x, y)] = true
		}
	}
	return color.GrayModel.Convert(img.At(2, 2)).(color.Gray).Y, len(seen)
}
