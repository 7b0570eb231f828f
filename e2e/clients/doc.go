// Package clients has one test: it shows staples, good, bad and none, to the
// TLS clients that people have, and writes what they do with them to
// docs/clients.md.
package clients
