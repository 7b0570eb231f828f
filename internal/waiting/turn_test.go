package waiting_test

import (
	"errors"
	"testing"

	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/waiting"
)

const second = int64(1e9)

var (
	errFailed  = errors.New("the attempt failed")
	errLater   = errors.New("a later one failed")
	errProblem = errors.New("no valid response")
	errDropped = errors.New("forgotten")
)

// Facts that the rows below have in common. The calls begin at 100 s.
var (
	idle     = waiting.Facts{Problem: errProblem}
	young    = waiting.Facts{Problem: errProblem, UnderWay: true, Began: 99*second + 1}
	old      = waiting.Facts{Problem: errProblem, UnderWay: true, Began: 99 * second}
	stored   = waiting.Facts{Problem: errProblem, UnderWay: true, Began: 100 * second, Impatient: true}
	valid    = waiting.Facts{Settled: true}
	revoked  = waiting.Facts{Settled: true, Problem: errProblem}
	hopeless = waiting.Facts{Problem: errProblem, Final: true}
	dropped  = waiting.Facts{Problem: errProblem, Dropped: errDropped}
	expired  = waiting.Facts{Settled: true, Dropped: errDropped}
)

// prefetch, until its deadline, and refresh are the calls that there are.
var (
	prefetch = waiting.Call[string]{Begun: 100 * second}
	until    = waiting.Call[string]{Begun: 100 * second, Retry: true}
	refresh  = waiting.Call[string]{Begun: 100 * second, Refresh: true}
)

// What a turn answers.
const (
	wait = iota
	force
	raise
	fresh
	done
)

var urgencies = map[schedule.Urgency]int{schedule.Routine: wait, schedule.Forced: force, schedule.Urgent: raise, schedule.Unconditional: fresh}

// step is what a turn is told, and what it answers.
type step struct {
	ends   []error // of attempts that ended before
	defers bool    // the attempt was left to another process before
	facts  waiting.Facts
	want   int
	err    error // of done
}

func ended(err error) []error { return []error{err} }

// How calls go, from their first step to the last.
func TestTurn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		call  waiting.Call[string]
		made  bool
		steps []step
	}{
		{"a valid response is there", prefetch, false, []step{{facts: valid, want: done}}},
		{"it is revoked", prefetch, false, []step{{facts: revoked, want: done, err: errProblem}}},
		{"what is held counts, though the certificate was dropped", prefetch, false, []step{{facts: expired, want: done}}},
		{"closed", prefetch, false, []step{{facts: dropped, want: done, err: errDropped}}},
		{"one attempt, without a deadline", prefetch, false, []step{
			{facts: idle, want: force}, {facts: idle, want: wait}, {ends: ended(errFailed), facts: idle, want: done, err: errProblem}}},
		{"the attempt succeeds", prefetch, false, []step{{facts: idle, want: force}, {ends: ended(nil), facts: valid, want: done}}},
		{"a record is read meanwhile", prefetch, false, []step{{facts: idle, want: force}, {facts: valid, want: done}}},
		{"forgotten meanwhile", prefetch, false, []step{{facts: idle, want: force}, {facts: dropped, want: done, err: errDropped}}},
		{"the attempt was made for the call", prefetch, true, []step{{facts: stored, want: wait}, {ends: ended(errFailed), facts: idle, want: done, err: errProblem}}},
		{"a young attempt is joined", prefetch, false, []step{{facts: young, want: raise}, {ends: ended(errFailed), facts: idle, want: done, err: errProblem}}},
		{"an old one is, too, and followed by another if it fails", prefetch, false, []step{
			{facts: old, want: raise}, {facts: old, want: wait}, {ends: ended(errFailed), facts: idle, want: force}, {ends: ended(errFailed), facts: idle, want: done, err: errProblem}}},
		{"an old one succeeds", prefetch, false, []step{{facts: old, want: raise}, {ends: ended(nil), facts: valid, want: done}}},
		{"one that was impatient with the store is followed by another", prefetch, false, []step{
			{facts: stored, want: raise}, {ends: ended(errFailed), facts: idle, want: force}, {ends: ended(errFailed), facts: idle, want: done, err: errProblem}}},
		{"another joined one follows", prefetch, false, []step{
			{facts: old, want: raise}, {ends: ended(errFailed), facts: old, want: raise}, {ends: ended(errFailed), facts: idle, want: force}}},
		{"another process has the lease", prefetch, false, []step{
			{facts: idle, want: force}, {defers: true, facts: idle, want: wait}, {ends: ended(nil), facts: valid, want: done}}},
		{"until the deadline", until, false, []step{
			{facts: idle, want: force}, {ends: ended(errFailed), facts: idle, want: wait}, {facts: idle, want: wait}, {ends: ended(errFailed), facts: idle, want: wait}, {ends: ended(nil), facts: valid, want: done}}},
		{"until nothing can come of it", until, false, []step{
			{facts: idle, want: force}, {ends: ended(errFailed), facts: idle, want: wait}, {ends: ended(errFailed), facts: hopeless, want: done, err: errProblem}}},
		{"nothing can come of it", until, false, []step{{facts: idle, want: force}, {ends: ended(errFailed), facts: hopeless, want: done, err: errProblem}}},
		{"it is asked about all the same", until, false, []step{{facts: hopeless, want: force}, {facts: hopeless, want: wait}}},

		{"whatever is held", refresh, false, []step{{facts: valid, want: fresh}, {facts: valid, want: wait}, {ends: ended(nil), facts: valid, want: done}}},
		{"its error is the attempt's", refresh, false, []step{{facts: valid, want: fresh}, {ends: ended(errFailed), facts: valid, want: done, err: errFailed}}},
		{"that it is revoked is no error", refresh, false, []step{{facts: idle, want: fresh}, {ends: ended(nil), facts: revoked, want: done}}},
		{"closed, whatever is held", refresh, false, []step{{facts: expired, want: done, err: errDropped}}},
		{"forgotten after a failure", refresh, false, []step{{facts: young, want: fresh}, {ends: ended(errFailed), facts: dropped, want: done, err: errDropped}}},
		{"the attempt was made for it", refresh, true, []step{{facts: young, want: wait}, {ends: ended(errFailed), facts: idle, want: done, err: errFailed}}},
		{"an attempt under way is followed by its own", refresh, false, []step{
			{facts: young, want: fresh}, {ends: ended(errFailed), facts: young, want: wait}, {ends: ended(errLater), facts: idle, want: done, err: errLater}}},
		{"the failure of the first is forgotten", refresh, false, []step{{facts: young, want: fresh}, {ends: []error{errFailed, nil}, facts: idle, want: done}}},
		{"the one under way is left to another process, and goes on as its own", refresh, false, []step{
			{facts: young, want: fresh}, {defers: true, facts: idle, want: wait}, {ends: ended(errFailed), facts: idle, want: done, err: errFailed}}},
		{"more attempts end than it waited for", refresh, false, []step{{facts: idle, want: fresh}, {ends: []error{nil, errFailed}, facts: idle, want: done, err: errFailed}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.call
			turn := c.Add("a", tt.made)
			var w waiting.Waiters[string]
			for i, s := range tt.steps {
				for _, err := range s.ends {
					w.Ended(err)
				}
				if s.defers && (w.Deferred(schedule.Routine) == schedule.Unconditional) != c.Refresh {
					t.Errorf("step %d: past the lease: %v", i, !c.Refresh)
				}
				start := schedule.Routine
				if i > 0 {
					start = w.News(s.facts)
				} else if start, _ = turn.Step(s.facts); !turn.Done {
					w.Add(turn)
				}
				got := urgencies[start]
				if turn.Done {
					got += done
				}
				if got != s.want || turn.Done && turn.Err != s.err || w.Calls() == turn.Done {
					t.Fatalf("step %d: %d, %v, waits %v; want %d, %v", i, got, turn.Err, w.Calls(), s.want, s.err)
				}
			}
		})
	}
}

// A call is over when all of its turns are done, and not while certificates are added.
func TestCallOver(t *testing.T) {
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	var none waiting.Call[string]
	if !closed(none.Over()) {
		t.Error("one of nothing is not over")
	}
	c := prefetch
	c.Add("a", false).Step(valid)
	var w waiting.Waiters[string]
	for _, of := range []string{"b", "c"} {
		turn := c.Add(of, true)
		w.Add(turn)
	}
	over := c.Over()
	if closed(over) {
		t.Error("over, though two wait")
	}
	w.Leave(c.Turns[2], errFailed)
	if closed(over) || !w.Calls() || c.Turns[1].Done {
		t.Error("over, though one waits")
	}
	w.News(dropped)
	if !closed(over) || !w.Empty() {
		t.Error("not over")
	}
	for i, want := range []error{nil, errDropped, errFailed} {
		if turn := c.Turns[i]; turn.Of != string(rune('a'+i)) || !turn.Done || turn.Err != want {
			t.Errorf("turn of %s: %v, %v; want %v", turn.Of, turn.Done, turn.Err, want)
		}
	}
}
