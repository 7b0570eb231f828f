package staple_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// A server that named its files to ListenAndServeTLS loads them itself and
// names none: net/http would serve that pair beside ours, unstapled.
func Example_migration() {
	srv, certFile, keyFile, done := exampleServer() // visited once, and then shut down
	defer done()

	// before: err := srv.ListenAndServeTLS(certFile, keyFile)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		log.Fatal(err)
	}
	s := staple.New()
	defer s.Close()
	srv.TLSConfig = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
	err = srv.ListenAndServeTLS("", "") // no file names: the pair is in the config

	fmt.Println(err)
	// Output:
	// staple: good
	// http: Server closed
}

// Any tls.Config will do: here one whose hook picks the certificate.
func ExampleStapler_TLSConfig() {
	srv, certFile, keyFile, done := exampleServer() // visited once, and then shut down
	defer done()
	srv.TLSConfig = &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &cert, err
		},
	}

	s := staple.New()
	defer s.Close()
	srv.TLSConfig = s.TLSConfig(srv.TLSConfig)

	fmt.Println(srv.ListenAndServeTLS("", ""))
	// Output:
	// staple: good
	// http: Server closed
}

// With a store, a restart needs no responder. Prefetch has even the first
// handshake stapled, and its error is news, not a reason to stop: retries go on.
func ExampleStapler_Prefetch() {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	defer ca.Responder.Close()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	dir, err := os.MkdirTemp("", "staple")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	s := staple.New(staple.WithStore(staple.DirStore(dir)))
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Prefetch(ctx, cert); err != nil {
		log.Print(err)
	}

	for _, st := range s.Status() {
		fmt.Println(st.Leaf.DNSNames, st.State, st.NextUpdate.Sub(st.ThisUpdate))
	}
	// Output: [www.example.com] good 96h0m0s
}

// Ready answers a health check from memory.
func ExampleStapler_Ready() {
	mux := http.NewServeMux()
	s := staple.New()
	defer s.Close()

	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
	fmt.Println(w.Code) // no certificate is known, so none is missing a staple
	// Output: 200
}

// The fake responder in a test: it is in memory, counts what it is asked, and
// fails in the way that the test is about.
func Example_fakeResponder() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
	ca.Responder.SetFault(ocsptest.FaultTryLater) // one of more than fifty
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()

	err := s.Prefetch(context.Background(), cert)
	var refused *staple.ResponseError
	if errors.As(err, &refused) {
		fmt.Println(refused.Reason)
	}
	// Output: OCSP error status tryLater
}

// A client that insists: a handshake without a good staple fails.
func ExampleRequireStaple() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}

	client := &tls.Config{
		RootCAs:          ca.Pool(),
		ServerName:       "www.example.com",
		VerifyConnection: staple.RequireStaple,
	}

	stapled := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	fmt.Println(exampleHandshake(stapled, client))
	bare := &tls.Config{Certificates: []tls.Certificate{*cert}}
	fmt.Println(errors.Is(exampleHandshake(bare, client), staple.ErrNoStaple))
	// Output:
	// <nil>
	// true
}

// exampleHandshake connects a client to a server in memory and returns what
// the client has to say.
func exampleHandshake(server, client *tls.Config) error {
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	go tls.Server(s, server).Handshake()
	return tls.Client(c, client).Handshake()
}

// exampleServer returns a server that is yet to be told of TLS, and a key pair
// in files with a responder on loopback. Once it serves, a client visits it,
// prints what is stapled and shuts it down.
func exampleServer() (srv *http.Server, certFile, keyFile string, done func()) {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
	dir, err := os.MkdirTemp("", "staple")
	if err != nil {
		log.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		log.Fatal(err)
	}
	exampleFile(keyFile, "PRIVATE KEY", key)
	exampleFile(certFile, "CERTIFICATE", cert.Certificate...)

	srv = &http.Server{Addr: "127.0.0.1:0"}
	srv.BaseContext = func(ln net.Listener) context.Context { // called when it serves
		go func() {
			fmt.Println("staple:", exampleVisit(ln.Addr().String(), ca))
			srv.Close()
		}()
		return context.Background()
	}
	return srv, certFile, keyFile, func() { ca.Responder.Close(); os.RemoveAll(dir) }
}

// exampleVisit makes a request and returns what x/crypto/ocsp reads in the
// staple.
func exampleVisit(addr string, ca *ocsptest.CA) string {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example.com"}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + addr)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	cs := resp.TLS
	r, err := ocsp.ParseResponseForCert(cs.OCSPResponse, cs.PeerCertificates[0], ca.Cert)
	if err != nil {
		return err.Error()
	}
	if r.Status != ocsp.Good {
		return fmt.Sprint("status ", r.Status)
	}
	return "good"
}

// exampleFile writes PEM.
func exampleFile(name, kind string, blocks ...[]byte) {
	var data []byte
	for _, der := range blocks {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		log.Fatal(err)
	}
}
