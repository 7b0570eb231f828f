package ocsphttp_test

import (
	"net/http"
	"net/http/cookiejar"
	"testing"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// REQ A13, REQ I5: what a user's client adds to a request, a cookie for its host, does
// not go on to where that redirects.
func TestRedirectTakesNoCookies(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{answer: func(n int, _ *http.Request) (*http.Response, error) {
		if n == 1 {
			return says(302, "", nil, "Set-Cookie", "secret=1"), nil
		}
		if n == 2 {
			return says(302, "", nil, "Location", "http://b.example/"), nil
		}
		return says(200, ocspType, body), nil
	}}
	c := f.client()
	c.HTTP = ocsphttp.OwnRules(&http.Client{Transport: f, Jar: jar})
	for range 2 { // the first is answered with a cookie alone
		_, _, _ = c.Ask(t.Context(), question(0))
	}
	if len(f.log) != 3 || f.log[1].header.Get("Cookie") == "" || f.log[2].header.Get("Cookie") != "" {
		t.Errorf("%+v, want a cookie in the second request alone", f.log)
	}
}
