package notices

import (
	"log/slog"
	"sync"
	"time"
)

// day is how often a failure that lasts is told.
const day = int64(24 * time.Hour)

// Lately reports whether what is told once a day was told, at the Unix ns told, less than
// a day before now. A time that is ahead does not count: it was noted by a clock that
// was set back since.
func Lately(told, now int64) bool { return told <= now && now-told < day }

// Once returns the level of what is told at that level the first time only, and at debug
// level when it is repeated.
func Once(level slog.Level, first bool) slog.Level {
	if first {
		return level
	}
	return slog.LevelDebug
}

// Daily tells the first failure of a kind and day from those that follow, so that code
// which always fails does not fill the log. The zero Daily is ready for use, by
// several goroutines. It keeps one time for each kind, so kinds must be few.
type Daily struct {
	mu   sync.Mutex
	told map[string]int64 // Unix ns, by kind
}

// First reports whether a failure of this kind is to be told, and notes that it is told
// now, so call it once for each.
func (d *Daily) First(kind string, now int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A kind that is not there was never told, and the Unix time 0 is a time like any other.
	if told, ok := d.told[kind]; ok && Lately(told, now) {
		return false
	}
	if d.told == nil {
		d.told = make(map[string]int64)
	}
	d.told[kind] = now
	return true
}
