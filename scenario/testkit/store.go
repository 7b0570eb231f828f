package testkit

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"testing"
	"time"
)

// Shelf is a Store in memory with the shape of autocert's caches: an error of
// its own for a miss. A fault is called first and may wait, fail or panic. The
// zero value is empty. Its methods are for concurrent use; Data and Puts are for
// when nothing else uses it.
type Shelf struct {
	mu    sync.Mutex        // guards the rest
	Data  map[string][]byte // the records, by key
	Puts  int               // how many were stored
	fault func(ctx context.Context, op string) error
}

var errShelfMiss = errors.New("shelf: no such key")

// Begin is how each operation begins: with the fault, or ctx's error.
func (s *Shelf) Begin(ctx context.Context, op string) error {
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return ctx.Err()
	}
	return fault(ctx, op)
}

// Get returns a copy of a record.
func (s *Shelf) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.Begin(ctx, "Get"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.Data[key]; ok {
		return bytes.Clone(data), nil
	}
	return nil, errShelfMiss
}

// Put keeps a copy of data.
func (s *Shelf) Put(ctx context.Context, key string, data []byte) error {
	if err := s.Begin(ctx, "Put"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Data == nil {
		s.Data = make(map[string][]byte)
	}
	s.Data[key] = bytes.Clone(data)
	s.Puts++
	return nil
}

// Delete removes a record, if it is there.
func (s *Shelf) Delete(ctx context.Context, key string) error {
	if err := s.Begin(ctx, "Delete"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.Data, key)
	return nil
}

// Fail sets the fault, which is called with "Get", "Put", "Delete" or "Lease"; nil is
// none.
func (s *Shelf) Fail(f func(ctx context.Context, op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Delay has each operation of a name take that long, whatever its context.
func (s *Shelf) Delay(op string, d time.Duration) {
	s.Fail(func(_ context.Context, got string) error {
		if got == op {
			time.Sleep(d)
		}
		return nil
	})
}

// Denying is a store that never grants a lease.
type Denying struct{ *Shelf }

// Lease implements staple.Leaser.
func (Denying) Lease(context.Context, string, time.Duration) (bool, error) { return false, nil }

// Only returns the one record that there is, and its key.
func (s *Shelf) Only(t testing.TB) (key string, data []byte) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.Data) != 1 {
		t.Fatalf("%d records, want 1", len(s.Data))
	}
	for key, data = range s.Data {
	}
	return key, data
}

// Set replaces a record, past the fault.
func (s *Shelf) Set(key string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Data[key] = data
}

// TimedTalk is MustTalk and how long it took.
func TimedTalk(t testing.TB, server, client *tls.Config) (tls.ConnectionState, time.Duration) {
	t.Helper()
	begun := time.Now()
	cs := MustTalk(t, server, client)
	return cs, time.Since(begun)
}
