//lint:file-ignore SA1019 NameToCertificate is deprecated, and honoured.

package scenario_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// dump writes everything that can be reached from v: unexported fields,
// addresses, and the backing arrays of slices beyond their length. Of types
// that are not ours nor the caller's to watch (pools, keys, closures) it
// writes the address alone.
func dump(w io.Writer, v reflect.Value, seen map[uintptr]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		fmt.Fprintf(w, "*%#x ", v.Pointer())
		opaque := v.Type() == reflect.TypeFor[*x509.CertPool]()
		if !v.IsNil() && !seen[v.Pointer()] && !opaque {
			seen[v.Pointer()] = true
			dump(w, v.Elem(), seen)
		}
	case reflect.Interface:
		if v.IsNil() {
			fmt.Fprint(w, "nil ")
		} else if e := v.Elem(); e.Kind() == reflect.Pointer {
			fmt.Fprintf(w, "%v %#x ", e.Type(), e.Pointer())
		} else {
			fmt.Fprintf(w, "%v ", e.Type())
			dump(w, e, seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fmt.Fprintf(w, "%s: ", v.Type().Field(i).Name)
			dump(w, v.Field(i), seen)
			fmt.Fprintln(w)
		}
	case reflect.Slice:
		fmt.Fprintf(w, "[%#x %d %d] ", v.Pointer(), v.Len(), v.Cap())
		if v.Cap() > 0 {
			v = v.Slice(0, v.Cap())
		}
		for i := range v.Len() {
			dump(w, v.Index(i), seen)
		}
	case reflect.Array:
		for i := range v.Len() {
			dump(w, v.Index(i), seen)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() { // of one element in these tests
			dump(w, k, seen)
			dump(w, v.MapIndex(k), seen)
		}
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		fmt.Fprintf(w, "%#x ", v.Pointer())
	case reflect.String:
		fmt.Fprintf(w, "%q ", v.String())
	default:
		fmt.Fprintf(w, "%v ", v)
	}
}

// inventory is all of dump for the given values.
func inventory(values ...any) string {
	var b strings.Builder
	for _, v := range values {
		dump(&b, reflect.ValueOf(v), make(map[uintptr]bool))
	}
	return b.String()
}

// diff returns the first lines in which two inventories differ.
func diff(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return fmt.Sprintf("%.200s\nand now\n%.200s", as[i], bs[i])
		}
	}
	return fmt.Sprintf("%d lines and now %d", len(as), len(bs))
}

// Neither the config, nor its certificates, nor what they point to is written,
// by a server in full use: HTTP/2, HTTP/1, refreshes and many clients at once.
// Run it with -race too.
func TestBaseUntouched(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.SetValidity(4 * time.Second)
	cert, other := ca.Issue(ocsptest.Leaf{}), ca.Issue(ocsptest.Leaf{Names: []string{"other.example.com"}})
	cert.OCSPStaple = ca.Responder.Response(cert) // a source may have set one
	noLeaf := tls.Certificate{Certificate: other.Certificate, PrivateKey: other.PrivateKey}
	protos := []string{"http/1.1", "spare", "spare"}
	inner := &tls.Config{Certificates: []tls.Certificate{*other}, NextProtos: append(make([]string, 0, 4), "h2")}
	base := &tls.Config{
		Certificates:   append(make([]tls.Certificate, 0, 4), *cert, noLeaf),
		NextProtos:     protos[:1],
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName == "inner.example.com" {
				return inner, nil
			}
			return nil, nil
		},
		NameToCertificate: map[string]*tls.Certificate{"named.example.com": other},
	}
	before := inventory(base, inner, cert, other)

	s := testkit.Stapler(t, ca)
	cfg := s.TLSConfig(base)
	addr := serve(t, &http.Server{TLSConfig: cfg, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	if err := s.Prefetch(t.Context(), cert, other); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			name := []string{"example.com", "other.example.com", "inner.example.com", "named.example.com"}[i%4]
			tr := &http.Transport{ForceAttemptHTTP2: i%3 > 0, DialContext: to(addr), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			defer tr.CloseIdleConnections()
			res, err := (&http.Client{Transport: tr}).Get("https://" + name)
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
			if len(res.TLS.OCSPResponse) == 0 {
				t.Error("nothing stapled for", name)
			}
		})
	}
	wg.Wait()
	if after := inventory(base, inner, cert, other); after != before {
		t.Errorf("what the caller passed in was written: %s", diff(before, after))
	}
}

// The watchdog itself: a write to any of it must show.
func TestInventory(t *testing.T) {
	cert := ocsptest.NewCA().Issue(ocsptest.Leaf{})
	protos := []string{"http/1.1", "spare"}
	base := &tls.Config{Certificates: append(make([]tls.Certificate, 0, 2), *cert), NextProtos: protos[:1]}
	for name, write := range map[string]func(){
		"NextProtos, in place":     func() { base.NextProtos = append(base.NextProtos, "h2")[:1] },
		"Certificates, in place":   func() { base.Certificates = append(base.Certificates, *cert)[:1] },
		"OCSPStaple":               func() { base.Certificates[0].OCSPStaple = []byte{1} },
		"Leaf":                     func() { base.Certificates[0].Leaf = nil },
		"Leaf's field":             func() { cert.Leaf.Version++ },
		"DER":                      func() { cert.Certificate[0][5]++ },
		"GetCertificate":           func() { base.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil } },
		"sessionTicketKeys, inner": func() { base.SetSessionTicketKeys([][32]byte{{1}}) },
	} {
		before := inventory(base, cert)
		if write(); inventory(base, cert) == before {
			t.Errorf("%s: not seen", name)
		}
	}
}

// A listed certificate with a staple of its own keeps it in base, and the
// clients get it once it is judged, or a newer one.
func TestStapleOfSource(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		own := ca.Responder.Response(cert)
		bad := ca.Responder.Build(cert, func(sp *ocsptest.Spec) { sp.Sign.By = ocsptest.WrongKey })
		for name, raw := range map[string][]byte{"good": own, "bad": bad} {
			c := *cert
			c.OCSPStaple = raw
			s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
			ca.Responder.SetFault(ocsptest.FaultHTTP500)
			cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{c}})
			synctest.Wait()
			cs := testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com"))
			if name == "bad" {
				testkit.Unstapled(t, cs)
			} else {
				testkit.Proven(t, cs, ca)
			}
			ca.Responder.ClearFaults()
			time.Sleep(time.Hour)
			testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")), ca)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// serve runs srv on loopback until the test ends, and returns its address.
func serve(t testing.TB, srv *http.Server) string {
	t.Helper()
	return serveFiles(t, srv, "", "")
}

func serveFiles(t testing.TB, srv *http.Server, certFile, keyFile string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.ErrorLog = log.New(io.Discard, "", 0) // of clients that hang up
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, certFile, keyFile) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return l.Addr().String()
}
