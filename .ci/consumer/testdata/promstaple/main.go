// A server whose metrics say that its certificate has a staple.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/promstaple"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s, metrics := promstaple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	if err := s.Prefetch(ctx, cert); err != nil {
		log.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics)
	families, err := reg.Gather()
	if err != nil {
		log.Fatal(err)
	}
	good := 0.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == "staple_certificates" && label.GetValue() == "good" {
					good += m.GetGauge().GetValue()
				}
			}
		}
	}
	if good != 1 {
		log.Fatalf("%v certificates are good", good)
	}
	fmt.Println("works")
}
