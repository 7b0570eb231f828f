package records

import "github.com/ocspstaple/staple/internal/errtext"

// A failure is an error of the store. Its methods are the user's code, as the store's are:
// they may panic, end their goroutine, hang, or ask the Stapler. So its text is made
// within the call that returned it. The error itself is for the user, who finds it with
// errors.Is and errors.As.
type failure struct {
	err  error
	text string // bounded and legible: it goes into events and logs
}

// failed returns err as a failure; nil stays nil. Call it where the store is called.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err, errtext.Cut(err.Error())}
}

func (f *failure) Error() string { return f.text }

// Unwrap returns the store's error. Nothing of ours may look for an error below f.
func (f *failure) Unwrap() error { return f.err }
