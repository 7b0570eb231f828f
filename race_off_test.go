//go:build !race

package staple_test

// raceEnabled: see race_on_test.go.
const raceEnabled = false
