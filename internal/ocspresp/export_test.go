package ocspresp

import (
	"errors"
	"time"
)

const (
	MaxDelegates = maxDelegates
	MaxTries     = maxTries
)

// KnownDelegates is how many delegates i remembers.
func (i *Issuer) KnownDelegates() (n int) {
	for _, d := range i.knownDelegates() {
		if d != nil {
			n++
		}
	}
	return n
}

// Oldest returns a delegate that i remembers, and what says whether it may sign.
func (i *Issuer) Oldest() (der []byte, may func() error) {
	d := i.knownDelegates()[0]
	return d.cert.Raw, func() error { return i.authorize(d) }
}

// Knows reports whether i remembers that delegate.
func (i *Issuer) Knows(der []byte) bool { return i.known(der) != nil }

// Verify is the function, for a Subject that is not addressable.
func (s Subject) Verify(raw []byte, now time.Time, grace time.Duration) (*Proof, error) {
	return Verify(raw, &s, now, grace)
}

// Prove is the function, for a Subject that is not addressable.
func (s Subject) Prove(raw []byte, now time.Time) (*Proof, error) { return Prove(raw, &s, now) }

// ReasonOf is the Reason of the Error in err; 0 if there is none.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return 0
}

// Check is Verify without a look at the proof, for benchmarks.
func (s Subject) Check(raw []byte, now time.Time) error {
	_, err := Verify(raw, &s, now, 0)
	return err
}
