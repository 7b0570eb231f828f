package ocsptest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/ocsptest"
)

// REQ F: every fault yields what it claims. Each check sees the answer to a POST, in memory and
// on loopback.
var faultChecks = map[ocsptest.Fault]func(*testing.T, *answer){
	ocsptest.FaultRefused: func(t *testing.T, a *answer) {
		var op *net.OpError
		if a.memory && (!errors.Is(a.err, syscall.ECONNREFUSED) || !errors.As(a.err, &op) || op.Op != "dial") {
			t.Errorf("got %v", a.err)
		}
		noAnswer(t, a)
	},
	ocsptest.FaultNoHost: func(t *testing.T, a *answer) {
		var dns *net.DNSError
		if a.memory && (!errors.As(a.err, &dns) || !dns.IsNotFound) {
			t.Errorf("got %v", a.err)
		}
		noAnswer(t, a)
	},
	ocsptest.FaultReset: func(t *testing.T, a *answer) {
		if !errors.Is(a.err, syscall.ECONNRESET) {
			t.Errorf("got %v", a.err)
		}
	},
	ocsptest.FaultHang: func(t *testing.T, a *answer) {
		if a.memory && (!errors.Is(a.err, context.DeadlineExceeded) || a.finished.Sub(a.started) != time.Minute) {
			t.Errorf("got %v after %v", a.err, a.finished.Sub(a.started))
		}
		noAnswer(t, a)
	},
	ocsptest.FaultCloseInHeader: noAnswer,
	ocsptest.FaultSlowBody: func(t *testing.T, a *answer) {
		if a.err != nil || a.readErr == nil || len(a.body) > 60 {
			t.Errorf("got %d bytes, %v, %v", len(a.body), a.err, a.readErr)
		}
		if a.memory && len(a.body) < 59 { // byte and deadline meet in the 60th second
			t.Errorf("got %d bytes in a minute", len(a.body))
		}
	},
	ocsptest.FaultTruncated: func(t *testing.T, a *answer) {
		if a.err != nil || !errors.Is(a.readErr, io.ErrUnexpectedEOF) || int64(len(a.body)) != a.resp.ContentLength/2 {
			t.Errorf("got %d bytes, %v", len(a.body), a.readErr)
		}
	},

	ocsptest.FaultHTTP403: http4(403, ""),
	ocsptest.FaultHTTP404: http4(404, ""),
	ocsptest.FaultHTTP429: http4(429, "120"),
	ocsptest.FaultHTTP500: http4(500, ""),
	ocsptest.FaultHTTP503: http4(503, "120"),
	ocsptest.FaultHTML:    http4(200, ""),
	ocsptest.FaultGETRefused: func(t *testing.T, a *answer) {
		good(t, a) // GET is in TestGETRefused
	},
	ocsptest.FaultNotModified: func(t *testing.T, a *answer) {
		if a.resp.StatusCode != 304 || len(a.body) != 0 {
			t.Errorf("got %s, %d bytes", a.resp.Status, len(a.body))
		}
	},
	ocsptest.FaultRedirect:       location("/moved/"),
	ocsptest.FaultRedirectLoop:   location("/"),
	ocsptest.FaultRedirectScheme: location("ftp://ocsp.example/"),
	ocsptest.FaultContentType:    contentType("text/plain; charset=utf-8"),
	ocsptest.FaultNoContentType:  contentType(""),
	ocsptest.FaultGzip: func(t *testing.T, a *answer) {
		if a.memory {
			if a.resp.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("got header %v", a.resp.Header)
			}
			r, err := gzip.NewReader(bytes.NewReader(a.body))
			if err != nil {
				t.Fatal(err)
			}
			a.body, _ = io.ReadAll(r)
		}
		good(t, a)
	},
	ocsptest.FaultEmptyBody: func(t *testing.T, a *answer) {
		if a.resp.StatusCode != 200 || len(a.body) != 0 || a.readErr != nil {
			t.Errorf("got %s, %d bytes, %v", a.resp.Status, len(a.body), a.readErr)
		}
	},
	ocsptest.FaultHugeBody: func(t *testing.T, a *answer) {
		if len(a.body) < 256<<10 {
			t.Errorf("got %d bytes", len(a.body))
		}
		good(t, a)
	},
	ocsptest.FaultEndlessBody: func(t *testing.T, a *answer) {
		if len(a.body) != 1<<20 || a.resp.ContentLength != -1 {
			t.Errorf("got %d bytes of %d", len(a.body), a.resp.ContentLength)
		}
	},
	ocsptest.FaultJunkBody: func(t *testing.T, a *answer) {
		if a.resp.Header.Get("Content-Type") != "application/ocsp-response" || len(a.body) != 300 {
			t.Errorf("got %d bytes, %v", len(a.body), a.resp.Header)
		}
	},

	ocsptest.FaultMalformedRequest: body(ocsp.MalformedRequestErrorResponse),
	ocsptest.FaultInternalError:    body(ocsp.InternalErrorErrorResponse),
	ocsptest.FaultTryLater:         body(ocsp.TryLaterErrorResponse),
	ocsptest.FaultSigRequired:      body(ocsp.SigRequredErrorResponse),
	ocsptest.FaultUnauthorized:     body(ocsp.UnauthorizedErrorResponse),
	ocsptest.FaultUndefinedStatus:  body([]byte{0x30, 3, 10, 1, 7}),
	ocsptest.FaultNoBytes:          body([]byte{0x30, 3, 10, 1, 0}),

	ocsptest.FaultWrongSerial: taken(func(t *testing.T, a *answer, b rawBasic) {
		want := new(big.Int).Add(a.cert.Leaf.SerialNumber, big.NewInt(1))
		if got := b.Data.Singles[0].ID.Serial.Bytes; !bytes.Equal(got, want.Bytes()) {
			t.Errorf("got %x", got)
		}
	}),
	ocsptest.FaultWrongNameHash: taken(func(t *testing.T, a *answer, b rawBasic) {
		want := sha1Sum(a.ca.Cert.RawSubject)
		if got := b.Data.Singles[0].ID.Name; len(got) != 20 || bytes.Equal(got, want) {
			t.Errorf("got %x", got)
		}
	}),
	ocsptest.FaultWrongKeyHash: taken(func(t *testing.T, a *answer, b rawBasic) {
		want, _ := ocsp.ParseRequest(request(t, a.ca, a.cert, crypto.SHA1))
		if got := b.Data.Singles[0].ID; len(got.Key) != 20 || bytes.Equal(got.Key, want.IssuerKeyHash) || !bytes.Equal(got.Name, want.IssuerNameHash) {
			t.Errorf("got %x", got.Key)
		}
	}),
	ocsptest.FaultNoSingle: taken(func(t *testing.T, a *answer, b rawBasic) {
		if len(b.Data.Singles) != 0 {
			t.Errorf("got %d", len(b.Data.Singles))
		}
	}),
	ocsptest.FaultExpired:    taken(isExpired),
	ocsptest.FaultStaleCache: taken(isExpired), // no-cache is in TestStaleCache
	ocsptest.FaultNotYetValid: times(func(a *answer, this, next, produced time.Duration) bool {
		return this == time.Hour && next == time.Hour+4*24*time.Hour && produced == 0
	}),
	ocsptest.FaultNextBeforeThis: times(func(a *answer, this, next, produced time.Duration) bool {
		return this == time.Minute && next == 59*time.Second && produced == 0
	}),
	ocsptest.FaultNextIsThis: times(func(a *answer, this, next, produced time.Duration) bool {
		return this == time.Minute && next == time.Minute && produced == 0
	}),
	ocsptest.FaultProducedInFuture: times(func(a *answer, this, next, produced time.Duration) bool {
		return this == 0 && next > 0 && produced == time.Hour
	}),
	ocsptest.FaultProducedBeforeLeaf: taken(func(t *testing.T, a *answer, b rawBasic) {
		if got := a.cert.Leaf.NotBefore.Sub(b.Data.ProducedAt); got != 24*time.Hour {
			t.Errorf("produced %v before", got)
		}
	}),
	ocsptest.FaultProducedAfterLeaf: taken(func(t *testing.T, a *answer, b rawBasic) {
		if got := b.Data.ProducedAt.Sub(a.cert.Leaf.NotAfter); got != 24*time.Hour {
			t.Errorf("produced %v after", got)
		}
	}),

	ocsptest.FaultResponseType: func(t *testing.T, a *answer) {
		if r, _ := decode(t, a.body); r.Bytes.Type.String() != "2.999.1" {
			t.Errorf("got type %v", r.Bytes.Type)
		}
	},
	ocsptest.FaultVersion2: taken(func(t *testing.T, a *answer, b rawBasic) {
		if b.Data.Version != 1 {
			t.Errorf("got %d", b.Data.Version)
		}
	}),
	ocsptest.FaultWrongResponderID: taken(func(t *testing.T, a *answer, b rawBasic) {
		if bytes.Equal(b.Data.ResponderID.Bytes, a.ca.Cert.RawSubject) || b.Data.ResponderID.Tag != 1 {
			t.Errorf("got %x", b.Data.ResponderID.FullBytes)
		}
	}),
	ocsptest.FaultTrailingInside: taken(func(t *testing.T, a *answer, b rawBasic) {
		if !bytes.HasSuffix(b.Raw, []byte("junk")) {
			t.Error("no junk")
		}
	}),
	ocsptest.FaultTrailingSigned: taken(func(t *testing.T, a *answer, b rawBasic) {
		if !bytes.HasSuffix(b.Data.Raw, []byte("junk")) {
			t.Error("no junk")
		}
	}),
	ocsptest.FaultTrailingAfter: rejected("trailing data"),
	ocsptest.FaultLongLength:    rejected("superfluous leading zeros in length"),
	ocsptest.FaultCriticalSingle: taken(func(t *testing.T, a *answer, b rawBasic) {
		if e := b.Data.Singles[0].Extensions; len(e) != 1 || !e[0].Critical {
			t.Errorf("got %v", e)
		}
	}),
	ocsptest.FaultCriticalResponse: taken(func(t *testing.T, a *answer, b rawBasic) {
		if e := b.Data.Extensions; len(e) != 1 || !e[0].Critical {
			t.Errorf("got %v", e)
		}
	}),

	ocsptest.FaultPadded20K:  paddedTo(20 << 10),
	ocsptest.FaultPadded70K:  paddedTo(70 << 10),
	ocsptest.FaultPadded120K: paddedTo(120 << 10),
	ocsptest.FaultJunkCertificate: taken(func(t *testing.T, a *answer, b rawBasic) {
		var outline struct{ TBS, Algorithm, Signature asn1.RawValue }
		if rest, err := asn1.Unmarshal(b.Certs[0].FullBytes, &outline); err != nil || len(rest) != 0 || len(outline.TBS.Bytes) != 0 {
			t.Errorf("got %x, %v", b.Certs[0].FullBytes, err)
		}
	}),

	ocsptest.FaultBrokenSignature: rejected("ECDSA verification failure"),
	ocsptest.FaultSHA1Signature: func(t *testing.T, a *answer) {
		if got := good(t, a).SignatureAlgorithm; got != x509.ECDSAWithSHA1 {
			t.Errorf("got %v", got)
		}
	},
	ocsptest.FaultUnknownAlgorithm: rejected("algorithm unimplemented"),
	ocsptest.FaultWrongSigner:      rejected("ECDSA verification failure"),
	ocsptest.FaultDelegateNoEKU:    delegate(func(a *answer, c *x509.Certificate) bool { return len(c.ExtKeyUsage) == 0 && issued(a, c) }),
	ocsptest.FaultDelegateAnyEKU: delegate(func(a *answer, c *x509.Certificate) bool {
		return len(c.ExtKeyUsage) == 1 && c.ExtKeyUsage[0] == x509.ExtKeyUsageAny && issued(a, c)
	}),
	ocsptest.FaultDelegateExpired:     delegate(func(a *answer, c *x509.Certificate) bool { return c.NotAfter.Before(a.started) && issued(a, c) }),
	ocsptest.FaultDelegateNotYetValid: delegate(func(a *answer, c *x509.Certificate) bool { return c.NotBefore.After(a.started) && issued(a, c) }),
	ocsptest.FaultDelegateCritical: delegate(func(a *answer, c *x509.Certificate) bool {
		return len(c.UnhandledCriticalExtensions) == 1 && issued(a, c)
	}),
	ocsptest.FaultDelegateSHA1: delegate(func(a *answer, c *x509.Certificate) bool { return c.SignatureAlgorithm == x509.ECDSAWithSHA1 }),
	ocsptest.FaultDelegateOtherCA: delegate(func(a *answer, c *x509.Certificate) bool {
		return !issued(a, c) && bytes.Equal(c.RawIssuer, a.ca.Cert.RawSubject)
	}),
	ocsptest.FaultDelegateOtherName: delegate(func(a *answer, c *x509.Certificate) bool {
		return issued(a, c) && !bytes.Equal(c.RawIssuer, a.ca.Cert.RawSubject)
	}),
	ocsptest.FaultDelegateOfDelegate: delegate(func(a *answer, c *x509.Certificate) bool { return !issued(a, c) }),
	ocsptest.FaultDelegateMissing: func(t *testing.T, a *answer) {
		rejected("ECDSA verification failure")(t, a)
		if _, b := decode(t, a.body); len(b.Certs) != 0 {
			t.Errorf("got %d certificates", len(b.Certs))
		}
	},
	ocsptest.FaultLeafSigner: delegate(func(a *answer, c *x509.Certificate) bool { return c.Equal(a.cert.Leaf) }),
}

// noAnswer wants an error that is not a response.
func noAnswer(t *testing.T, a *answer) {
	t.Helper()
	if a.err == nil {
		t.Errorf("got %s", a.resp.Status)
	}
}

// good wants a response that x/crypto/ocsp takes.
func good(t *testing.T, a *answer) *ocsp.Response {
	t.Helper()
	if a.err != nil || a.readErr != nil {
		t.Fatalf("got %v, %v", a.err, a.readErr)
	}
	resp, err := ocsp.ParseResponseForCert(a.body, a.cert.Leaf, a.ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// rejected wants a response that x/crypto/ocsp rejects.
func rejected(reason string) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		if _, err := ocsp.ParseResponseForCert(a.body, a.cert.Leaf, a.ca.Cert); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("got %v, want %q", err, reason)
		}
	}
}

// body wants a certain body.
func body(want []byte) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		if !bytes.Equal(a.body, want) || a.resp.Header.Get("Content-Type") != "application/ocsp-response" {
			t.Errorf("got %x, want %x", a.body, want)
		}
	}
}

// http4 wants a page of HTML.
func http4(status int, retryAfter string) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		if a.resp.StatusCode != status || a.resp.Header.Get("Retry-After") != retryAfter ||
			!strings.HasPrefix(a.resp.Header.Get("Content-Type"), "text/html") || !bytes.HasPrefix(a.body, []byte("<!DOCTYPE")) {
			t.Errorf("got %s, %v, %s", a.resp.Status, a.resp.Header, a.body)
		}
	}
}

// location wants a redirect.
func location(want string) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		if got := a.resp.Header.Get("Location"); a.resp.StatusCode != 302 || got != want {
			t.Errorf("got %s to %q", a.resp.Status, got)
		}
	}
}

// contentType wants a right response of another type.
func contentType(want string) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		good(t, a)
		if got := a.resp.Header.Get("Content-Type"); got != want {
			t.Errorf("got %q", got)
		}
	}
}

// taken checks a response after taking it apart, and that all of it is signed by the CA: the
// fault is the only one.
func taken(check func(*testing.T, *answer, rawBasic)) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		_, b := decode(t, a.body)
		if err := a.ca.Cert.CheckSignature(x509.ECDSAWithSHA256, b.Data.Raw, b.Signature.Bytes); err != nil {
			t.Error(err)
		}
		check(t, a, b)
	}
}

// paddedTo wants a right response of at least that many bytes, and little more.
func paddedTo(size int) func(*testing.T, *answer) {
	return taken(func(t *testing.T, a *answer, b rawBasic) {
		if len(a.body) < size || len(a.body) > size+2<<10 {
			t.Errorf("got %d bytes", len(a.body))
		}
		for _, c := range b.Certs {
			if !bytes.Equal(c.FullBytes, a.ca.Cert.Raw) {
				t.Error("a certificate is not the CA's")
			}
		}
	})
}

// times checks the times of a response from when it was asked for, rounded to 2 seconds on
// loopback.
func times(ok func(a *answer, this, next, produced time.Duration) bool) func(*testing.T, *answer) {
	return taken(func(t *testing.T, a *answer, b rawBasic) {
		if !a.memory {
			return // the clock runs
		}
		s := b.Data.Singles[0]
		this, next, produced := s.ThisUpdate.Sub(a.started), s.NextUpdate.Sub(a.started), b.Data.ProducedAt.Sub(a.started)
		if !ok(a, this, next, produced) {
			t.Errorf("got this %v, next %v, produced %v", this, next, produced)
		}
	})
}

// isExpired wants a response that is over and has nothing else wrong.
func isExpired(t *testing.T, a *answer, b rawBasic) {
	s := b.Data.Singles[0]
	if !s.NextUpdate.Before(a.started) || !s.ThisUpdate.Before(s.NextUpdate) ||
		!b.Data.ProducedAt.Equal(s.ThisUpdate) || b.Data.ProducedAt.Before(a.cert.Leaf.NotBefore) {
		t.Errorf("got %v to %v, produced %v", s.ThisUpdate, s.NextUpdate, b.Data.ProducedAt)
	}
}

// delegate checks the certificate that the response claims to be signed by, and that it is.
func delegate(ok func(*answer, *x509.Certificate) bool) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		_, b := decode(t, a.body)
		cert, err := x509.ParseCertificate(b.Certs[0].FullBytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.CheckSignature(x509.ECDSAWithSHA256, b.Data.Raw, b.Signature.Bytes); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(b.Data.ResponderID.Bytes, cert.RawSubject) {
			t.Error("responder ID is not the delegate's")
		}
		if !ok(a, cert) {
			t.Errorf("got a delegate by %v from %v to %v with %v", cert.Issuer, cert.NotBefore, cert.NotAfter, cert.ExtKeyUsage)
		}
	}
}

// issued reports whether the CA's key signed a certificate.
func issued(a *answer, c *x509.Certificate) bool {
	return a.ca.Cert.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
