package statuspage

import (
	"net/http"

	"github.com/ocspstaple/staple"
)

// HandlerOf is Handler for statuses that a Stapler takes long to come to, or that
// only a broken world brings about.
func HandlerOf(status func() []staple.Status) http.Handler { return handler(status) }

// WriteJSON answers with a value.
func WriteJSON(w http.ResponseWriter, v any) { writeJSON(w, http.StatusOK, v) }
