//go:build !race

package testkit

// RaceEnabled reports whether the race detector is in: then everything takes ten
// times as long.
const RaceEnabled = false
