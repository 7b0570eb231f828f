package ocsptest_test

import (
	"context"
	"crypto"
	"errors"
	"io"
	"math/big"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

// A delay is exact in a bubble, and the request's context ends it at once.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetDelay(3 * time.Hour)
		start := time.Now()
		if got := mustFetch(t, ca, cert); got.ThisUpdate.Sub(start) != 3*time.Hour {
			t.Errorf("took %v", got.ThisUpdate.Sub(start))
		}
		client := ca.Responder.Client()
		client.Timeout = 7 * time.Second
		start = time.Now()
		a := ask(t.Context(), client, post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
		if !errors.Is(a.err, context.DeadlineExceeded) || time.Since(start) != 7*time.Second {
			t.Errorf("got %v after %v", a.err, time.Since(start))
		}
		ca.Responder.SetDelay(0)
		start = time.Now()
		mustFetch(t, ca, cert)
		if time.Since(start) != 0 {
			t.Errorf("took %v without delay", time.Since(start))
		}
	})
}

// A slow body ends when it is closed, or the request's context is.
func TestSlowBodyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetFault(ocsptest.FaultSlowBody)
		resp, err := ca.Responder.Client().Do(post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		time.AfterFunc(10*time.Second+time.Millisecond, func() { resp.Body.Close() })
		got, err := io.ReadAll(resp.Body)
		if len(got) != 10 || !errors.Is(err, http.ErrBodyReadAfterClose) || time.Since(start) != 10*time.Second+time.Millisecond {
			t.Errorf("got %d bytes, %v after %v", len(got), err, time.Since(start))
		}
	})
}

// Peak is what was in flight at once.
func TestPeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		cert := ca.Issue(ocsptest.Leaf{})
		ca.Responder.SetDelay(time.Second)
		var wg sync.WaitGroup
		for range 7 {
			wg.Go(func() { mustFetch(t, ca, cert) })
		}
		wg.Wait()
		mustFetch(t, ca, cert)
		if got := ca.Responder.Peak(); got != 7 {
			t.Errorf("got %d, want 7", got)
		}
		wg.Go(func() { mustFetch(t, ca, cert) })
		synctest.Wait()
		ca.Responder.ResetCounts()
		if got := ca.Responder.Peak(); got != 1 {
			t.Errorf("got %d with one in flight, want 1", got)
		}
		wg.Wait()
	})
}

// Close ends what hangs, in memory and on loopback, and refuses from then on.
func TestClose(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		cert := ca.Issue(ocsptest.Leaf{})
		der := request(t, ca, cert, crypto.SHA1)
		arrived := make(chan struct{})
		ca.Responder.SetHook(func(http.ResponseWriter, *http.Request, *big.Int) bool { close(arrived); return false })
		ca.Responder.SetFault(ocsptest.FaultHang)
		ended := make(chan error)
		go func() { ended <- ask(t.Context(), client, post(t, ca.Responder.URL(), der)).err }()
		<-arrived
		ca.Responder.Close()
		left := func(stack string) bool {
			return strings.Contains(stack, "ServeHTTP") || strings.Contains(stack, "Start.func")
		}
		stack := stacks()
		for i := 0; i < 10_000 && left(stack); i++ { // a handler that is done may be about to return
			runtime.Gosched()
			stack = stacks()
		}
		if left(stack) {
			t.Errorf("left behind by Close:\n%s", stack)
		}
		if err := <-ended; err == nil {
			t.Error("answered")
		}
		ca.Responder.Close() // again does nothing
		if a := ask(t.Context(), client, post(t, ca.Responder.URL(), der)); !errors.Is(a.err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want refused", a.err)
		}
	})
}

// A cancelled request never reaches the responder.
func TestCancelled(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := ask(ctx, ca.Responder.Client(), post(t, ca.Responder.URL(), request(t, ca, cert, crypto.SHA1)))
	if !errors.Is(a.err, context.Canceled) || ca.Responder.Requests() != 0 {
		t.Errorf("got %v, %d requests", a.err, ca.Responder.Requests())
	}
}

// Every setter may be called while requests are served. For -race.
func TestConcurrent(t *testing.T) {
	bothWays(t, func(t *testing.T, ca *ocsptest.CA, client *http.Client) {
		cert := ca.Issue(ocsptest.Leaf{})
		der := request(t, ca, cert, crypto.SHA1)
		r := ca.Responder
		change := []func(i int){
			func(i int) { r.Revoke(cert, i%6, time.Now()) }, func(int) { r.SetGood(cert) }, func(int) { r.SetUnknown(cert) },
			func(i int) { r.SetValidity(time.Duration(i+1) * time.Hour) }, func(i int) { r.SetNoNextUpdate(i%2 == 0) },
			func(i int) { r.SetSign(ocsptest.Sign{By: ocsptest.Signer(i % 5), ByKey: i%3 == 0}) },
			func(i int) { r.SetCertIDs(ocsptest.CertIDs(i % 4)) }, func(i int) { r.SetPresign(i%2 == 0) },
			func(i int) { r.SetHeader("X-I", "v") }, func(int) { r.ClearHeaders() }, func(int) { r.SetRetryAfter("1") },
			func(i int) { r.SetDelay(time.Duration(i%2) * time.Microsecond) },
			func(i int) { r.SetFaultFor(cert, ocsptest.FaultTryLater) }, func(int) { r.Script(ocsptest.FaultHTTP500, ocsptest.FaultTruncated) },
			func(int) { r.SetFault(ocsptest.FaultExpired) }, func(int) { r.ClearFaults() },
			func(int) { r.SetEdit(func(s *ocsptest.Spec) { s.Singles[0].Status = ocsp.Unknown }) }, func(int) { r.SetEdit(nil) },
			func(int) { r.SetHook(func(http.ResponseWriter, *http.Request, *big.Int) bool { return false }) }, func(int) { r.SetHook(nil) },
			func(int) { r.Count("POST", cert) }, func(int) { r.Log() }, func(int) { r.Peak() }, func(int) { r.ResetCounts() },
			func(int) { r.Response(cert) }, func(int) { ca.Issue(ocsptest.Leaf{}) }, func(int) { r.URL() },
		}
		var wg sync.WaitGroup
		for _, f := range change {
			wg.Go(func() {
				for i := range 20 {
					f(i)
				}
			})
		}
		for range 8 {
			wg.Go(func() {
				for range 30 {
					ask(t.Context(), client, post(t, r.URL(), der))
				}
			})
		}
		wg.Wait()
	})
}

// The headers of a request in flight are not those that are being set. For -race.
func TestHeaderConcurrent(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetPresign(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 1000 {
			ca.Responder.SetHeader("X-" + strconv.Itoa(i%50))
		}
	})
	for range 100 {
		mustFetch(t, ca, cert)
	}
	wg.Wait()
}

// Presigned bytes are the same for all who ask at once.
func TestPresignOnce(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	ca.Responder.SetPresign(true)
	der := request(t, ca, cert, crypto.SHA1)
	bodies := make([]string, 50)
	var wg sync.WaitGroup
	for i := range bodies {
		wg.Go(func() {
			bodies[i] = string(ask(t.Context(), ca.Responder.Client(), post(t, ca.Responder.URL(), der)).body)
		})
	}
	wg.Wait()
	for i, got := range bodies {
		if got != bodies[0] {
			t.Fatalf("response %d is another", i)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	ca := ocsptest.NewCA()
	key := ocsptest.NewCA().Key()
	for b.Loop() {
		ca.Issue(ocsptest.Leaf{Key: key})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	der, err := ocsp.CreateRequest(cert.Leaf, ca.Cert, nil)
	if err != nil {
		b.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, getURL(ca.Responder.URL(), der), nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, presign := range []bool{false, true} {
		b.Run(map[bool]string{false: "fresh", true: "presigned"}[presign], func(b *testing.B) {
			ca.Responder.SetPresign(presign)
			for b.Loop() {
				resp, err := ca.Responder.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
			}
		})
	}
}

// Close returns when each handler has, and not before.
func TestCloseWaits(t *testing.T) {
	ca := ocsptest.NewCA()
	ca.Responder.Start()
	der := request(t, ca, ca.Issue(ocsptest.Leaf{}), crypto.SHA1)
	arrived, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var returned atomic.Bool
	ca.Responder.SetHook(func(http.ResponseWriter, *http.Request, *big.Int) bool {
		close(arrived)
		<-release
		returned.Store(true)
		return false
	})
	client := &http.Client{Transport: new(http.Transport)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ask(t.Context(), client, post(t, ca.Responder.URL(), der))
	}()
	<-arrived
	go func() {
		defer close(closed)
		ca.Responder.Close()
		if !returned.Load() {
			t.Error("closed while a handler runs")
		}
	}()
	<-ended // by Close, which has begun: the hook holds the answer back
	close(release)
	<-closed
}
