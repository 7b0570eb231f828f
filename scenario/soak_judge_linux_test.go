package scenario_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Why a handshake has no staple, or that it has one.
const (
	reasonStapled  = "stapled"
	reasonNoURL    = "none: the certificate names no responder"
	reasonOff      = "none: switched off"
	reasonRevoked  = "none: revoked"
	reasonForgot   = "none: replaced and forgotten, served by a handshake that had begun"
	reasonOutage   = "none: the responder failed for longer than the validity"
	reasonCold     = "none: no right answer yet since the certificate came"
	reasonColdNew  = "none: no right answer yet since New, without a store"
	reasonColdKept = "none: no right answer yet since New, with a store that fails at times"
	reasonClosed   = "none: the Stapler was closed before there was an answer that lasts"
	reasonUnderWay = "none: the right answer was on its way"
	reasonGone     = "no handshake: the tenant was leaving"
)

const (
	// soakPause is the longest pause between two attempts, and soakAttempt is more than one
	// takes.
	soakPause, soakAttempt = time.Minute, 20 * time.Second
	// soakGrace is how long after a responder's right answer it must be served at the latest.
	// Where the machine stood still it may have come too late, and the next is soakPause away.
	soakGrace = 10 * time.Second
)

// A fate is what is known of a certificate and one Stapler.
type fate struct {
	seen      time.Time // the first handshake
	asked     time.Time // when this Stapler last asked about it
	mended    time.Time // when the responder first answered it rightly after that, about any certificate
	answered  time.Time // when the last right answer went to this Stapler
	until     time.Time // its nextUpdate
	told      time.Time // when the Stapler last told of a response
	toldUntil time.Time // its nextUpdate
	revoked   time.Time // when the Stapler told that the certificate is revoked
	forgotten time.Time // when it was told to forget it
	again     bool      // a handshake brought it once more after that
}

// explain says why a handshake that asked g for c at a time, and ended at another, has no
// staple. It goes by what the responders answered and by what the Stapler told before; what
// it says of itself now is no excuse. The caller holds w.mu.
func (w *soak) explainLocked(g *generation, c *soakCert, at, end time.Time) (reason string, ok bool) {
	switch c.kind {
	case soakNoURL:
		return reasonNoURL, true
	case soakOff:
		return reasonOff, true
	}
	f := c.fateLocked(g)
	stood, grace := w.watch.since(at.Add(-soakPause-soakAttempt)), soakGrace
	if stood > 0 {
		grace = soakPause + soakAttempt + stood
	}
	closed := !g.closed.IsZero() && g.closed.Before(end)
	switch {
	case !c.revoked.IsZero() && c.revoked.Before(end):
		return reasonRevoked, true
	case !f.forgotten.IsZero() && f.forgotten.Before(end):
		return reasonForgot, true
	case !f.told.IsZero() && f.told.Before(at) && f.toldUntil.After(end):
		return fmt.Sprintf("a response was held since %v, and lasts until %v", f.told, f.toldUntil), false
	case f.until.After(end) && at.Sub(f.answered) < grace:
		return reasonUnderWay, true
	case closed && g.closed.Sub(f.answered) < grace:
		return reasonClosed, true
	case f.until.After(end):
		return fmt.Sprintf("the responder gave an answer at %v that lasts until %v", f.answered, f.until), false
	case closed:
		return reasonClosed, true
	case at.After(c.nextLocked(g, f).Add(stood)):
		return fmt.Sprintf("no response is held, and nobody was asked since %v; it came at %v, the last right answer at %v lasted until %v, another came at %v, the responder was %+v",
			f.asked, latest(c.issued, g.begun), f.answered, f.until, f.mended, *c.tenant.heardLocked(g.id)), false
	case !f.until.IsZero():
		return reasonOutage, true
	case len(c.fates) > 1 && g.store == nil && !w.steadyLocked(g):
		return reasonColdNew, true
	case len(c.fates) > 1 && !w.steadyLocked(g):
		return reasonColdKept, true
	}
	return reasonCold, true
}

// nextLocked returns when g must have asked about c at the latest. Pauses are as long as it has
// failed, up to a minute, but that the first certificate that the responder answers has the
// others tried; and while a responder fails for all one probe stands for them.
func (c *soakCert) nextLocked(g *generation, f *fate) time.Time {
	pause := func(since, last time.Time) time.Time {
		return last.Add(soakAttempt + min(max(last.Sub(since), 0), soakPause))
	}
	known := latest(c.issued, g.begun, f.answered) // it has failed for less
	next := pause(known, latest(known, f.seen, f.asked, f.until))
	if f.mended.After(f.asked) {
		next = latest(next, f.mended.Add(soakAttempt))
	}
	h := c.tenant.heardLocked(g.id)
	if h.failing {
		next = latest(next, pause(latest(g.begun, h.right), h.asked))
	}
	if h.asked.After(next.Add(-soakAttempt)) { // it may wait for a request about another that hangs
		next = next.Add(soakAttempt)
	}
	return next
}

func latest(times ...time.Time) (t time.Time) {
	for _, u := range times {
		if u.After(t) {
			t = u
		}
	}
	return t
}

// A soakStaple is one that was seen, as x/crypto/ocsp reads it.
type soakStaple struct {
	cert *soakCert
	raw  []byte
	*ocsp.Response
}

// stapledLocked says what is wrong with a staple that a Stapler was asked for at a time. A
// new one goes to openssl as well. The caller holds w.mu.
func (w *soak) stapledLocked(g *generation, c *soakCert, leaf *x509.Certificate, raw []byte, at time.Time) (fresh *soakStaple, err error) {
	s := c.staples[string(raw)]
	if s == nil {
		r, err := ocsp.ParseResponseForCert(raw, leaf, c.tenant.ca.Cert)
		if err != nil {
			return nil, err
		}
		s = &soakStaple{c, raw, r}
		c.staples[string(raw)] = s
		w.distinct++
		fresh = s
	}
	switch f := c.fateLocked(g); {
	case c.kind != soakOrdinary:
		return fresh, fmt.Errorf("a staple for a certificate that has none")
	case s.Status != ocsp.Good:
		return fresh, fmt.Errorf("status %d", s.Status)
	case s.ThisUpdate.After(time.Now()):
		return fresh, fmt.Errorf("thisUpdate %v", s.ThisUpdate)
	case !s.NextUpdate.After(at):
		return fresh, fmt.Errorf("nextUpdate %v, asked for at %v", s.NextUpdate, at)
	case !f.revoked.IsZero() && f.revoked.Before(at):
		return fresh, fmt.Errorf("a staple, and the Stapler knew since %v that the certificate is revoked", f.revoked)
	}
	return fresh, nil
}

// An opensslJudge has openssl judge each staple, one after the other.
type opensslJudge struct {
	t       *testing.T
	path    string
	queue   chan *soakStaple // whoever is too fast waits
	stopped sync.WaitGroup
	judged  atomic.Int64
}

func startJudge(t *testing.T, path string) *opensslJudge {
	j := &opensslJudge{t: t, path: path, queue: make(chan *soakStaple, 4096)}
	j.stopped.Go(func() {
		for s := range j.queue {
			if err := j.verdict(s); err != nil {
				t.Errorf("openssl refuses a staple for %v: %v\n%x", s.cert.pair.Leaf.DNSNames, err, s.raw)
			}
			j.judged.Add(1)
		}
	})
	return j
}

// stop waits until all are judged.
func (j *opensslJudge) stop() {
	close(j.queue)
	j.stopped.Wait()
}

var opensslNext = regexp.MustCompile(`Next Update: (.*)`)

// verdict returns an error unless openssl verifies s, calls it good, and reads the same
// nextUpdate as x/crypto/ocsp, by which each handshake is judged. It comes some time after
// the handshake: so it is told to be lenient about the time.
func (j *opensslJudge) verdict(s *soakStaple) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	hash := map[crypto.Hash]string{crypto.SHA1: "-sha1", crypto.SHA256: "-sha256"}[s.IssuerHash]
	ca := s.cert.tenant.caFile
	cmd := exec.CommandContext(ctx, j.path, "ocsp", "-respin", "/dev/stdin", "-issuer", ca, hash,
		"-serial", fmt.Sprintf("0x%X", s.cert.pair.Leaf.SerialNumber), "-CAfile", ca, "-no_nonce", "-validity_period", "86400")
	cmd.Stdin = bytes.NewReader(s.raw)
	out, err := cmd.CombinedOutput()
	said := string(out)
	if err != nil || !strings.Contains(said, "Response verify OK") || !strings.Contains(said, ": good\n") {
		return fmt.Errorf("%v\n%s", err, said)
	}
	m := opensslNext.FindStringSubmatch(said)
	if m == nil {
		return fmt.Errorf("no nextUpdate\n%s", said)
	}
	next, err := time.Parse("Jan _2 15:04:05 2006 MST", m[1])
	if err != nil || !next.Equal(s.NextUpdate) {
		return fmt.Errorf("nextUpdate %v, want %v (%v)", next, s.NextUpdate, err)
	}
	return nil
}
