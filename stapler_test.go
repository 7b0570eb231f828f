package staple_test

import (
	"context"
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

func TestStaples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})
		s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
		defer s.Close()
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			t.Fatal(err)
		}
		client := &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example.com", VerifyConnection: staple.RequireStaple}
		cs := shake(t, cfg, client)
		r, err := ocsp.ParseResponseForCert(cs.OCSPResponse, cert.Leaf, ca.Cert)
		if err != nil || r.Status != ocsp.Good {
			t.Fatalf("status %v, err %v", r, err)
		}
		if got := ca.Responder.Requests(); got != 1 {
			t.Errorf("%d requests, want 1", got)
		}
		time.Sleep(100 * time.Hour)
		cs = shake(t, cfg, client)
		t.Log(ca.Responder.Requests(), s.Stats(), s.Status()[0].State, s.Ready())
		if err := staple.RequireStaple(cs); err != nil {
			t.Error(err)
		}
	})
}
