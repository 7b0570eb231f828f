package waiting_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/waiting"
)

// One attempt serves all calls that want one, with the urgency of the most urgent.
func TestOneAttemptForAll(t *testing.T) {
	var w waiting.Waiters[string]
	add := func(c waiting.Call[string], f waiting.Facts) *waiting.Turn[string] {
		turn := c.Add("a", false)
		turn.Step(f)
		w.Add(turn)
		return turn
	}
	first, second := add(prefetch, old), add(until, stored)
	if joined, forced := w.Deferred(schedule.Urgent), w.Deferred(schedule.Forced); joined != schedule.Forced || forced != schedule.Routine {
		t.Errorf("for a Prefetch an attempt that it joined goes on with %v, one that is forced with %v", joined, forced)
	}
	third := add(refresh, old)
	w.Ended(errFailed)
	if got := w.News(idle); got != schedule.Forced || first.Done || second.Done || third.Done {
		t.Errorf("%v, want one more attempt, for which all wait", got)
	}
	w.Ended(errFailed)
	if got := w.News(idle); got != schedule.Routine || !first.Done || second.Done || !third.Done {
		t.Errorf("%v, %v, %v, %v; want that the second goes on", got, first.Done, second.Done, third.Done)
	}
	if got := w.Deferred(schedule.Routine); got != schedule.Routine {
		t.Errorf("%v after the Prefetch's own attempt", got)
	}
	fourth, fifth, patient := add(refresh, young), add(refresh, young), add(until, idle)
	if got := w.Deferred(schedule.Forced); got != schedule.Unconditional {
		t.Errorf("%v, though a Refresh waits", got)
	}
	w.Ended(nil)
	if got := w.News(idle); got != schedule.Routine || !fourth.Done || !fifth.Done || patient.Done {
		t.Errorf("%v, %v, %v; want that the attempt that was left to another process counts for both", got, fourth.Done, fifth.Done)
	}
	if w.Empty() || !w.Calls() {
		t.Error("nobody waits, though a Prefetch does")
	}
}

// Handshakes share a gate until there is news, and the next wait at another.
func TestGate(t *testing.T) {
	var w waiting.Waiters[string]
	begun := time.Now()
	one, first := w.Gate(begun)
	if two, again := w.Gate(begun.Add(time.Second)); !first || again || one != two || w.Empty() || w.Calls() {
		t.Error("two handshakes do not share a gate")
	}
	for _, tt := range []struct{ begun, now, want time.Duration }{
		{0, 0, 5 * time.Second},
		{0, 2 * time.Second, 3 * time.Second},
		{time.Second, 2 * time.Second, 3 * time.Second},  // as the first one, which came before it
		{-time.Second, 2 * time.Second, 2 * time.Second}, // it waited at another before
		{0, 6 * time.Second, -time.Second},
	} {
		if got := one.Left(5*time.Second, begun.Add(tt.begun), begun.Add(tt.now)); got != tt.want {
			t.Errorf("begun at %v, %v left at %v, want %v", tt.begun, got, tt.now, tt.want)
		}
	}
	if w.News(idle) != schedule.Routine || !w.Empty() {
		t.Error("the gate is there after the news")
	}
	if three, first := w.Gate(begun); !first || three == one {
		t.Error("an open gate is used again")
	}
}

// A handshake waits for the news, its time, or the end of a context.
func TestGateWait(t *testing.T) {
	for name, tt := range map[string]struct {
		news, gone, closed time.Duration // when
		took               time.Duration
		again              bool
	}{
		"news":               {time.Second, time.Hour, time.Hour, time.Second, true},
		"nothing":            {time.Hour, time.Hour, time.Hour, 5 * time.Second, true},
		"the client goes":    {time.Hour, 2 * time.Second, time.Hour, 2 * time.Second, false},
		"the Stapler closes": {time.Hour, time.Hour, 3 * time.Second, 3 * time.Second, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var w waiting.Waiters[string]
			begun := time.Now()
			g, _ := w.Gate(begun)
			time.AfterFunc(tt.news, func() { w.News(idle) })
			handshake, cancel := context.WithTimeout(t.Context(), tt.gone)
			defer cancel()
			closing, end := context.WithTimeout(t.Context(), tt.closed)
			defer end()
			if again := g.Wait(5*time.Second, handshake, closing); again != tt.again || time.Since(begun) != tt.took {
				t.Errorf("%s: again %v after %v, want %v after %v", name, again, time.Since(begun), tt.again, tt.took)
			}
		})
	}
}
