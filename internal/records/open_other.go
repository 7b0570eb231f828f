//go:build !unix

package records

// nonBlocking is nothing where directories hold no pipes.
const nonBlocking = 0
