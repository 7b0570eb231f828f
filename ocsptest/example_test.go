package ocsptest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// A test of one's own server: it is wrapped as in production, but for the fake's client, and
// a client insists on a good staple.
func Example() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()

	// The server, as it is in production.
	srv := &http.Server{
		TLSConfig: s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}}),
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }),
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go srv.ServeTLS(listener, "", "") // no file names: the certificate is in the config
	defer srv.Close()
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}

	// The client trusts the CA, knows the server by name, and refuses what is not stapled.
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: ca.Pool(), ServerName: "www.example.com", VerifyConnection: staple.RequireStaple,
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + listener.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s, stapled: %v, requests to the responder: %d\n", body, len(resp.TLS.OCSPResponse) > 0, ca.Responder.Requests())
	// Output: hello, stapled: true, requests to the responder: 1
}
