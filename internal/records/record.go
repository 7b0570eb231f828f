// Package records knows what a store holds of a certificate, in a form that
// people and openssl can read.
package records

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	// KeyPrefix begins each key: a store may be shared with autocert, say.
	KeyPrefix = "staple-ocsp-"
	// MaxSize is the longest record, in bytes.
	MaxSize = 256 << 10

	// maxHeader is the longest header that is believed.
	maxHeader = 1024
	// skew is by how much the clocks of those that share a store may differ.
	skew = 5 * time.Minute

	responseType = "OCSP RESPONSE" // the PEM types
	issuerType   = "CERTIFICATE"
)

// Key returns the key of the record for a leaf in DER.
func Key(leaf []byte) string {
	sum := sha256.Sum256(leaf)
	return KeyPrefix + hex.EncodeToString(sum[:])
}

// A Record is a stored response. Nothing in it is proven.
type Record struct {
	Response  []byte // in DER
	Issuer    []byte // certificate in DER; nil in records of the first version
	Responder string // the URL that gave the response, or confirmed it last

	ETag, LastModified string // header fields
	MaxAge             time.Duration
	Received, Checked  int64 // Unix ns
	Until              int64 // Unix ns; from when on the record is of no use
}

// Encode writes r as PEM: the response with headers, and the issuer's
// certificate.
func (r *Record) Encode() []byte {
	block := &pem.Block{Type: responseType, Bytes: r.Response, Headers: map[string]string{
		"Received": time.Unix(0, r.Received).UTC().Format(time.RFC3339Nano),
		"Checked":  time.Unix(0, r.Checked).UTC().Format(time.RFC3339Nano),
		"Expires":  time.Unix(0, r.Until).UTC().Format(time.RFC3339),
	}}
	if r.MaxAge > 0 { // or a fleet would ask again before the one that asked would
		block.Headers["Max-Age"] = strconv.Itoa(int(r.MaxAge / time.Second))
	}
	for name, v := range map[string]string{"Responder": r.Responder, "ETag": r.ETag, "Last-Modified": r.LastModified} {
		if v = printable(v); v != "" {
			block.Headers[name] = v
		}
	}
	out := pem.EncodeToMemory(block)
	if r.Issuer != nil {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: issuerType, Bytes: r.Issuer})...)
	}
	return out
}

// printable returns v, or nothing where it could not stand in a header: net/http
// would send no request with it, and a line break would end the record's.
func printable(v string) string {
	if len(v) > maxHeader || strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return ""
	}
	return v
}

// ErrForm is returned for what is no record.
var ErrForm = errors.New("staple: stored record is not a PEM block " + responseType)

// Parse reads a record. now, in Unix ns, bounds what is believed of its times:
// clocks differ, but what was checked next year would count as checked just now
// for ever.
func Parse(data []byte, now int64) (*Record, error) {
	if len(data) > MaxSize {
		return nil, ErrForm
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != responseType {
		return nil, ErrForm
	}
	h := block.Headers
	r := &Record{Response: block.Bytes, Responder: h["Responder"], ETag: printable(h["ETag"]), LastModified: printable(h["Last-Modified"]),
		MaxAge: seconds(h["Max-Age"]), Received: believed(h["Received"], now), Checked: believed(h["Checked"], now)}
	if issuer, _ := pem.Decode(rest); issuer != nil && issuer.Type == issuerType {
		r.Issuer = issuer.Bytes
	}
	return r, nil
}

// seconds returns a number of them, a month at most; 0 for what is none.
func seconds(v string) time.Duration {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 30*24*3600)) * time.Second
}

// believed returns a time in Unix ns, 0 for none and for one in the future.
func believed(v string, now int64) int64 {
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 || t.UnixNano() > now+int64(skew) {
		return 0
	}
	return min(t.UnixNano(), now)
}

// Expired reports whether data is a record that says that it is of no use since a
// time.
func Expired(data []byte, now time.Time) bool {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != responseType {
		return false
	}
	until, err := time.Parse(time.RFC3339, block.Headers["Expires"])
	return err == nil && now.After(until)
}
