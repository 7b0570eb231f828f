package certinfo

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Name names a certificate for people: its names and its serial number. leaf is
// nil if raw does not parse; then a hash tells it apart. The text is legible and
// bounded, as it begins the errors about a certificate.
func Name(raw []byte, leaf *x509.Certificate) string {
	if leaf == nil {
		sum := sha256.Sum256(raw)
		return fmt.Sprintf("unparsable certificate (SHA-256 %x)", sum[:8])
	}
	return fmt.Sprintf("%q (serial %s)", Clip(Names(leaf)), SerialText(leaf))
}

// Names returns the names of leaf, three at most: its DNS names and addresses,
// else its URIs, as SPIFFE has them, else its e-mail addresses, else its subject,
// else its serial number. A client certificate may have any of these alone. The
// text is as the certificate has it: callers pass it through [Clip] or [Legible].
func Names(leaf *x509.Certificate) string {
	const most = 3
	names, all := first(leaf.DNSNames, most), len(leaf.DNSNames)+len(leaf.IPAddresses)
	for _, ip := range first(leaf.IPAddresses, most-len(names)) {
		names = append(names, ip.String())
	}
	if all == 0 {
		all = len(leaf.URIs)
		for _, u := range first(leaf.URIs, most) {
			names = append(names, u.String())
		}
	}
	if all == 0 {
		names, all = first(leaf.EmailAddresses, most), len(leaf.EmailAddresses)
	}
	switch {
	case all == 0 && len(leaf.Subject.Names) > 0:
		return DN(leaf.Subject)
	case all == 0:
		return "serial " + SerialText(leaf)
	case all > len(names):
		names = append(names, fmt.Sprintf("and %d more", all-len(names)))
	}
	return strings.Join(names, ", ")
}

// AllNames returns the DNS names and addresses of leaf, or if it has none the one text of
// Names.
func AllNames(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = []string{Names(leaf)}
	}
	return names
}

// first returns the first elements of list, n at most. To append to them copies them.
func first[T any](list []T, n int) []T {
	n = min(n, len(list))
	return list[:n:n]
}

// DN returns n.String of the first 16 attributes in n, and of each the first 200 bytes.
// Package pkix takes time and memory by the square of their number: a subject of 58 KB
// cost 411 MB each time an error named it.
func DN(n pkix.Name) string { return Short(n).String() }

// Short returns what DN shows of n, and keeps nothing else of it.
func Short(n pkix.Name) pkix.Name {
	if len(n.Names) == 0 { // it was made by hand
		return n
	}
	var short pkix.RelativeDistinguishedNameSET
	for _, a := range first(n.Names, 16) {
		if s, ok := a.Value.(string); ok {
			a.Value = Cut(s, maxText)
		}
		a.Type = slices.Clone(first(a.Type, 16)) // eight bytes for each arc
		short = append(short, a)
	}
	n = pkix.Name{}
	n.FillFromRDNSequence(&pkix.RDNSequence{short})
	return n
}

// JSONTime returns t in UTC, within the years 0 to 9999: encoding/json refuses others, and
// a certificate, or a response that proves nothing, may say one, by the zone of its time.
func JSONTime(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() < 0:
		return time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// JSONTimeOrNil is JSONTime for a member that is left out where there is no time: it
// returns nil for the zero time.
func JSONTimeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = JSONTime(t)
	return &t
}

// SerialText returns the serial number of leaf in hexadecimal, of a longer one the
// first 200 digits. The limit of RFC 5280 is 40; a tenant's may have 100 KB.
func SerialText(leaf *x509.Certificate) string {
	n := leaf.SerialNumber
	if n == nil || n.BitLen() <= 4*maxText {
		return n.Text(16)
	}
	more := (n.BitLen() - 4*maxText + 3) / 4 // digits
	return new(big.Int).Rsh(n, uint(4*more)).Text(16) + "..."
}

// Hex returns b in hexadecimal, of more than 100 bytes the first 100.
func Hex(b []byte) string {
	if len(b) > maxText/2 {
		return hex.EncodeToString(b[:maxText/2]) + "..."
	}
	return hex.EncodeToString(b)
}

// maxText is the longest text from the network that is shown whole, in bytes.
const maxText = 200

// Clip makes text that came from the network fit for a log: names and OIDs may
// be of any length and content. It returns at most 200 bytes, cut between runes,
// and three dots if something was cut.
func Clip(s string) string { return Cut(Legible(s), maxText) }

// Cut returns s, of a longer one than most bytes those, cut between runes, and three dots.
func Cut(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// Legible replaces what can't be printed, by question marks: line breaks would forge
// log lines, and terminals obey control characters.
func Legible(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
