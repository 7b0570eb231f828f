package directions

import (
	"errors"

	"github.com/ocspstaple/staple/internal/schedule"
)

var (
	// ErrNoResponder: nobody can be asked about a certificate that needs a staple, or
	// the function named nobody who can. The root exports it.
	ErrNoResponder = errors.New("staple: no OCSP responder")
	// ErrLeafExpired: nobody is asked about an expired certificate (RFC 9919 §4.2).
	ErrLeafExpired = errors.New("staple: certificate has expired")
)

// Facts are what is known of a certificate when its need is decided.
type Facts struct {
	Unreadable error // it does not parse, and never did
	Route      Route
	MustStaple bool
	Expired    bool
	Early      bool // not valid yet, so that responders need not know it
	// Unissued is why its issuer is not known; nil if it is. Final says that no attempt
	// will find it: only the owner can mend this.
	Unissued error
	Final    bool
}

// Decide returns whether there is anything to do for a certificate, and why no request
// can be made. The order of the cases counts: what is switched off or has expired raises
// no complaint about a responder, and what needs no staple none about an issuer.
func Decide(f *Facts) (schedule.Need, error) {
	switch r := &f.Route; {
	case f.Unreadable != nil:
		return schedule.None, f.Unreadable
	case r.Need == schedule.Off:
		return schedule.Off, nil
	case f.Expired:
		return schedule.LeafExpired, ErrLeafExpired
	case r.Need == schedule.None && f.MustStaple:
		return schedule.Hopeless, ErrNoResponder
	case r.Need == schedule.None:
		return schedule.None, nil
	case r.Err != nil || f.Unissued == nil || f.Early:
		return schedule.Wanted, r.Err
	case f.Final:
		return schedule.Hopeless, f.Unissued
	}
	return schedule.NoIssuer, f.Unissued
}
