package staple_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// leasedElsewhere is a store whose lease another process has for ever; it takes a
// while to say so.
type leasedElsewhere struct{ *shelf }

func (leasedElsewhere) Lease(context.Context, string, time.Duration) (bool, error) {
	time.Sleep(50 * time.Millisecond)
	return false, nil
}

// REQ G5: a Refresh does not wait for another process's lease, either where it
// comes while an attempt asks for that.
func TestRefreshBesideALeaseCall(t *testing.T) {
	for _, since := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		bubble(t, func(t *testing.T, ca *ocsptest.CA) {
			s := stapler(t, ca, staple.WithStore(leasedElsewhere{new(shelf)}))
			cert := ca.Issue(ocsptest.Leaf{})
			s.Staple(cert)
			time.Sleep(since)
			begun := time.Now()
			if err := s.Refresh(t.Context(), cert); err != nil || time.Since(begun) > time.Second {
				t.Errorf("%v after the attempt began: %v after %v", since, err, time.Since(begun))
			}
		})
	}
}

// REQ E1: the issuer in the record is found, too, where the store is slow at the
// start.
func TestSlowStoreHasTheIssuer(t *testing.T) {
	bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{})
		st := learned(t, ca, cert)
		alone := *cert
		alone.Certificate = cert.Certificate[:1]
		st.fail(func(ctx context.Context, op string) error {
			time.Sleep(200 * time.Millisecond)
			return ctx.Err()
		})
		s := stapler(t, ca, staple.WithStore(st))
		list(t, s, &alone)
		time.Sleep(time.Minute)
		if !stapled(t, s, ca, &alone) {
			t.Errorf("Ready: %v", s.Ready())
		}
	})
}

// REQ C5: where the RoundTripper never returns a Prefetch and a Refresh do.
func TestCallsBesideAHungTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := ocsptest.NewCA()
		stop := make(chan struct{})
		s := staple.New(staple.WithHTTPClient(&http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			<-stop
			return nil, errors.New("stopped")
		})}))
		certs := leaves(ca, 80)
		list(t, s, certs[:40]...)
		time.Sleep(24 * time.Hour)
		refreshed := make(chan error, 1)
		go func() { refreshed <- s.Refresh(context.Background()) }()
		time.Sleep(time.Hour)
		begun := time.Now()
		if err := s.Prefetch(context.Background(), certs[50]); err == nil || time.Since(begun) > time.Minute {
			t.Errorf("Prefetch: %v after %v", err, time.Since(begun))
		}
		select {
		case err := <-refreshed:
			if err == nil {
				t.Error("Refresh brought something")
			}
		default:
			t.Error("Refresh did not return in an hour")
		}
		close(stop)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
