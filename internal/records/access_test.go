package records_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/records"
)

// store is a store whose operations are as the test says.
type store struct {
	mu    sync.Mutex // guards the rest
	data  map[string][]byte
	calls map[records.Op]int
	do    func(ctx context.Context, op records.Op) error // nil: works
	lease bool
}

func (s *store) call(ctx context.Context, op records.Op) error {
	s.mu.Lock()
	do := s.do
	if s.calls == nil {
		s.calls = make(map[records.Op]int)
	}
	s.calls[op]++
	s.mu.Unlock()
	if do == nil {
		return nil
	}
	return do(ctx, op)
}

func (s *store) works(do func(ctx context.Context, op records.Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do = do
}

func (s *store) count(op records.Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

func (s *store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.call(ctx, records.Get); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.data[key]; ok {
		return data, nil
	}
	return nil, errors.New("miss")
}

func (s *store) Put(ctx context.Context, key string, data []byte) error {
	if err := s.call(ctx, records.Put); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil {
		s.data = make(map[string][]byte)
	}
	s.data[key] = data
	return nil
}

func (s *store) Delete(ctx context.Context, key string) error {
	if err := s.call(ctx, records.Delete); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.data, key)
	return nil
}

func (s *store) Lease(ctx context.Context, _ string, _ time.Duration) (bool, error) {
	return s.lease, s.call(ctx, records.Lease)
}

// slow takes all the time that there is.
func slow(ctx context.Context, _ records.Op) error { <-ctx.Done(); return ctx.Err() }

// access returns an Access to s, and what it told of.
func access(t *testing.T, s *store) (*records.Access, *[]records.Op) {
	var told []records.Op // written by the goroutine that calls the Access
	return &records.Access{Store: s, Sharing: foreign.Shared[[]byte]{Calls: new(foreign.Calls)}, Reads: t.Context(), Writes: t.Context(), Now: time.Now,
		Slow: func(op records.Op, _ error) { told = append(told, op) }}, &told
}

func record() *records.Record {
	now := time.Now().UnixNano()
	return &records.Record{Response: []byte{0x30, 0}, Received: now, Checked: now, Until: now + int64(time.Hour)}
}

func TestReadAndWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := access(t, new(store))
		if _, err := a.Read("k", records.Soon); err == nil || err == records.ErrUnread {
			t.Errorf("%v, want a miss", err)
		}
		if err := a.Write("k", record()); err != nil {
			t.Fatal(err)
		}
		if r, err := a.Read("k", records.Soon); err != nil || len(r.Response) != 2 {
			t.Errorf("%+v, %v", r, err)
		}
		if err := a.Write("k", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Read("k", records.Soon); err == nil {
			t.Error("it was deleted")
		}
	})
}

// A store that was slow is left alone for a while by who has no patience, and by who
// wants a lease. It is told of once.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{do: slow, lease: true}
		a, told := access(t, s)
		for range 3 {
			if _, err := a.Read("k", records.Soon); err != records.ErrUnread {
				t.Errorf("%v, want %v", err, records.ErrUnread)
			}
		}
		if n := s.count(records.Get); n != 1 || len(*told) != 1 || !a.Resting() {
			t.Errorf("%d reads, told %v", n, *told)
		}
		if mine, at := a.MayAsk("k", false, 0); !mine || at != 0 || s.count(records.Lease) != 0 {
			t.Error("it rests, and is asked for a lease")
		}
		if _, err := a.Read("k", records.Patience); err != records.ErrUnread || s.count(records.Get) != 2 {
			t.Errorf("%v after %d reads: patience waits", err, s.count(records.Get))
		}
		s.works(nil)
		time.Sleep(records.Rest)
		if mine, at := a.MayAsk("k", false, 0); !mine || at == 0 {
			t.Error("no lease")
		}
	})
}

// What panics or never returns is as good as slow, and more than 64 calls are not made.
func TestPanicsAndHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{do: func(context.Context, records.Op) error { panic("no") }}
		a, told := access(t, s)
		var panicked *foreign.PanicError
		if _, err := a.Read("k", records.Soon); !errors.As(err, &panicked) || len(*told) != 1 {
			t.Errorf("%v, told %v", err, *told)
		}
		stop := make(chan struct{})
		s.works(func(context.Context, records.Op) error { <-stop; return nil })
		for i := range 100 {
			_, _ = a.Read(string(rune('a'+i)), records.Patience)
		}
		if n := s.count(records.Get); n != 1+foreign.MaxHung {
			t.Errorf("%d calls", n)
		}
		close(stop)
	})
}

// Of a store that hangs nothing is a miss, also for those that meet the limit of calls at
// one moment: what is unread is read again.
func TestManyHangAtOnce(t *testing.T) {
	for range 50 {
		back := make(chan struct{})
		s := &store{do: func(context.Context, records.Op) error { <-back; return nil }}
		a, _ := access(t, s)
		a.Slow = func(records.Op, error) {}
		var reads sync.WaitGroup
		for i := range 200 {
			reads.Go(func() {
				if _, err := a.Read(fmt.Sprint(i), 10*time.Millisecond); err != records.ErrUnread {
					t.Errorf("%v", err)
				}
			})
		}
		reads.Wait()
		close(back)
	}
}

// REQ G3: a failure of each operation is told once a day, and again after a success of
// the same kind: a slow Get must not hide that Put fails.
func TestNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(store)
		a, _ := access(t, s)
		if !a.News(records.Get) || a.News(records.Get) || !a.News(records.Put) || a.News(records.Put) {
			t.Error("each is told once")
		}
		if err := a.Write("k", record()); err != nil {
			t.Fatal(err)
		}
		if a.News(records.Get) || !a.News(records.Put) {
			t.Error("a success of one kind is none of another")
		}
		time.Sleep(24 * time.Hour)
		if !a.News(records.Get) || !a.News(records.Put) {
			t.Error("not told again after a day")
		}
	})
}
