package staple

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

const (
	// maxSleep bounds the scheduler's one timer: timers run on the monotonic
	// clock, which stops in suspend and knows nothing of clock steps.
	maxSleep = time.Minute
	// maxRetry is the longest pause between attempts for a certificate, and
	// between probes of a responder, once nothing valid is left to lose.
	maxRetry = 2 * time.Hour
	// minGap is the shortest pause between two attempts, whatever the validity.
	minGap = 100 * time.Millisecond
)

// timed is an element of the scheduler's heap: an entry, or a responder whose
// breaker is open.
type timed interface {
	when() int64 // Unix ns, wall clock
	mark() *timing
	fireLocked(s *Stapler, now int64) // afterwards when is past now
}

// timing is what the heap keeps in its elements. The order is by what when said
// when it was last asked, or a change of it would break the heap before
// moveLocked hears of it.
type timing struct {
	key   int64
	index int // in the heap, plus one: 0 outside
}

func (t *timing) mark() *timing { return t }

type timers []timed

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].mark().key < t[j].mark().key }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].mark().index, t[j].mark().index = i+1, j+1
}
func (t *timers) Push(x any) { *t = append(*t, x.(timed)); x.(timed).mark().index = len(*t) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	(*t)[last], *t = nil, (*t)[:last]
	x.mark().index = 0
	return x
}

// nanos is the wall clock. Every limit and due time is one of these.
func (s *Stapler) nanos() int64 { return s.opts.now().UnixNano() }

// minuteOf returns a time in ns as one in minutes.
func minuteOf(now int64) int32 { return int32(now / int64(time.Minute)) }

// recent reports whether at, in Unix ns, is less than span before now: what is
// ahead was noted by a clock that was set back since.
func recent(at, now int64, span time.Duration) bool { return at <= now && now-at < int64(span) }

// wall returns a time in Unix seconds as one in ns, where that has an end:
// private PKIs have certificates until 9999-12-31 (RFC 5280 §4.1.2.5).
func wall(sec int64) int64 {
	return min(max(sec, 0), never/int64(time.Second)-1) * int64(time.Second)
}

// moveLocked puts t where its due time says.
func (s *Stapler) moveLocked(t timed) {
	if s.closed {
		return
	}
	m := t.mark()
	m.key = t.when()
	switch in := m.index > 0; {
	case m.key == never && in:
		heap.Remove(&s.timers, m.index-1)
	case m.key == never:
	case in:
		heap.Fix(&s.timers, m.index-1)
	default:
		heap.Push(&s.timers, t)
	}
	s.armLocked(s.nanos())
}

// armLocked sets the timer for what is due first.
func (s *Stapler) armLocked(now int64) {
	if s.closed || s.ticking || len(s.timers) == 0 {
		return
	}
	next := min(s.timers[0].mark().key, now+int64(maxSleep))
	if s.armed <= next && s.armed > now {
		return
	}
	s.armed = next
	d := time.Duration(max(next-now, 0))
	if s.timer == nil {
		s.lastTick = now
		s.timer = time.AfterFunc(d, s.tick)
	} else {
		s.timer.Reset(d)
	}
}

// tick fires what is due by the clock as it is now.
func (s *Stapler) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kicked.Store(false)
	if s.closed {
		return
	}
	now := s.nanos()
	if back := s.lastTick - now; back > int64(time.Second) {
		s.shiftLocked(back, now)
	}
	s.lastTick = now
	s.ticking = true // one arming at the end, not one per entry
	for len(s.timers) > 0 && s.timers[0].mark().key <= now {
		s.timers[0].fireLocked(s, now)
	}
	s.ticking, s.armed = false, never
	s.armLocked(now)
}

// shiftLocked follows a clock that was set back: without this, what was due in
// an hour would be due in an hour and the step, and what had expired by the
// wrong clock would stay so.
func (s *Stapler) shiftLocked(back, now int64) {
	for e := range s.cache.leaves.AllLocked {
		if e.flags.expired && now <= wall(e.notAfter) {
			e.flags.expired, e.flags.resolved = false, false // to be decided anew
			e.recovered()
			e.die = now + int64(idleLife)
			e.known = minuteOf(now)
			s.startLocked(e, false)
			s.moveLocked(e)
		}
	}
	for _, t := range s.timers {
		if e, ok := t.(*entry); ok && e.due.Load() != never {
			e.due.Add(-back)
			e.key = e.when()
		}
	}
	for r := range s.responders.All {
		r.probeAt -= back
		r.key = r.when()
	}
	s.storeUntil -= back
	heap.Init(&s.timers)
}

// kick has the scheduler look at the clock, from a handshake that found an
// entry long past due: the timer must have slept through a suspend or a step.
func (s *Stapler) kick() {
	if s.kicked.CompareAndSwap(false, true) {
		s.mu.Lock()
		if !s.closed && s.timer != nil {
			s.timer.Reset(0)
		}
		s.mu.Unlock()
	}
}

func (e *entry) when() int64 { return min(e.due.Load(), e.alarm, e.die) }

// dueAt sets when the next attempt is due.
func (e *entry) dueAt(at int64) { e.due.Store(at) }

func (e *entry) fireLocked(s *Stapler, now int64) {
	if e.die <= now && s.dieLocked(e, now) {
		return
	}
	if e.alarm <= now {
		s.alarmLocked(e, now)
	}
	if due := e.due.Load(); due <= now {
		if wait := smear(e.held.Load(), due, now); wait > 0 {
			e.dueAt(now + wait)
		} else {
			s.startLocked(e, false)
		}
	}
	s.moveLocked(e)
}

// smear returns how long to put off an attempt that is due at a time when the
// timer can't have been awake. After a suspend or a step of the clock all
// certificates are due at once; those that can wait are spread.
func smear(h *held, due, now int64) int64 {
	if !overslept(due, now) || !h.current(now) {
		return 0
	}
	return jitter(min((h.until-now)/8, int64(15*time.Minute)), 1)
}

// overslept reports whether what was due is so late that the timer can't have
// been awake, or that the clock leapt.
func overslept(due, now int64) bool { return now-due >= int64(maxSleep+maxSleep/2) }

// jitter returns d less a random part of up to share of it.
func jitter(d int64, share float64) int64 { return d - int64(float64(d)*share*rand.Float64()) }

// clamp returns d within [lo, hi].
func clamp(d, lo, hi time.Duration) int64 { return int64(min(max(d, lo), hi)) }

// span returns the time in which h is proof, and its length.
func (h *held) span() (start, length int64) {
	start = wall(h.thisUpdate)
	if h.open { // counted from its receipt: WithTTL
		start = h.checked
	}
	return start, h.until - start
}

// refreshBetween returns the span in which to ask again for h after a success:
// after the TTL, or the responder's max-age where that is longer, but at half of
// the validity at the latest. It begins a quarter before that, or a half where
// half-life is what ends it: certificates that were loaded together have to drift
// apart. That may cut max-age short where it is as long as half of the validity,
// as it is where responses are signed in advance.
//
// Who asked in the half before half-life, and was told to come back no sooner
// (give or take what clocks differ), has made that refresh. What comes next should
// bring the successor, which is signed about now: at the end of max-age, or soon
// after, not for all at once. Past half-life the responder still hands
// out what we hold, and is asked more often as the end comes nearer.
func (h *held) refreshBetween(ttl time.Duration) (from, to int64) {
	start, length := h.span()
	half := start + length/2 - h.checked // from then on, as is all that follows
	maxAge := int64(h.maxAge) * int64(time.Second)
	hint, gap := min(maxAge, half), max(int64(ttl), maxAge+maxAge/3)
	switch {
	case hint > 0 && hint >= half-int64(ocspresp.ClockSkew) && half <= length/4:
		from, to = hint, hint+length/11
	case half <= length/8:
		to = min((h.until-h.checked)/8, int64(ttl))
		from = to - to/4
	case gap > half && hint > half/2:
		from, to = half-half/2, half-half/8 // not just before the next
	default:
		to = min(gap, half)
		from = to - to/4
	}
	least := clamp(time.Duration(length/64), minGap, min(max(ttl/2, minGap), time.Minute))
	return h.checked + max(from, least), h.checked + max(to, least)
}

// fresh reports whether h need not be asked for yet.
func (h *held) fresh(ttl time.Duration, now int64) bool {
	_, to := h.refreshBetween(ttl)
	return to > now
}

// retryAfter returns how long to wait after a failure: exponential in the
// failures since the last success or since validity was lost, tighter as
// expiry nears, never a busy loop. hint is a Retry-After.
func (h *held) retryAfter(now int64, backoff uint8, hint time.Duration) int64 {
	base, most := int64(time.Second), int64(maxRetry)
	if h.raw != nil {
		_, length := h.span()
		base = clamp(time.Duration(length/64), 250*time.Millisecond, time.Minute)
	}
	if h.current(now) {
		most = max(min((h.until-now)/8, int64(time.Hour)), base)
	}
	d := most
	if backoff < 40 && base <= math.MaxInt64>>backoff {
		d = min(base<<backoff, most)
	}
	// A responder may ask for patience, but not for more than we can afford.
	return max(jitter(d+d/8, 0.25), min(int64(hint), 2*most, int64(time.Hour)))
}

// byExpiry returns when to make an attempt that is planned for at: when h
// expires at the latest. Caches may have its successor from then on alone.
func (h *held) byExpiry(at, now int64) int64 {
	if !h.current(now) {
		return at
	}
	return max(min(at, h.until+jitter(int64(minGap), 1)), now+int64(minGap))
}

// alarmLocked announces that a response is about to expire, or has.
func (s *Stapler) alarmLocked(e *entry, now int64) {
	h := e.held.Load()
	if now < h.until {
		e.alarm = h.until
		s.notifyLocked(&notice{kind: EventExpiring, e: e, err: e.rare().err})
		return
	}
	e.alarm = never
	if e.flags.none {
		s.setLocked(e, StateNone) // it was the source's own staple
		return
	}
	if e.route != nil {
		for _, r := range e.route.responders {
			r.expireLocked(e)
		}
	}
	e.backoff = 0 // what is lost is wanted back soon, however long the outage
	e.flags.tried = false
	e.cold.Store(true)
	s.notifyLocked(&notice{kind: EventExpired, e: e, err: e.rare().err})
}

// dieLocked drops e if its certificate expired or was not used for a week, and
// else sets when to look again.
func (s *Stapler) dieLocked(e *entry, now int64) bool {
	life := int64(idleLife)
	end := int64(never)
	if e.flags.expired {
		life = int64(time.Hour) // it is served all the same: do not learn it anew each time
	} else if e.notAfter != 0 {
		end = wall(e.notAfter + 1)
	}
	idle := e.usedUntil() + life
	if e.keptLocked() || overslept(e.die, now) { // in the latter case it may be used any moment
		idle = max(idle, now+int64(24*time.Hour))
	}
	if e.die = min(end, idle); e.die > now {
		s.cache.queueLocked(e) // its config may be gone
		return false
	}
	s.dropLocked(e)
	if (end <= now || e.flags.expired) && s.opts.store != nil {
		s.discardLocked(e)
	}
	return true
}

// usedUntil returns the end of the minute in which somebody last wanted e: the
// last handshake, or when it was learned, or a call named it.
func (e *entry) usedUntil() int64 {
	return (int64(max(e.seen.Load(), e.known)) + 1) * int64(time.Minute)
}

// dropLocked forgets e. What is under way for it comes to nothing.
func (s *Stapler) dropLocked(e *entry) {
	s.cache.removeLocked(e)
	e.dueAt(never)
	e.alarm, e.die = never, never
	e.unqueue()
	s.moveLocked(e)
	s.settleLocked(e)
}
