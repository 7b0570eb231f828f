package redisstore_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/ocspstaple/staple/redisstore"
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
	eventually(t, "a lease ends", func() bool { held, _ := s.Lease(ctx, "k2", time.Minute); return held })
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
