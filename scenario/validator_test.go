package scenario_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// tagged has ca's responder answer as a file server does, with an ETag of the
// certificate's state. A forged one, if it is not empty, goes out with the first answer.
func tagged(ca *ocsptest.CA, cert *tls.Certificate, tag func() string, forged func() (etag, modified string)) {
	ca.Responder.SetHook(func(w http.ResponseWriter, req *http.Request, serial *big.Int) bool {
		etag, modified := tag(), ""
		sent, since := req.Header.Get("If-None-Match"), req.Header.Get("If-Modified-Since")
		if sent == "*" || sent == etag || sent == "" && since != "" && strings.HasSuffix(since, "2099 00:00:00 GMT") {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
		if forged != nil {
			etag, modified = forged()
			forged = nil
		}
		w.Header().Set("ETag", etag)
		if modified != "" {
			w.Header().Set("Last-Modified", modified)
		}
		testkit.AnswerWith(w, ca.Responder.Response(cert))
		return true
	})
}

// noticed returns how long after a revocation s knows of it, 20 days at most.
func noticed(t *testing.T, s *staple.Stapler) time.Duration {
	t.Helper()
	begun := time.Now()
	for !errors.Is(s.Ready(), staple.ErrRevoked) && time.Since(begun) < 20*testkit.Day {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
	}
	return time.Since(begun)
}

// REQ I4: headers prove nothing. One forged answer, with the validator of the response
// that will say revoked, or one that any response matches, has the responder itself
// answer 304 for as long as requests are conditional.
func TestForgedValidatorOnce(t *testing.T) {
	for name, forged := range map[string]func() (string, string){
		"any":           func() (string, string) { return "*", "" },
		"the next":      func() (string, string) { return `"revoked"`, "" },
		"in the future": func() (string, string) { return "", "Thu, 01 Jan 2099 00:00:00 GMT" },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				ca.Responder.SetValidity(10 * testkit.Day)
				ca.Responder.SetHeader("Cache-Control") // the TTL decides
				ca.Responder.SetHeader("Expires")
				cert, state := ca.Issue(ocsptest.Leaf{}), `"good"`
				tagged(ca, cert, func() string { return state }, forged)
				s := testkit.Stapler(t, ca)
				testkit.MustFetch(t, s, cert)
				state = `"revoked"`
				ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
				if d := noticed(t, s); d > 9*time.Hour+20*time.Minute {
					t.Errorf("a revocation is noticed after %v, want nine refreshes at most", d)
				}
			})
		})
	}
}

// REQ I4: so has a record that names the ETag of the response that says revoked.
func TestForgedValidatorInARecord(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(10 * testkit.Day)
		ca.Responder.SetHeader("Cache-Control")
		ca.Responder.SetHeader("Expires")
		cert, state := ca.Issue(ocsptest.Leaf{}), `"good"`
		tagged(ca, cert, func() string { return state }, nil)
		data := recordOf(t, ca, cert)
		state = `"revoked"`
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		block, rest := pem.Decode(data)
		block.Headers["ETag"] = state
		data = append(pem.EncodeToMemory(block), rest...)
		s := testkit.Stapler(t, ca, staple.WithStore(oneRecord(data)))
		testkit.List(t, s, cert)
		if d := noticed(t, s); d > 9*time.Hour+20*time.Minute {
			t.Errorf("a revocation is noticed after %v, want nine refreshes at most", d)
		}
	})
}

// REQ A10: the ETag of one responder says nothing to another. One in a record, of the
// responder that another process asks, does not go to the one that this process asks.
func TestValidatorOfAnotherResponder(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		ca.Responder.SetValidity(10 * testkit.Day)
		const first, second = "http://first.test", "http://second.test"
		cert := ca.Issue(ocsptest.Leaf{URLs: []string{first, second}})
		var asked sync.Map // by host and tag
		client := func(reaches string) staple.Option {
			return staple.WithHTTPClient(&http.Client{Transport: testkit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				host := "http://" + r.URL.Host
				if host != reaches {
					return nil, errors.New("unreachable")
				}
				if tag := r.Header.Get("If-None-Match"); tag != "" {
					asked.Store(host+" "+tag, true)
				}
				res, err := ca.Responder.Client().Transport.RoundTrip(r)
				if err == nil {
					res.Header.Set("ETag", `"`+host+`"`)
				}
				return res, err
			})})
		}
		st := new(testkit.Shelf)
		testkit.MustFetch(t, testkit.Stapler(t, ca, client(second), staple.WithStore(st), staple.WithTTL(time.Hour)), cert)
		time.Sleep(30 * time.Minute)
		other := testkit.Stapler(t, ca, client(first), staple.WithStore(st))
		if err := other.Refresh(t.Context(), cert); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // it is written
		other.Forget(cert)
		time.Sleep(12 * time.Hour)
		_, others := asked.Load(second + ` "` + first + `"`)
		_, own := asked.Load(second + ` "` + second + `"`)
		if others || !own {
			t.Errorf("a responder gets its own ETag %v, and that of another %v", own, others)
		}
	})
}

// readOnly is a store that has one record for all keys, and takes none.
type readOnly []byte

func (r readOnly) Get(context.Context, string) ([]byte, error) { return r, nil }
func (r readOnly) Put(context.Context, string, []byte) error   { return errors.New("read-only") }
func (r readOnly) Delete(context.Context, string) error        { return nil }

// A 304 confirms the response that its request was about. Where a certificate is forgotten
// and learned again meanwhile, with an older response out of the store, it does not confirm
// that one.
func TestConfirmsWhatWasAskedAbout(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		cert := ca.Issue(ocsptest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)})
		older := block("OCSP RESPONSE", ca.Responder.Response(cert), time.Now())
		time.Sleep(6 * time.Hour)
		ca.Responder.SetPresign(true)
		var slow atomic.Bool
		ca.Responder.SetHook(func(http.ResponseWriter, *http.Request, *big.Int) bool {
			if slow.Load() {
				time.Sleep(4 * time.Second)
			}
			return false
		})
		ca.Responder.Revoke(cert, ocsp.KeyCompromise, time.Now())
		s := testkit.Stapler(t, ca, staple.WithStore(readOnly(older)))
		s.Staple(cert)
		time.Sleep(30 * time.Second)
		slow.Store(true)
		for n := ca.Responder.Requests(); ca.Responder.Requests() == n; time.Sleep(100 * time.Millisecond) {
		}
		s.Forget(cert)
		s.Staple(cert)
		time.Sleep(5 * time.Second)
		slow.Store(false)
		time.Sleep(5 * time.Minute)
		if st := s.Status()[0]; st.State != staple.StateRevoked {
			t.Errorf("%+v", st)
		}
	})
}
