package statuspage_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/statuspage"
)

// A certificate may be anybody's: its texts are cut, whatever their length.
func TestLongTexts(t *testing.T) {
	attribute := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 5, 11}, Value: strings.Repeat("long ", 100)}
	var subject pkix.Name
	subject.FillFromRDNSequence(&pkix.RDNSequence{slices.Repeat([]pkix.AttributeTypeAndValue{attribute}, 1000)})
	leaf := &x509.Certificate{SerialNumber: new(big.Int).Lsh(big.NewInt(1), 800_000), Subject: subject}
	h := statuspage.HandlerOf(func() []staple.Status { return []staple.Status{{Leaf: leaf}} })
	for _, accept := range []string{browser, "application/json"} {
		if n := get(t, h, "/", accept).Body.Len(); n > 16<<10 {
			t.Errorf("%s: one certificate has %d bytes", accept, n)
		}
	}
	if r := report(t, h, "/?q=1000000000"); len(r.Certificates) != 1 {
		t.Errorf("found by its serial number: %+v", r.Certificates)
	}
}

// A certificate may end in the year 10000, or before the year 0: GeneralizedTime has a zone.
// The report of all the others is not lost for it.
func TestEndOutsideOfJSON(t *testing.T) {
	west, east := time.FixedZone("", -3600), time.FixedZone("", 3600)
	h := statuspage.HandlerOf(func() []staple.Status {
		return []staple.Status{
			{Leaf: &x509.Certificate{DNSNames: []string{"late"}, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, west)}, MustStaple: true},
			{Leaf: &x509.Certificate{DNSNames: []string{"early"}, NotAfter: time.Date(0, 1, 1, 0, 0, 0, 0, east)}, NextUpdate: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)},
		}
	})
	r := report(t, h, "/")
	if names := firstNames(r); !slices.Equal(names, []string{"late", "early"}) {
		t.Fatalf("got %v", names)
	}
	for i, want := range []int{9999, 0} {
		if end := r.Certificates[i].NotAfter; end == nil || end.Year() != want {
			t.Errorf("%s: ends %v, want it in the year %d", r.Certificates[i].Names, end, want)
		}
	}
}

// A report that can't be encoded is an error, and no 200 without a body.
func TestNoJSON(t *testing.T) {
	rec := httptest.NewRecorder()
	statuspage.WriteJSON(rec, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))
	if rec.Code != http.StatusInternalServerError || rec.Header().Get("Content-Type") == "application/json" {
		t.Errorf("got %d %s", rec.Code, rec.Header().Get("Content-Type"))
	}
}

// A key of more bits than crypto/tls takes verifies nothing here either: a page of such
// certificates took seconds for each. This signature is good, so only who verifies it knows.
func TestHugeKey(t *testing.T) {
	leaf := signedByHugeKey(t)
	if err := leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature); err != nil {
		t.Fatal(err)
	}
	_, rows := table(t, []staple.Status{{State: staple.StateNone, Leaf: leaf}})
	if row := rows["example.com"]; !strings.Contains(row, "names no responder") {
		t.Errorf("its own signature was verified: %s", row)
	}
}

// signedByHugeKey returns a certificate that is signed by its own key of 103,874 bits.
// Nobody has the private key: 3 to the power of e is the padded hash, modulo the
// difference of both.
func signedByHugeKey(t *testing.T) *x509.Certificate {
	t.Helper()
	const e, bits, length = 65537, 103_874, (103_874 + 7) / 8
	tbs := []byte("to be signed") // its hash is even, so that the modulus is odd
	hash := sha256.Sum256(tbs)
	prefix := "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20" // DigestInfo of SHA-256
	padded := slices.Concat([]byte{0, 1}, bytes.Repeat([]byte{0xff}, length-3-len(prefix)-len(hash)), []byte{0}, []byte(prefix), hash[:])
	n := new(big.Int).Exp(big.NewInt(3), big.NewInt(e), nil)
	n.Sub(n, new(big.Int).SetBytes(padded))
	if n.BitLen() != bits || n.Bit(0) == 0 {
		t.Fatalf("a modulus of %d bits that ends in %d", n.BitLen(), n.Bit(0))
	}
	name := []byte{0x30, 0}
	return &x509.Certificate{RawSubject: name, RawIssuer: name, DNSNames: []string{"example.com"}, SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		PublicKeyAlgorithm: x509.RSA, PublicKey: &rsa.PublicKey{N: n, E: e},
		SignatureAlgorithm: x509.SHA256WithRSA, RawTBSCertificate: tbs, Signature: append(make([]byte, length-1), 3)}
}

// A GET has its parameters in the URL alone. Its body may be a form of gigabytes, which
// net/http would keep in memory and in temporary files.
func TestNoBodyIsRead(t *testing.T) {
	s := staple.New()
	defer s.Close()
	for _, h := range []http.Handler{statuspage.Handler(s), statuspage.Health(s)} {
		for _, form := range []string{"application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
			req := httptest.NewRequest(http.MethodGet, "/?state=none&q=x&page=2", unread{t})
			req.Header.Set("Content-Type", form)
			h.ServeHTTP(httptest.NewRecorder(), req)
		}
	}
}

// unread is the body of a request that nobody reads.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}
