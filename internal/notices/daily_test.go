package notices_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ocspstaple/staple/internal/notices"
)

func TestLately(t *testing.T) {
	for _, tt := range []struct {
		name string
		told int64
		want bool
	}{
		{"never", 0, false},
		{"now", now, true},
		{"almost a day ago", now - day + 1, true},
		{"a day ago", now - day, false},
		{"ahead: the clock was set back", now + 1, false},
	} {
		if got := notices.Lately(tt.told, now); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestDaily(t *testing.T) {
	var d notices.Daily
	for i, tt := range []struct {
		kind string
		at   int64
		want bool
	}{
		{"a", 1, true}, // in 1970, where Lately(0, 1) is true
		{"a", now, true},
		{"a", now + minute, false},
		{"b", now + minute, true},
		{"a", now + day, true}, // what was told a minute after the first did not count
		{"b", now + day, false},
		{"a", now, true}, // the clock was set back
		{"a", now, false},
	} {
		if got := d.First(tt.kind, tt.at); got != tt.want {
			t.Errorf("%d: %s at %d: %v, want %v", i, tt.kind, tt.at-now, got, tt.want)
		}
	}
}

// Of several that fail at once one is told.
func TestDailyAtOnce(t *testing.T) {
	var d notices.Daily
	var first atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if d.First("a", now) {
				first.Add(1)
			}
		})
	}
	wg.Wait()
	if n := first.Load(); n != 1 {
		t.Errorf("%d were told, want 1", n)
	}
}

func TestOnce(t *testing.T) {
	if first, again := notices.Once(fault, true), notices.Once(fault, false); first != fault || again != debug {
		t.Errorf("%v, then %v, want %v, then %v", first, again, fault, debug)
	}
}
