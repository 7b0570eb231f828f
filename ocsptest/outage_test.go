package ocsptest_test

import (
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// The package's documentation shows this test, which is to be copied: the responder breaks,
// and no client notices.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // days pass in no time
		ca := ocsptest.NewCA() // inside, where it is the year 2000
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
		s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
		defer s.Close()
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		server := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})

		ca.Responder.SetFault(ocsptest.FaultHTTP503)
		time.Sleep(2 * time.Hour) // past the TTL, so that the responder is asked again
		if n := ca.Responder.Requests(); n < 3 {
			t.Errorf("%d requests: the outage went unnoticed", n)
		}

		client := &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example.com", VerifyConnection: staple.RequireStaple}
		a, b := net.Pipe() // in a bubble time stands still while a socket is waited for
		defer a.Close()
		defer b.Close()
		go tls.Server(b, server).Handshake()
		if err := tls.Client(a, client).Handshake(); err != nil {
			t.Errorf("a client noticed: %v", err)
		}
	})
}
