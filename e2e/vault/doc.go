// Package vault has the tests of staple with HashiCorp Vault's PKI secrets
// engine, the real one, in the test's own process. OpenBao's is a fork of it
// and makes its responses in the same way.
//
// It is a module of its own, since the engine brings some eighty others (114 MB)
// in versions that suit nothing else here:
//
//	cd e2e/vault && GOWORK=off go test ./...
//
// .ci/run leaves out go mod tidy, which fetches four times as much for the
// tests of Vault's own packages.
package vault
