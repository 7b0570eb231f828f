package statuspage_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/statuspage"
)

func ExampleHandler() {
	s := staple.New()
	defer s.Close()
	mux := http.NewServeMux() // of a server for operators
	mux.Handle("/ocsp", statuspage.Handler(s))
	mux.Handle("/healthz", statuspage.Health(s))

	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	fmt.Print(rec.Code, " ", rec.Body)
	// Output: 200 ok
}
