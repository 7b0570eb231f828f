package exchange

import (
	"errors"

	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/schedule"
)

// refusals say what follows from a Reason: whether the certificate or the responder is
// at fault, and which other request may get a better answer: the other method if it was
// no OCSP response, the other hash if it was not about this certificate. A Reason that
// is not here is the responder's fault.
var refusals = map[ocspresp.Reason]struct {
	verdict schedule.Verdict
	better  ocsphttp.Way
}{
	ocspresp.Reason(ocsphttp.Timeout): {schedule.TimedOut, 0}, // ocspresp leaves its number to HTTP
	ocspresp.Malformed:                {schedule.Fault, ocsphttp.Post},
	ocspresp.InternalError:            {schedule.Fault, ocsphttp.Post},
	ocspresp.MalformedRequest:         {schedule.Certificate, ocsphttp.Post | ocsphttp.OtherHash},
	ocspresp.Unauthorized:             {schedule.Certificate, ocsphttp.OtherHash},
	ocspresp.Unknown:                  {schedule.Certificate, ocsphttp.OtherHash},
	ocspresp.Serial:                   {schedule.Certificate, ocsphttp.OtherHash},
	ocspresp.IssuerName:               {schedule.Certificate, ocsphttp.OtherHash},
	ocspresp.IssuerKey:                {schedule.Certificate, ocsphttp.OtherHash},
	ocspresp.HashAlgorithm:            {schedule.Certificate, ocsphttp.OtherHash},
	ocspresp.Replay:                   {schedule.Certificate, ocsphttp.PastCaches},
}

// Verdict returns whom a refusal speaks of. The root's Reasons have the same numbers.
func Verdict(r ocspresp.Reason) schedule.Verdict {
	if refused, ok := refusals[r]; ok {
		return refused.verdict
	}
	return schedule.Fault
}

// better returns the changes of the request that may do better than one whose answer
// was refused with err.
func (x *Exchange) better(err error) ocsphttp.Way {
	// Every other error is HTTP's, which tries POST by itself.
	e, ok := errors.AsType[*ocspresp.Error](err)
	if !ok {
		return 0
	}
	ways := refusals[e.Reason].better
	// An expired response may be a cache's, whichever of its times is past. So may the
	// same answer once more, unless POST is tried anyway.
	if errors.Is(err, ocspresp.ErrExpired) || e.Reason == x.Refused && ways&ocsphttp.Post == 0 {
		ways |= ocsphttp.PastCaches
	}
	return ways
}

// Doubts reports whether a refusal may be due to the issuer by whose key the certificate was
// asked about: the responder has answered, with a status of HTTP where it has no file for
// another key, say, and no signature has verified.
func Doubts(r ocspresp.Reason) bool {
	switch ocsphttp.Kind(r) {
	case 0, ocsphttp.Network, ocsphttp.Timeout:
		return false
	}
	return r < ocspresp.ThisUpdate // from there on one has
}

// OfTheClock reports whether a refusal depends on what time it is. It may be the wrong one.
func OfTheClock(r ocspresp.Reason) bool {
	switch r {
	case ocspresp.DelegateValidity, ocspresp.ThisUpdate, ocspresp.ProducedAt, ocspresp.Expired:
		return true
	}
	return false
}
