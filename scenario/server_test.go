package scenario_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// to returns a DialContext that knows one address alone.
func to(addr string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// A server of net/http staples over HTTP/2 and HTTP/1.1, in TLS 1.2 and 1.3,
// with the responder on a socket and the client that New makes by default.
func TestHTTPServer(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	defer ca.Responder.Close()
	cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
	for _, protos := range [][]string{nil, {"h2", "http/1.1"}} {
		s := staple.New()
		defer s.Close()
		addr := serve(t, &http.Server{
			TLSConfig: s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: protos}),
			Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }),
		})
		for _, version := range versions {
			for _, h2 := range []bool{true, false} {
				t.Run(fmt.Sprint(protos, tls.VersionName(version), ", h2 ", h2), func(t *testing.T) {
					client := testkit.ClientFor(ca, "example.com")
					client.MaxVersion, client.VerifyConnection = version, staple.RequireStaple
					tr := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: h2, DialContext: to(addr)}
					defer tr.CloseIdleConnections()
					res, err := (&http.Client{Transport: tr}).Get("https://example.com")
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					if got := res.ProtoMajor == 2; got != h2 {
						t.Errorf("%s, want h2: %v", res.Proto, h2)
					}
					testkit.Proven(t, *res.TLS, ca)
				})
			}
		}
	}
}

// ALPN is negotiated as the base config says.
func TestALPN(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*ca.Issue(ocsptest.Leaf{})}, NextProtos: []string{"a", "b"}})
		for _, tt := range []struct {
			offer []string
			want  string
			fails bool
		}{{[]string{"b", "c"}, "b", false}, {[]string{"b", "a"}, "a", false}, {nil, "", false}, {[]string{"c"}, "", true}} {
			client := testkit.ClientFor(ca, "example.com")
			client.NextProtos = tt.offer
			cs, _, err := testkit.Talk(cfg, client)
			if cs.NegotiatedProtocol != tt.want || (err != nil) != tt.fails {
				t.Errorf("%q: %q, %v; want %q", tt.offer, cs.NegotiatedProtocol, err, tt.want)
			}
		}
		synctest.Wait()
	})
}

// A server of tls.Listen staples too.
func TestTLSListen(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	s := testkit.Stapler(t, ca)
	cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	if err := s.Prefetch(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	client := testkit.ClientFor(ca, "example.com")
	client.VerifyConnection = staple.RequireStaple
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	testkit.Proven(t, c.ConnectionState(), ca)
}

// The first handshakes with a Must-Staple certificate, however many, wait for
// one request, and no longer than that takes.
//
// REQ C5, REQ D2, REQ E4
func TestColdCrowd(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(2 * time.Second)
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		s := testkit.Stapler(t, ca)
		hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: cert.Certificate, PrivateKey: cert.PrivateKey, Leaf: cert.Leaf}, nil
		})
		begun := time.Now()
		var mu sync.Mutex
		waits := make(map[time.Duration]int) // of those that got a staple
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				got, err := hook(testkit.Asking("example.com"))
				mu.Lock()
				defer mu.Unlock()
				if err == nil && len(got.OCSPStaple) > 0 {
					waits[time.Since(begun)]++
				}
			})
		}
		wg.Wait()
		if n := waits[2*time.Second]; n != 10_000 {
			t.Errorf("stapled after: %v, want all after 2s", waits)
		}
		if n := ca.Responder.Requests(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// How long a first handshake waits.
//
// REQ C1, REQ C5, REQ D2
func TestColdWait(t *testing.T) {
	must, plain := ocsptest.Leaf{MustStaple: true}, ocsptest.Leaf{}
	silent := &tls.ClientHelloInfo{ServerName: "example.com", Extensions: []uint16{0, 10, 13, 43}}
	for _, tt := range []struct {
		name   string
		leaf   ocsptest.Leaf
		opts   []staple.Option
		hello  *tls.ClientHelloInfo
		fault  ocsptest.Fault
		delay  time.Duration // of the response
		want   time.Duration
		staple bool
	}{
		{"Must-Staple", must, nil, testkit.Asking("example.com"), 0, 2 * time.Second, 2 * time.Second, true},
		{"Must-Staple, responder too slow", must, nil, testkit.Asking("example.com"), 0, 7 * time.Second, 5 * time.Second, false},
		{"Must-Staple, responder hangs", must, nil, testkit.Asking("example.com"), ocsptest.FaultHang, 0, 5 * time.Second, false},
		{"Must-Staple, responder fails by GET and POST", must, nil, testkit.Asking("example.com"), ocsptest.FaultHTTP500, time.Second, 2 * time.Second, false},
		{"Must-Staple, client does not ask", must, nil, silent, 0, 2 * time.Second, 0, false},
		{"Must-Staple, hello by hand", must, nil, new(tls.ClientHelloInfo), 0, 2 * time.Second, 0, false},
		{"Must-Staple, nil hello", must, nil, nil, 0, 2 * time.Second, 0, false},
		{"Must-Staple, never", must, []staple.Option{staple.WithColdWait(-1)}, testkit.Asking("example.com"), 0, 2 * time.Second, 0, false},
		{"Must-Staple, 1s", must, []staple.Option{staple.WithColdWait(time.Second)}, testkit.Asking("example.com"), 0, 2 * time.Second, time.Second, false},
		{"Must-Staple, no URL", ocsptest.Leaf{MustStaple: true, NoURL: true}, nil, testkit.Asking("example.com"), 0, 2 * time.Second, 0, false},
		{"Must-Staple, no issuer", ocsptest.Leaf{MustStaple: true, WithoutIssuer: true}, nil, testkit.Asking("example.com"), 0, 2 * time.Second, 0, false},
		{"plain", plain, nil, testkit.Asking("example.com"), 0, 2 * time.Second, 0, false},
		{"plain, 3s", plain, []staple.Option{staple.WithColdWait(3 * time.Second)}, testkit.Asking("example.com"), 0, 2 * time.Second, 2 * time.Second, true},
		{"plain, never", plain, []staple.Option{staple.WithColdWait(-1)}, testkit.Asking("example.com"), 0, 2 * time.Second, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetDelay(tt.delay)
				ca.Responder.SetFault(tt.fault)
				cert := ca.Issue(tt.leaf)
				s := testkit.Stapler(t, ca, tt.opts...)
				hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
				begun := time.Now()
				got, err := hook(tt.hello)
				if d := time.Since(begun); err != nil || d != tt.want || (len(got.OCSPStaple) > 0) != tt.staple {
					t.Errorf("waited %v, stapled %v, %v; want %v, %v", d, len(got.OCSPStaple) > 0, err, tt.want, tt.staple)
				}
				begun = time.Now() // the wait is for the first fetch alone, and 5 s after it began
				if _, err := hook(tt.hello); err != nil || time.Since(begun) > 0 {
					t.Errorf("the second handshake waited %v, %v", time.Since(begun), err)
				}
			})
		})
	}
}

// The end of a handshake's context ends its wait, and nobody else's.
//
// REQ C5
func TestColdWaitContext(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(2 * time.Second)
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		s := testkit.Stapler(t, ca)
		begun := time.Now()
		var mu sync.Mutex
		var waited []time.Duration
		hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
		cfg := &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			got, err := hook(h)
			mu.Lock()
			defer mu.Unlock()
			waited = append(waited, time.Since(begun))
			return got, err
		}}
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, _, err := testkit.TalkContext(ctx, cfg, testkit.ClientFor(ca, "example.com")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the handshake that gave up: %v", err)
			}
		})
		wg.Go(func() { testkit.Proven(t, testkit.MustTalk(t, cfg, testkit.ClientFor(ca, "example.com")), ca) })
		wg.Wait()
		slices.Sort(waited)
		if want := []time.Duration{time.Second, 2 * time.Second}; !slices.Equal(waited, want) {
			t.Errorf("waited %v, want %v", waited, want)
		}
	})
}

// A Prefetch under way is not a handshake: it does not use up the wait of one.
//
// REQ C5
func TestColdWaitAfterPrefetch(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(7 * time.Second)
		cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
		s := testkit.Stapler(t, ca)
		hook := s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil })
		go s.Prefetch(t.Context(), cert)
		time.Sleep(6 * time.Second)
		if got, _ := hook(testkit.Asking("example.com")); len(got.OCSPStaple) == 0 {
			t.Error("did not wait the one second that was left of the fetch")
		}
	})
}

// A Must-Staple certificate that can't be stapled is never a silent failure:
// Ready says so, one warning, an event; when the responder is back all is well.
//
// REQ D2
func TestMustStapleFails(t *testing.T) {
	for name, tt := range map[string]struct {
		leaf ocsptest.Leaf
		want error
	}{
		"responder fails": {ocsptest.Leaf{MustStaple: true}, nil},
		"no responder":    {ocsptest.Leaf{MustStaple: true, NoURL: true}, staple.ErrNoResponder},
		"no issuer":       {ocsptest.Leaf{MustStaple: true, WithoutIssuer: true}, staple.ErrNoIssuer},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				var log testkit.Logbook
				var led testkit.Ledger
				ca.Responder.SetFault(ocsptest.FaultHTTP500)
				cert := ca.Issue(tt.leaf)
				s := testkit.Stapler(t, ca, staple.WithLogger(log.Logger()), staple.WithEventFunc(func(e staple.Event) { led.Add(e.Kind) }))
				cfg := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
				client := testkit.ClientFor(ca, "example.com")
				for range 5 {
					testkit.Unstapled(t, testkit.MustTalk(t, cfg, client))
				}
				time.Sleep(12 * time.Hour)
				synctest.Wait()
				err := s.Ready()
				if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
					t.Errorf("Ready: %v", err)
				}
				if st := s.Status()[0]; !st.MustStaple || st.State != staple.StatePending || st.Err == nil {
					t.Errorf("Status: %+v", st)
				}
				if got := log.Loud(); len(got) != 1 {
					t.Errorf("logged %q, want one", got)
				}
				if !slices.Contains(led.All(), "failed") {
					t.Errorf("events: %q", led.All())
				}
				if tt.want != nil {
					return
				}
				ca.Responder.ClearFaults()
				time.Sleep(3 * time.Hour)
				testkit.Proven(t, testkit.MustTalk(t, cfg, client), ca)
				if err := s.Ready(); err != nil {
					t.Errorf("Ready: %v", err)
				}
			})
		})
	}
}

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
		cs := testkit.MustTalk(t, cfg, client)
		r, err := ocsp.ParseResponseForCert(cs.OCSPResponse, cert.Leaf, ca.Cert)
		if err != nil || r.Status != ocsp.Good {
			t.Fatalf("status %v, err %v", r, err)
		}
		if got := ca.Responder.Requests(); got != 1 {
			t.Errorf("%d requests, want 1", got)
		}
		time.Sleep(100 * time.Hour)
		cs = testkit.MustTalk(t, cfg, client)
		t.Log(ca.Responder.Requests(), s.Stats(), s.Status()[0].State, s.Ready())
		if err := staple.RequireStaple(cs); err != nil {
			t.Error(err)
		}
	})
}
