package ocsptest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// A test of one's own server: it is wrapped as in production, with the fake's client, and a
// client looks at what is stapled. Then the responder breaks, which no client notices.
func Example() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})

	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	server := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}
	client := &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example.com", VerifyConnection: staple.RequireStaple}

	show := func(when string) {
		state, err := handshake(server, client)
		if err != nil {
			fmt.Println(when, err)
			return
		}
		resp, err := ocsp.ParseResponseForCert(state.OCSPResponse, state.PeerCertificates[0], ca.Cert)
		fmt.Println(when, resp != nil && resp.Status == ocsp.Good, err)
	}
	show("at first:")
	ca.Responder.SetFault(ocsptest.FaultHTTP503)
	show("in an outage:")
	fmt.Println("requests:", ca.Responder.Count("", cert))

	// Output:
	// at first: true <nil>
	// in an outage: true <nil>
	// requests: 1
}

// handshake connects a client to a server in memory and returns what the client sees.
func handshake(server, client *tls.Config) (tls.ConnectionState, error) {
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	go tls.Server(s, server).Handshake()
	conn := tls.Client(c, client)
	err := conn.Handshake()
	return conn.ConnectionState(), err
}

// What a responder says is set per certificate and may change at any time.
func ExampleResponder_Revoke() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	show := func() {
		resp, err := ocsp.ParseResponseForCert(ca.Responder.Response(cert), cert.Leaf, ca.Cert)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(resp.Status == ocsp.Revoked, resp.NextUpdate.Sub(resp.ThisUpdate))
	}
	show()
	ca.Responder.SetValidity(time.Hour)
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
	show()
	// Output:
	// false 96h0m0s
	// true 1h0m0s
}

// Faults can be listed, for a test that goes through all of them.
func ExampleFaults() {
	for _, fault := range ocsptest.Faults()[:3] {
		fmt.Println(fault)
	}
	// Output:
	// refused
	// no-host
	// reset
}

// Build shapes a response for code that reads them: here one that says two things at once.
func ExampleResponder_Build() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	der := ca.Responder.Build(cert, func(s *ocsptest.Spec) {
		revoked := s.Singles[0]
		revoked.Status, revoked.RevokedAt = ocsp.Revoked, time.Now()
		s.Singles = append(s.Singles, revoked)
	})
	resp, err := ocsp.ParseResponseForCert(der, cert.Leaf, ca.Cert)
	fmt.Println(resp.Status == ocsp.Good, err) // x/crypto/ocsp takes the first
	// Output: true <nil>
}
