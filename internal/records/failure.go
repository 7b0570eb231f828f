package records

import (
	"errors"

	"github.com/ocspstaple/staple/internal/errtext"
)

// A failure is an error of the store. Its methods are the user's code, as the store's are:
// one that panics, the method of a typed nil say, must not end the process. errors.Is and
// errors.As find what they would find in the error itself.
type failure struct{ err error }

// failed returns err as a failure; nil stays nil.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err}
}

// Error is that of the store's error, bounded and legible: it goes into events and logs.
func (f *failure) Error() (text string) {
	defer ignorePanic()
	text = "error whose method Error panics"
	return errtext.Cut(f.err.Error())
}

// Is is errors.Is of the store's error.
func (f *failure) Is(target error) bool {
	defer ignorePanic()
	return errors.Is(f.err, target)
}

// As is errors.As of the store's error.
func (f *failure) As(target any) bool {
	defer ignorePanic()
	return errors.As(f.err, target)
}

func ignorePanic() { _ = recover() }
