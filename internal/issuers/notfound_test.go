package issuers_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/ocsptest"
)

// An error says what the owner can mend, and what it is does not depend on that.
func TestNotFound(t *testing.T) {
	leaf := &x509.Certificate{Issuer: pkix.Name{CommonName: "A CA"}}
	curve := &certinfo.UnsupportedError{What: "the issuer's key of type brainpoolP256r1"}
	long := errors.New(strings.Repeat("x", 600))
	down, gone := errors.New("staple: issuer certificate at http://a.example: timeout"), errors.New("staple: issuer certificate at http://b.example: unexpected HTTP status: 404")
	for _, tt := range []struct {
		why       error
		downloads []error
		want      string
	}{
		{nil, nil, `staple: issuer certificate not found, wanted "CN=A CA"`},
		{certinfo.ErrNotSigned, nil, `staple: issuer certificate not found: one named "CN=A CA" is there, but it did not sign this certificate`},
		{curve, nil, `staple: issuer certificate "CN=A CA" is there but can't be used: the issuer's key of type brainpoolP256r1 is not supported by crypto/x509`},
		{long, nil, `staple: issuer certificate not found: one named "CN=A CA" is there, but it ` + strings.Repeat("x", 500) + "..."},
		{nil, []error{down}, `staple: issuer certificate not found, wanted "CN=A CA": issuer certificate at http://a.example: timeout`},
		{certinfo.ErrNotSigned, []error{down, gone}, `staple: issuer certificate not found: one named "CN=A CA" is there, but it did not sign this certificate: ` +
			`issuer certificate at http://a.example: timeout; issuer certificate at http://b.example: unexpected HTTP status: 404`},
	} {
		err := issuers.NotFound(leaf, tt.why, tt.downloads...)
		if err.Error() != tt.want {
			t.Errorf("got  %q\nwant %q", err, tt.want)
		}
		for _, is := range append(tt.downloads, issuers.ErrNotFound, tt.why) {
			if is != nil && !errors.Is(err, is) {
				t.Errorf("%q is not %q", err, is)
			}
		}
	}
	name := &x509.Certificate{Issuer: pkix.Name{CommonName: strings.Repeat("y", 1000)}}
	if n := len(issuers.NotFound(name, nil).Error()); n > 300 {
		t.Errorf("a long name makes %d bytes", n)
	}
}

// A download is of use if there is a URL for it, and Go can check the leaf's signature.
func TestMayDownload(t *testing.T) {
	for _, tt := range []struct {
		urls []string
		alg  x509.SignatureAlgorithm
		want bool
	}{
		{[]string{"http://ca.example"}, x509.ECDSAWithSHA256, true},
		{[]string{"ldap://ca.example", "https://ca.example"}, x509.SHA1WithRSA, true},
		{[]string{"http://ca.example"}, x509.MD5WithRSA, false},
		{[]string{"http://ca.example"}, x509.UnknownSignatureAlgorithm, false},
		{[]string{"ldap://ca.example"}, x509.ECDSAWithSHA256, false},
		{nil, x509.ECDSAWithSHA256, false},
	} {
		if got := issuers.MayDownload(&x509.Certificate{Raw: []byte{0x30, 0}, SignatureAlgorithm: tt.alg, IssuingCertificateURL: tt.urls}); got != tt.want {
			t.Errorf("%q, %v: got %v, want %v", tt.urls, tt.alg, got, tt.want)
		}
	}
}

// The detail of a DownloadError says what kind of failure it is.
func TestDownloadErrorKind(t *testing.T) {
	for _, tt := range []struct {
		get  func() ([]byte, error)
		want string // of Err
		is   error
	}{
		{func() ([]byte, error) {
			return nil, &ocsphttp.Error{Kind: ocsphttp.Status, Err: errors.New("404 Not Found")}
		}, "unexpected HTTP status: 404 Not Found", nil},
		{func() ([]byte, error) { return nil, &ocsphttp.Error{Kind: ocsphttp.Empty} }, "empty response", nil},
		{func() ([]byte, error) {
			return nil, &ocsphttp.Error{Kind: ocsphttp.Timeout, Err: context.DeadlineExceeded}
		}, "timeout: context deadline exceeded", context.DeadlineExceeded},
		{func() ([]byte, error) { panic("not my day") }, "panic in user code: issuer download panicked: not my day", nil},
	} {
		f := finder(func(string) ([]byte, error) { return tt.get() })
		_, errs := f.Elsewhere(t.Context(), ocsptest.NewCA().Issue(ocsptest.Leaf{IssuerURLs: []string{"http://ca.example"}}).Leaf, time.Time{})
		if len(errs) != 1 {
			t.Fatalf("%s: %v", tt.want, errs)
		}
		de := errs[0].(*issuers.DownloadError)
		if _, panicked := errors.AsType[*foreign.PanicError](de); de.Err.Error() != tt.want || tt.is != nil && !errors.Is(de, tt.is) || panicked != strings.HasPrefix(tt.want, "panic") {
			t.Errorf("got %q, want %q", de.Err, tt.want)
		}
	}
}

// A download that hangs leaves the attempt time to say so.
func TestDownloadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told time.Duration
		f := finder(nil)
		begun := time.Now()
		f.Get = func(ctx context.Context, _ string) ([]byte, error) {
			<-ctx.Done()
			told = time.Since(begun)
			time.Sleep(time.Second) // it takes its time all the same
			return nil, ctx.Err()
		}
		_, errs := f.Elsewhere(context.Background(), ocsptest.NewCA().Issue(ocsptest.Leaf{IssuerURLs: []string{"http://ca.example"}}).Leaf, time.Time{})
		took := time.Since(begun)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if took != 7500*time.Millisecond || told != took || len(errs) != 1 || !errors.Is(errs[0], context.DeadlineExceeded) {
			t.Errorf("took %v, told after %v: %v", took, told, errs)
		}
	})
}
