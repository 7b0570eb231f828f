package issuers_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/ocsptest"
)

// web is where downloads are made: all hang, but those at good.example.
type web struct {
	mu       sync.Mutex
	now      map[string]int // downloads under way, by host
	all      int
	most     int
	mostHost int
	deaf     bool // what hangs does not end with its context
	end      chan struct{}
	answer   []byte
	asked    []time.Time // at good.example
}

func (w *web) get(ctx context.Context, u string) ([]byte, error) {
	parsed, err := url.Parse(u)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.now[parsed.Host]++
	w.all++
	w.most, w.mostHost = max(w.most, w.all), max(w.mostHost, w.now[parsed.Host])
	good := parsed.Host == "good.example"
	if good {
		w.asked = append(w.asked, time.Now())
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now[parsed.Host]--
		w.all--
	}()
	if good {
		return w.answer, nil
	}
	if w.deaf {
		<-w.end
		return nil, context.Canceled
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Minute):
		return nil, context.DeadlineExceeded
	}
}

// REQ I2: certificates that name hosts that hang, however many, delay the download for
// another by less than 1 s; no more than 64 are under way, 4 at a host.
func TestHostsThatHang(t *testing.T) {
	for _, c := range []struct{ hosts, urls int }{{64, 1}, {64, 8}, {16, 4}, {1, 100}, {400, 1}} {
		for _, after := range []time.Duration{0, 300 * time.Millisecond, 2 * time.Second, 8 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				ca, hostile := ocsptest.NewCA(), ocsptest.NewCA()
				w := &web{now: make(map[string]int), answer: ca.Cert.Raw}
				f := finder(nil)
				f.Get = w.get
				mine, theirs := ca.Issue(ocsptest.Leaf{}).Leaf, hostile.Issue(ocsptest.Leaf{}).Leaf
				elsewhere := func(u string, cert *x509.Certificate) (bool, []error) {
					leaf := *cert
					leaf.IssuingCertificateURL = []string{u}
					ctx, cancel := context.WithTimeout(t.Context(), 7500*time.Millisecond)
					defer cancel()
					is, errs := f.Elsewhere(ctx, &leaf, time.Time{})
					return is != nil, errs
				}
				var wg sync.WaitGroup
				for h := range c.hosts {
					for n := range c.urls {
						wg.Go(func() {
							for range 3 { // a retry follows a second later
								elsewhere(fmt.Sprintf("http://h%d.example/%d", h, n), theirs)
								time.Sleep(time.Second)
							}
						})
					}
				}
				synctest.Wait()
				time.Sleep(after)
				begun := time.Now()
				if found, errs := elsewhere("http://good.example/ca", mine); !found || time.Since(begun) >= time.Second {
					t.Errorf("%d hosts, %d URLs, after %v: found %v after %v: %v", c.hosts, c.urls, after, found, time.Since(begun), errs)
				}
				wg.Wait()
				time.Sleep(2 * time.Minute) // what nobody waits for ends, too
				w.mu.Lock()
				defer w.mu.Unlock()
				if want := min(c.hosts*min(c.urls, 4), 64); w.most > 64 || w.most < want || w.mostHost > 4 {
					t.Errorf("%d hosts, %d URLs: %d downloads at once, want %d; %d at a host", c.hosts, c.urls, w.most, want, w.mostHost)
				}
			})
		}
	}
}

// What does not end when it is told to keeps its place, and who waits says so.
func TestDownloadsThatNeverReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		w := &web{now: make(map[string]int), answer: ca.Cert.Raw, deaf: true, end: make(chan struct{})}
		f := finder(nil)
		f.Get = w.get
		ask := func(u string) []error {
			ctx, cancel := context.WithTimeout(t.Context(), 7500*time.Millisecond)
			defer cancel()
			_, errs := f.Elsewhere(ctx, ca.Issue(ocsptest.Leaf{IssuerURLs: []string{u}}).Leaf, time.Time{})
			return errs
		}
		var wg sync.WaitGroup
		for n := range 200 {
			wg.Go(func() { ask(fmt.Sprintf("http://h%d.example/", n)) })
		}
		wg.Wait()
		errs := ask("http://good.example/ca")
		w.mu.Lock()
		if len(errs) != 1 || w.most != 64 || len(w.asked) != 0 {
			t.Errorf("%v, %d downloads", errs, w.most)
		}
		w.mu.Unlock()
		close(w.end)
		synctest.Wait()
		if errs := ask("http://good.example/ca"); errs != nil {
			t.Errorf("after they returned: %v", errs)
		}
	})
}

// REQ I8: those who wait for one download share it, also where the first of them
// runs out of time before it is its turn.
func TestWaitingIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		w := &web{now: make(map[string]int), answer: ca.Cert.Raw, deaf: true, end: make(chan struct{})}
		f := finder(nil)
		f.Get = w.get
		ask := func(u string, within time.Duration) (*issuers.DownloadError, bool) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			is, errs := f.Elsewhere(ctx, ca.Issue(ocsptest.Leaf{IssuerURLs: []string{u}}).Leaf, time.Time{})
			if len(errs) > 0 {
				return errs[0].(*issuers.DownloadError), is != nil
			}
			return nil, is != nil
		}
		var wg sync.WaitGroup
		for n := range 64 {
			wg.Go(func() { ask(fmt.Sprintf("http://h%d.example/", n), time.Second) })
		}
		synctest.Wait()
		wg.Go(func() { ask("http://good.example/ca", time.Second) })
		time.Sleep(500 * time.Millisecond)
		for range 5 {
			wg.Go(func() {
				if err, found := ask("http://good.example/ca", 5*time.Second); !found {
					t.Error(err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		close(w.end)
		wg.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.asked) != 1 {
			t.Errorf("asked %d times, want once: %v", len(w.asked), w.asked)
		}
	})
}
