package scenario_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"strings"
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
