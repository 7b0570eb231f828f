package certinfo

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	return fmt.Sprintf("%q (serial %s)", Clip(Names(leaf)), Clip(leaf.SerialNumber.Text(16)))
}

// Names returns the names of leaf, three at most: its DNS names and addresses,
// else its URIs, as SPIFFE has them, else its e-mail addresses, else its subject,
// else its serial number. A client certificate may have any of these alone. The
// text is as the certificate has it: callers pass it through [Clip] or [Legible].
func Names(leaf *x509.Certificate) string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		for _, u := range leaf.URIs {
			names = append(names, u.String())
		}
	}
	if len(names) == 0 {
		names = append(names, leaf.EmailAddresses...)
	}
	if len(names) == 0 && len(leaf.Subject.Names) > 0 {
		names = append(names, leaf.Subject.String())
	}
	if len(names) == 0 {
		return fmt.Sprintf("serial %x", leaf.SerialNumber)
	}
	if len(names) > 3 {
		names = append(names[:3], fmt.Sprintf("and %d more", len(names)-3))
	}
	return strings.Join(names, ", ")
}

// Clip makes text that came from the network fit for a log: names and OIDs may
// be of any length and content. It returns at most 200 bytes, cut between runes,
// and three dots if something was cut.
func Clip(s string) string {
	const most = 200
	s = Legible(s)
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
