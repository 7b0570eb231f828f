package staple_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/records"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// liar is a store whose records always say that they were checked just now.
type liar struct{ *shelf }

func (l liar) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := l.shelf.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	rec, err := records.Parse(data, now)
	if err != nil {
		return nil, err
	}
	rec.Checked = now
	return rec.Encode(), nil
}

// REQ I4: a store that says that its record was checked just now hides a revocation
// for eight refreshes, and never past half of the validity.
func TestLyingStore(t *testing.T) {
	for _, tc := range []struct{ validity, within time.Duration }{
		{10 * day, 9*time.Hour + time.Minute}, // eight refreshes an hour apart
		{8 * time.Hour, 5 * time.Hour},
	} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			ca.Responder.SetValidity(tc.validity)
			ca.Responder.SetHeader("Cache-Control") // the TTL decides
			ca.Responder.SetHeader("Expires")
			cert := ca.Issue(ocsptest.Leaf{})
			s := stapler(t, ca, staple.WithStore(liar{new(shelf)}))
			mustFetch(t, s, cert)
			ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
			ca.Responder.ResetCounts()
			time.Sleep(2 * time.Hour)
			if n := ca.Responder.Requests(); n > 0 {
				t.Errorf("%d requests, want those of the store to spare them at first", n)
			}
			time.Sleep(tc.within - 2*time.Hour)
			synctest.Wait()
			if err := s.Ready(); !errors.Is(err, staple.ErrRevoked) {
				t.Errorf("validity %v: %v after %v, want %v", tc.validity, err, tc.within, staple.ErrRevoked)
			}
		})
	}
}
