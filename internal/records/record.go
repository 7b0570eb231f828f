// Package records knows what a store holds of a certificate, in a form that
// people and openssl can read, and how to use a store that may be slow, hang, panic,
// fail or return what somebody else wrote.
//
// The driver in the root (its records.go) has one [Access] and one [Later] for each
// Stapler. [Dir] is the code of the root's DirStore. The package knows nothing of
// OCSP and proves nothing: the driver verifies a stored response as it does one
// from the network. Package held decides whether a record spares a request.
//
// # Concurrency
//
// An Access, a Later and a Dir may be used concurrently. Calls of the store run in
// goroutines of [foreign.Calls], so one that hangs blocks its caller until its
// context ends, and no longer. No lock is held during a call. [Access.Read],
// [Access.Write] and [Access.MayAsk] wait for the store, and are not called with the
// driver's lock held; the other methods, and [Later.Add], never block.
//
// # Reading order
//
// record.go has the format, access.go the rules for the store, failure.go its errors,
// later.go the second read of what was not read in time, dir.go the store in a directory.
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
	// keyPrefix begins each key: a store may be shared with autocert, say.
	keyPrefix = "staple-ocsp-"
	// MaxSize is the longest record, in bytes: a response of 128 KiB and an issuer in
	// base64, with headers. Dir and redisstore read no more of a value.
	MaxSize = 256 << 10

	// maxHeader is the longest header that is written or believed, in bytes.
	maxHeader = 1024
	// skew is by how much the clocks of those that share a store may differ. A time
	// within it counts as now, one beyond it as none.
	skew = 5 * time.Minute

	responseType = "OCSP RESPONSE" // the PEM types
	issuerType   = "CERTIFICATE"
)

// Key returns the key of the record for a leaf in DER: a hash of all of it, so that a
// renewed certificate never finds the record of its predecessor. It consists of
// lower-case letters, digits and hyphens.
func Key(leaf []byte) string {
	sum := sha256.Sum256(leaf)
	return keyPrefix + hex.EncodeToString(sum[:])
}

// A Record is a stored response. Nothing in it is proven: who can write the store
// can write any of it. The times decide when to ask again at most, the issuer counts
// only if it signed the leaf, and the responder only if it is one that is asked.
type Record struct {
	Response  []byte // in DER
	Issuer    []byte // certificate in DER; nil: the record has none
	Responder string // the URL that gave the response, or confirmed it last

	ETag, LastModified string // header fields
	MaxAge             time.Duration
	Received, Checked  int64 // Unix ns
	Until              int64 // Unix ns; from when on the record is of no use
}

// Encode writes r as PEM: the response with headers, and the issuer's
// certificate. With the issuer the record is enough after a restart with the leaf
// alone, whether the responder and the issuer's URL can be reached or not. Expires
// says to stores and people what may be deleted; Parse does not read it.
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

// ErrForm is returned for what is no record: something else under the key, or a write
// that was torn. The next response replaces it.
var ErrForm = errors.New("staple: stored record is not a PEM block " + responseType)

// Parse reads a record. now, in Unix ns, bounds what is believed of its times:
// clocks differ, but what was checked next year would count as checked just now
// for ever. A header that is not believed is left zero, and the rest counts: it costs
// a request at most. What follows the two blocks is ignored.
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

// seconds returns a number of them, 30 days at most; 0 for what is none.
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
// time. It is false for what is no record, or does not say: that is somebody else's,
// or may be of use.
func Expired(data []byte, now time.Time) bool {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != responseType {
		return false
	}
	until, err := time.Parse(time.RFC3339, block.Headers["Expires"])
	return err == nil && now.After(until)
}
