package errtext_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/internal/errtext"
)

// The prefix stands at the beginning alone, and all is on one line.
func TestBare(t *testing.T) {
	ours := errors.New("staple: no luck")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.New("plain"), "plain"},
		{ours, "no luck"},
		{fmt.Errorf("outer: %w", ours), "outer: no luck"},
		{errors.Join(ours, ours), "no luck; no luck"},
		{fmt.Errorf("a: %w", errors.Join(errors.New("b"), ours)), "a: b; no luck"},
		{errors.New("names staple: in its middle"), "names staple: in its middle"},
	} {
		if got := errtext.Bare(tt.err); got != tt.want {
			t.Errorf("Bare(%q) = %q, want %q", tt.err, got, tt.want)
		}
	}
}

// Cut ends between two runes.
func TestCut(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("a", 500), strings.Repeat("a", 500)},
		{strings.Repeat("a", 501), strings.Repeat("a", 500) + "..."},
		{strings.Repeat("a", 499) + "éé", strings.Repeat("a", 499) + "..."}, // between runes
	} {
		if got := errtext.Cut(tt.in); got != tt.want {
			t.Errorf("Cut of %d bytes: %q", len(tt.in), got)
		}
	}
}

// An error about a certificate is what it is about, and names the certificate.
func TestAbout(t *testing.T) {
	ours := errors.New("staple: no luck")
	leaf := &x509.Certificate{DNSNames: []string{"a.example"}, SerialNumber: big.NewInt(0x2a)}
	if err := errtext.About(nil, leaf, nil); err != nil {
		t.Errorf("about nothing: %v", err)
	}
	err := errtext.About(nil, leaf, ours)
	if got, want := err.Error(), `staple: "a.example" (serial 2a): no luck`; got != want || !errors.Is(err, ours) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := errtext.About([]byte{1}, nil, ours).Error(); !strings.HasPrefix(got, "staple: unparsable certificate (SHA-256 ") {
		t.Errorf("unparsed: %q", got)
	}
}

// The text is made when it is asked for; what an error is does not depend on it.
func TestOf(t *testing.T) {
	made := 0
	is, too := errors.New("staple: this"), errors.New("staple: that")
	err := errtext.Of(func() string { made++; return "staple: both" }, is, too)
	if !errors.Is(err, is) || !errors.Is(err, too) || made != 0 {
		t.Errorf("%d texts made", made)
	}
	if err.Error() != "staple: both" || made != 1 {
		t.Errorf("got %q, made %d times", err, made)
	}
	err = errtext.Caused(is, too)
	if got := err.Error(); got != "staple: this: that" || !errors.Is(err, is) || !errors.Is(err, too) {
		t.Errorf("caused: %q", got)
	}
}
