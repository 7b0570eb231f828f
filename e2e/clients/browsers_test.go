package clients_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A browser opens one page with an image from every server, and so starts only
// once; it exits when the page is loaded, whatever became of the images. What it
// did is seen at the servers.

// gallery serves the page.
func gallery(t *testing.T, vs []*visit) (url string) {
	page := "<!DOCTYPE html><title>gallery</title>\n"
	for _, v := range vs {
		page += fmt.Sprintf("<img src=\"https://%s:%s/\">\n", host, v.port)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		io.WriteString(rw, page)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

var netError = regexp.MustCompile(`net_error -\d+`)

// chromium sends the alert "unknown certificate", whatever its reason; the errors
// that it logs are for all servers, so that they have to be the same.
func chromium(t *testing.T, w *world, vs []*visit) {
	home := t.TempDir()
	trustNSS(t, w, filepath.Join(home, ".pki", "nssdb"))
	code, out := command(t, home, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--host-resolver-rules=MAP "+host+" 127.0.0.1,MAP * ~NOTFOUND,EXCLUDE 127.0.0.1", "--dump-dom", gallery(t, vs))
	if code != 0 || !strings.Contains(out, "<title>gallery</title>") {
		t.Errorf("chromium: exit status %d: %s", code, out)
	}
	errs := netError.FindAllString(out, -1)
	for _, e := range errs {
		if e != errs[0] {
			t.Errorf("chromium logs several errors: %s", out)
		}
	}
	for _, v := range vs {
		v.judgeServed(t, strings.Join(errs, " "))
	}
}

// firefox has a profile of its own, in which every name is this machine.
func firefox(t *testing.T, w *world, vs []*visit) {
	home := t.TempDir()
	profile, picture := filepath.Join(home, "profile"), filepath.Join(home, "page.png")
	trustNSS(t, w, profile)
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(`user_pref("network.dns.forceResolve", "127.0.0.1");`), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out := command(t, home, "firefox-esr", "--headless", "--no-remote", "--profile", profile, "--screenshot", picture, gallery(t, vs))
	if _, err := os.Stat(picture); code != 0 || err != nil {
		t.Errorf("firefox: exit status %d, %v: %s", code, err, out)
	}
	for _, v := range vs {
		v.settle(t)
		v.judgeServed(t, "alert: "+v.alert)
	}
}
