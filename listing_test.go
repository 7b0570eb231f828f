package staple_test

import (
	"crypto/fips140"
	"crypto/tls"
	"runtime"
	"testing"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// REQ G5: what two configs list stays listed while one of them is there.
func TestListedTwice(t *testing.T) {
	if fips140.Enabled() {
		return // the tests do without garbage collection then: see fips_test.go
	}
	ca := ocsptest.NewCA()
	ca.Responder.SetFault(ocsptest.FaultRefused)
	s := testkit.Stapler(t, ca)
	both, second := testkit.LeafFor(ca, "both.test"), testkit.LeafFor(ca, "second.test")
	unlisted := func(cert *tls.Certificate) bool {
		s.Forget(cert)
		before := s.Sizes().Never
		s.Staple(cert)
		return s.Sizes().Never > before
	}
	stays := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*both}})
	goes := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*both, *second}})
	if unlisted(second) {
		t.Error("not listed, though its config is there")
	}
	runtime.KeepAlive(goes)
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for range 1000 {
		if runtime.GC(); unlisted(second) {
			break
		}
		<-retry.C
	}
	if !unlisted(second) || unlisted(both) {
		t.Errorf("listed by the config that is gone: %v; by the one that is there: %v", !unlisted(second), !unlisted(both))
	}
	runtime.KeepAlive(stays)
}
