// Package redisstore keeps OCSP responses in Redis or Valkey, for a fleet of
// servers that share certificates: one of them makes the request, the others use the
// response that it stored, and a new server staples from its first handshake.
//
//	client := redisstore.Client(&redis.UniversalOptions{Addrs: []string{"redis.internal:6379"}})
//	s := staple.New(staple.WithStore(redisstore.New(client, "")))
//
// Values in Redis are not trusted: staple verifies each response as if it came from the
// network. The server itself, and the network on the way to it, are: go-redis allocates as
// many bytes as a reply announces, so a false one ends the process. Where others can reach
// the connection, set TLSConfig. While Redis is down each server makes its own requests
// and serves the responses in its memory.
//
// A fleet that has a store for autocert does not need this package: every
// autocert.Cache is a staple.Store. It lacks the lease, so each server makes a
// request when a response is due.
//
// It sends GETRANGE, SET, DEL, EVALSHA and EVAL, and in a script GET and SET: a
// user of Redis that is limited to some commands needs those, SELECT if DB is not 0,
// and CLUSTER SLOTS and COMMAND in a cluster.
//
// go-redis logs to stderr. This makes it log to your logger instead, in the whole
// process:
//
//	redis.SetLogger(redisstore.Logger{Logger: slog.Default()})
package redisstore

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/redis/go-redis/v9"
)

const (
	// defaultPrefix keeps apart what others have in the same database.
	defaultPrefix = "staple:"
	// defaultLife is how long a record is kept that does not say when its
	// response expires, and shortest the least that any is kept.
	defaultLife = 24 * time.Hour
	shortest    = time.Second
	// maxRecord is the longest record that staple reads, in bytes.
	maxRecord = 256 << 10
	// patience bounds a call to Redis where the caller's context doesn't.
	patience = time.Second
)

// A Store is a [staple.Store] and a [staple.Leaser] in Redis or Valkey. Records
// expire with their responses. Its methods may be called concurrently.
type Store struct {
	client redis.UniversalClient
	prefix string
	token  string        // says which leases are ours
	take   *redis.Script // takeLease
}

var (
	_ staple.Store  = (*Store)(nil)
	_ staple.Leaser = (*Store)(nil)
)

// New returns a Store on client, which stays the caller's to close. Keys begin
// with prefix, "staple:" if it is empty; a fleet has one prefix. A lease is held
// by one Store: make one for each process, and share it among its Staplers.
//
// client should honour the deadline of a context, as those made by [Client] do:
// go-redis waits 3 s for an answer by default, and a Stapler 100 ms.
func New(client redis.UniversalClient, prefix string) *Store {
	if prefix == "" {
		prefix = defaultPrefix
	}
	s := &Store{client: client, prefix: prefix, token: rand.Text()}
	fips140.WithoutEnforcement(func() { s.take = redis.NewScript(takeLease) }) // Redis knows scripts by their SHA-1, which protects nothing
	return s
}

// Client returns a client for a single node, for Sentinel or for a Cluster, by
// opts, as redis.NewUniversalClient does. It honours the deadlines of contexts,
// and where opts leaves them zero waits at most 1 s to dial, to read and to
// write, and sends a command that failed once more; in a Cluster it also follows
// 3 redirections (MaxRedirects). go-redis dials up to 5 times for each of these, 100
// ms apart: the deadline of the context bounds them together. opts is not changed;
// nil is localhost:6379.
func Client(opts *redis.UniversalOptions) redis.UniversalClient {
	var own redis.UniversalOptions
	if opts != nil {
		own = *opts
	}
	own.ContextTimeoutEnabled = true
	for _, d := range []*time.Duration{&own.DialTimeout, &own.ReadTimeout, &own.WriteTimeout} {
		if *d == 0 {
			*d = patience
		}
	}
	if own.MaxRetries == 0 {
		own.MaxRetries = 1
	}
	return redis.NewUniversalClient(&own)
}

// Get returns the record under key. If there is none, or an empty one, the error is
// [fs.ErrNotExist]. Of a value of more than 256 KiB, which is no record of staple, no
// more than that is read, and the error says so.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := s.client.GetRange(ctx, s.prefix+key, 0, maxRecord).Bytes() // both ends included
	switch {
	case err != nil:
		return nil, wrap(err)
	case len(data) == 0: // what Redis says of a key that is not there
		return nil, fmt.Errorf("redisstore: %s: %w", key, fs.ErrNotExist)
	case len(data) > maxRecord:
		return nil, fmt.Errorf("redisstore: %s: the value is longer than any record, %d KiB", key, maxRecord>>10)
	}
	return data, nil
}

// Put stores a record until its response expires, by the header Expires that
// records of staple have; for a day if there is none.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	return wrap(s.client.Set(ctx, s.prefix+key, data, life(data, time.Now())).Err())
}

// Delete removes the record under key, if there is one.
func (s *Store) Delete(ctx context.Context, key string) error {
	return wrap(s.client.Del(ctx, s.prefix+key).Err())
}

// takeLease takes a lease that is free, or ours, which renews it.
const takeLease = `
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`

// Lease reports whether this Store holds the lease on key for ttl from now: it
// was free, had ended, or is this Store's own, which it renews.
func (s *Store) Lease(ctx context.Context, key string, ttl time.Duration) (held bool, err error) {
	got, err := s.take.Run(ctx, s.client, []string{s.prefix + "lease:" + key}, s.token, max(ttl, time.Millisecond).Milliseconds()).Int()
	return got == 1, wrap(err)
}

// A Logger has go-redis log to a slog.Logger: see redis.SetLogger. Its lines have
// the message "go-redis" and are at debug level, as a Stapler says once, at warn,
// that its store fails. The embedded Logger must not be nil.
type Logger struct{ *slog.Logger }

// Printf implements the interface that go-redis wants.
func (l Logger) Printf(ctx context.Context, format string, args ...any) {
	if l.Enabled(ctx, slog.LevelDebug) {
		l.DebugContext(ctx, "go-redis", "text", fmt.Sprintf(format, args...))
	}
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("redisstore: %w", err)
	}
	return nil
}

// life returns how long a record is worth keeping.
func life(data []byte, now time.Time) time.Duration {
	block, _ := pem.Decode(bytes.TrimSpace(data))
	if block == nil {
		return defaultLife
	}
	until, err := time.Parse(time.RFC3339, block.Headers["Expires"])
	if err != nil {
		return defaultLife
	}
	return max(until.Sub(now), shortest)
}
