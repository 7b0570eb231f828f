package e2e

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/security/advancedtls"
	"google.golang.org/grpc/status"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// serveGRPC runs gRPC's own health service until the test ends.
func serveGRPC(t *testing.T, cfg *tls.Config) (addr string) {
	l := listen(t)
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return l.Addr().String()
}

// callGRPC makes one call and returns the state of its connection.
func callGRPC(t *testing.T, addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	return callWith(t, addr, credentials.NewTLS(cfg))
}

func callWith(t *testing.T, addr string, creds credentials.TransportCredentials, opts ...grpc.DialOption) (tls.ConnectionState, error) {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var p peer.Peer
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&p)); err != nil {
		return tls.ConnectionState{}, err
	}
	return p.AuthInfo.(credentials.TLSInfo).State, nil
}

// Both sides of mTLS staple, and insist on the other's staple.
func TestGRPC(t *testing.T) {
	ca, clients := issuer(t), issuer(t)
	serverCert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
	clientCert := clients.Issue(ocsptest.Leaf{Names: []string{"client.example.com"}, Client: true})
	s := newStapler(t)
	if err := s.Prefetch(t.Context(), serverCert, clientCert); err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{*serverCert}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: clients.Pool(), VerifyConnection: staple.RequireStaple}
	client := strict(ca.Pool())
	client.Certificates = []tls.Certificate{*clientCert}
	addr := serveGRPC(t, s.TLSConfig(server))

	cs, err := callGRPC(t, addr, s.TLSConfig(client))
	if err != nil {
		t.Fatal(err)
	}
	if len(cs.OCSPResponse) == 0 || cs.NegotiatedProtocol != "h2" {
		t.Errorf("got a staple of %d bytes and the protocol %q", len(cs.OCSPResponse), cs.NegotiatedProtocol)
	}

	_, err = callGRPC(t, addr, client) // which does not staple
	if got := status.Code(err); got != codes.Unavailable {
		t.Errorf("a client without a staple: got %v, want %v", err, codes.Unavailable)
	}
	_, err = callGRPC(t, serveGRPC(t, server), s.TLSConfig(client)) // the server does not
	if err == nil || !strings.Contains(err.Error(), "no OCSP staple") {
		t.Errorf("a server without a staple: got %v, want %v", err, staple.ErrNoStaple)
	}
}

// advancedtls takes certificates from callbacks, which a Stapler's hooks fit. It has
// no VerifyConnection: who made the call looks at the staple in its AuthInfo.
func TestAdvancedTLS(t *testing.T) {
	ca, clients := issuer(t), issuer(t)
	serverCert := ca.Issue(ocsptest.Leaf{Names: []string{host}, MustStaple: true})
	clientCert := clients.Issue(ocsptest.Leaf{Names: []string{"client.example.com"}, Client: true})
	s := newStapler(t)
	if err := s.Prefetch(t.Context(), serverCert, clientCert); err != nil {
		t.Fatal(err)
	}
	get := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serverCert, nil })
	server, err := advancedtls.NewServerCreds(&advancedtls.Options{
		IdentityOptions: advancedtls.IdentityCertificateOptions{
			GetIdentityCertificatesForServer: func(hello *tls.ClientHelloInfo) ([]*tls.Certificate, error) {
				cert, err := get(hello)
				return []*tls.Certificate{cert}, err
			}},
		RootOptions:       advancedtls.RootCertificateOptions{RootCertificates: clients.Pool()},
		RequireClientCert: true, VerificationType: advancedtls.CertVerification,
	})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	seen := make(chan error, 1)
	srv := grpc.NewServer(grpc.Creds(server), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			p, _ := peer.FromContext(ctx)
			seen <- staple.RequireStaple(p.AuthInfo.(credentials.TLSInfo).State)
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(l)
	t.Cleanup(srv.Stop)

	client, err := advancedtls.NewClientCreds(&advancedtls.Options{
		IdentityOptions: advancedtls.IdentityCertificateOptions{
			GetIdentityCertificatesForClient: s.GetClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return clientCert, nil })},
		RootOptions:      advancedtls.RootCertificateOptions{RootCertificates: ca.Pool()},
		VerificationType: advancedtls.CertAndHostVerification,
	})
	if err != nil {
		t.Fatal(err)
	}
	cs, err := callWith(t, l.Addr().String(), client, grpc.WithAuthority(host))
	if err != nil {
		t.Fatal(err)
	}
	if err := staple.RequireStaple(cs); err != nil {
		t.Errorf("the server's staple: %v", err)
	}
	if err := <-seen; err != nil {
		t.Errorf("the client's staple: %v", err)
	}
}
