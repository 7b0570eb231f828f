// Package ocsptest is a certificate authority and an OCSP responder for tests.
//
// It issues certificates, answers requests about their status, and fails in every way in which
// responders are known to fail.
//
//	ca := ocsptest.NewCA()
//	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
//	client := ca.Responder.Client() // an *http.Client that reaches the responder
//	ca.Responder.SetFault(ocsptest.FaultTryLater)
//
// # In memory
//
// A [Responder] is an [http.RoundTripper]. No socket is opened, the answer is made in the
// caller's goroutine, and whatever waits (a delay, [FaultHang], [FaultSlowBody]) waits on
// timers, channels and the request's context alone. So it works inside a testing/synctest
// bubble, where days pass in no time. Make the CA and its certificates inside the bubble: its
// clock starts at the year 2000, and a certificate from outside would not be valid yet. What waits
// for a responder from outside waits for ever, as the clock of the bubble stands still then.
//
// # On loopback
//
// [Responder.Start] gives the responder a port on 127.0.0.1 as well, for servers in other
// processes. Call it before the first [CA.Issue], because certificates hold the URL.
//
// # Use
//
// An outage has no effect at once: a Stapler serves the response that it has and makes the next
// request after an hour or so. A test of an outage has to let that time pass, and to check that
// requests were made:
//
//	func TestOutage(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) { // days pass in no time
//			ca := ocsptest.NewCA() // inside, where it is the year 2000
//			cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}, MustStaple: true})
//			s := staple.New(staple.WithHTTPClient(ca.Responder.Client()))
//			defer s.Close()
//			if err := s.Prefetch(t.Context(), cert); err != nil {
//				t.Fatal(err)
//			}
//			server := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
//
//			ca.Responder.SetFault(ocsptest.FaultHTTP503)
//			time.Sleep(2 * time.Hour) // past the TTL, so that the responder is asked again
//			if n := ca.Responder.Requests(); n < 3 {
//				t.Errorf("%d requests: the outage went unnoticed", n)
//			}
//
//			client := &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example.com", VerifyConnection: staple.RequireStaple}
//			a, b := net.Pipe() // in a bubble time stands still while a socket is waited for
//			defer a.Close()
//			defer b.Close()
//			go tls.Server(b, server).Handshake()
//			if err := tls.Client(a, client).Handshake(); err != nil {
//				t.Errorf("a client noticed: %v", err)
//			}
//		})
//	}
//
// Everything may be used by several goroutines at once, and a setter may be called while
// requests are served: a request sees the settings of the moment when its delay is over. What
// cannot work (no port to listen on, a certificate of another CA passed to [Responder.Revoke])
// panics, as in net/http/httptest.
//
// Don't use it in production: keys are never protected, and most answers are wrong by
// design.
package ocsptest
