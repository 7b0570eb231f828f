package staple_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// Certificates that a source invents per server name are capped, and what is
// dropped leaves nothing behind in the queue of a dead responder.
func TestInventedCertificates(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetFault(ocsptest.FaultRefused)
		s := testkit.Stapler(t, ca)
		for i := range 15_000 {
			s.Staple(testkit.LeafFor(ca, fmt.Sprintf("host%d.example.com", i)))
			if i%1000 == 999 {
				synctest.Wait()
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Minute)
		if got := s.Sizes(); got.Entries != 10_000 || got.Never != 10_000 || got.UnderWay+got.StandBy > got.Entries {
			t.Errorf("sizes %+v, want 10,000 entries", got)
		}
		// One that is listed, or fetched for, gets in at any time.
		ca.Responder.ClearFaults()
		cert := testkit.LeafFor(ca, "listed.example.com")
		if err := s.Prefetch(context.Background(), cert); err != nil {
			time.Sleep(2 * time.Minute)
		}
		if !testkit.Stapled(t, s, ca, cert) {
			t.Errorf("a listed certificate is not stapled: %v", s.Stats())
		}
	})
}

// Those that wait for their first attempt are not pushed out by those that
// come after them.
func TestWaitingAreNotPushedOut(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetDelay(time.Second)
		s := testkit.Stapler(t, ca)
		first := testkit.Leaves(ca, 10_000)
		for _, cert := range first {
			s.Staple(cert)
		}
		for _, cert := range testkit.Leaves(ca, 1_000) {
			s.Staple(cert)
		}
		if got := s.Sizes().Entries; got != 10_000 {
			t.Errorf("%d entries, want 10,000", got)
		}
		own := *testkit.Leaves(ca, 1)[0] // no room to have its staple judged
		own.OCSPStaple = []byte("junk of the source's")
		if got := s.Staple(&own).OCSPStaple; got != nil {
			t.Errorf("sent %q, which nobody judged", got)
		}
		time.Sleep(10 * time.Minute)
		if got := testkit.Count(t, s, ca, first); got != len(first) {
			t.Errorf("%d of the first 10,000 stapled", got)
		}
	})
}

// forward is an HTTP proxy that asks responders in memory.
func forward(conn net.Conn, client *http.Client, ctx context.Context) {
	defer conn.Close()
	for in := bufio.NewReader(conn); ; {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		req.RequestURI = ""
		res, err := client.Do(req.WithContext(ctx))
		if err != nil {
			return
		}
		err = res.Write(conn)
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil {
			return
		}
	}
}

// REQ E4: behind a proxy, too, a responder that hangs delays no other.
func TestIsolationByProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	good, bad := ocsptest.NewCA(), ocsptest.NewCA()
	bad.Responder.SetFault(ocsptest.FaultHang)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go forward(conn, ocsptest.Network(good.Responder, bad.Responder), ctx)
		}
	}()
	s := staple.New(staple.WithProxy("http://" + l.Addr().String()))
	defer s.Close()
	testkit.List(t, s, testkit.Leaves(bad, 40)...)
	for bad.Responder.Peak() < 4 {
		<-time.After(time.Millisecond)
	}
	ctx2, cancel2 := context.WithTimeout(context.Background(), 5*time.Second) // the hanging ones take 10 s
	defer cancel2()
	if err := s.Prefetch(ctx2, testkit.Leaves(good, 40)...); err != nil {
		t.Error(err)
	}
}
