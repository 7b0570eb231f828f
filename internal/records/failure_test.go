package records_test

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ocspstaple/staple/internal/records"
)

// broken is an error all of whose methods panic where it is nil.
type broken struct{ text string }

// exits is an error whose methods end the goroutine.
type exits struct{}

func (exits) Error() string { runtime.Goexit(); return "" }
func (exits) Is(error) bool { runtime.Goexit(); return false }
func (exits) As(any) bool   { runtime.Goexit(); return false }

func (b *broken) Error() string   { return b.text }
func (b *broken) Is(error) bool   { return b.text == "it is" }
func (b *broken) As(any) bool     { return b.text == "it is" }
func (b *broken) Timeout() bool   { return b.text == "it is" }
func (b *broken) Temporary() bool { return b.text == "it is" }

// An error of the store is found as what it is. One whose methods panic, or end their
// goroutine, is a store that does.
//
// REQ G3
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
		{"a typed nil", (*broken)(nil), "panicked: runtime error: invalid memory address or nil pointer dereference", false},
		{"with methods that end the goroutine", exits{}, "called runtime.Goexit", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := new(store)
			s.works(func(context.Context, records.Op) error { return tt.err })
			a, _ := access(t, s)
			if _, err := a.Read("k", records.Soon); err == nil || (err == records.ErrUnread) != (tt.text == "it is") {
				t.Errorf("%s: Read: %v", tt.name, err)
			}
			for op, err := range map[string]error{"Write": a.Write("k", record()), "Delete": a.Write("k", nil)} {
				if err == nil || !strings.HasSuffix(err.Error(), tt.text) || errors.Is(err, fs.ErrNotExist) != tt.is {
					t.Errorf("%s: %s: %v", tt.name, op, err)
				}
				own, _ := tt.err.(*broken)
				if found, is := errors.AsType[*broken](err); is != (own != nil) || found != own {
					t.Errorf("%s: %s: found as its type: %v", tt.name, op, is)
				}
			}
		})
	}
}
