package records_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/records"
)

// A read that came to no answer is no miss: the record may be there. After Close
// nothing is told of.
//
// REQ C5, REQ G3
func TestUnreadIsNoMiss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{do: func(context.Context, records.Op) error { return context.DeadlineExceeded }} // by a limit of its own
		a, _ := access(t, s)
		if _, err := a.Read("k", records.Patience); err != records.ErrUnread {
			t.Errorf("the store has a limit of its own: %v", err)
		}
		stop := make(chan struct{})
		s.works(func(context.Context, records.Op) error { <-stop; return nil })
		for i := range 2 * foreign.MaxHung {
			if _, err := a.Read(fmt.Sprint(i), records.Patience); err != records.ErrUnread {
				t.Errorf("read %d of those that hang: %v", i, err)
			}
		}
		close(stop)

		s = &store{do: slow}
		a, told := access(t, s)
		var end context.CancelFunc
		a.Reads, end = context.WithCancel(t.Context())
		end()
		if _, err := a.Read("k", records.Soon); err != records.ErrUnread || len(*told) > 0 || a.Resting() {
			t.Errorf("after the end of reads: %v, told %v", err, *told)
		}
	})
}

// Those who read one record at one time share the call, and its miss. Who has more
// patience than the one who made it makes another.
//
// REQ C5
func TestReadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{do: func(context.Context, records.Op) error { time.Sleep(50 * time.Millisecond); return nil }}
		a, _ := access(t, s)
		read := func(waits ...time.Duration) (errs []error) {
			errs = make([]error, len(waits))
			var wg sync.WaitGroup
			for i, wait := range waits {
				wg.Go(func() { _, errs[i] = a.Read("k", wait) })
				synctest.Wait()
			}
			wg.Wait()
			return errs
		}
		if errs := read(records.Soon, records.Patience); errs[1] == nil || s.count(records.Get) != 1 {
			t.Errorf("a miss: %v after %d reads", errs[1], s.count(records.Get))
		}
		if err := a.Write("k", record()); err != nil {
			t.Fatal(err)
		}
		s.works(func(ctx context.Context, _ records.Op) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
				return nil
			}
		})
		if errs := read(records.Soon, records.Patience); !errors.Is(errs[0], records.ErrUnread) || errs[1] != nil || s.count(records.Get) != 3 {
			t.Errorf("a slow one: %v after %d reads", errs, s.count(records.Get))
		}
		stop := make(chan struct{})
		s.works(func(context.Context, records.Op) error { <-stop; return nil })
		if errs := read(records.Patience, records.Patience); !errors.Is(errs[1], records.ErrUnread) {
			t.Errorf("one that hangs: %v", errs)
		}
		close(stop)
	})
}

// A write follows an earlier one that returned late: its own data are there in the end,
// and only its own success counts.
//
// REQ E2, REQ G3
func TestLateWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := errors.New("no")
		s := new(store)
		a, _ := access(t, s)
		old, recent := record(), record()
		old.Response, recent.Response = []byte("old"), []byte("recent")
		s.works(func(context.Context, records.Op) error { time.Sleep(7 * time.Second); return nil })
		if err := a.Write("k", old); !errors.Is(err, context.DeadlineExceeded) || !a.News(records.Put) {
			t.Fatal(err)
		}
		s.works(nil)
		if err := a.Write("k", recent); err != nil {
			t.Fatal(err)
		}
		if r, err := a.Read("k", records.Soon); err != nil || string(r.Response) != "recent" {
			t.Errorf("%v, %v: the older data", r, err)
		}
		a.News(records.Put)
		s.works(func(context.Context, records.Op) error { time.Sleep(7 * time.Second); return nil })
		_ = a.Write("k", old)
		s.works(func(context.Context, records.Op) error { return fails })
		if err := a.Write("k", recent); !errors.Is(err, fails) || a.News(records.Put) {
			t.Errorf("%v: a failure counts as a success", err)
		}

		stop := make(chan struct{})
		s.works(func(context.Context, records.Op) error { <-stop; return nil })
		for range 2 { // the second waits for the first
			if err := a.Write("k", old); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("one that hangs: %v", err)
			}
		}
		for i := range foreign.MaxHung {
			_ = a.Write(fmt.Sprint(i), old)
		}
		var hung *foreign.HungError
		if err := a.Write("another", old); !errors.As(err, &hung) {
			t.Errorf("beside many that hang: %v", err)
		}
		close(stop)
	})
}

// Who has no lease waits for the one who has; where the store has none, or fails, it
// goes on without.
//
// REQ E8
func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(store)
		a, _ := access(t, s)
		if mine, at := a.MayAsk("k", false, 0); mine || at != 0 {
			t.Errorf("another has it: mine %v, since %v", mine, at)
		}
		s.lease = true
		s.works(func(context.Context, records.Op) error { return errors.New("no") })
		if mine, at := a.MayAsk("k", false, 0); !mine || at != 0 {
			t.Errorf("it fails: mine %v, since %v", mine, at)
		}
		b, told := access(t, s)
		b.Store = struct{ records.Store }{s}
		if mine, at := b.MayAsk("k", false, 0); !mine || at != 0 || len(*told) > 0 {
			t.Errorf("a store without leases: mine %v, since %v, told %v", mine, at, *told)
		}
		stop := make(chan struct{})
		s.works(func(context.Context, records.Op) error { <-stop; return nil })
		for i := range foreign.MaxHung {
			a.MayAsk(fmt.Sprint(i), false, 0)
			time.Sleep(records.Rest)
		}
		if mine, at := a.MayAsk("another", false, 0); !mine || at != 0 || !a.Resting() {
			t.Errorf("beside many that hang: mine %v, since %v", mine, at)
		}
		close(stop)
	})
}

// A store rests for a while from its first failure on, which is told once; not for
// longer where the clock was set back.
//
// REQ E9, REQ G3
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step time.Duration
		s := &store{do: func(context.Context, records.Op) error { panic("no") }}
		a, told := access(t, s)
		a.Now = func() time.Time { return time.Now().Add(step) }
		_, _ = a.Read("k", records.Soon)
		time.Sleep(3 * time.Second)
		_, _ = a.Read("k", records.Patience) // which does not care
		if !a.Resting() || len(*told) != 1 {
			t.Errorf("after 3 s: resting %v, told %v", a.Resting(), *told)
		}
		if time.Sleep(records.Rest - 3*time.Second); a.Resting() {
			t.Error("rests for longer than its time")
		}
		_, _ = a.Read("k", records.Soon)
		if step = -time.Minute; a.Resting() {
			t.Error("rests for a time of a clock that was set back")
		}
		if !a.News(records.Delete) || a.News(records.Delete) {
			t.Error("not told once")
		}
		if step = -time.Hour; !a.News(records.Delete) {
			t.Error("what was told an hour ahead of now is not told")
		}
	})
}

// What a record says is believed up to a limit, and the limit is where it is said to be.
//
// REQ I4
func TestLimitsOfRecords(t *testing.T) {
	r := sample()
	for name, c := range map[string]struct {
		etag string
		kept bool
	}{
		"1,024 bytes": {strings.Repeat("e", 1024), true}, "1,025 bytes": {strings.Repeat("e", 1025), false},
		"a space": {"a b", true}, "DEL": {"a\x7fb", false}, "a tab": {"a\tb", false},
	} {
		r.ETag = c.etag
		if got, err := records.Parse(r.Encode(), at.UnixNano()); err != nil || (got.ETag != "") != c.kept {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if bare := (&records.Record{Response: []byte("x")}).Encode(); bytes.Contains(bare, []byte("ETag")) || bytes.Contains(bare, []byte("Max-Age")) {
		t.Errorf("headers that say nothing:\n%s", bare)
	}
	r = sample()
	full := append(r.Encode(), make([]byte, records.MaxSize-len(r.Encode()))...)
	if _, err := records.Parse(full, at.UnixNano()); err != nil {
		t.Errorf("of the largest size: %v", err)
	}
	r.Issuer = nil
	other := pem.EncodeToMemory(&pem.Block{Type: "OCSP RESPONSE", Bytes: []byte("x")})
	if got, err := records.Parse(append(r.Encode(), other...), at.UnixNano()); err != nil || got.Issuer != nil {
		t.Errorf("a second block of another type: %+v, %v", got, err)
	}
	for checked, want := range map[string]int64{
		"1970-06-01T00:00:00Z": time.Date(1970, 6, 1, 0, 0, 0, 0, time.UTC).UnixNano(),
		"2026-11-26T12:05:00Z": at.UnixNano(), "2026-11-26T12:05:01Z": 0, "2500-01-01T00:00:00Z": 0, "9999-01-01T00:00:00Z": 0, "x": 0,
	} {
		text := strings.Replace(string(r.Encode()), "Checked: 2026-11-26T12:00:00Z", "Checked: "+checked, 1)
		if got, err := records.Parse([]byte(text), at.UnixNano()); err != nil || got.Checked != want {
			t.Errorf("checked %s: %+v, %v, want %d", checked, got, err, want)
		}
	}
	for name, block := range map[string]*pem.Block{
		"another type": {Type: "CERTIFICATE", Headers: map[string]string{"Expires": "2000-01-01T00:00:00Z"}},
		"no date":      {Type: "OCSP RESPONSE", Headers: map[string]string{"Expires": "x"}},
	} {
		if records.Expired(pem.EncodeToMemory(block), at) {
			t.Errorf("%s: expired", name)
		}
	}
}

// A key of lower-case letters, digits and hyphens, of 8 bytes to 100, is the name of its
// file; any other is hashed. No directory is the current one.
//
// REQ E2
func TestDirNames(t *testing.T) {
	t.Chdir(t.TempDir())
	d := records.Dir("")
	for key, named := range map[string]bool{
		"az-09-az": true, "az-09-a": false, strings.Repeat("z", 100): true, strings.Repeat("z", 101): false,
		"az-09-a{": false, "az-09-a`": false, "az-09-a/": false, "az-09-a:": false, "az-09-aZ": false, "az-09-a.": false, "staple-temp-1": false,
	} {
		if err := d.Put(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Get(t.Context(), key); err != nil || string(got) != key {
			t.Errorf("%q: %q, %v", key, got, err)
		}
		if _, err := os.Stat(key + ".pem"); (err == nil) != named {
			t.Errorf("%q: a file of that name: %v, want %v", key, err == nil, named)
		}
	}
	if err := d.Put(t.Context(), "staple-ocsp-1", make([]byte, records.MaxSize)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get(t.Context(), "staple-ocsp-1"); err != nil || len(got) != records.MaxSize {
		t.Errorf("the largest record: %d bytes, %v", len(got), err)
	}
}

// Who failed goes on for the rest of its lease, leaves one term to others, and then
// takes what is free.
//
// REQ E5
func TestMayAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{lease: true}
		a, _ := access(t, s)
		first := time.Now().UnixNano()
		if mine, at := a.MayAsk("k", false, 0); !mine || at != first {
			t.Fatalf("it is free: mine %v, at %v", mine, at)
		}
		plain, _ := access(t, s)
		plain.Store = struct{ records.Store }{s}
		for _, tt := range []struct {
			name    string
			after   time.Duration
			failing bool
			a       *records.Access
			mine    bool
			asked   int // of the store
			renewed bool
		}{
			{"it works", time.Second, false, a, true, 1, true},
			{"failed, within the term", records.LeaseTerm - 1, true, a, true, 0, false},
			{"failed, after it", records.LeaseTerm, true, a, false, 0, false},
			{"failed, at the end of the next", 2*records.LeaseTerm - 1, true, a, false, 0, false},
			{"failed, after the next", 2 * records.LeaseTerm, true, a, true, 1, true},
			{"failed, by a clock that was set back", -time.Second, true, a, true, 1, true},
			{"failed, without leases", records.LeaseTerm, true, plain, true, 0, false},
		} {
			leased := time.Now().Add(-tt.after).UnixNano()
			before := s.count(records.Lease)
			mine, at := tt.a.MayAsk("k", tt.failing, leased)
			if asked := s.count(records.Lease) - before; mine != tt.mine || asked != tt.asked || (at != leased) != tt.renewed {
				t.Errorf("%s: mine %v, asked %d times, renewed %v", tt.name, mine, asked, at != leased)
			}
		}
		s.lease = false
		if mine, at := a.MayAsk("k", false, first); mine || at != first {
			t.Errorf("another has it: mine %v", mine)
		}
		s.works(slow)
		_, _ = a.Read("k", records.Soon)
		if mine, _ := a.MayAsk("k", true, time.Now().Add(-records.LeaseTerm).UnixNano()); !mine {
			t.Error("a store that rests passes the turn to others")
		}
	})
}
