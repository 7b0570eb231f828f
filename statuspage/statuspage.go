// Package statuspage shows the certificates of a [staple.Stapler]: a page for people, its
// content as JSON for programs, and a health check.
//
//	mux.Handle("/ocsp", statuspage.Handler(s))
//	mux.Handle("/healthz", statuspage.Health(s))
//
// Both show the names of certificates, their responders and errors, so serve them on
// the operators' port, not on the public one.
package statuspage

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/ocspstaple/staple"
)

//go:embed page.html style.css
var files embed.FS

// Handler returns a handler that shows the status of every certificate in use,
// worst first (see [Report]): HTML, or JSON where the request's Accept
// prefers application/json (RFC 9110 §12.5.1). It answers GET and HEAD.
//
// The query parameter state selects certificates in one state, or with the value
// failing those whose last attempt failed; q selects those that have its text in
// their names, serial number or responder. HTML has 200 certificates to a page, chosen
// by the parameter page; JSON has all of them, as a [Report].
//
// The page needs nothing from elsewhere and runs no script. It is made for
// each request from s.Status, which parses certificates that came without their
// Leaf: some 15 µs for each.
func Handler(s *staple.Stapler) http.Handler { return handler(s.Status) }

func handler(status func() []staple.Status) http.Handler {
	style, _ := files.ReadFile("style.css")
	sum := sha256.Sum256(style)
	p := &page{
		status: status,
		style:  template.CSS(style),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
		html:   template.Must(template.ParseFS(files, "page.html")),
	}
	return reading(p.serve)
}

// Health returns a handler that answers 200 and "ok" when s.Ready is nil, else
// 503 with the reasons, one to a line, or as JSON where Accept prefers that:
//
//	{"ready": false, "reasons": ["staple: ..."]}
//
// Before a GetCertificate source has had its first handshake nothing is known of
// it, and that is ready: see [staple.Stapler.Ready].
//
// It is a gate before a process takes its first traffic, and an alert after
// that. As a liveness probe it would make an outage of the CA's responder one of
// the site: servers that run serve every certificate, stapled or not.
func Health(s *staple.Stapler) http.Handler {
	return reading(func(w http.ResponseWriter, r *http.Request) {
		reasons := reasons(s.Ready())
		status, text := http.StatusOK, "ok\n"
		if len(reasons) > 0 {
			status, text = http.StatusServiceUnavailable, strings.Join(reasons, "\n")+"\n"
		}
		if prefersJSON(r, "text/plain") {
			writeJSON(w, status, struct {
				Ready   bool     `json:"ready"`
				Reasons []string `json:"reasons,omitempty"`
			}{len(reasons) == 0, reasons})
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	})
}

// reasons takes a joined error apart.
func reasons(err error) []string {
	if err == nil {
		return nil
	}
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return []string{printable(err.Error())}
	}
	var all []string
	for _, err := range many.Unwrap() {
		all = append(all, printable(err.Error()))
	}
	return all
}

// reading lets GET and HEAD pass, with headers that suit what changes by the
// minute and is for operators alone.
func reading(serve http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Vary", "Accept")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		serve(w, r)
	})
}

// writeJSON answers with v. What can't be encoded is an error, and no success without a
// body.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b) // escapes what HTML would take for tags
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

type page struct {
	status func() []staple.Status
	style  template.CSS
	policy string
	html   *template.Template
}

func (p *page) serve(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query() // not r.FormValue, which parses a body of any length, of a GET, too
	q := query{state: values.Get("state"), text: values.Get("q"), page: values.Get("page")}
	report := newReport(p.status(), q, time.Now().UTC())
	if prefersJSON(r, "text/html") {
		writeJSON(w, http.StatusOK, report)
		return
	}
	var b bytes.Buffer
	if err := p.html.Execute(&b, newView(report, q, p.style)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", p.policy)
	_, _ = w.Write(b.Bytes())
}
