package scenario_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// nosy is an error of the user's whose methods call the Stapler.
type nosy struct{ look func() }

func (nosy) Error() string   { return "no luck" }
func (n nosy) Is(error) bool { n.look(); return false }
func (n nosy) As(any) bool   { n.look(); return false }
func (n nosy) Unwrap() error { n.look(); return nil }

// REQ G2: no code of the user's is called with the lock held, an error's methods included.
// One that panics does not end the process.
func TestErrorsThatCallBack(t *testing.T) {
	for _, who := range []string{"HTTP client", "issuer download", "store", "store that panics"} {
		t.Run(who, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				var s *staple.Stapler
				failure := nosy{func() { s.Status() }} // blocks for ever if the lock is held
				if who == "store that panics" {
					failure.look = func() { panic("not my day") }
				}
				opts := []staple.Option{staple.WithEventFunc(func(staple.Event) {}), staple.WithLogger(new(testkit.Logbook).Logger())}
				cert := ca.Issue(ocsptest.Leaf{WithoutIssuer: who == "issuer download", IssuerURLs: []string{"http://issuer.test/"}})
				stored := strings.HasPrefix(who, "store")
				if stored {
					st := new(testkit.Shelf)
					st.Fail(func(context.Context, string) error { return failure })
					opts = append(opts, staple.WithStore(st), staple.WithHTTPClient(ca.Responder.Client()))
				} else {
					opts = append(opts, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, failure })}))
				}
				s = staple.New(opts...)
				defer s.Close()
				if err := s.Prefetch(t.Context(), cert); (err == nil) != stored {
					t.Error(err)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// cause is why a context ended. Its text is the user's code, too.
type cause struct{ look func() }

func (c cause) Error() string { c.look(); return "the caller has gone" }

// REQ G2: the text of why a caller's context ended is asked for without the lock.
func TestCauseThatCallsBack(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca)
		ca.Responder.SetFault(ocsptest.FaultHang)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause{func() { s.Status() }}) })
		err := s.Prefetch(ctx, ca.Issue(ocsptest.Leaf{}))
		if err == nil || !strings.Contains(err.Error(), "the caller has gone before a response came") {
			t.Error(err)
		}
	})
}
