package records_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ocspstaple/staple/internal/records"
)

// broken is an error all of whose methods panic where it is nil.
type broken struct{ text string }

func (b *broken) Error() string   { return b.text }
func (b *broken) Is(error) bool   { return b.text == "it is" }
func (b *broken) As(any) bool     { return b.text == "it is" }
func (b *broken) Timeout() bool   { return b.text == "it is" }
func (b *broken) Temporary() bool { return b.text == "it is" }

// An error of the store is found as what it is, and one whose methods panic is an error
// like any other.
func TestFailure(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		text string
		is   bool // fs.ErrNotExist
	}{
		{"of the standard library", fs.ErrNotExist, fs.ErrNotExist.Error(), true},
		{"of the store's own", &broken{"disk full"}, "disk full", false},
		{"with methods that say yes", &broken{"it is"}, "it is", true},
		{"of any length", &broken{strings.Repeat("x", 1<<20)}, strings.Repeat("x", 500) + "...", false},
		{"a typed nil", (*broken)(nil), "error whose method Error panics", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := new(store)
			s.works(func(context.Context, records.Op) error { return tt.err })
			a, _ := access(t, s)
			_, read := a.Read("k", records.Soon)
			for op, err := range map[string]error{"Read": read, "Write": a.Write("k", record()), "Delete": a.Write("k", nil)} {
				var own *broken
				if err == nil || !strings.HasSuffix(err.Error(), tt.text) || errors.Is(err, fs.ErrNotExist) != tt.is || errors.Is(err, records.ErrUnread) != (tt.text == "it is") {
					t.Errorf("%s: %s: %v", tt.name, op, err)
				}
				if _, is := tt.err.(*broken); errors.As(err, &own) != is {
					t.Errorf("%s: %s: found as its type: %v", tt.name, op, !is)
				}
			}
		})
	}
}
