// Package tally counts what happens at every handshake, by kind, so that processors
// that count at the same time do not wait for each other.
//
// The root counts handshakes by State in it. It is written at each handshake and read
// when somebody asks for the statistics.
package tally

import (
	"hash/maphash"
	"sync/atomic"
)

// Kinds is how many kinds there may be: their counters fill a cache line.
const Kinds = 8

// A Counter counts from 0. Make one with [New]; it may be used concurrently.
type Counter struct {
	seed   maphash.Seed
	shards [8]shard // of each processor's own, mostly
}

// A shard is as long as a cache line: two processors that write to one would take it
// from each other.
type shard [Kinds]atomic.Uint64

// New returns a Counter that has counted nothing.
func New() *Counter { return &Counter{seed: maphash.MakeSeed()} }

// Add counts one of a kind, which is below Kinds. The pointer is hashed, not read: two
// handshakes at the same time have two, and so mostly two shards.
func Add[T any](c *Counter, at *T, kind uint8) {
	c.shards[maphash.Comparable(c.seed, at)%uint64(len(c.shards))][kind%Kinds].Add(1)
}

// Sum returns how many of a kind were counted.
func (c *Counter) Sum(kind uint8) (n uint64) {
	for i := range c.shards {
		n += c.shards[i][kind%Kinds].Load()
	}
	return n
}
