package statuspage

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// prefersJSON reports whether a request would rather have application/json than
// other, which it gets if it does not care (RFC 9110 §12.5.1).
func prefersJSON(r *http.Request, other string) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return quality(accept, "application/json") > quality(accept, other)
}

// quality returns how much a media type is wanted, from 0 to 1: what names it
// most exactly decides.
func quality(accept, want string) float64 {
	kind, _, _ := strings.Cut(want, "/")
	best, q := -1, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		exact := slices.Index([]string{"*/*", kind + "/*", want}, media)
		if err != nil || exact <= best {
			continue
		}
		best, q = exact, 1
		if v, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(v, 64); err != nil {
				q = 0
			}
		}
	}
	return q
}
