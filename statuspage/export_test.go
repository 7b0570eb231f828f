package statuspage

import (
	"net/http"

	"github.com/ocspstaple/staple"
)

// HandlerOf is Handler for statuses that a Stapler takes long to come to, or that
// only a broken world brings about.
func HandlerOf(status func() []staple.Status) http.Handler { return handler(status) }
