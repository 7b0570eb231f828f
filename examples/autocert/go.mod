module github.com/ocspstaple/staple/examples/autocert

go 1.26.0

require (
	github.com/ocspstaple/staple v0.1.0
	golang.org/x/crypto v0.58.0
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/ocspstaple/staple => ../../
