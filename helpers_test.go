package staple_test

import (
	"os"
	"testing"

	"github.com/ocspstaple/staple/scenario/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// long reports whether tests may take minutes: STAPLE_LONG is set, as in CI.
func long() bool { return os.Getenv("STAPLE_LONG") != "" }

// The names by which the tests of the year use testkit.
const (
	day         = testkit.Day
	raceEnabled = testkit.RaceEnabled
)

var (
	asking = testkit.Asking
	talk   = testkit.Talk
)
