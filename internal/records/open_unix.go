//go:build unix

package records

import "syscall"

// nonBlocking has a pipe open at once: without it that waits for a writer, for ever.
const nonBlocking = syscall.O_NONBLOCK
