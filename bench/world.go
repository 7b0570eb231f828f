package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ocsp"
)

// mustStaple is the TLS feature status_request (RFC 7633).
var mustStaple = pkix.Extension{Id: []int{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 0x03, 0x02, 0x01, 0x05}}

// A world is a CA, its certificates, which share one P-256 key, and its
// responder on loopback, which signs with the CA's key and embeds nothing: a
// shape that all peers accept.
type world struct {
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	certs    []tls.Certificate
	names    []string
	delay    time.Duration
	requests atomic.Int64
	signed   sync.Map // serial to response: each is signed once
	srv      *httptest.Server
}

func newWorld(n int, delay time.Duration, must bool) (*world, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	w := &world{key: key, delay: delay, certs: make([]tls.Certificate, n), names: make([]string, n)}
	w.srv = httptest.NewServer(w)
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err == nil {
		w.ca, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, err
	}
	return w, w.issue(must)
}

// issue makes the certificates, on all processors.
func (w *world) issue(must bool) error {
	var wg sync.WaitGroup
	errs := make(chan error, runtime.GOMAXPROCS(0))
	for worker := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := worker; i < len(w.certs); i += runtime.GOMAXPROCS(0) {
				if err := w.issueOne(i, must); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (w *world) issueOne(i int, must bool) error {
	w.names[i] = fmt.Sprintf("site%d.example.com", i)
	t := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 1<<40), DNSNames: []string{w.names[i]}, OCSPServer: []string{w.srv.URL},
		NotBefore: w.ca.NotBefore, NotAfter: time.Now().AddDate(0, 3, 0), KeyUsage: x509.KeyUsageDigitalSignature}
	if must {
		t.ExtraExtensions = []pkix.Extension{mustStaple}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, w.ca, w.key.Public(), w.key)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	w.certs[i] = tls.Certificate{Certificate: [][]byte{der, w.ca.Raw}, PrivateKey: w.key, Leaf: leaf}
	return err
}

// pems returns a certificate's chain, and its key, for those who read files.
func (w *world) pems(i int) (chain, key string, err error) {
	var b bytes.Buffer
	for _, der := range w.certs[i].Certificate {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return "", "", err
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(w.key)
	return b.String(), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

// ServeHTTP is the responder.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.requests.Add(1)
	der, err := io.ReadAll(r.Body)
	if r.Method == http.MethodGet {
		var path string
		if path, err = url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/")); err == nil {
			der, err = base64.StdEncoding.DecodeString(path)
		}
	}
	var asked *ocsp.Request
	if err == nil {
		asked, err = ocsp.ParseRequest(der)
	}
	var raw []byte
	if err == nil {
		raw, err = w.response(asked.SerialNumber)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	time.Sleep(w.delay)
	rw.Header().Set("Content-Type", "application/ocsp-response")
	_, _ = rw.Write(raw)
}

// response returns the one response about a serial number.
func (w *world) response(serial *big.Int) ([]byte, error) {
	if raw, ok := w.signed.Load(serial.String()); ok {
		return raw.([]byte), nil
	}
	now := time.Now().Truncate(time.Second)
	raw, err := ocsp.CreateResponse(w.ca, w.ca, ocsp.Response{Status: ocsp.Good, SerialNumber: serial, IssuerHash: crypto.SHA1,
		ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(7 * 24 * time.Hour)}, w.key)
	w.signed.Store(serial.String(), raw)
	return raw, err
}

// hello is what a client sends who asks for a staple.
func hello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, Extensions: []uint16{0, 5, 10, 13, 43}, Conn: noConn{},
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256}, SupportedPoints: []uint8{0}}
}
