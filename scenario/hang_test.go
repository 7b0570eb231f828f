package scenario_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// conduct is what code of the user's does in the place of its work.
type conduct struct {
	name string
	do   func(stop <-chan struct{})
	hang bool
}

func conducts() []conduct {
	return []conduct{
		{"panics", func(<-chan struct{}) { panic("not my day") }, false},
		{"panics with an error", func(<-chan struct{}) { panic(http.ErrAbortHandler) }, false},
		{"exits", func(<-chan struct{}) { runtime.Goexit() }, false}, // as t.Fatal does
		{"hangs", func(stop <-chan struct{}) { <-stop }, true},
		{"is slow", func(<-chan struct{}) { time.Sleep(20 * time.Second) }, false},
	}
}

// station is where code of the user's is called. work says that a good response
// can be had all the same.
type station struct {
	name string // as Close gives it
	work bool
	opts func(do func(), ca *ocsptest.CA) []staple.Option
}

// badStore does something else in one of its methods.
type badStore struct {
	staple.Store
	get, put, del, lease func()
}

func (b *badStore) Get(ctx context.Context, key string) ([]byte, error) {
	if b.get != nil {
		b.get()
	}
	return nil, errors.New("miss")
}

func (b *badStore) Put(context.Context, string, []byte) error {
	if b.put != nil {
		b.put()
	}
	return nil
}

func (b *badStore) Delete(context.Context, string) error {
	if b.del != nil {
		b.del()
	}
	return nil
}

type badLeaser struct{ badStore }

func (b *badLeaser) Lease(context.Context, string, time.Duration) (bool, error) {
	b.lease()
	return true, nil
}

// badHandler logs nothing.
type badHandler struct {
	slog.Handler
	do func()
}

func (h badHandler) Enabled(context.Context, slog.Level) bool { h.do(); return true }

func (h badHandler) Handle(context.Context, slog.Record) error {
	h.do()
	return nil
}

func stations() []station {
	inMemory := func(ca *ocsptest.CA) staple.Option { return staple.WithHTTPClient(ca.Responder.Client()) }
	return []station{
		{"store Get", true, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{inMemory(ca), staple.WithStore(&badStore{get: do})}
		}},
		{"store Put", true, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{inMemory(ca), staple.WithStore(&badStore{put: do})}
		}},
		{"store Lease", true, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{inMemory(ca), staple.WithStore(&badLeaser{badStore{lease: do}})}
		}},
		{"logger", true, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{inMemory(ca), staple.WithLogger(slog.New(badHandler{do: do}))}
		}},
		{"event function", true, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{inMemory(ca), staple.WithEventFunc(func(staple.Event) { do() })}
		}},
		{"WithResponders function", false, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{inMemory(ca), staple.WithResponders(func(*x509.Certificate) ([]string, bool) { do(); return nil, true })}
		}},
		{"HTTP client", false, func(do func(), ca *ocsptest.CA) []staple.Option {
			return []staple.Option{staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				do() // whatever the request's context says
				return ca.Responder.RoundTrip(r)
			})})}
		}},
	}
}

// Code of the user's that panics, exits, hangs or is slow never blocks a
// handshake for longer than the bounds of C5, never ends the process, and
// Close says within 5 s what hangs. Where it isn't the way to the responder,
// certificates are stapled all the same.
//
// REQ C5, REQ G2
func TestUserCode(t *testing.T) {
	for _, st := range stations() {
		for _, c := range conducts() {
			t.Run(st.name+" "+c.name, func(t *testing.T) {
				testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
					stop := make(chan struct{})
					defer close(stop)
					var calls atomic.Int64
					s := staple.New(st.opts(func() { calls.Add(1); c.do(stop) }, ca)...)
					must, plain := ca.Issue(ocsptest.Leaf{MustStaple: true}), ca.Issue(ocsptest.Leaf{})
					cfg := s.TLSConfig(&tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
						if h.ServerName == "must.test" {
							return must, nil
						}
						return plain, nil
					}})
					for round := range 4 {
						for name, bound := range map[string]time.Duration{"must.test": 5*time.Second + 100*time.Millisecond, "example.com": 100 * time.Millisecond} {
							begun := time.Now()
							if _, err := cfg.GetCertificate(testkit.Asking(name)); err != nil {
								t.Error(err)
							}
							if d := time.Since(begun); d > bound {
								t.Errorf("round %d, %s: waited %v", round, name, d)
							}
						}
						_, _, _ = s.Ready(), s.Status(), s.Stats()
						time.Sleep(30 * time.Minute)
					}
					if calls.Load() == 0 {
						t.Error("it was not called")
					}
					if st.work && !(testkit.Stapled(t, s, ca, must) && testkit.Stapled(t, s, ca, plain)) {
						t.Errorf("not stapled after two hours: %v", s.Ready())
					}
					begun := time.Now()
					err := s.Close()
					if d := time.Since(begun); d > 5*time.Second {
						t.Errorf("Close took %v", d)
					}
					time.Sleep(time.Minute) // what is slow ends in the bubble
					if c.hang && (err == nil || !strings.Contains(err.Error(), st.name)) {
						t.Errorf("Close: %v, want it to name %q", err, st.name)
					}
					if !c.hang && c.name != "is slow" && err != nil {
						t.Errorf("Close: %v", err)
					}
				})
			})
		}
	}
}

// A store that hangs in Delete, at the end of a certificate's life.
func TestStoreDeleteHangs(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		stop := make(chan struct{})
		defer close(stop)
		s := staple.New(staple.WithHTTPClient(ca.Responder.Client()), staple.WithStore(&badStore{del: func() { <-stop }}))
		short, long := ca.Issue(ocsptest.Leaf{NotAfter: time.Now().Add(24 * time.Hour)}), ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(t.Context(), short, long); err != nil {
			t.Fatal(err)
		}
		time.Sleep(49 * time.Hour)
		if !testkit.Stapled(t, s, ca, long) {
			t.Error("not stapled")
		}
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "store Delete") {
			t.Errorf("Close: %v, want it to name store Delete", err)
		}
	})
}

// A RoundTripper that loses one call forever, as a bug in a proxy might: the
// certificate is fetched by another responder, or by the next attempt.
func TestLostCall(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		stop := make(chan struct{})
		defer close(stop)
		var n atomic.Int64
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if n.Add(1) == 1 {
				<-stop
			}
			return ca.Responder.RoundTrip(r)
		})}))
		cert := ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(t.Context(), cert); testkit.Reason(err) != staple.ReasonTimeout {
			t.Errorf("%v, want %v", err, staple.ReasonTimeout)
		}
		time.Sleep(12 * time.Hour)
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("not stapled after 12 hours, %d requests: %v", n.Load(), s.Ready())
		}
		_ = s.Close()
	})
}

// A RoundTripper that leaves the Response's Request out, as net/http lets it, is
// told of what came, and not of a panic.
//
// REQ A11
func TestResponseWithoutRequest(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := ca.Responder.RoundTrip(r)
			if err == nil {
				res.Request, res.ContentLength = nil, res.ContentLength+1
			}
			return res, err
		})}))
		if err := s.Prefetch(t.Context(), ca.Issue(ocsptest.Leaf{})); testkit.Reason(err) != staple.ReasonTruncated {
			t.Errorf("%v, want %v", err, staple.ReasonTruncated)
		}
	})
}

// endless is a body of no bytes that does not end, or after 5,000 reads and 50 s,
// so that who reads on fails and does not hang.
type endless struct{ reads atomic.Int64 }

func (*endless) Close() error { return nil }

func (b *endless) Read([]byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	if b.reads.Add(1) == 5000 {
		return 0, io.EOF
	}
	return 0, nil
}

// A body that goes on for ever is read for the time of an attempt, and not on
// after Close.
//
// REQ A11
func TestEndlessBody(t *testing.T) {
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprint("closed ", closes), func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				var body endless
				var calls atomic.Int64
				s := testkit.Stapler(t, ca, staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					if calls.Add(1) > 1 {
						return nil, errors.New("down")
					}
					return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {testkit.OCSPMedia}}, Body: &body, ContentLength: -1, Request: r}, nil
				})}))
				cert := ca.Issue(ocsptest.Leaf{})
				if closes {
					s.Staple(cert)
					time.Sleep(time.Second)
					if err := s.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				} else if err := s.Prefetch(t.Context(), cert); testkit.Reason(err) != staple.ReasonTimeout {
					t.Errorf("%v, want %v", err, staple.ReasonTimeout)
				}
				time.Sleep(time.Second) // a read may have been under way
				before := body.reads.Load()
				time.Sleep(time.Minute)
				if got := body.reads.Load(); before == 0 || got > before {
					t.Errorf("read %d times until its time was over, %d times in the minute after", before, got-before)
				}
			})
		})
	}
}

// An event function may call the Stapler; what it must not, it must survive.
func TestEventFuncCalls(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		var s *staple.Stapler
		var events int
		s = testkit.Stapler(t, ca, staple.WithEventFunc(func(staple.Event) {
			events++
			_, _, _ = s.Ready(), s.Status(), s.Stats()
			s.Staple(cert)
			s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
		}))
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if events == 0 {
			t.Error("not called")
		}
	})
}

// While an event function hangs events queue up to a limit and are counted
// beyond it; when it goes on they come in order.
//
// REQ G2
func TestEventOverflow(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		goOn := make(chan struct{})
		var seen atomic.Int64
		s := testkit.Stapler(t, ca, staple.WithEventFunc(func(staple.Event) { <-goOn; seen.Add(1) }))
		cert := ca.Issue(ocsptest.Leaf{})
		var certs []*tls.Certificate
		for range 1500 {
			certs = append(certs, ca.Issue(ocsptest.Leaf{Key: cert.PrivateKey.(crypto.Signer)}))
		}
		if err := s.Prefetch(t.Context(), certs...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		dropped := s.Stats().EventsDropped
		if want := uint64(1500 - 1024 - 1); dropped != want {
			t.Errorf("%d events dropped, want %d", dropped, want)
		}
		close(goOn)
		synctest.Wait()
		if n := seen.Load(); n != 1025 {
			t.Errorf("%d events seen, want 1025", n)
		}
	})
}

// A switch that is turned off makes a certificate that could not be stapled one
// that need not be.
func TestSwitchedOffAfterFailure(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var off atomic.Bool
		ca.Responder.SetFault(ocsptest.FaultHTTP500)
		s := testkit.Stapler(t, ca, staple.WithResponders(func(*x509.Certificate) ([]string, bool) { return nil, !off.Load() }))
		cert := ca.Issue(ocsptest.Leaf{})
		if err := s.Prefetch(t.Context(), cert); err == nil {
			t.Error("the responder fails and Prefetch says nothing")
		}
		off.Store(true)
		time.Sleep(3 * time.Hour)
		if err := s.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
		if err := s.Prefetch(t.Context(), cert); err != nil {
			t.Errorf("Prefetch: %v", err)
		}
		if st := s.Status()[0]; st.State != staple.StateNone || st.Err != nil {
			t.Errorf("Status: %v, %v; want none, no error", st.State, st.Err)
		}
	})
}

// REQ C5: what is slow before the first fetch, a callback, a store or a lease,
// takes from the wait of a handshake and does not add to it.
func TestWaitsDoNotAddUp(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultHang)
		slow := staple.WithResponders(func(*x509.Certificate) ([]string, bool) {
			time.Sleep(4 * time.Second)
			return nil, true
		})
		s := testkit.Stapler(t, ca, slow, staple.WithStore(new(testkit.Shelf)))
		cfg := testkit.List(t, s, ca.Issue(ocsptest.Leaf{MustStaple: true}))
		if _, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(ca, "example.com")); took > 5*time.Second {
			t.Errorf("a handshake waited %v", took)
		}
	})
}

// REQ E4: calls that never return, whatever their context says, do not pile up
// over weeks; and when they do return all is well again.
func TestHungForEver(t *testing.T) {
	for _, n := range []int{1, 50} {
		testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			var hang atomic.Bool
			var hung atomic.Int64
			stop := make(chan struct{})
			s := staple.New(staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				if hang.Load() {
					hung.Add(1)
					<-stop
				}
				return ca.Responder.RoundTrip(r)
			})}))
			certs := testkit.Leaves(ca, n)
			testkit.MustFetch(t, s, certs...)
			hang.Store(true)
			time.Sleep(30 * testkit.Day)
			if got := hung.Load(); got > 110 {
				t.Errorf("%d certificates: %d calls hang", n, got)
			}
			close(stop)
			time.Sleep(135 * time.Minute)
			if got := testkit.Carrying(s, certs); got != n {
				t.Errorf("%d of %d stapled after it: %v", got, n, s.Ready())
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
