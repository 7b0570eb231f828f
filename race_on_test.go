//go:build race

package staple_test

// raceEnabled: everything takes ten times as long.
const raceEnabled = true
