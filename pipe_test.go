package staple_test

import "net"

// pipe returns the two ends of a connection in memory.
func pipe() (client, server net.Conn) { return net.Pipe() }
