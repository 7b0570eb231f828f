package ocsptest_test

import (
	"fmt"

	"github.com/ocspstaple/staple/ocsptest"
)

// Faults can be listed, for a test that goes through all of them.
func ExampleFaults() {
	for _, fault := range ocsptest.Faults()[:3] {
		fmt.Println(fault)
	}
	// Output:
	// refused
	// no-host
	// reset
}
