package issuers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A model says who has a place by the rules in words, one look at all for each step.
type model struct{ waiting, taken []*modeled } // oldest first

type modeled struct {
	host         string
	began        time.Time // it has its place since then; zero: it waits
	over, leaves bool
}

func (m *model) at(host string) (n int) {
	for _, o := range m.taken {
		if o.host == host {
			n++
		}
	}
	return n
}

func (m *model) move() {
	for i := len(m.waiting) - 1; i >= 0 && len(m.taken) < maxPlaces; i-- {
		if w := m.waiting[i]; m.at(w.host) < maxAtHost {
			m.waiting = slices.Delete(m.waiting, i, i+1)
			w.began = time.Now()
			m.taken = append(m.taken, w)
		}
	}
	full, wanted := len(m.taken) == maxPlaces, len(m.waiting)
	inTheWay := func(o *modeled) bool {
		return o.over && (full || slices.ContainsFunc(m.waiting, func(w *modeled) bool { return w.host == o.host }))
	}
	for _, o := range m.taken {
		if o.leaves && inTheWay(o) {
			wanted--
		}
	}
	for _, o := range m.taken {
		if wanted > 0 && !o.leaves && inTheWay(o) {
			wanted--
			o.leaves = true
		}
	}
}

func (m *model) leave(w *modeled) {
	is := func(o *modeled) bool { return o == w }
	m.waiting = slices.DeleteFunc(m.waiting, is)
	m.taken = slices.DeleteFunc(m.taken, is)
	if !w.began.IsZero() {
		m.move()
	}
}

// pass has time pass: places whose time is over are considered one by one.
func (m *model) pass() {
	for _, o := range slices.Clone(m.taken) { // which began in this order
		if !o.over && time.Since(o.began) >= placeTime {
			o.over = true
			m.move()
		}
	}
}

// REQ I2: places go to whom the model gives them, and are taken from whom it takes them.
func TestPlacesAsModeled(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			hosts := 1 + rng.IntN(60)
			var p places
			var m model
			type pair struct {
				real     *place
				want     *modeled
				canceled bool
			}
			var all []*pair
			for step := range 2000 {
				if len(all) == 0 || rng.IntN(100) < 52 {
					one := &pair{want: &modeled{host: fmt.Sprint(rng.IntN(hosts))}}
					one.real = p.enter(one.want.host, func(error) { one.canceled = true })
					all = append(all, one)
					m.waiting = append(m.waiting, one.want)
					m.move()
				} else {
					i := rng.IntN(len(all))
					p.leave(all[i].real)
					m.leave(all[i].want)
					all = slices.Delete(all, i, i+1)
				}
				check := func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					if len(p.next) > 0 && len(p.taken) < maxPlaces { // a take would have to look through them
						t.Fatalf("seed %d, step %d: %d hosts are left in the queue, though there are places", seed, step, len(p.next))
					}
					for i, one := range all {
						if has := one.real.waits == nil; has == one.want.began.IsZero() || one.canceled != one.want.leaves {
							t.Fatalf("seed %d, step %d, download %d of %d at %d hosts: has a place %v, canceled %v, want %+v", seed, step, i, len(all), hosts, has, one.canceled, one.want)
						}
					}
				}
				check()
				time.Sleep((time.Millisecond + 1) * time.Duration(1+rng.IntN(30))) // by the odd nanosecond nothing ends at the moment of a step
				synctest.Wait()
				m.pass()
				check()
			}
			for _, one := range all {
				p.leave(one.real)
			}
			if len(p.hosts) > 0 || len(p.next) > 0 || len(p.taken) > 0 || p.waiting > 0 {
				t.Errorf("%d hosts are left, %d places", len(p.hosts), len(p.taken))
			}
		})
	}
}

// BenchmarkTakeWhereManyWait takes a free place while 20,000 wait for one at a host.
func BenchmarkTakeWhereManyWait(b *testing.B) {
	var p places
	for i := range 56 { // 14 hosts, all of whose places are taken, at one of which they wait
		p.enter(fmt.Sprint(i/4), func(error) {})
	}
	for range 20_000 {
		p.enter("0", func(error) {})
	}
	b.ReportAllocs()
	for b.Loop() {
		leave, err := p.take(context.Background(), "honest", func(error) {})
		if err != nil {
			b.Fatal(err)
		}
		leave()
	}
}
