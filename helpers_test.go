package staple_test

import (
	"testing"

	"github.com/ocspstaple/staple/scenario/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// The names by which the tests of the year use testkit.
const day = testkit.Day

var (
	asking = testkit.Asking
	talk   = testkit.Talk
)
