package scenario_test

import (
	"testing"

	"github.com/ocspstaple/staple/scenario/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
