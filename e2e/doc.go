// Package e2e has the tests of staple in its ecosystem: with a real ACME CA,
// with the servers and the sources of certificates that people have, and with
// the clients that check staples. Its examples show how each is set up.
//
// It is a module of its own, outside of go.work, since what it needs requires
// some hundred modules, which would slow down the first run of everything else:
//
//	cd e2e && GOWORK=off go test ./...
package e2e
