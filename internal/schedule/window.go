package schedule

import "time"

const (
	second = int64(time.Second)
	minute = int64(time.Minute)
	hour   = int64(time.Hour)

	// MinGap is the shortest pause between two attempts, whatever the validity.
	MinGap = int64(100 * time.Millisecond)
	// refreshGap is the shortest pause after a success. A tenant's responder may sign for a
	// second, and have each certificate asked about, verified and stored ten times in one.
	refreshGap = second / 2
	// clockSkew is how far the clocks of servers and responders differ.
	clockSkew = 5 * minute
)

// Held has the times of a response that is held, all that the schedule needs of it.
// The zero value is none. Times are Unix ns.
type Held struct {
	From    int64 // thisUpdate, or the receipt of a response without nextUpdate
	Until   int64 // it is not served from then on
	Checked int64 // when a responder last confirmed it
	MaxAge  int64 // ns that the responder's cache headers ask for
	Length  int64 // ns that it was signed for, if it has a nextUpdate: a delegate's certificate may end it sooner
	Open    bool  // it has no nextUpdate: it is not served before From, less a tolerance
	Silent  bool  // its expiry is no news, as that of a revocation
}

// Window returns the span in which to ask again after a success: after ttl or
// the responder's max-age where that is longer, but at half of the validity at
// the latest. fixed: the user chose ttl, and max-age counts for nothing. The
// span is a quarter, or more where half-life is what ends it, so that
// certificates that were loaded together drift apart.
func (h Held) Window(ttl int64, fixed bool) (from, to int64) {
	length := h.Until - h.From
	half := h.From + length/2 - h.Checked // counted from Checked, as all that follows
	maxAge := min(max(h.MaxAge, 0), Never/2)
	if fixed {
		maxAge = 0
	}
	gap := max(ttl, maxAge+maxAge/3)
	switch hint := min(maxAge, half); {
	case hint > 0 && hint >= half-clockSkew && half <= length/4:
		// This was the refresh at half-life, and max-age ends when the successor is
		// signed. Ask for that soon, but not for all at once.
		from, to = hint, hint+length/11
	case half <= length/8:
		// Half-life is past and no successor came: ask more often as the end nears.
		to = min((h.Until-h.Checked)/8, ttl)
		from = to - to/4
	case gap > half && hint > half/2:
		// max-age reaches beyond half-life. It is cut short: a request just before
		// half-life would bring the same response.
		from, to = half-half/2, half-half/8
	default:
		to = min(gap, half)
		from = to - to/4
	}
	least := max(min(length/64, ttl/2, minute), MinGap)
	return h.Checked + max(from, least), h.Checked + max(to, least)
}
