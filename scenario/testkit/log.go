package testkit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// Logbook is a slog.Handler that keeps what was logged. The zero value is ready,
// and for concurrent use.
type Logbook struct {
	mu      sync.Mutex // guards the rest
	records []slog.Record
}

// Enabled reports true: every level is kept.
func (l *Logbook) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs returns l.
func (l *Logbook) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup returns l.
func (l *Logbook) WithGroup(string) slog.Handler { return l }

// Handle keeps r.
func (l *Logbook) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r.Clone())
	return nil
}

// Logger returns a logger that writes to l.
func (l *Logbook) Logger() *slog.Logger { return slog.New(l) }

// Loud returns the messages at warn level or above, in order.
func (l *Logbook) Loud() (msgs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		if r.Level >= slog.LevelWarn {
			msgs = append(msgs, r.Message)
		}
	}
	return msgs
}

// All returns what was logged.
func (l *Logbook) All() []slog.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Ledger keeps the kinds of events, in order. It is for concurrent use.
type Ledger struct {
	mu     sync.Mutex // guards events
	events []string
}

// Add keeps kind.
func (l *Ledger) Add(kind fmt.Stringer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, kind.String())
}

// All returns what was added.
func (l *Ledger) All() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}
