package staple_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// A server that named its files to ListenAndServeTLS loads them itself and
// names none: net/http would serve that pair beside ours, unstapled.
func Example_migration() {
	srv := &http.Server{Addr: ":443", Handler: http.NotFoundHandler()}
	certFile, keyFile := "cert.pem", "key.pem"

	// before: err := srv.ListenAndServeTLS(certFile, keyFile)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		log.Fatal(err)
	}
	s := staple.New(staple.WithLogger(slog.Default())) // silent without a logger
	defer s.Close()
	srv.TLSConfig = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
	err = srv.ListenAndServeTLS("", "") // no file names: the pair is in the config
	log.Print(err)
}

// Any tls.Config will do: here one whose hook picks the certificate.
func ExampleStapler_TLSConfig() {
	certs := map[string]*tls.Certificate{} // filled and renewed elsewhere
	srv := &http.Server{Addr: ":443", TLSConfig: &tls.Config{
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certs[hello.ServerName], nil
		},
	}}

	s := staple.New()
	defer s.Close()
	srv.TLSConfig = s.TLSConfig(srv.TLSConfig)

	log.Print(srv.ListenAndServeTLS("", ""))
}

// An httptest.Server serves a pair of its own to clients that name no server,
// as those don't that know its address alone. A name finds the right one.
func ExampleStapler_TLSConfig_httptest() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}

	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	srv.StartTLS()
	defer srv.Close()

	client := srv.Client() // goes to the server for example.com and names below that
	trust := client.Transport.(*http.Transport).TLSClientConfig
	trust.RootCAs, trust.VerifyConnection = ca.Pool(), staple.RequireStaple
	res, err := client.Get("https://www.example.com")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	fmt.Println(res.Status, len(res.TLS.OCSPResponse) > 0)
	// Output: 404 Not Found true
}

// With a store, a restart needs no responder. Prefetch has even the first
// handshake stapled, and its error is news, not a reason to stop: retries go on.
func ExampleStapler_Prefetch() {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	defer ca.Responder.Close()
	cert := *ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}}) // your tls.Certificate
	dir, err := os.MkdirTemp("", "staple")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	s := staple.New(staple.WithStore(staple.DirStore(dir)))
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Prefetch(ctx, &cert); err != nil {
		log.Print(err)
	}

	for _, st := range s.Status() {
		fmt.Println(st.Leaf.DNSNames, st.State, st.NextUpdate.Sub(st.ThisUpdate))
	}
	// Output: [www.example.com] good 96h0m0s
}

// A pair of files that somebody renews, certbot or cert-manager say: it is loaded,
// prefetched, and then swapped, so that no handshake is without a staple. What was
// replaced is forgotten. Call reload on a signal, or when the files change.
func ExampleStapler_Prefetch_reload() {
	ca, renew, certFile, keyFile := renewedPair()
	defer ca.Responder.Close()
	srv := &http.Server{Handler: http.NotFoundHandler()}

	s := staple.New()
	defer s.Close()
	var current atomic.Pointer[tls.Certificate]
	reload := func() error {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return err // the old pair stays
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Prefetch(ctx, &cert); err != nil {
			log.Print(err)
		}
		s.Forget(current.Swap(&cert)) // an atomic.Pointer, which GetCertificate loads
		return nil
	}
	srv.TLSConfig = s.TLSConfig(&tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	})

	for range 3 {
		renew()
		if err := reload(); err != nil {
			log.Fatal(err)
		}
		served, _ := srv.TLSConfig.GetCertificate(&tls.ClientHelloInfo{ServerName: "www.example.com"})
		fmt.Println(len(served.OCSPStaple) > 0, len(s.Status()))
	}
	// Output:
	// true 1
	// true 1
	// true 1
}

// renewedPair stands for who renews a pair of files.
func renewedPair() (ca *ocsptest.CA, renew func(), certFile, keyFile string) {
	ca = ocsptest.NewCA()
	ca.Responder.Start()
	dir, err := os.MkdirTemp("", "staple")
	if err != nil {
		log.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	return ca, func() {
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
		var chain []byte
		for _, der := range cert.Certificate {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err == nil {
			err = errors.Join(os.WriteFile(certFile, chain, 0o600),
				os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
		}
		if err != nil {
			log.Fatal(err)
		}
	}, certFile, keyFile
}

// Refresh asks again once the network is mended, whatever failed before. Its error
// names each certificate whose attempt failed.
func ExampleStapler_Refresh() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
	s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
	defer s.Close()
	ca.Responder.SetFault(ocsptest.FaultRefused)
	fmt.Println(s.Prefetch(context.Background(), cert) != nil)

	admin := http.NewServeMux() // on a port for operators
	admin.HandleFunc("POST /refresh", func(w http.ResponseWriter, r *http.Request) {
		if err := s.Refresh(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	ca.Responder.SetFault(ocsptest.FaultNone) // mended

	w := httptest.NewRecorder()
	admin.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/refresh", nil))
	fmt.Println(w.Code, s.Status()[0].State)
	// Output:
	// true
	// 200 good
}

// Ready answers from memory. Before the first traffic it tells whether there are
// staples; later it is for an alert, not for what takes servers out of service.
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

	handshake := func(server *tls.Config) error {
		c, s := net.Pipe()
		defer c.Close()
		defer s.Close()
		go tls.Server(s, server).Handshake()
		return tls.Client(c, client).Handshake()
	}

	stapled := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	fmt.Println(handshake(stapled))
	bare := &tls.Config{Certificates: []tls.Certificate{*cert}}
	fmt.Println(errors.Is(handshake(bare), staple.ErrNoStaple))
	// Output:
	// <nil>
	// true
}

// A response that is in a file, from openssl ocsp -respout say, is judged by the
// rules that a staple is.
func ExampleVerify() {
	ca := ocsptest.NewCA() // stands for files: the certificate, its issuer, a response
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Time{})
	file := filepath.Join(os.TempDir(), "staple-example.der")
	if err := os.WriteFile(file, ca.Responder.Response(cert), 0o600); err != nil {
		log.Fatal(err)
	}
	defer os.Remove(file)

	raw, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	response, err := staple.Verify(raw, cert.Leaf, ca.Cert)
	switch {
	case err == nil:
		fmt.Println("good until", response.NextUpdate)
	case errors.Is(err, staple.ErrRevoked):
		fmt.Println("revoked, reason", response.RevocationReason)
	default:
		fmt.Println("no proof:", err)
	}
	// Output: revoked, reason 1
}
