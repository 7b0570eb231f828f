package main

import (
	"log"
	"net/http"

	"golang.org/x/crypto/acme/autocert"

	"github.com/ocspstaple/staple"
)

// It is compiled and not run: it would talk to a CA.
func Example() {
	srv := &http.Server{Addr: ":443"}

	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		HostPolicy: autocert.HostWhitelist("www.example.com"),
		Cache:      autocert.DirCache("certs"),
	}
	s := staple.New(staple.WithStore(autocert.DirCache("certs")))
	defer s.Close()
	srv.TLSConfig = s.TLSConfig(m.TLSConfig())

	log.Print(srv.ListenAndServeTLS("", ""))
}
