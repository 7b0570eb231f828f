// A server that staples, and a client that insists on it.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	if err := s.Prefetch(ctx, cert); err != nil {
		log.Fatal(err)
	}

	here, there := net.Pipe()
	server := tls.Server(there, s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}))
	go server.HandshakeContext(ctx)
	client := tls.Client(here, &tls.Config{
		RootCAs: ca.Pool(), ServerName: "www.example.com", VerifyConnection: staple.RequireStaple,
	})
	if err := client.HandshakeContext(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("works")
}
