package promstaple_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/ocspstaple/staple/promstaple"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func ExampleNew() {
	s, metrics := promstaple.New() // takes the options of staple.New
	defer s.Close()
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics)
	mux := http.NewServeMux() // of a server for operators
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))

	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if strings.Contains(line, `state="good"`) {
			fmt.Print(line)
		}
	}
	// Output:
	// staple_certificates{must_staple="false",state="good"} 0
	// staple_certificates{must_staple="true",state="good"} 0
	// staple_handshakes_total{state="good"} 0
}
