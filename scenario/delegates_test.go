package scenario_test

import (
	"crypto/x509"
	"encoding/asn1"
	"runtime"
	"testing"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// A tenant's CA may sign delegates as long as a response may be. What is kept of them for
// its certificate is less than one of them takes.
func TestMemoryOfDelegates(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC() // what finalizers and weak pointers kept
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		cert, s := ca.Issue(ocsptest.Leaf{}), testkit.Stapler(t, ca)
		testkit.MustFetch(t, s, cert)
		before := heap()
		for range 16 {
			time.Sleep(time.Second)
			ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, Template: func(c *x509.Certificate) {
				for i := range 28_000 { // 110 KiB, 13 times as much once parsed
					c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{2, 5, 1 + i%100})
				}
			}})
			if err := s.Refresh(t.Context(), cert); err == nil {
				t.Fatal("a response that long is taken")
			}
		}
		ca.Responder.SetSign(ocsptest.Sign{})
		if err := s.Refresh(t.Context(), cert); err != nil {
			t.Error(err)
		}
		if after := heap(); after > before+1<<20 {
			t.Errorf("%d KiB are kept for one certificate", (after-before)>>10)
		}
		runtime.KeepAlive(s)
	})
}
