package staple_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// A server that insists on file names loads that pair into the config it is given. Here
// it loads it and never serves it: each handshake gets the stapled config. All that
// counts for TLS is in that one, the protocols too: net/http adds h2 to the other.
func ExampleStapler_TLSConfig_fileNames() {
	ca, renew, certFile, keyFile := renewedPair() // your files
	defer ca.Responder.Close()
	renew()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	s := staple.New()
	defer s.Close()

	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		log.Fatal(err)
	}
	stapled := s.TLSConfig(&tls.Config{
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"}, // else clients get HTTP/1.1
	})
	srv.TLSConfig = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return stapled, nil
	}}
	if err := s.Prefetch(context.Background(), &cert); err != nil {
		log.Print(err)
	}
	go srv.ServeTLS(l, certFile, keyFile) // or ListenAndServeTLS
	defer srv.Close()

	for _, name := range []string{"www.example.com", ""} { // some clients name no server
		conn, err := tls.Dial("tcp", l.Addr().String(), clientThatNames(name, ca))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(conn.ConnectionState().NegotiatedProtocol)
		conn.Close()
	}
	// Output:
	// h2
	// h2
}

// clientThatNames insists on a staple. Without a name it can't verify the server's, so
// it verifies the chain alone.
func clientThatNames(name string, ca *ocsptest.CA) *tls.Config {
	return &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2"}, VerifyConnection: func(cs tls.ConnectionState) error {
		chains, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: name})
		if err != nil {
			return err
		}
		cs.VerifiedChains = chains
		return staple.RequireStaple(cs)
	}}
}

// An httptest.Server adds a pair of its own to a config without Certificates. It never
// serves that pair if each handshake gets the stapled config.
func ExampleStapler_TLSConfig_httptest() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"127.0.0.1"}})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}

	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.EnableHTTP2 = true
	stapled := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2", "http/1.1"}})
	srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return stapled, nil }}
	srv.StartTLS()
	defer srv.Close()

	client := srv.Client() // trusts the pair that is not served
	trust := client.Transport.(*http.Transport).TLSClientConfig
	trust.RootCAs, trust.VerifyConnection = ca.Pool(), staple.RequireStaple
	res, err := client.Get(srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	fmt.Println(res.Proto, res.Status, len(res.TLS.OCSPResponse) > 0)
	// Output: HTTP/2.0 404 Not Found true
}

// A client that verifies by itself, as go-spiffe does, sets InsecureSkipVerify, and then
// crypto/tls knows no chain. The issuer of a server that sends its own certificate alone
// is found only in VerifiedChains: set them before RequireStaple. Do it in
// VerifyConnection, which runs on resumed connections, too; VerifyPeerCertificate doesn't.
func ExampleRequireStaple_insecureSkipVerify() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, WithoutIssuer: true})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithIssuers(ca.Cert))
	defer s.Close()
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}
	server := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})

	verified := func(cs tls.ConnectionState) error {
		intermediates := x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			intermediates.AddCert(c)
		}
		chains, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{ // with go-spiffe: x509svid.Verify
			Roots: ca.Pool(), Intermediates: intermediates, DNSName: "www.example.com"})
		if err != nil {
			return err
		}
		cs.VerifiedChains = chains // cs is a copy
		return staple.RequireStaple(cs)
	}
	for _, verify := range []func(tls.ConnectionState) error{staple.RequireStaple, verified} {
		c, s := net.Pipe()
		go tls.Server(s, server).Handshake()
		err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, VerifyConnection: verify}).Handshake()
		fmt.Println(err == nil, errors.Is(err, staple.ErrNoIssuer))
		c.Close()
		s.Close()
	}
	// Output:
	// false true
	// true false
}
