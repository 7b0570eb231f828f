package staple_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
)

const faultsFile = "docs/faults.md"

const faultsIntro = `# What a handshake carries when the responder misbehaves

One row for each fault that [ocsptest](../ocsptest) can play, by its name and the constant for it, against a server with
one certificate, in virtual time; the responder takes 50 ms for each answer.
Each cell says what the handshake carried (nothing, the response that was held before, or a new one), how long it
waited for that, and how many HTTP requests the one attempt made that met the fault, retries and redirects within it
included.

- **cold**: the first handshake with a certificate, with no store.
- **cold, Must-Staple**: the same, for a certificate with the TLS feature status_request (RFC 7633).
- **at refresh**: a handshake after a refresh met the fault; the response that is held is an hour old and valid for four days.
- **after a restart**: the first handshake of a new process with a store, which holds a response two hours old.

Nothing else is ever stapled: no cell says "an expired one", or "what the responder sent". A test measures all this and
fails if this file says anything else. To update the file:

    UPDATE_FAULTS=1 go test -run TestFaultTable .

| fault | constant | cold | cold, Must-Staple | at refresh | after a restart |
| --- | --- | --- | --- | --- | --- |
`

// REQ C3, REQ C4, REQ C5, REQ E1, REQ E6, REQ B12: what a handshake carries through each fault.
func TestFaultTable(t *testing.T) {
	var out strings.Builder
	out.WriteString(faultsIntro)
	faults := ocsptest.Faults()
	if len(faults) < 35 {
		t.Errorf("%d faults, want at least 35", len(faults))
	}
	constants := faultConstants(t)
	for _, f := range faults {
		fmt.Fprintf(&out, "| %v | %s |", f, constants[f])
		for _, column := range []func(*testing.T, *faulty){cold, coldMust, atRefresh, afterRestart} {
			testkit.Bubble(t, func(t *testing.T, ca *ocsptest.CA) {
				x := &faulty{ca: ca, fault: f, store: new(testkit.Shelf)}
				ca.Responder.SetDelay(50 * time.Millisecond)
				column(t, x)
				fmt.Fprintf(&out, " %s, %s, %s |", x.carried, waited(x.took), plural(x.requests, "request"))
			})
		}
		out.WriteString("\n")
	}
	if os.Getenv("UPDATE_FAULTS") != "" {
		if err := os.WriteFile(faultsFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(faultsFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := firstDifference(out.String(), strings.ReplaceAll(string(want), "\r\n", "\n")); d != "" {
		t.Errorf("%s is not what was measured; %s", faultsFile, d)
	}
}

// faultConstants returns how the faults are called in the source.
func faultConstants(t *testing.T) map[ocsptest.Fault]string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "ocsptest/fault.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	partly := types.Config{Error: func(error) {}, IgnoreFuncBodies: true} // the rest of the package is not there
	pkg, _ := partly.Check("ocsptest", fset, []*ast.File{file}, nil)
	names := make(map[ocsptest.Fault]string)
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok && strings.HasPrefix(name, "Fault") {
			n, _ := constant.Uint64Val(c.Val())
			names[ocsptest.Fault(n)] = name
		}
	}
	return names
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) {
			return fmt.Sprintf("%d lines, want %d", len(g), len(w))
		}
		if g[i] != w[i] {
			return fmt.Sprintf("line %d:\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return ""
}

func waited(d time.Duration) string {
	if d == 0 {
		return "at once"
	}
	return "after " + d.String()
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// faulty is one cell of the table.
type faulty struct {
	ca    *ocsptest.CA
	fault ocsptest.Fault
	store *testkit.Shelf
	s     *staple.Stapler
	cert  *tls.Certificate
	held  []byte

	carried  string
	took     time.Duration
	requests int
}

// start makes a Stapler and a certificate, if there is none yet.
func (x *faulty) start(t *testing.T, must bool, opts ...staple.Option) {
	x.s = testkit.Stapler(t, x.ca, opts...)
	if x.cert == nil {
		x.cert = x.ca.Issue(ocsptest.Leaf{Names: []string{"a.example"}, MustStaple: must})
	}
}

// shake makes the handshake of the cell. What it carries is judged by
// x/crypto/ocsp, not by us.
func (x *faulty) shake(t *testing.T) {
	cfg := &tls.Config{GetCertificate: x.s.GetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return x.cert, nil })}
	cs, took := testkit.TimedTalk(t, cfg, testkit.ClientFor(x.ca, "a.example"))
	x.took = took
	switch {
	case len(cs.OCSPResponse) == 0:
		x.carried = "nothing"
		return
	case bytes.Equal(cs.OCSPResponse, x.held):
		x.carried = "the one held"
	default:
		x.carried = "a new one"
	}
	if err := testkit.Judge(cs, x.ca); err != nil {
		t.Errorf("%v: a bad staple: %v", x.fault, err)
	}
}

// settle waits until the attempt that is under way has ended, and counts.
func (x *faulty) settle() {
	for range 12 * 4 {
		synctest.Wait()
		if st := x.s.Status(); len(st) == 1 && !st[0].NextRefresh.IsZero() {
			break
		}
		time.Sleep(250 * time.Millisecond)
	}
	x.requests = x.ca.Responder.Requests()
}

func cold(t *testing.T, x *faulty) {
	x.ca.Responder.SetFault(x.fault)
	x.start(t, false)
	x.shake(t)
	x.settle()
}

func coldMust(t *testing.T, x *faulty) {
	x.ca.Responder.SetFault(x.fault)
	x.start(t, true)
	x.shake(t)
	x.settle()
}

func atRefresh(t *testing.T, x *faulty) {
	x.start(t, false)
	x.prime(t)
	x.ca.Responder.SetFault(x.fault)
	for range 7200 {
		if x.ca.Responder.Requests() > 0 {
			break
		}
		time.Sleep(500 * time.Millisecond) // a retry follows after 750 ms or more
	}
	x.settle()
	x.shake(t)
}

func afterRestart(t *testing.T, x *faulty) {
	x.start(t, false, staple.WithStore(x.store))
	x.prime(t)
	if err := x.s.Close(); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * time.Hour)
	x.ca.Responder.ResetCounts()
	x.ca.Responder.SetFault(x.fault)
	x.start(t, false, staple.WithStore(x.store))
	x.shake(t)
	x.settle()
}

// prime has the Stapler hold a response.
func (x *faulty) prime(t *testing.T) {
	if err := x.s.Prefetch(context.Background(), x.cert); err != nil {
		t.Fatal(err)
	}
	x.held = x.s.Staple(x.cert).OCSPStaple
	x.ca.Responder.ResetCounts()
}
