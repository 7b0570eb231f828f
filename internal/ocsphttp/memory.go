package ocsphttp

import "time"

const (
	// recall is how long it is remembered what worked. A responder that was repaired
	// gets GET again within a day.
	recall = 24 * time.Hour
	// A change that did no better is not tried again for pauseWithout while the
	// certificate holds nothing valid, for pauseWith while it does, and the other
	// hash for pauseHash: what failed a moment ago rarely helps at the next attempt,
	// and would double the requests of an outage. The other hash is usual for as long, and
	// tried without a pause where it helped within recall.
	pauseWithout = 15 * time.Minute
	pauseWith    = time.Hour
	pauseHash    = time.Hour
)

// A Memory is what was learned about how to ask one responder. The zero Memory
// has learned nothing. Its owner guards it: the driver calls Plan before an
// exchange and Learn after it, with its lock held, and the exchange runs without.
// Exchanges about other certificates may learn meanwhile; the last one counts.
// Times are in Unix ns.
//
// GET is the usual method, or POST after it worked where GET did not. The other
// method is tried at once if the answer to the usual one is unusable, and in the next
// attempt if there was no answer (REQ A6).
type Memory struct {
	post   int64 // since when POST is the usual method; 0: GET is
	swap   bool  // the next attempt begins with the other method
	failed int64 // when the other method did no better
	hash   int64 // when the other hash helped: it is the usual one for pauseHash
	plain  int64 // when the first hash last brought an answer: then the other is for one certificate alone
	lost   bool  // the last request failed: what comes next has a connection of its own
}

// Tries is when changes for the sake of one certificate did no better, in Unix ns. It
// limits extra requests: without it a certificate that the CA does not know would
// cost three requests at each attempt. A probe of a responder that fails has one
// for all certificates there.
type Tries struct{ hash, caches int64 }

// Old reports whether nothing in t matters any more.
func (t *Tries) Old(now int64) bool {
	return !recent(t.hash, now, pauseHash) && !recent(t.caches, now, pauseWith)
}

// Plan returns the way to begin an attempt about a certificate, and the changes
// that may be tried. valid says whether it holds a valid response. It changes nothing:
// an exchange that is not made is not remembered.
func (m *Memory) Plan(t *Tries, valid bool, now int64) (first, may Way) {
	first = m.usual(now)
	if m.swap {
		first ^= Post
	}
	if recent(m.hash, now, pauseHash) {
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
	if !recent(t.hash, now, pauseHash) || first&OtherHash == 0 && recent(m.hash, now, recall) {
		may |= OtherHash
	}
	return first, may
}

// usual returns the usual method. A day after POST worked that is GET again, which
// caches can answer.
func (m *Memory) usual(now int64) Way {
	if recent(m.post, now, recall) {
		return Post
	}
	return 0
}

// Learn notes what came of an attempt that began in the way first. A hash that
// helped becomes the usual one for an hour, and no longer: anybody on the path can forge
// that the first one is not known, and some clients refuse what the other one brings. It
// has no limit like Tries: two CA generations at one URL need one hash each, and each
// attempt finds its own.
func (m *Memory) Learn(t *Tries, first Way, l Learned, now int64) {
	m.lost = l.Lost
	m.learnMethod((first^l.Helped)&Post, l, now)
	if l.Good && (first^l.Helped)&OtherHash == 0 {
		m.plain, m.hash = now, 0
	}
	if l.Helped&OtherHash != 0 {
		m.hash = 0
		if first&OtherHash == 0 && !recent(m.plain, now, recall) {
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

// learnMethod notes what came of a method, the one that did best. A POST that worked
// is usual for a day. If the usual POST then gets nothing usable, and GET was not
// tried beside it, the next attempt begins with GET: or one refused GET would have the
// responder asked by POST for a day, though POST fails, too.
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
// where the clock was set back: what was noted by a wrong clock is forgotten, and
// costs a request more at most.
func recent(at, now int64, span time.Duration) bool {
	return at != 0 && at <= now && now-at < int64(span)
}
