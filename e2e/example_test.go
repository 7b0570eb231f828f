package e2e_test

import (
	"crypto/tls"
	"log"
	"net/http"

	"github.com/caddyserver/certmagic"
	"github.com/emersion/go-smtp"
	"github.com/quic-go/quic-go/http3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ocspstaple/staple"
)

// These are compiled and not run: they would take the ports of real servers.

var (
	cert    tls.Certificate
	handler http.Handler
	backend smtp.Backend
)

// gRPC, and every other server that takes a tls.Config.
func Example_gRPC() {
	s := staple.New()
	defer s.Close()
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	_ = srv
}

// A gRPC client that insists on a staple, and staples its own certificate.
func Example_gRPCClient() {
	s := staple.New()
	defer s.Close()
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}, VerifyConnection: staple.RequireStaple})
	conn, err := grpc.NewClient("www.example.com:443", grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}

// HTTP/3 by quic-go.
func Example_hTTP3() {
	s := staple.New()
	defer s.Close()
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
	srv := &http3.Server{Addr: ":443", Handler: handler, TLSConfig: http3.ConfigureTLSConfig(cfg)}
	log.Print(srv.ListenAndServe())
}

// Servers that take a net.Listener, such as those of SMTP and IMAP, and
// STARTTLS.
func Example_mail() {
	s := staple.New()
	defer s.Close()
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
	srv := smtp.NewServer(backend)
	srv.TLSConfig = cfg // STARTTLS
	l, err := tls.Listen("tcp", ":465", cfg)
	if err != nil {
		log.Fatal(err)
	}
	log.Print(srv.Serve(l))
}

// certmagic gets and chooses the certificates; its own stapling is switched off.
func Example_certmagic() {
	cfg := certmagic.NewDefault()
	cfg.OCSP.DisableStapling = true
	s := staple.New()
	defer s.Close()
	srv := &http.Server{Addr: ":443", Handler: handler, TLSConfig: s.TLSConfig(cfg.TLSConfig())}
	log.Print(srv.ListenAndServeTLS("", ""))
}
