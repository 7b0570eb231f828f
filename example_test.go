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
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
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
// replaced is forgotten, unless the files have the same certificate still: its staple would
// be, too. Call reload on a signal, or when the files change.
func ExampleStapler_Prefetch_reload() {
	ca, renew, certFile, keyFile := renewedPair()
	defer ca.Responder.Close()
	defer os.RemoveAll(filepath.Dir(certFile))
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
		if old := current.Swap(&cert); old != nil && !old.Leaf.Equal(cert.Leaf) { // GetCertificate loads current
			s.Forget(old)
		}
		return nil
	}
	srv.TLSConfig = s.TLSConfig(&tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	})

	for i := range 3 {
		if i < 2 {
			renew()
		}
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

// A server with certificates of its customers: responders on a list are asked, and no
// other. A certificate that names none of them is switched off. To return no URL with
// on true would ask whatever the certificate names.
func ExampleWithResponders_allowList() {
	ca := ocsptest.NewCA()
	other := ca.NewResponder("http://intranet.example")
	allowed := map[string]bool{ca.Responder.URL(): true} // your list of URLs
	s := staple.New(
		staple.WithHTTPClient(ocsptest.Network(ca.Responder, other)),
		staple.WithResponders(func(leaf *x509.Certificate) (urls []string, on bool) {
			for _, u := range leaf.OCSPServer {
				if allowed[u] {
					urls = append(urls, u)
				}
			}
			return urls, len(urls) > 0
		}))
	defer s.Close()

	for _, urls := range [][]string{{ca.Responder.URL()}, {other.URL(), ca.Responder.URL()}, {other.URL()}} {
		cert := ca.Issue(ocsptest.Leaf{URLs: urls})
		if err := s.Prefetch(context.Background(), cert); err != nil {
			fmt.Println(err)
		}
		fmt.Println(len(s.Staple(cert).OCSPStaple) > 0)
	}
	fmt.Println(other.Requests(), "requests to the other")
	// Output:
	// true
	// true
	// false
	// 0 requests to the other
}

// notPublic are networks whose addresses look global and are not, or hold an address
// of IPv4 that a gateway may reach; and an address of Azure's that is public by form.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"),
}

// global6 is what of IPv6 is assigned to the public.
var global6 = netip.MustParsePrefix("2000::/3")

// publicOnly is a net.Dialer's Control. It sees each address that is dialled, whatever
// its name said before.
func publicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := ap.Addr().WithZone("").Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.Is6() && !global6.Contains(ip) ||
		slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%v is not a public address", ip)
	}
	return nil
}

// publicTransport asks public addresses alone. It has no proxy, which would be
// dialled in their place.
func publicTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 4 * time.Second, Control: publicOnly}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,

		MaxResponseHeaderBytes: 64 << 10, // net/http takes 10 MB
	}
}

// URLs come out of certificates. Where these are anybody's, nothing of the server's own
// network is to be asked: here loopback is refused, also where a redirect leads there.
func ExampleWithHTTPClient_publicAddresses() {
	ca := ocsptest.NewCA()
	ca.Responder.Start() // on loopback
	defer ca.Responder.Close()
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: publicTransport()}))
	defer s.Close()

	err := s.Prefetch(context.Background(), ca.Issue(ocsptest.Leaf{}))
	var dial *net.OpError
	if errors.As(err, &dial) {
		fmt.Println(dial.Err)
	}
	fmt.Println(ca.Responder.Requests(), "requests")
	// Output:
	// 127.0.0.1 is not a public address
	// 0 requests
}

// REQ I5: what publicOnly refuses.
func TestPublicOnly(t *testing.T) {
	for address, public := range map[string]bool{
		"8.8.8.8:80": true, "[2606:4700::1111]:443": true, "[::ffff:8.8.8.8]:80": true, "172.32.0.1:80": true, "100.128.0.1:80": true,
		"127.0.0.1:80": false, "10.1.2.3:80": false, "172.16.0.1:80": false, "192.168.0.1:80": false, "100.64.0.1:80": false, "100.100.100.200:80": false,
		"169.254.169.254:80": false, "168.63.129.16:80": false, "192.0.0.192:80": false, "0.0.0.0:80": false, "0.1.2.3:80": false, "224.0.0.1:80": false,
		"255.255.255.255:80": false, "198.19.0.1:80": false, "203.0.113.1:80": false,
		"[::1]:80": false, "[::]:80": false, "[::ffff:10.0.0.1]:80": false, "[::10.0.0.1]:80": false, "[fd00:ec2::254]:80": false, "[fe80::1%eth0]:80": false,
		"[ff02::1]:80": false, "[64:ff9b::a9fe:a9fe]:80": false, "[64:ff9b:1::1]:80": false, "[2002:a00:1::]:80": false, "[2001::1]:80": false, "[2001:db8::1]:80": false,
		"name.example:80": false,
	} {
		if err := publicOnly("tcp", address, nil); (err == nil) != public {
			t.Errorf("%s: %v, want public %v", address, err, public)
		}
	}
}

// ocspOnly lets questions to responders through, which alone say that they accept an
// OCSP response. What is left are downloads of issuers.
type ocspOnly struct{ http.RoundTripper }

func (t ocspOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Accept") != "application/ocsp-response" {
		return nil, errors.New("no issuer is downloaded here")
	}
	return t.RoundTripper.RoundTrip(req)
}

// An issuer is looked for in the chain, among those of WithIssuers, and then at the URL
// that the certificate names. This server asks no such URL.
func ExampleWithIssuers_noDownloads() {
	ca, stranger := ocsptest.NewCA(), ocsptest.NewCA()
	network := ocsptest.Network(ca.Responder, stranger.Responder).Transport // or publicTransport()
	s := staple.New(
		staple.WithHTTPClient(&http.Client{Transport: ocspOnly{network}}),
		staple.WithIssuers(ca.Cert)) // for chains that lack it
	defer s.Close()

	for _, ca := range []*ocsptest.CA{ca, stranger} {
		cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: true, IssuerURLs: []string{ca.Responder.IssuerURL("der")}})
		err := s.Prefetch(context.Background(), cert)
		fmt.Println(len(s.Staple(cert).OCSPStaple) > 0, errors.Is(err, staple.ErrNoIssuer))
	}
	// Output:
	// true false
	// false true
}

// All requests go by one proxy, which looks names up by itself and so has to refuse
// addresses that are not to be asked.
func ExampleWithHTTPClient_proxy() {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{URLs: []string{"http://ocsp.example.net/ca"}})
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // stands for yours
		asked.Store(r.URL.Host)
		ca.Responder.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		log.Fatal(err)
	}

	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyURL(at),
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     90 * time.Second,

		MaxResponseHeaderBytes: 64 << 10, // net/http takes 10 MB
	}}))
	defer s.Close()
	if err := s.Prefetch(context.Background(), cert); err != nil {
		fmt.Println(err)
	}
	fmt.Println("the proxy was asked for", asked.Load())
	// Output: the proxy was asked for ocsp.example.net
}
