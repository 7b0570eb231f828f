package issuers_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/issuers"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/ocsptest"
)

// What came of a download is remembered for a while: a success whoever asks, a failure
// only for who does not ask since; by a clock that was set back neither; and of no more
// URLs than there is room for.
//
// REQ A5, REQ E9, REQ I8
func TestDownloadsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := ocsptest.NewCA(), ocsptest.NewCA()
		var step time.Duration
		asked := 0
		f := finder(func(u string) ([]byte, error) {
			asked++
			if strings.Contains(u, "good") {
				return other.Cert.Raw, nil // an issuer, but not of whom is asked for
			}
			return nil, errors.New("down")
		})
		f.Now = func() time.Time { return time.Now().Add(step) }
		ask := func(u string, since time.Time) (n int) {
			before := asked
			f.Elsewhere(t.Context(), ca.Issue(ocsptest.Leaf{IssuerURLs: []string{u}}).Leaf, since)
			return asked - before
		}
		const good, bad = "http://good.example", "http://bad.example"
		for _, c := range []struct {
			name  string
			url   string
			since time.Duration // from now
			step  time.Duration // of the clock
			sleep time.Duration // before
			want  int
		}{
			{"a success, first", good, -time.Hour, 0, 0, 1},
			{"a success, again", good, -time.Hour, 0, 0, 0},
			{"a success, asked for since", good, time.Millisecond, 0, 0, 0},
			{"a success, when its time is over", good, -time.Hour, 0, 500 * time.Millisecond, 1},
			{"a failure, first", bad, -time.Hour, 0, 0, 1},
			{"a failure, again", bad, -time.Hour, 0, 0, 0},
			{"a failure, asked for since", bad, time.Millisecond, 0, 0, 1},
			{"a failure, the clock was set back", bad, -24 * time.Hour, -time.Hour, 0, 1},
		} {
			time.Sleep(c.sleep)
			step += c.step
			if got := ask(c.url, f.Now().Add(c.since)); got != c.want {
				t.Errorf("%s: asked %d times, want %d", c.name, got, c.want)
			}
		}
		for range 10 { // until it is remembered for a minute
			time.Sleep(time.Minute)
			ask(bad, time.Time{})
		}
		time.Sleep(10 * time.Minute)
		ask(bad, time.Time{})
		if time.Sleep(600 * time.Millisecond); ask(bad, time.Time{}) != 1 {
			t.Error("a failure after ten minutes is remembered for longer than the first one was")
		}
		for n := range 255 {
			ask(fmt.Sprintf("http://h%d.example", n), time.Time{})
		}
		if ask("http://h0.example", time.Time{}) != 1 {
			t.Error("what came of more than 256 is remembered")
		}
		if ask("http://h254.example", time.Time{}) != 0 {
			t.Error("the last one is not remembered")
		}
	})
}

// A certificate that another one brought is the issuer only if it signed: names and key
// identifiers are what anybody may write.
//
// REQ A5
func TestKnownIssuerSigned(t *testing.T) {
	ca := ocsptest.NewCA()
	twin := ocsptest.NewCA(ocsptest.Options{Name: ca.Cert.Subject.CommonName})
	f := finder(nothing)
	is := f.Parse(ca.Cert.Raw)
	leaf := *twin.Issue(ocsptest.Leaf{}).Leaf
	leaf.AuthorityKeyId = ca.Cert.SubjectKeyId
	if got, _ := f.Elsewhere(t.Context(), &leaf, time.Time{}); got != nil {
		t.Error("who has the name of the issuer is taken for it")
	}
	if again := f.Parse(ca.Cert.Raw); again != is {
		t.Error("the same certificate is another issuer")
	}
}

// A download keeps its place for a while, and then only gives way to who waits for that
// place: at its own host, or for any where all are taken.
//
// REQ I2
func TestWhoGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		w := &web{now: make(map[string]int), answer: ca.Cert.Raw}
		f := finder(nil)
		f.Get = w.get
		at := func(host string) int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now[host]
		}
		var wg sync.WaitGroup
		var gaveWay []error
		start := func(host string, n int) {
			for i := range n {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
					defer cancel()
					u := fmt.Sprintf("http://%s/%d-%d", host, time.Now().UnixNano(), i)
					_, errs := f.Elsewhere(ctx, ca.Issue(ocsptest.Leaf{IssuerURLs: []string{u}}).Leaf, time.Time{})
					var de *issuers.DownloadError
					if len(errs) == 1 && errors.As(errs[0], &de) && strings.Contains(de.Error(), "wait for their turn") {
						w.mu.Lock()
						gaveWay = append(gaveWay, de)
						w.mu.Unlock()
					}
				})
				synctest.Wait()
			}
		}
		start("b.example", 1)
		time.Sleep(200 * time.Millisecond) // it is the first whose time is over
		start("a.example", 5)
		for _, c := range []struct {
			after   time.Duration
			gaveWay int
		}{
			{700 * time.Millisecond, 0}, // their time is not over
			{100 * time.Millisecond, 1}, // one for the one who waits
		} {
			time.Sleep(c.after)
			synctest.Wait()
			w.mu.Lock()
			if len(gaveWay) != c.gaveWay {
				t.Errorf("%d gave way, want %d", len(gaveWay), c.gaveWay)
			}
			w.mu.Unlock()
			if at("a.example") != 4 || at("b.example") != 1 {
				t.Errorf("%d and %d under way, want 4 and 1: who is in nobody's way goes on", at("a.example"), at("b.example"))
			}
		}
		wg.Wait()
		time.Sleep(2 * time.Minute)
	})
}

// Values under one key are one for as long as somebody has it, and what nobody has goes.
func TestInterned(t *testing.T) {
	var all issuers.Interned[[64]byte]
	key := sha256.Sum256(nil)
	first := all.Put(key, new([64]byte))
	if all.Put(key, new([64]byte)) != first || all.Get(key) != first {
		t.Error("two values under one key")
	}
	for n := range 5000 {
		all.Put(sha256.Sum256([]byte(fmt.Sprint(n))), new([64]byte))
		if n%50 == 0 {
			runtime.GC()
		}
	}
	if all.Len() > 1000 || all.Get(key) != first {
		t.Errorf("%d values, of which one is in use", all.Len())
	}
	runtime.KeepAlive(first)
}

// What is known of issuers and of URLs takes little, however long their names are: these
// are anybody's, and stay for a while when nobody has them any more.
//
// REQ I8
func TestLongNamesAreNotKept(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // what has a finalizer goes in the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 60
	long := func(i int) string { return fmt.Sprint(strings.Repeat("x", 15<<10), i) }
	f := finder(func(string) ([]byte, error) { return nil, errors.New("down") })
	for name, do := range map[string]func(i int){
		"issuers": func(i int) { f.Share(&ocspresp.Issuer{Cert: &x509.Certificate{RawSubject: []byte(long(i))}}) },
		"URLs": func(i int) {
			f.Elsewhere(t.Context(), &x509.Certificate{IssuingCertificateURL: []string{"http://ca.example/" + long(i)}}, time.Time{})
		},
	} {
		before := heap()
		for i := range n {
			do(i)
		}
		if after := heap(); after > before+n<<12 {
			t.Errorf("%s: %d bytes are kept for each", name, (after-before)/n)
		}
	}
	runtime.KeepAlive(f)
}
