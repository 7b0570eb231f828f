package staple_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// The oracle of TestRandomWorld knows what authorities have signed and what each process has got,
// and says what a handshake may carry, and what it must. It uses x/crypto/ocsp, and no code of the
// library.

// A statement is what an authority signed, and about which certificate.
type statement struct {
	of                   *subject
	status               int
	this, next, produced int64 // Unix s; next is 0 where nextUpdate is left out
}

// after reports whether s was signed after o.
func (s *statement) after(o *statement) bool {
	return s.this > o.this || s.this == o.this && s.produced > o.produced
}

// A proof is a response in which a statement stands.
type proof struct {
	statement
	raw  []byte
	ends time.Time // of what it rests on; without nextUpdate a week after thisUpdate at most
}

func (p *proof) String() string {
	return fmt.Sprintf("status %d, %s to %s", p.status, stamp(time.Unix(p.this, 0)), stamp(p.ends))
}

func (p *proof) open() bool { return p.next == 0 }

// signs notes what a responder is about to sign, unless it is a lie.
func (w *simulation) signs(o *origin, spec *ocsptest.Spec) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lies(o.fault) {
		return
	}
	for _, s := range spec.Singles {
		st := statement{of: o.by.issued[s.Serial.String()], status: s.Status, this: s.ThisUpdate.Unix(), produced: spec.ProducedAt.Unix()}
		if !s.NextUpdate.IsZero() {
			st.next = s.NextUpdate.Unix()
		}
		w.signed[st] = true
	}
}

// lies reports whether a responder with that fault signs what no client may believe, or somebody
// signs who may not. The others are true, though what is around them may be wrong, or by one's own
// clock they may be from another time.
func lies(f ocsptest.Fault) bool {
	switch f {
	case ocsptest.FaultWrongSerial, ocsptest.FaultWrongNameHash, ocsptest.FaultWrongKeyHash, ocsptest.FaultNoSingle,
		ocsptest.FaultNextBeforeThis, ocsptest.FaultNextIsThis, ocsptest.FaultProducedBeforeLeaf, ocsptest.FaultProducedAfterLeaf,
		ocsptest.FaultResponseType, ocsptest.FaultVersion2, ocsptest.FaultWrongResponderID, ocsptest.FaultTrailingSigned,
		ocsptest.FaultCriticalSingle, ocsptest.FaultCriticalResponse:
		return true
	}
	return f >= ocsptest.FaultBrokenSignature && f != ocsptest.FaultDelegateExpired
}

// prove returns what raw proves about x, nil if its authority did not sign that. Without
// by, which is its certificate, the signature is not verified. The caller holds w.mu.
func (w *simulation) prove(x *subject, raw []byte, by *x509.Certificate) *proof {
	r, err := ocsp.ParseResponseForCert(raw, x.cert.Leaf, by)
	if err != nil {
		return nil
	}
	p := &proof{statement{of: x, status: r.Status, this: r.ThisUpdate.Unix(), produced: r.ProducedAt.Unix()}, raw, r.ThisUpdate.Add(7 * day)}
	if !r.NextUpdate.IsZero() {
		p.next, p.ends = r.NextUpdate.Unix(), r.NextUpdate
	}
	if !w.signed[p.statement] {
		return nil
	}
	if r.Certificate != nil && r.Certificate.NotAfter.Before(p.ends) {
		p.ends = r.Certificate.NotAfter
	}
	if x.cert.Leaf.NotAfter.Before(p.ends) {
		p.ends = x.cert.Leaf.NotAfter
	}
	return p
}

// proveRecord returns what a record of the store proves, about any certificate.
func (w *simulation) proveRecord(record []byte) *proof {
	block, _ := pem.Decode(record)
	if block == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, ok := w.stored[string(block.Bytes)]; ok {
		return p
	}
	for _, a := range w.authorities {
		for _, x := range a.issued {
			if p := w.prove(x, block.Bytes, a.ca.Cert); p != nil {
				w.stored[string(block.Bytes)] = p
				return p
			}
		}
	}
	return nil
}

// A view is what a process has seen of a certificate since it learned of that.
type view struct {
	since   time.Time
	came    []*proof        // what it got, or may have got, and what is newer than newest
	revoked *proof          // the newest revocation that it got for sure
	newest  *proof          // the newest that it has served
	carries bool            // newest, unless it ended, is served at each handshake
	silent  bool            // switched off, and told so by Refresh
	offered map[string]bool // staples that the source has set
	shown   time.Time       // the last handshake, by the clock of the process
}

// view returns what p has seen of x. The caller holds the lock.
func (p *process) view(x *subject) *view {
	v := p.views[x]
	if v == nil {
		v = &view{since: time.Now(), shown: p.clock.now(), offered: make(map[string]bool)}
		p.views[x] = v
	}
	return v
}

// newest returns the newest that p has served for d, nil for nothing.
func (p *process) newest(d *domain) *proof {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.view(d.now).newest
}

// got notes a response about x that p asked for at a time, or that was put before it. sure
// says that nothing but its content keeps p from taking it.
func (p *process) got(x *subject, raw []byte, asked time.Time, sure bool) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(raw) > 4 && raw[0] == 0x30 && raw[1] == 0x82 { // what follows it is not read
		if n := 4 + (int(raw[2])<<8 | int(raw[3])); n < len(raw) {
			raw = raw[:n]
		}
	}
	got := w.prove(x, raw, nil)
	if got == nil {
		return
	}
	v := p.view(x)
	v.came = append(v.came, got)
	if got.status == ocsp.Revoked && sure && !asked.Before(v.since) && p.accepts(got) && (v.revoked == nil || got.after(&v.revoked.statement)) {
		v.revoked = got
	}
}

// accepts reports whether got is valid by the clock of p, and stapling not switched off.
func (p *process) accepts(got *proof) bool {
	now := p.clock.now()
	soon := now.Add(4 * time.Minute).Unix()
	turned, set := p.turned[got.of.name]
	settled := !set || time.Since(turned) > p.ttl+10*time.Minute
	return settled && !p.off[got.of.name] && got.this <= soon && got.produced <= soon && now.Add(time.Second).Before(got.ends) && now.Before(got.of.cert.Leaf.NotAfter)
}

// judge fails the test if raw, which a handshake with p carried for x, is not what it may carry.
func (p *process) judge(x *subject, raw []byte) {
	w := p.w
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	v, now := p.view(x), p.clock.now()
	v.shown = now
	if len(raw) == 0 {
		if p.owes(x) {
			w.t.Fatalf("%v, %s: no staple, which was there (%v): %s", p, x, v.newest, p.says(x))
		}
		v.carries = false
		return
	}
	got := w.prove(x, raw, x.by.ca.Cert)
	switch {
	case got == nil:
		w.t.Fatalf("%v, %s: a staple that nobody signed: %x", p, x, raw)
	case got.status != ocsp.Good:
		w.t.Fatalf("%v, %s: a bad staple: %v", p, x, got)
	case !now.Before(got.ends):
		w.t.Fatalf("%v, %s: an expired staple at %s: %v", p, x, stamp(now), got)
	case w.steady && got.open() && time.Since(w.confirmed[x]) > p.ttl:
		w.t.Fatalf("%v, %s: a staple without nextUpdate that was confirmed %v ago", p, x, time.Since(w.confirmed[x]))
	case got.this > p.latestNow().Add(5*time.Minute).Unix():
		w.t.Fatalf("%v, %s: a staple from the future at %s: %v", p, x, stamp(now), got)
	case v.revoked != nil && !got.after(&v.revoked.statement):
		w.t.Fatalf("%v, %s: a revocation is undone (%v) by %v", p, x, v.revoked, got)
	case v.newest != nil && v.newest.after(&got.statement):
		w.t.Fatalf("%v, %s: an older staple (%v) than before (%v)", p, x, got, v.newest)
	case v.silent:
		w.t.Fatalf("%v, %s: a staple, though switched off", p, x)
	}
	v.newest, v.carries = got, true
	var newer []*proof
	for _, c := range v.came {
		if c.after(&got.statement) || c.status == ocsp.Revoked && !got.after(&c.statement) {
			newer = append(newer, c)
		}
	}
	v.came = newer
}

// owes reports whether p has to staple for x: what it last served has not ended, and neither
// what came since nor a switch is a reason not to. The caller holds the lock.
func (p *process) owes(x *subject) bool {
	v := p.view(x)
	if !v.carries || !p.lasts(v.newest) || p.off[x.name] {
		return false
	}
	for _, c := range v.came {
		if c.status != ocsp.Good || !p.lasts(c) {
			return false
		}
	}
	return true
}

// lasts reports whether a response that p took is served still. One without nextUpdate is for a TTL
// from its receipt, which is not known here to be later than thisUpdate.
func (p *process) lasts(r *proof) bool {
	now := p.clock.now()
	return now.Before(r.ends) && (!r.open() || p.w.steady && now.Before(time.Unix(r.this, 0).Add(p.ttl)))
}

// leaps notes in what p has seen that its clock is about to be set, or was. What expires by it is
// forgotten unless a config lists it, and so is what was not served for a week.
func (p *process) leaps() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	now := p.latestNow()
	p.latest = now
	for x, v := range p.views {
		switch expired := !p.clock.now().Before(x.cert.Leaf.NotAfter); {
		case expired && !x.listed, now.Sub(v.shown) > 6*day && !x.listed:
			delete(p.views, x)
		case expired:
			v.carries = false
		}
	}
}

// latestNow is the latest time that p has seen, by its clock. The caller holds the lock.
func (p *process) latestNow() time.Time {
	if now := p.clock.now(); now.After(p.latest) {
		return now
	}
	return p.latest
}

// says returns what p itself says of x.
func (p *process) says(x *subject) string {
	for _, st := range p.s.Status() {
		if st.Leaf.Equal(x.cert.Leaf) {
			return fmt.Sprintf("%v from %s to %s, failed %d times, next attempt in %v: %v", st.State, stamp(st.ThisUpdate), stamp(st.NextUpdate),
				st.Failures, st.NextRefresh.Sub(p.clock.now()), st.Err)
		}
	}
	return "not known"
}

// reset notes that p knows nothing of x any more.
func (p *process) reset(x *subject) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	delete(p.views, x)
}

func stamp(t time.Time) string { return t.UTC().Format("Jan 02 15:04:05") }
