package staple_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"golang.org/x/crypto/ocsp"
)

// A yard is a CA with a responder in memory that remembers nothing, so that what
// is measured beside it is ours: ocsptest counts and logs.
type yard struct {
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	requests atomic.Int64
}

func newYard(tb testing.TB) *yard {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	y := &yard{key: key, ca: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "yard"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * day)}}
	der, err := x509.CreateCertificate(rand.Reader, y.ca, y.ca, key.Public(), key)
	if err == nil {
		y.ca, err = x509.ParseCertificate(der)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return y
}

// issue makes n certificates with one key, on all processors.
func (y *yard) issue(tb testing.TB, n int, leaf bool) []tls.Certificate {
	tb.Helper()
	certs := make([]tls.Certificate, n)
	var wg sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := worker; i < n; i += runtime.GOMAXPROCS(0) {
				t := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 1<<40), DNSNames: []string{siteName(i)},
					OCSPServer: []string{"http://ocsp.example"}, NotBefore: y.ca.NotBefore, NotAfter: y.ca.NotAfter}
				der, err := x509.CreateCertificate(rand.Reader, t, y.ca, y.key.Public(), y.key)
				if err != nil {
					tb.Error(err)
					return
				}
				certs[i] = tls.Certificate{Certificate: [][]byte{der, y.ca.Raw}, PrivateKey: y.key}
				if leaf {
					certs[i].Leaf, _ = x509.ParseCertificate(der)
				}
			}
		})
	}
	wg.Wait()
	return certs
}

func siteName(i int) string { return fmt.Sprintf("site%d.example.com", i) }

// sign makes the response about a serial number.
func (y *yard) sign(serial *big.Int) ([]byte, error) {
	now := time.Now().Truncate(time.Second)
	return ocsp.CreateResponse(y.ca, y.ca, ocsp.Response{Status: ocsp.Good, SerialNumber: serial, IssuerHash: crypto.SHA1,
		ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(7 * day)}, y.key)
}

// RoundTrip answers as responders do, with headers for caches.
func (y *yard) RoundTrip(req *http.Request) (*http.Response, error) {
	y.requests.Add(1)
	escaped := req.URL.EscapedPath()
	path, err := url.PathUnescape(escaped[strings.LastIndexByte(escaped, '/')+1:])
	if err != nil {
		return nil, err
	}
	der, err := base64.StdEncoding.DecodeString(path)
	if err != nil {
		return nil, err
	}
	asked, err := ocsp.ParseRequest(der)
	if err != nil {
		return nil, err
	}
	body, err := y.sign(asked.SerialNumber)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Content-Type": {"application/ocsp-response"}, "Etag": {fmt.Sprintf("\"%040X\"", asked.SerialNumber)},
		"Last-Modified": {time.Now().UTC().Format(http.TimeFormat)}, "Cache-Control": {"max-age=3600, public, no-transform, must-revalidate"}}
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)), Request: req}, nil
}

// certificates is how many a benchmark has to do with: STAPLE_CERTS sets it.
func certificates(most int) int {
	if n, err := strconv.Atoi(os.Getenv("STAPLE_CERTS")); err == nil && n > 0 {
		return n
	}
	return most
}

// warm has s know all of certs.
func warm(tb testing.TB, s *staple.Stapler, certs []tls.Certificate) {
	tb.Helper()
	all := make([]*tls.Certificate, len(certs))
	for i := range certs {
		all[i] = &certs[i]
	}
	if err := s.Prefetch(context.Background(), all...); err != nil {
		tb.Fatal(err)
	}
}
