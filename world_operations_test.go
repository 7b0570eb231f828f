package staple_test

import (
	"context"
	"crypto/tls"
	"slices"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// operations are what happens, and how often.
var operations = []struct {
	weight int
	do     func(*simulation)
}{
	{12, (*simulation).handshakes},
	{3, (*simulation).handshakeAtEnd},
	{6, (*simulation).breakOrigin},
	{10, (*simulation).mendOrigin},
	{4, (*simulation).changeOrigin},
	{4, (*simulation).replay},
	{2, (*simulation).revoke},
	{3, (*simulation).refresh},
	{3, (*simulation).prefetch},
	{2, (*simulation).forget},
	{2, (*simulation).restart},
	{5, (*simulation).turnSwitch},
	{3, (*simulation).setClock},
	{3, (*simulation).breakDepot},
	{2, (*simulation).renew},
	{2, (*simulation).presetStaple},
	{1, (*simulation).calm},
}

func (w *simulation) handshakes() {
	for range 1 + w.rng.IntN(6) {
		p, d := pick(w, w.processes), pick(w, w.domains)
		if asks := w.rng.IntN(5) > 0; asks {
			w.note("%v: handshake for %s: stapled %v", p, d.name, p.shake(d))
		} else {
			p.hook(d)
		}
	}
}

// handshakeAtEnd makes a handshake just before a staple ends, and one when it does.
func (w *simulation) handshakeAtEnd() {
	p, d := pick(w, w.processes), pick(w, w.domains)
	newest := p.newest(d)
	if newest == nil {
		return
	}
	if left := newest.ends.Sub(p.clock.now()); left > 1 && left < 3*time.Hour {
		w.note("%v: handshakes for %s at the end, in %v, of %v", p, d.name, left, newest)
		time.Sleep(left - 1)
		p.hook(d)
		time.Sleep(time.Nanosecond)
		p.hook(d)
	}
}

// shake makes a handshake in which the client asks for a staple, and reports whether there was one.
func (p *process) shake(d *domain) bool {
	w, begun, most := p.w, time.Now(), 100*time.Millisecond
	if d.must {
		most = 5 * time.Second
	}
	cs, _, err := talk(p.cfg, &tls.Config{RootCAs: d.by.pool, ServerName: d.name})
	if err != nil {
		w.t.Fatalf("%v, %s: %v", p, d.name, err)
	}
	if took := time.Since(begun); took > most {
		w.t.Errorf("%v, %s: a handshake took %v", p, d.name, took)
	}
	p.judge(d.now, cs.OCSPResponse)
	w.shakes++
	if len(cs.OCSPResponse) == 0 {
		return false
	}
	w.stapled++
	return true
}

// hook makes one in which it does not ask, as far as the hook is concerned.
func (p *process) hook(d *domain) {
	hello, begun := asking(d.name), time.Now()
	hello.Extensions = nil
	cert, err := p.cfg.GetCertificate(hello)
	if err != nil || time.Since(begun) > 0 {
		p.w.t.Fatalf("%v, %s: %v, after %v", p, d.name, err, time.Since(begun))
	}
	p.judge(d.now, cert.OCSPStaple)
}

// worldFaults lacks those that put certificates into a response that x/crypto/ocsp takes for the
// signer's, and those that sign by SHA-1, which FIPS mode does not.
var worldFaults = slices.DeleteFunc(ocsptest.Faults(), func(f ocsptest.Fault) bool {
	return slices.Contains([]ocsptest.Fault{ocsptest.FaultPadded20K, ocsptest.FaultPadded70K, ocsptest.FaultPadded120K, ocsptest.FaultJunkCertificate,
		ocsptest.FaultSHA1Signature, ocsptest.FaultDelegateSHA1}, f)
})

func (w *simulation) breakOrigin() {
	o, f := w.origin(), pick(w, worldFaults)
	if w.rng.IntN(2) == 0 { // the usual ways
		f = pick(w, []ocsptest.Fault{ocsptest.FaultRefused, ocsptest.FaultHang, ocsptest.FaultHTTP503, ocsptest.FaultTryLater, ocsptest.FaultStaleCache})
	}
	w.note("%s: %v", o.url, f)
	w.setFault(o, f, false)
}

func (w *simulation) mendOrigin() {
	o := w.origin()
	w.note("%s: works", o.url)
	w.setFault(o, ocsptest.FaultNone, false)
}

func (w *simulation) replay() {
	o := w.origin()
	w.note("%s: old responses", o.url)
	w.setFault(o, ocsptest.FaultNone, true)
}

var retryAfter = []string{"", "120", "86400"}

// changeOrigin changes how a responder answers when it works.
func (w *simulation) changeOrigin() {
	o := w.origin()
	validity := pick(w, []time.Duration{20 * time.Minute, time.Hour, 8 * time.Hour, 4 * day, 10 * day})
	presign, open, delegate := w.rng.IntN(2) == 0, w.rng.IntN(4) == 0, w.rng.IntN(3) == 0
	w.note("%s: validity %v, presigned %v, without nextUpdate %v, by a delegate %v", o.url, validity, presign, open, delegate)
	o.responder.SetValidity(validity)
	o.responder.SetPresign(presign)
	o.responder.SetNoNextUpdate(open)
	o.responder.SetRetryAfter(pick(w, retryAfter))
	o.responder.SetSign(ocsptest.Sign{})
	if delegate {
		o.responder.SetSign(ocsptest.Sign{By: ocsptest.Delegated, NotAfter: time.Now().Add(time.Duration(1+w.rng.IntN(72)) * time.Hour)})
	}
}

func (w *simulation) revoke() {
	d := pick(w, w.domains)
	w.note("%v is revoked", d.now)
	d.now.revoked = true
	d.by.ca.Responder.Revoke(d.now.cert, ocsp.KeyCompromise, time.Now())
}

// refresh refreshes a certificate. Where that succeeds the next handshake says the same.
func (w *simulation) refresh() {
	p, d := pick(w, w.processes), pick(w, w.domains)
	err := p.s.Refresh(context.Background(), d.now.cert)
	w.note("%v: refresh of %v: %v", p, d.now, err)
	if err == nil {
		p.settled(d)
		synctest.Wait()
		p.mustCarry(d, "refreshed")
	}
}

// settled notes that p knows how the switch of d stands.
func (p *process) settled(d *domain) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.view(d.now).silent = p.off[d.name]
	delete(p.turned, d.name)
}

// mustCarry fails the test if a handshake is without a staple though nothing is wrong.
func (p *process) mustCarry(d *domain, why string) {
	p.w.t.Helper()
	if !p.shake(d) && !d.now.revoked && !p.isOff(d) {
		p.w.t.Fatalf("%v, %v: %s, and no staple: %s", p, d.now, why, p.says(d.now))
	}
}

func (p *process) isOff(d *domain) bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	_, turned := p.turned[d.name]
	return p.off[d.name] || turned
}

func (w *simulation) prefetch() {
	p, d, ctx, cancel := pick(w, w.processes), pick(w, w.domains), context.Background(), func() {}
	if w.rng.IntN(2) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(w.rng.Int64N(int64(time.Minute))))
	}
	err := p.s.Prefetch(ctx, d.now.cert)
	cancel()
	w.note("%v: prefetch of %v: %v", p, d.now, err)
	if err == nil {
		p.mustCarry(d, "prefetched")
	}
}

func (w *simulation) forget() {
	p, d := pick(w, w.processes), pick(w, w.domains)
	w.note("%v: forgets %v", p, d.now)
	p.s.Forget(d.now.cert)
	p.reset(d.now)
}

// restart closes a process, which goes on with what it has, and starts another.
func (w *simulation) restart() {
	i := w.rng.IntN(len(w.processes))
	old := w.processes[i]
	w.note("%v: restarts", old)
	old.clearPreset()
	old.stop()
	for _, d := range w.domains {
		old.shake(d)
	}
	was := w.depot.valid(old)
	w.processes[i] = w.start(old.name, old.clock, old.fleet)
	for _, d := range w.domains {
		if was[d.now] {
			w.processes[i].mustCarry(d, "in the depot")
		}
	}
}

// turnSwitch switches a domain off or on, at once or when its certificate is prepared again.
func (w *simulation) turnSwitch() {
	p, d := pick(w, w.processes), pick(w, w.domains)
	if !p.switches {
		return
	}
	w.mu.Lock()
	for _, other := range w.domains {
		if p.off[other.name] { // rather on again than another off
			d = other
		}
	}
	v, off := p.view(d.now), !p.off[d.name]
	p.off[d.name], p.turned[d.name] = off, time.Now()
	v.carries, v.silent = false, false
	w.mu.Unlock()
	w.note("%v: %v switched off: %v", p, d.now, off)
	if w.rng.IntN(2) == 0 && p.s.Refresh(context.Background(), d.now.cert) == nil {
		p.settled(d)
	}
}

func (w *simulation) setClock() {
	if w.steady {
		return
	}
	p := pick(w, w.processes)
	offset := pick(w, []time.Duration{0, 0, 0, 0, 3 * time.Minute, 6 * time.Hour, 2 * day, 5 * day, 10 * 365 * day})
	if w.rng.IntN(2) == 0 && offset < 5*day {
		offset = -offset
	}
	w.note("%v: the clock is %v ahead", p, offset)
	p.setClock(offset)
}

func (p *process) setClock(offset time.Duration) {
	p.leaps()
	p.clock.offset.Store(int64(offset))
	p.leaps()
}

func (w *simulation) breakDepot() {
	mode := pick(w, []depotMode{works, works, fails, readOnly, slow, hangs, loses, returns})
	w.note("the depot %s", mode)
	w.depot.set(mode)
}

// renew replaces a certificate. Some forget the old one.
func (w *simulation) renew() {
	d := pick(w, w.domains)
	old := d.now
	w.issue(d)
	w.note("%v follows %v", d.now, old)
	for _, p := range w.processes {
		w.mu.Lock()
		delete(p.preset, d.name)
		w.mu.Unlock()
		p.listen()
		if w.rng.IntN(2) == 0 {
			p.s.Forget(old.cert)
		}
	}
}

// presetStaple has a source set a staple of some time.
func (w *simulation) presetStaple() {
	p, d := pick(w, w.processes), pick(w, w.domains)
	w.mu.Lock()
	all := pick(w, d.by.origins).heard[d.now]
	if d.listed || len(all) == 0 {
		w.mu.Unlock()
		return
	}
	raw := pick(w, all)
	v := p.view(d.now)
	p.preset[d.name] = raw
	again := v.offered[string(raw)]
	v.offered[string(raw)] = true
	w.mu.Unlock()
	w.note("%v: the source of %v sets a staple", p, d.now)
	p.got(d.now, raw, time.Now(), false)
	p.shake(d)
	synctest.Wait()
	p.got(d.now, raw, time.Now(), !again)
}
