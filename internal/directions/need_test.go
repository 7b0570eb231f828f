package directions_test

import (
	"errors"
	"testing"

	"github.com/ocspstaple/staple/internal/directions"
	"github.com/ocspstaple/staple/internal/schedule"
)

// Each fact decides where none before it does, whatever the ones after it are.
func TestDecide(t *testing.T) {
	unreadable, unsaid, unissued := errors.New("does not parse"), errors.New("not said"), errors.New("no issuer")
	type facts = directions.Facts
	wanted, none, off := directions.Route{Need: schedule.Wanted}, directions.Route{Need: schedule.None}, directions.Route{Need: schedule.Off}
	failed := directions.Route{Need: schedule.Wanted, Err: unsaid}
	for _, tt := range []struct {
		name string
		f    facts
		need schedule.Need
		why  error
	}{
		{"does not parse", facts{Unreadable: unreadable, Route: wanted}, schedule.None, unreadable},
		{"does not parse, whatever else", facts{Unreadable: unreadable, Route: off, MustStaple: true, Expired: true, Unissued: unissued, Final: true}, schedule.None, unreadable},
		{"off", facts{Route: off}, schedule.Off, nil},
		{"off, whatever else", facts{Route: off, MustStaple: true, Expired: true, Unissued: unissued, Final: true}, schedule.Off, nil},
		{"expired", facts{Route: wanted, Expired: true}, schedule.LeafExpired, directions.ErrLeafExpired},
		{"expired, not said", facts{Route: failed, Expired: true}, schedule.LeafExpired, directions.ErrLeafExpired},
		{"expired, needs none", facts{Route: none, Expired: true, MustStaple: true}, schedule.LeafExpired, directions.ErrLeafExpired},
		{"expired, no issuer", facts{Route: wanted, Expired: true, Unissued: unissued, Final: true}, schedule.LeafExpired, directions.ErrLeafExpired},
		{"needs none", facts{Route: none}, schedule.None, nil},
		{"needs none, no issuer", facts{Route: none, Unissued: unissued, Final: true}, schedule.None, nil},
		{"Must-Staple, and nobody to ask", facts{Route: none, MustStaple: true}, schedule.Hopeless, directions.ErrNoResponder},
		{"Must-Staple, and nobody to ask, no issuer", facts{Route: none, MustStaple: true, Unissued: unissued, Early: true}, schedule.Hopeless, directions.ErrNoResponder},
		{"wanted", facts{Route: wanted}, schedule.Wanted, nil},
		{"wanted, Must-Staple", facts{Route: wanted, MustStaple: true}, schedule.Wanted, nil},
		{"not said", facts{Route: failed}, schedule.Wanted, unsaid},
		{"not said, Must-Staple", facts{Route: failed, MustStaple: true}, schedule.Wanted, unsaid},
		{"not said, no issuer", facts{Route: failed, Unissued: unissued, Final: true}, schedule.Wanted, unsaid},
		{"early", facts{Route: wanted, Early: true}, schedule.Wanted, nil},
		{"early, no issuer", facts{Route: wanted, Early: true, Unissued: unissued, Final: true}, schedule.Wanted, nil},
		{"no issuer", facts{Route: wanted, Unissued: unissued}, schedule.NoIssuer, unissued},
		{"no issuer, Must-Staple", facts{Route: wanted, Unissued: unissued, MustStaple: true}, schedule.NoIssuer, unissued},
		{"no issuer, for good", facts{Route: wanted, Unissued: unissued, Final: true}, schedule.Hopeless, unissued},
	} {
		if need, why := directions.Decide(&tt.f); need != tt.need || why != tt.why {
			t.Errorf("%s: got %v, %v; want %v, %v", tt.name, need, why, tt.need, tt.why)
		}
	}
}
