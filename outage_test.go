package staple_test

import (
	"crypto/tls"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// An outageCase is an outage of one responder, and the certificates that meet it.
type outageCase struct {
	length time.Duration
	n      int
	must   bool
	held   holding
	fault  ocsptest.Fault
}

// held says what the certificates hold when the outage begins.
type holding string

const (
	nothing holding = "nothing"
	expires holding = "a response that expires in it"
	lasts   holding = "a response that lasts"
)

func (c outageCase) String() string {
	return fmt.Sprintf("%v %v must %v holds %s n %d", c.length, c.fault, c.must, c.held, c.n)
}

// most is how long after the outage's end, by decision 4, the last certificate has its
// staple: a sixteenth of its length, within the bounds of its class, and an
// attempt.
func most(length time.Duration, must bool) time.Duration {
	longest := 15 * time.Minute
	if must {
		longest = 5 * time.Minute
	}
	return max(time.Minute, min(length/16, longest)) + 10*time.Second
}

// run lets the outage pass. It returns what that cost in requests, how many
// certificates failed, and how long after its end the last of them was back.
func (c outageCase) run(t *testing.T) (requests, failed int, back time.Duration) {
	t.Helper()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		validity := 20 * testkit.Day
		if c.held == expires {
			validity = c.length / 2
		}
		ca.Responder.SetValidity(validity)
		ca.Responder.SetDelay(20 * time.Millisecond)
		certs := make([]*tls.Certificate, c.n)
		for i := range certs {
			certs[i] = ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key(), MustStaple: c.must, NotAfter: time.Now().Add(90 * testkit.Day)})
		}
		s := testkit.Stapler(t, ca, staple.WithTTL(c.length/4)) // so that all are due in the outage
		if c.held != nothing {
			testkit.MustFetch(t, s, certs...)
			time.Sleep(c.length / 8)
		}
		ca.Responder.SetFault(c.fault)
		ca.Responder.ResetCounts()
		cfg := testkit.List(t, s, certs...)
		time.Sleep(c.length * 7 / 8)
		for i := range 16 {
			c.shake(t, cfg, certs[i*c.n/16])
			time.Sleep(c.length / 8 / 16)
		}
		if got := testkit.Carrying(s, certs); c.held == lasts && got < c.n {
			t.Errorf("%d of %d keep what is valid", got, c.n)
		}
		if out := pending(s, nil); len(out) < c.n {
			t.Errorf("%d of %d certificates failed: too few to prove anything", len(out), c.n)
		}
		requests = ca.Responder.Requests()
		ca.Responder.ClearFaults()

		begun := time.Now()
		lost := pending(s, nil)
		failed = len(lost)
		for len(lost) > 0 && time.Since(begun) <= 2*most(c.length, c.must) {
			time.Sleep(500 * time.Millisecond)
			lost = pending(s, lost)
		}
		back = time.Since(begun)
		if got := testkit.Carrying(s, certs); got < c.n {
			t.Errorf("%d of %d stapled", got, c.n)
		}
	})
	return requests, failed, back
}

// shake fails the test if a handshake waits for a responder that is known to fail.
//
// A fetch that is the first since the response expired is one to wait for, 5 s at most.
func (c outageCase) shake(t *testing.T, cfg *tls.Config, cert *tls.Certificate) {
	t.Helper()
	begun := time.Now()
	if got, err := cfg.GetCertificate(testkit.Asking(cert.Leaf.DNSNames[0])); err != nil || !slices.Equal(got.Certificate[0], cert.Certificate[0]) {
		t.Errorf("a handshake in the outage: %v", err)
	}
	if waited, most := time.Since(begun), 5*time.Second; waited > most || waited > 0 && (c.held != expires || !c.must) {
		t.Errorf("a handshake in the outage waits %v", waited)
	}
}

// pending returns the leafs, of those in among unless that is nil, that have no valid
// response or whose last attempt failed.
func pending(s *staple.Stapler, among map[string]bool) map[string]bool {
	out := make(map[string]bool)
	for _, st := range s.Status() {
		serial := st.Leaf.SerialNumber.String()
		if (st.State != staple.StateGood || st.Failures > 0) && (among == nil || among[serial]) {
			out[serial] = true
		}
	}
	return out
}

// REQ E12, REQ E7, REQ C5: after an outage each certificate in use is back within a
// sixteenth of its length and an attempt. The responder gets what one certificate
// costs, the attempts about the first five, and what was in flight with these.
func TestOutageEnds(t *testing.T) {
	t.Parallel()
	all := []ocsptest.Fault{ocsptest.FaultRefused, ocsptest.FaultHang, ocsptest.FaultHTTP500, ocsptest.FaultExpired}
	turn := 0
	for _, length := range []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 4 * time.Hour, 3 * testkit.Day} {
		for _, must := range []bool{true, false} {
			for _, held := range []holding{nothing, expires, lasts} {
				turn++
				faults := all
				if !testkit.Long() {
					faults = all[turn%len(all):][:1]
				}
				for _, fault := range faults {
					c := outageCase{length: length, must: must, held: held, fault: fault}
					t.Run(fmt.Sprint(c), func(t *testing.T) { t.Parallel(); c.compare(t) })
				}
			}
		}
	}
}

// compare has many certificates and one meet the same outage.
func (c outageCase) compare(t *testing.T) {
	check := func() int {
		requests, failed, back := c.run(t)
		t.Logf("n %d: %d requests in the outage, %d failed, the last is back after %v", c.n, requests, failed, back)
		if most := most(c.length, c.must); back > most {
			t.Errorf("n %d: the last is back after %v, want %v", c.n, back, most)
		}
		return requests
	}
	one := 0
	c.n = 1
	for range 3 {
		one = max(one, check())
	}
	first := 5 + 4 + 3 + 2 + 1 + 5 // the first are asked about again until the fifth fails; some in two ways
	if c.fault == ocsptest.FaultExpired {
		first *= 2 // each of them past the caches, too
	}
	if c.fault == ocsptest.FaultHang && c.held != nothing {
		first += 32 // what is in flight when the first time out
	}
	for _, c.n = range []int{100, 1000} {
		if c.n > 100 && !testkit.Long() {
			return
		}
		if got, want := check(), one+one/5+first; got > want {
			t.Errorf("n %d: %d requests in the outage, want %d at most: one certificate costs %d", c.n, got, want, one)
		}
	}
}

// REQ I3: many failing responders of one host get two attempts a minute together, and all are
// tried at once after one succeeds.
func TestFailingHost(t *testing.T) {
	t.Parallel()
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		const responders, each = 40, 6
		ca.Responder.SetValidity(4 * time.Hour)
		certs := make([]*tls.Certificate, responders*each)
		for i := range certs {
			certs[i] = ca.Issue(ocsptest.Leaf{Names: []string{siteName(i)}, Key: ca.Key(), MustStaple: true, NotAfter: time.Now().Add(90 * day),
				URLs: []string{fmt.Sprintf("http://ocsp.example/%d", i%responders)}})
		}
		s := testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, certs[:len(certs)/2]...) // the others never had a response
		ca.Responder.SetFault(ocsptest.FaultRefused)
		testkit.List(t, s, certs...)
		time.Sleep(6 * time.Hour)
		if got := testkit.Carrying(s, certs); got > 0 {
			t.Errorf("%d stapled 6 hours into the outage", got)
		}
		for minute := range 60 {
			ca.Responder.ResetCounts()
			time.Sleep(time.Minute)
			if got := ca.Responder.Requests(); got < 1 || got > 2 {
				t.Errorf("%d attempts in minute %d, want two", got, minute)
			}
		}
		ca.Responder.ClearFaults()
		begun := time.Now()
		for testkit.Carrying(s, certs) == 0 && time.Since(begun) < time.Hour {
			time.Sleep(100 * time.Millisecond)
		}
		first := time.Since(begun)
		time.Sleep(time.Second)
		if got := testkit.Carrying(s, certs); got < len(certs) || first > 31*time.Second {
			t.Errorf("the first is back after %v, and %d of %d a second later; want 31 s, all", first, got, len(certs))
		}
	})
}

// REQ E9, REQ E12: a response without nextUpdate that came while the clock was ahead is not
// served once it is set. It is asked for anew at once, whatever the TTL.
func TestOpenAfterClockAhead(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		c, cert := new(clock), ca.Issue(ocsptest.Leaf{MustStaple: true})
		ca.Responder.SetNoNextUpdate(true)
		s := testkit.Stapler(t, ca, staple.WithTTL(10*time.Hour), staple.WithNow(c.now))
		c.step(3 * time.Hour)
		testkit.MustFetch(t, s, cert)
		time.Sleep(time.Minute)
		c.step(-3 * time.Hour)
		time.Sleep(2 * time.Minute)
		if s.Staple(cert).OCSPStaple == nil {
			t.Errorf("%+v", s.Status()[0])
		}
	})
}
