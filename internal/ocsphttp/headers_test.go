package ocsphttp_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// REQ A10: how long caches may keep an answer.
func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01 00:00:00 UTC
		for _, c := range []struct {
			fields []string
			want   time.Duration
		}{
			{nil, 0},
			{[]string{"Cache-Control", "max-age=3600"}, time.Hour},
			{[]string{"Cache-Control", `public, MAX-AGE="60", must-revalidate`}, time.Minute},
			{[]string{"Cache-Control", "max-age=3600", "Age", "600"}, 50 * time.Minute},
			{[]string{"Cache-Control", "max-age=60", "Age", "600"}, 0},
			{[]string{"Cache-Control", "no-cache, max-age=3600"}, 0},
			{[]string{"Cache-Control", "max-age=3600, no-cache"}, 0},
			{[]string{"Cache-Control", "max-age=60, max-age=3600"}, time.Minute},
			{[]string{"Cache-Control", "no-store"}, 0},
			{[]string{"Cache-Control", "max-age=99999999999"}, 30 * 24 * time.Hour},
			{[]string{"Cache-Control", "max-age=-5"}, 0},
			{[]string{"Cache-Control", "max-age=soon"}, 0},
			{[]string{"Expires", "Sat, 01 Jan 2000 01:00:00 GMT"}, time.Hour},
			{[]string{"Expires", "Fri, 31 Dec 1999 01:00:00 GMT"}, 0},
			{[]string{"Expires", "0"}, 0},
			{[]string{"Cache-Control", "max-age=60", "Expires", "Sat, 01 Jan 2000 01:00:00 GMT"}, time.Minute},
		} {
			a, err := put(t, always(200, ocspType, body, c.fields...), 0)
			if err != nil || a.MaxAge != c.want {
				t.Errorf("%q: %v, want %v (%v)", c.fields, a.MaxAge, c.want, err)
			}
		}
	})
}

// A responder may say when it wants to be asked again.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for v, want := range map[string]time.Duration{
			"": 0, "120": 2 * time.Minute, "-5": 0, "soon": 0, "99999999999": 30 * 24 * time.Hour,
			"Sat, 01 Jan 2000 00:10:00 GMT": 10 * time.Minute, "Fri, 31 Dec 1999 00:00:00 GMT": 0,
		} {
			_, err := put(t, always(503, "", nil, "Retry-After", v), 0)
			var e *ocsphttp.Error
			if !errors.As(err, &e) || e.RetryAfter != want {
				t.Errorf("%q: %v, want %v", v, e.RetryAfter, want)
			}
		}
	})
}

// REQ A10: ETag and Last-Modified are kept of what came by GET, within limits, and
// make a 304 a success.
func TestValidator(t *testing.T) {
	const date = "Sat, 01 Jan 2000 01:00:00 GMT"
	fields := []string{"ETag", `"x"`, "Last-Modified", date}
	want := ocsphttp.Validator{ETag: `"x"`, Modified: 946688400}
	a, err := put(t, always(200, ocspType, body, fields...), 0)
	if err != nil || a.Validator != want || a.Validator.LastModified() != date {
		t.Errorf("%+v, want %+v (%v)", a.Validator, want, err)
	}
	for _, way := range []ocsphttp.Way{ocsphttp.Post, ocsphttp.OtherHash} {
		if a, err := put(t, always(200, ocspType, body, fields...), way); err != nil || a.Validator != (ocsphttp.Validator{}) {
			t.Errorf("way %d: %+v (%v)", way, a.Validator, err)
		}
	}
	if v := ocsphttp.NewValidator(strings.Repeat("e", 257), "1969"); v != (ocsphttp.Validator{}) || v.LastModified() != "" {
		t.Errorf("%+v", v)
	}

	f := always(304, "", nil, "Cache-Control", "max-age=60")
	for name, c := range map[string]struct {
		held ocsphttp.Validator
		way  ocsphttp.Way
		want ocsphttp.Kind // Status: nobody asked for a 304
	}{
		"held":              {want, 0, 0},
		"held nothing":      {ocsphttp.Validator{}, 0, ocsphttp.Status},
		"held, POST":        {want, ocsphttp.Post, ocsphttp.Status},
		"held, past caches": {want, ocsphttp.PastCaches, ocsphttp.Status},
		"held, other hash":  {want, ocsphttp.OtherHash, ocsphttp.Status}, // of another URL
	} {
		q := question(c.way)
		q.Held = c.held
		a, _, err := f.client().Ask(t.Context(), q)
		if kind(err) != c.want || err == nil && a.MaxAge != time.Minute {
			t.Errorf("%s: %+v, %v, want %v", name, a, err, c.want)
		}
	}
}
