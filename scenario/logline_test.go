package scenario_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

// What a tenant's certificate says forges no log line and fills no log: names and URLs are
// of any length, and crypto/x509 looks at no byte of a URL.
func TestHostileLogLines(t *testing.T) {
	testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
		var book testkit.Logbook
		s := testkit.Stapler(t, ca, staple.WithLogger(book.Logger()))
		for range 6 {
			testkit.List(t, s, ca.Issue(ocsptest.Leaf{
				Names: []string{strings.Repeat("a", 60_000) + ".test"},
				URLs:  []string{"http://x.test/\nlevel=ERROR msg=forged" + strings.Repeat("u", 60_000)},
			}))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(book.All()) == 0 {
			t.Error("nothing was logged")
		}
		for _, r := range book.All() {
			r.Attrs(func(a slog.Attr) bool {
				if v := a.Value.String(); len(v) > 4<<10 || a.Key != "error" && strings.ContainsRune(v, '\n') {
					t.Errorf("%s: %s has %d bytes: %.100q", r.Message, a.Key, len(v), v)
				}
				return !t.Failed()
			})
		}
	})
}
