// Package ocsptest is a certificate authority and an OCSP responder for tests.
//
// It plays the part that no test can leave to the real world: it issues certificates, says
// whether they are good, and fails in every way that responders are known to fail.
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
// clock starts at the year 2000, and a certificate from outside would not be valid yet.
//
// # On loopback
//
// [Responder.Start] gives the responder a port on 127.0.0.1 as well, for servers in other
// processes. Call it before the first [CA.Issue], because certificates hold the URL.
//
// # Use
//
// Everything may be used by several goroutines at once, and a setter may be called while
// requests are served: a request sees the settings of the moment when its delay is over. What cannot work (no
// port to listen on, a certificate of another CA passed to [Responder.Revoke]) panics, as
// net/http/httptest does, since a test has no other use for the error.
//
// Nothing here is fit for production: keys are never protected, and most answers are wrong by
// design.
package ocsptest
