package issuers_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/ocsptest"
)

// finder returns a Finder that gets from get.
func finder(get func(u string) ([]byte, error)) *issuers.Finder {
	return &issuers.Finder{
		Get:     func(_ context.Context, u string) ([]byte, error) { return get(u) },
		Context: context.Background(), Sharing: foreign.Shared[*ocspresp.Issuer]{Calls: new(foreign.Calls), Unbound: true}, Now: time.Now,
	}
}

func nothing(u string) ([]byte, error) { return nil, fmt.Errorf("asked %s", u) }

// REQ A5
func TestInChain(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	twin := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
	leaf := ca.Issue(ocsptest.Leaf{}).Leaf
	junk := []byte{0x30, 0x03, 0x02, 0x01, 0x00}
	for name, tc := range map[string]struct {
		chain [][]byte
		found bool
		why   error
	}{
		"first":        {[][]byte{ca.Cert.Raw, other.Cert.Raw}, true, nil},
		"last":         {[][]byte{junk, other.Cert.Raw, twin.Cert.Raw, ca.Cert.Raw}, true, nil},
		"nothing":      {nil, false, nil},
		"another":      {[][]byte{other.Cert.Raw, junk}, false, nil},
		"did not sign": {[][]byte{other.Cert.Raw, twin.Cert.Raw}, false, certinfo.ErrNotSigned},
	} {
		is, configured, why := finder(nothing).InChain(leaf, tc.chain)
		if (is != nil) != tc.found || configured || !tc.found && why != tc.why {
			t.Errorf("%s: %v, configured %v, %v", name, is, configured, why)
		}
	}
	f := finder(nothing)
	f.Configured = append(f.Configured, other.Cert, ca.Cert)
	if is, configured, _ := f.InChain(leaf, [][]byte{other.Cert.Raw}); is == nil || !configured || !is.Cert.Equal(ca.Cert) {
		t.Errorf("configured: %v, %v", is, configured)
	}
}

// Certificates of one issuer share what is known of it, for as long as somebody
// has it, and once it has proven something. A tenant's that is very long they do not.
func TestShared(t *testing.T) {
	ca := ocsptest.NewCA()
	f := finder(nothing)
	a, _, _ := f.InChain(ca.Issue(ocsptest.Leaf{}).Leaf, [][]byte{ca.Cert.Raw})
	b := f.Parse(ca.Cert.Raw)
	leaf := ca.Issue(ocsptest.Leaf{IssuerURLs: []string{"http://never.example"}}).Leaf
	long := *a.Cert
	long.Raw = make([]byte, 16<<10+1)
	f.Share(&ocspresp.Issuer{Cert: &long})
	if is, errs := f.Elsewhere(context.Background(), leaf, time.Time{}); is != nil || len(errs) != 1 {
		t.Errorf("%v, %v: nobody has proven anything", is, errs)
	}
	f.Share(a)
	c, errs := f.Elsewhere(context.Background(), leaf, time.Time{})
	if a == nil || a != b || a != c || errs != nil {
		t.Errorf("%p, %p, %p, %v: want one", a, b, c, errs)
	}
	if f.Parse([]byte("junk")) != nil {
		t.Error("junk is an issuer")
	}
	runtime.KeepAlive(a)
}

// A download is made once for all who want it, and not again for a while that
// grows with each that fails; what is mended is seen within a minute.
//
// REQ I8, REQ A5
func TestDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		var asked atomic.Int64
		var mended atomic.Bool
		down := errors.New("down")
		f := finder(func(u string) ([]byte, error) {
			asked.Add(1)
			time.Sleep(time.Second)
			if !mended.Load() {
				return nil, down
			}
			return ca.Cert.Raw, nil
		})
		leaf := ca.Issue(ocsptest.Leaf{IssuerURLs: []string{"http://ca.example/ca.der", "ldap://ca.example", "http://ca.example/2", "http://ca.example/3"}}).Leaf
		_, errs := f.Elsewhere(context.Background(), leaf, time.Time{})
		var de *issuers.DownloadError
		if asked.Load() != 2 || len(errs) != 2 || !errors.As(errs[0], &de) || de.URL != "http://ca.example/ca.der" || !errors.Is(errs[0], down) {
			t.Fatalf("asked %d times, %v: want two URLs at most", asked.Load(), errs)
		}
		for range 3600 {
			f.Elsewhere(context.Background(), leaf, time.Time{})
			time.Sleep(time.Second)
		}
		if n := asked.Load(); n > 2*75 {
			t.Errorf("asked %d times in an hour, want each URL once a minute", n)
		}
		mended.Store(true)
		time.Sleep(time.Minute)
		before := asked.Load()
		for range 10 {
			go func() {
				if is, errs := f.Elsewhere(context.Background(), leaf, time.Time{}); is == nil {
					t.Errorf("mended: %v", errs)
				}
			}()
		}
		time.Sleep(time.Minute)
		if n := asked.Load() - before; n != 1 {
			t.Errorf("asked %d times for ten at once", n)
		}
	})
}

// REQ A5
func TestFormats(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	pkcs7 := append([]byte{0x30, 0x20, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}, make([]byte, 30)...)
	for name, tc := range map[string]struct {
		body []byte
		want string // in the error; empty for none
	}{
		"DER":     {ca.Cert.Raw, ""},
		"PEM":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}), ""},
		"a key":   {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: ca.Cert.Raw}), "PEM block of another type: unsupported"},
		"PKCS#7":  {pkcs7, "PKCS#7 (application/pkcs7-mime): unsupported"},
		"HTML":    {[]byte("<html>"), "x509: malformed certificate"},
		"another": {other.Cert.Raw, "has another name"},
	} {
		f := finder(func(string) ([]byte, error) { return tc.body, nil })
		is, errs := f.Elsewhere(context.Background(), ca.Issue(ocsptest.Leaf{IssuerURLs: []string{"http://ca.example"}}).Leaf, time.Time{})
		if got := fmt.Sprint(errs); (is != nil) != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %v, %v, want %q", name, is, errs, tc.want)
		}
	}
}
