package ocsphttp

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxHint bounds what a header may ask for. The schedule has closer bounds; this
	// one keeps arithmetic on durations from overflowing.
	maxHint = 30 * 24 * time.Hour
	// maxETag is the longest that is kept, in bytes, for each certificate and in its
	// record.
	maxETag = 256
)

// A Validator makes the next request for an answer conditional (RFC 9110 §8.8).
// The zero Validator does not. It is kept for each certificate, so a date takes four
// bytes and an ETag has a limit.
type Validator struct {
	ETag     string
	Modified uint32 // Last-Modified, in Unix s; 0: none
}

// NewValidator returns the validator that two header fields of an answer make. What
// is too long or no date is left out: the next request is then unconditional.
func NewValidator(etag, lastModified string) Validator {
	var v Validator
	if len(etag) <= maxETag {
		v.ETag = etag
	}
	if t, err := http.ParseTime(lastModified); err == nil {
		v.Modified = uint32(min(max(t.Unix(), 0), math.MaxUint32))
	}
	return v
}

// LastModified returns the value of the header in its standard form, empty for none.
func (v Validator) LastModified() string {
	if v.Modified == 0 {
		return ""
	}
	return time.Unix(int64(v.Modified), 0).UTC().Format(http.TimeFormat)
}

// condition makes a request conditional, and reports whether it did: only then is a
// 304 an answer.
func (v Validator) condition(h http.Header) bool {
	if v.ETag != "" {
		h.Set("If-None-Match", v.ETag)
	}
	if since := v.LastModified(); since != "" {
		h.Set("If-Modified-Since", since)
	}
	return v != Validator{}
}

// maxAge returns how long caches may keep an answer (RFC 9111 §4.2), a hint for
// when there will be news (RFC 9919 §7); 0 for no hint. It is unsigned, so the
// schedule never lets it put a refresh off past half of the validity. Cache-Control
// goes before Expires, and no-cache and no-store before max-age, in any order. A hint
// needs no more of RFC 9111: quotes around commas and Date are not looked at, and a number
// that is too long counts as none.
func maxAge(h http.Header, now time.Time) time.Duration {
	age, given := time.Duration(0), false
	for _, d := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(name) {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			if given { // the first counts
				continue
			}
			age, given = max(seconds(value)-seconds(h.Get("Age")), 0), true
		}
	}
	if given {
		return age
	}
	if t, err := http.ParseTime(h.Get("Expires")); err == nil {
		return min(max(t.Sub(now), 0), maxHint)
	}
	return 0
}

// retryAfter returns how long the responder asks not to be asked again
// (RFC 9110 §10.2.3), as a date or in seconds; 0 where it does not.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(now), 0), maxHint)
	}
	return seconds(v)
}

// seconds reads a number of seconds, as headers have them, within 30 days; 0
// where it is none.
func seconds(v string) time.Duration {
	n, err := strconv.ParseInt(strings.Trim(v, `" `), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, int64(maxHint/time.Second))) * time.Second
}
