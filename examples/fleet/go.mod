module github.com/ocspstaple/staple/examples/fleet

go 1.26.0

require (
	github.com/ocspstaple/staple v0.1.0
	github.com/ocspstaple/staple/redisstore v0.1.0
	github.com/redis/go-redis/v9 v9.23.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/ocspstaple/staple => ../../
	github.com/ocspstaple/staple/redisstore => ../../redisstore
)
