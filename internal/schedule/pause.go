package schedule

import "time"

// random returns a random number in [0, n), n being positive. It is an argument of
// New, as the time is one of each call.
type random func(n int64) int64

// below is random for any n.
func (r random) below(n int64) int64 {
	if n <= 0 {
		return 0
	}
	return r(n)
}

// pause returns how long to wait after a failure, the one formula for
// certificates and responders. lasted is how long it has failed. Pauses are as
// long as that, and so double, from a second to a minute; then a sixteenth of
// it, so that the end of an outage is noticed within a sixteenth of its length.
// bound is what can be afforded. hint, a Retry-After, is honoured up to there.
// Jitter only shortens.
func (r random) pause(lasted, bound, hint int64) int64 {
	d := max(second, min(lasted, minute), lasted/16)
	d = max(min(d, bound), MinGap)
	d -= r.below(d / 4)
	return max(d, min(hint, bound), MinGap)
}

// stakes is what there is to lose with a certificate.
type stakes struct {
	until    int64  // the response is not served from then on; zero: there never was one
	validity uint32 // seconds that the last response was valid for, at least one
	must     bool   // Must-Staple
	inUse    bool
}

// longest holds the longest pauses, for certificates that are in use and have
// Must-Staple, are in use, are not. A second row is for failures that the
// certificate is the reason of, and not the responder.
var longest = [2][3]int64{
	{5 * minute, 15 * minute, 2 * hour},
	{15 * minute, hour, 2 * hour},
}

// current reports whether there is a response that may be served at now.
func (s *stakes) current(now int64) bool { return now < s.until }

// length is the validity in ns.
func (s *stakes) length() int64 { return int64(s.validity) * second }

// bound returns the longest pause that can be afforded: an eighth of what is
// left of a response, and the validity of the last one. An eighth of little is
// next to nothing: a floor that grows with the validity keeps a thousand
// certificates that expire one after the other from costing a thousand times
// what one costs.
func (s *stakes) bound(now int64, certificate bool) int64 {
	row, class := longest[0], 2
	if certificate {
		row = longest[1]
	}
	switch {
	case s.inUse && s.must:
		class = 0
	case s.inUse:
		class = 1
	}
	most := row[class]
	if s.validity > 0 {
		most = min(most, s.length())
	}
	if s.current(now) {
		floor := max(min(s.length()/64, minute), MinGap)
		most = min(most, max((s.until-now)/8, floor))
	}
	return most
}

// affords returns how long a request may take: half of what is left of a response,
// so that another try is possible. Where it has expired, half of what it was
// valid for: one that hangs must not take several validities.
func (s *stakes) affords(now int64) int64 {
	switch {
	case s.current(now):
		return max((s.until-now)/2, second)
	case s.validity > 0:
		return max(s.length()/2, second)
	}
	return Never
}

// byExpiry returns when to make an attempt that is planned for at: when the
// response expires at the latest. Caches may have its successor only then.
func (s *stakes) byExpiry(at, now int64, r random) int64 {
	if s.current(now) {
		at = min(at, s.until+r.below(MinGap))
	}
	return max(at, now+MinGap)
}

// In a fleet one process has the lease on a certificate and asks. The others wait
// for what it stores, and poll the store. A holder that is cut off from the
// responder must not take the staples of the others away: they ask by themselves
// when patience is over.

const (
	// leaseTerm is how long a lease lasts: records.LeaseTerm, which this package may
	// not import.
	leaseTerm = 15 * second
	// firstPoll and lastPoll bound the first pause between two looks at the store.
	firstPoll = int64(400 * time.Millisecond)
	lastPoll  = 2 * second
)

// patience returns how long to wait for the holder of the lease, from a time on:
// for two of its terms, and longer with each failure, or a fleet would ask as
// often as all its members; but for a quarter of what is left at most.
func (s *stakes) patience(from int64, failures int) int64 {
	d := 2 * leaseTerm << min(failures, 6)
	switch {
	case s.current(from):
		return min(d, (s.until-from)/4)
	case s.validity > 0:
		return min(d, s.length()/4)
	}
	return d
}

// poll returns how long to wait before the store is read again. The first pauses
// are short, as a handshake may wait; a holder that gets no answer is no reason
// to keep the store busy.
func (s *stakes) poll(now, left int64, polls, failures int, r random) int64 {
	d := min(max((s.until-now)/8, firstPoll), lastPoll) << min(polls, 3+failures/2, 6)
	d = min(d, 2*left)
	return d - r.below(d/2)
}
