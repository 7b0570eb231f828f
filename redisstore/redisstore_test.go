package redisstore_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ocspstaple/staple/redisstore"
	"github.com/ocspstaple/staple/scenario/testkit"
	"github.com/redis/go-redis/v9"
)

// record is what a Stapler stores: until says when it expires.
func record(until string) []byte {
	h := map[string]string{}
	if until != "" {
		h["Expires"] = until
	}
	return pem.EncodeToMemory(&pem.Block{Type: "OCSP RESPONSE", Headers: h, Bytes: []byte("x")})
}

// The contract of Store and Leaser holds on a single node, through Sentinel and
// in a Cluster.
func TestStore(t *testing.T) {
	for name, opts := range map[string]func(*testing.T) *redis.UniversalOptions{
		"single node": func(t *testing.T) *redis.UniversalOptions {
			return &redis.UniversalOptions{Addrs: []string{newNode(t).addr}}
		},
		"Sentinel": func(t *testing.T) *redis.UniversalOptions {
			return &redis.UniversalOptions{Addrs: []string{sentinel(t, newNode(t)).addr}, MasterName: "fleet"}
		},
		"Cluster": func(t *testing.T) *redis.UniversalOptions {
			return &redis.UniversalOptions{Addrs: []string{cluster(t).addr}, IsClusterMode: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contract(t, open(t, opts(t)))
		})
	}
}

func contract(t *testing.T, client redis.UniversalClient) {
	ctx := t.Context()
	s, other := redisstore.New(client, ""), redisstore.New(client, "")
	if _, err := s.Get(ctx, "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of nothing: %v", err)
	}
	data := record(time.Now().Add(time.Hour).Format(time.RFC3339))
	if err := s.Put(ctx, "k", data); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Get(ctx, "k"); err != nil || string(got) != string(data) {
		t.Errorf("Get: %q, %v", got, err)
	}
	if _, err := redisstore.New(client, "else:").Get(ctx, "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get with another prefix: %v", err)
	}
	if d := client.PTTL(ctx, "staple:k").Val(); d <= 58*time.Minute || d > time.Hour {
		t.Errorf("the record lasts %v, want an hour", d)
	}
	for range 2 { // taken, and renewed
		if held, err := s.Lease(ctx, "k", time.Minute); err != nil || !held {
			t.Fatalf("Lease: %v, %v", held, err)
		}
	}
	if held, err := other.Lease(ctx, "k", time.Minute); err != nil || held {
		t.Errorf("Lease of another's: %v, %v", held, err)
	}
	if held, err := other.Lease(ctx, "k2", time.Millisecond); err != nil || !held {
		t.Errorf("Lease of another key: %v, %v", held, err)
	}
	testkit.Eventually(t, 45*time.Second, "a lease ends", func() bool { held, _ := s.Lease(ctx, "k2", time.Minute); return held })
	if got, err := s.Get(ctx, "k"); err != nil || string(got) != string(data) {
		t.Errorf("the lease got in the way of the record: %q, %v", got, err)
	}
	if err := s.Delete(ctx, "k"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, "k"); err != nil {
		t.Error("Delete of nothing: ", err)
	}
	if _, err := s.Get(ctx, "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get after Delete: %v", err)
	}
}

// Records live as long as their responses: a day if they don't say, a moment if
// that is past.
func TestLife(t *testing.T) {
	client := newNode(t).client(t)
	s := redisstore.New(client, "p:")
	for _, tc := range []struct {
		data     []byte
		min, max time.Duration
	}{
		{record(time.Now().Add(time.Minute).Format(time.RFC3339)), 55 * time.Second, time.Minute},
		{record(time.Now().Add(-time.Minute).Format(time.RFC3339)), 1, time.Second},
		{record(""), 23 * time.Hour, 24 * time.Hour},
		{record("soon"), 23 * time.Hour, 24 * time.Hour},
		{[]byte("no PEM"), 23 * time.Hour, 24 * time.Hour},
	} {
		if err := s.Put(t.Context(), "k", tc.data); err != nil {
			t.Fatal(err)
		}
		if d := client.PTTL(t.Context(), "p:k").Val(); d < tc.min || d > tc.max {
			t.Errorf("%q lasts %v, want %v to %v", tc.data, d, tc.min, tc.max)
		}
	}
}

// A server that hangs costs no more than the caller's patience, and one that is
// not there is an error.
func TestAway(t *testing.T) {
	client := open(t, &redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}})
	s := redisstore.New(client, "")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "k"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
	if held, err := s.Lease(ctx, "k", time.Second); err == nil || held {
		t.Errorf("Lease: %v, %v", held, err)
	}
	if err := s.Put(ctx, "k", nil); err == nil {
		t.Error("Put: no error")
	}
	if opts := (*redis.UniversalOptions)(nil); redisstore.Client(opts) == nil {
		t.Error("no client for nil options")
	}
}

// counter counts the bytes that a connection reads.
type counter struct {
	net.Conn
	read *atomic.Int64
}

func (c counter) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// REQ I4: a value of 256 MiB costs 256 KiB, and is no record. One of 256 KiB is.
func TestLargeValue(t *testing.T) {
	var read atomic.Int64
	n := newNode(t)
	setup := redis.NewClient(&redis.Options{Addr: n.addr, ReadTimeout: 45 * time.Second}) // Redis fills the value with zeros
	defer setup.Close()
	client := open(t, &redis.UniversalOptions{Addrs: []string{n.addr}, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return counter{conn, &read}, err
	}})
	s, ctx := redisstore.New(client, ""), t.Context()
	for length, ok := range map[int64]bool{256 << 20: false, 256<<10 + 1: false, 256 << 10: true, 1: true} {
		if err := setup.Del(ctx, "staple:k").Err(); err != nil {
			t.Fatal(err)
		}
		if err := setup.SetRange(ctx, "staple:k", length-1, "x").Err(); err != nil {
			t.Fatal(err)
		}
		read.Store(0)
		data, err := s.Get(ctx, "k")
		if ok && (err != nil || int64(len(data)) != length) || !ok && (err == nil || errors.Is(err, fs.ErrNotExist) || data != nil) {
			t.Errorf("%d bytes: got %d, %v", length, len(data), err)
		}
		if n := read.Load(); n > 257<<10 {
			t.Errorf("%d bytes: %d were read", length, n)
		}
	}
}

// A command that fails is sent once more, and no more.
func TestRetries(t *testing.T) {
	client := newNode(t).client(t)
	s, ctx := redisstore.New(client, ""), t.Context()
	for _, args := range [][]any{{"CONFIG", "SET", "replica-serve-stale-data", "no"}, {"REPLICAOF", "127.0.0.1", "1"}} { // refuses all
		if err := client.Do(ctx, args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(ctx, "k"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
	if err := s.Put(ctx, "k", []byte("x")); err == nil {
		t.Error("Put: no error")
	}
	stats, err := client.Info(ctx, "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"getrange", "set"} {
		if !regexp.MustCompile(`cmdstat_` + command + `:calls=0,.*rejected_calls=2,`).MatchString(stats) {
			t.Errorf("%s was not sent twice: %s", command, stats)
		}
	}
}

// What go-redis does to dial is what Client says: up to 10 times, and the deadline
// of the context ends it.
func TestDials(t *testing.T) {
	var dials atomic.Int64
	client := open(t, &redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	s := redisstore.New(client, "")
	if _, err := s.Get(t.Context(), "k"); err == nil || dials.Load() != 10 {
		t.Errorf("%d dials, %v, want 10", dials.Load(), err)
	}
	dials.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "k"); err == nil || dials.Load() > 2 {
		t.Errorf("%d dials within 50 ms, %v", dials.Load(), err)
	}
}

// What go-redis logs reaches the operator's logger, at debug level.
func TestLogger(t *testing.T) {
	for level, want := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
		var buf locked
		redis.SetLogger(redisstore.Logger{Logger: slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: level}))})
		_, _ = redisstore.New(open(t, &redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}}), "").Get(t.Context(), "k")
		if got := buf.String(); (strings.Contains(got, `level=DEBUG msg=go-redis text="`) && strings.Contains(got, "failed to dial")) != want {
			t.Errorf("at %v it logs %q", level, got)
		}
	}
}

// locked is a buffer that several may write.
type locked struct {
	mu sync.Mutex // guards the rest
	b  strings.Builder
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
