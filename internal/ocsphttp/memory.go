package ocsphttp

import "time"

const (
	// recall is how long it is remembered what worked.
	recall = 24 * time.Hour
	// A change that did no better is not tried again for pauseWithout while the
	// certificate holds nothing valid, for pauseWith while it does, and the other
	// hash for pauseHash.
	pauseWithout = 15 * time.Minute
	pauseWith    = time.Hour
	pauseHash    = time.Hour
)

// A Memory is what was learned about how to ask one responder. The zero Memory
// has learned nothing. Its owner guards it. Times are in Unix ns.
//
// GET is the usual method, or POST after it worked where GET did not. The other
// method is tried at once if the answer to the usual one is unusable, and in the next
// attempt if there was no answer (REQ A6).
type Memory struct {
	post   int64 // since when POST is the usual method; 0: GET is
	swap   bool  // the next attempt begins with the other method
	failed int64 // when the other method did no better
	hash   int64 // since when the other hash is the usual one
	lost   bool  // the last request failed: what comes next has a connection of its own
}

// Tries is when changes for the sake of one certificate did no better, in Unix ns.
type Tries struct{ hash, caches int64 }

// Old reports whether nothing in t matters any more.
func (t *Tries) Old(now int64) bool {
	return !recent(t.hash, now, pauseHash) && !recent(t.caches, now, pauseWith)
}

// Plan returns the way to begin an attempt about a certificate, and the changes
// that may be tried. valid says whether it holds a valid response.
func (m *Memory) Plan(t *Tries, valid bool, now int64) (first, may Way) {
	first = m.usual(now)
	if m.swap {
		first ^= Post
	}
	if recent(m.hash, now, recall) {
		first |= OtherHash
	}
	if m.lost {
		first |= OwnConn
	}
	pause := pauseWithout
	if valid {
		pause = pauseWith
	}
	if !recent(m.failed, now, pause) {
		may |= Post
	}
	if !recent(t.caches, now, pause) {
		may |= PastCaches
	}
	if !recent(t.hash, now, pauseHash) {
		may |= OtherHash
	}
	return first, may
}

// usual returns the usual method.
func (m *Memory) usual(now int64) Way {
	if recent(m.post, now, recall) {
		return Post
	}
	return 0
}

// Learn notes what came of an attempt that began in the way first.
func (m *Memory) Learn(t *Tries, first Way, l Learned, now int64) {
	m.lost = l.Lost
	m.learnMethod((first^l.Helped)&Post, l, now)
	if l.Helped&OtherHash != 0 {
		m.hash = 0
		if first&OtherHash == 0 {
			m.hash = now
		}
	}
	if l.Failed&OtherHash != 0 {
		t.hash = now
	}
	if l.Failed&PastCaches != 0 {
		t.caches = now
	}
}

// learnMethod notes what came of a method.
func (m *Memory) learnMethod(method Way, l Learned, now int64) {
	usual := m.usual(now)
	if l.Failed&Post != 0 {
		m.failed = now
	}
	switch {
	case l.Reply == NoWord:
	case l.Reply == Taken && method != usual:
		m.post, m.swap = 0, false
		if method == Post {
			m.post = now
		}
	case l.Reply == Taken, method != usual:
		m.swap = false
	case l.Reply == Silent, usual == Post && l.Failed&Post == 0:
		m.swap = true // POST worked once, and GET may work again
	}
}

// recent reports whether at, unless it is 0, is within a span before now. It is not
// where the clock was set back.
func recent(at, now int64, span time.Duration) bool {
	return at != 0 && at <= now && now-at < int64(span)
}
