package ocspresp_test

import (
	"cmp"
	"crypto/fips140"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// A peer judges responses beside us. All that is stapled is good to it, but what it is
// excused from. What is good to it and refused by us is refused for one of these
// reasons, each with what the peer does instead. docs/security.md has the same list.
type peer struct {
	name    string
	judge   func(w *world, raw []byte) error // nil: good
	reasons map[ocspresp.Reason]string
}

// xcrypto is x/crypto/ocsp, which is a parser: dates, the delegate and the CertID are its
// caller's affair.
var xcrypto = &peer{"x/crypto/ocsp", judgeXCrypto, map[ocspresp.Reason]string{
	ocspresp.Malformed:          "encoding/asn1 skips what follows the last field of a SEQUENCE, and takes dates in other forms",
	ocspresp.Version:            "takes any version",
	ocspresp.HashAlgorithm:      "looks at the serial number alone",
	ocspresp.IssuerName:         "looks at the serial number alone",
	ocspresp.IssuerKey:          "looks at the serial number alone",
	ocspresp.CriticalExtension:  "reads no extensions of the response or the delegate",
	ocspresp.SignatureAlgorithm: "takes SHA-1, and parameters where there are none",
	ocspresp.Signer:             "reads no responder ID",
	ocspresp.ResponderID:        "reads no responder ID",
	ocspresp.DelegateIssuer:     "compares no names of the delegate",
	ocspresp.DelegateAlgorithm:  "takes SHA-1",
	ocspresp.DelegateEKU:        "reads no extended key usage",
	ocspresp.DelegateExtension:  "reads no extensions of the response or the delegate",
	ocspresp.DelegateValidity:   "compares no dates",
	ocspresp.ThisUpdate:         "compares no dates",
	ocspresp.NextUpdate:         "compares no dates",
	ocspresp.ProducedAt:         "compares no dates",
	ocspresp.ProducedAtLeaf:     "compares no dates",
	ocspresp.Expired:            "compares no dates",
	ocspresp.Unknown:            "takes the first of several answers",
	ocspresp.Revoked:            "takes the first of several answers",
}}

func judgeXCrypto(w *world, raw []byte) (err error) {
	var r *ocsp.Response
	fips140.WithoutEnforcement(func() { r, err = ocsp.ParseResponseForCert(raw, w.leaf, w.ca) }) // which panics for SHA-1
	if err == nil && r.Status != ocsp.Good {
		return fmt.Errorf("status %d", r.Status)
	}
	return err
}

// openssl is `openssl ocsp`, which a bench runs.
func openssl(b *bench) *peer {
	return &peer{"openssl", b.judge, map[ocspresp.Reason]string{
		ocspresp.Malformed:          "skips what follows the response, and takes dates in other forms, a hash with parameters and a default that is stated (critical FALSE)",
		ocspresp.Version:            "takes any version",
		ocspresp.HashAlgorithm:      "knows SHA-224; x/crypto/ocsp would take that answer for the certificate's",
		ocspresp.CriticalExtension:  "reads no extensions",
		ocspresp.SignatureAlgorithm: "takes SHA-1 and SHA-224, parameters where there are none, a trailerField in those of RSASSA-PSS, and a delegate that crypto/x509 does not parse",
		ocspresp.ResponderID:        "takes a name in another encoding for the same",
		ocspresp.DelegateAlgorithm:  "takes SHA-1",
		ocspresp.NextUpdate:         "takes the first of several answers",
		ocspresp.ProducedAt:         "does not look at producedAt",
		ocspresp.ProducedAtLeaf:     "does not look at producedAt",
		ocspresp.Expired:            "takes the first of several answers, and for ever one without nextUpdate",
		ocspresp.Unknown:            "takes the first of several answers",
		ocspresp.Revoked:            "takes the first of several answers",
	}}
}

// TestStricterIsDocumented: docs/security.md has the list, and no more.
func TestStricterIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	o, rows := openssl(nil), "| refused for | x/crypto/ocsp | openssl |\n| --- | --- | --- |\n"
	for r := ocspresp.Reason(0); r <= ocspresp.Last; r++ {
		if x, o := xcrypto.reasons[r], o.reasons[r]; x+o != "" {
			rows += fmt.Sprintf("| %v | %s | %s |\n", r, cmp.Or(x, "refuses, too"), cmp.Or(o, "refuses, too"))
		}
	}
	if !strings.Contains(string(doc), rows) {
		t.Errorf("docs/security.md lacks this table:\n%s", rows)
	}
}

// excused are the algorithms that x/crypto/ocsp does not know.
var excused = []x509.SignatureAlgorithm{x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.PureEd25519}

// compare has peers judge a mutant, and what we would staple of it.
func (m *mutant) compare(t testing.TB, now time.Time, peers ...*peer) (stapled bool) {
	t.Helper()
	w, raw := m.response(t, now)
	sub := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca))
	p, err := sub.Prove(raw, now)
	if err == nil {
		err = p.Err()
	}
	reason := ocspresp.ReasonOf(err)
	for _, peer := range peers {
		switch {
		case err == nil:
			if theirs := peer.judge(w, p.Raw); theirs != nil && !(peer == xcrypto && slices.Contains(excused, p.Response().SignatureAlgorithm)) {
				t.Errorf("%v: stapled, and refused by %s: %v\n%x", m, peer.name, theirs, p.Raw)
			}
		case peer.judge(w, raw) == nil && (peer.reasons[reason] == "" || !m.may(reason)):
			t.Errorf("%v: good to %s, and refused: %v\n%x", m, peer.name, err, raw)
		}
	}
	return err == nil
}

// may reports whether m may be refused for a reason, as one of its changes is. What is
// wrong with the signer shows in one way or another, by what else is there.
func (m *mutant) may(reason ocspresp.Reason) bool {
	signer := func(r ocspresp.Reason) bool { return ocspresp.Signature <= r && r <= ocspresp.DelegateValidity }
	return len(m.signed)+len(m.unsigned) > 0 || slices.ContainsFunc(m.changes(), func(c *change) bool {
		return c.reason == reason || signer(c.reason) && signer(reason)
	})
}

// random returns a mutant of one to three changes, or of one and spoiled elements.
func random(r *rand.Rand) *mutant {
	var m mutant
	n := 1 + r.IntN(3)
	if r.IntN(3) == 0 {
		n = r.IntN(2)
		bytes := make([]byte, 4+4*r.IntN(2))
		for i := range bytes {
			bytes[i] = byte(r.Uint32())
		}
		if bytes[0] = 0; r.IntN(2) == 0 {
			m.signed = bytes
		} else {
			m.unsigned = bytes
		}
	}
	for range n {
		i := r.IntN(len(kinds))
		m.choice[i] = byte(1 + r.IntN(len(kinds[i].changes)))
	}
	return &m
}

// alone returns the mutants of one change.
func alone() (list []*mutant) {
	for i, kind := range kinds {
		for j := range kind.changes {
			m := new(mutant)
			m.choice[i] = byte(j + 1)
			list = append(list, m)
		}
	}
	return list
}

// TestChangesAlone: each change is refused for its reason, or not at all.
//
// REQ B12
func TestChangesAlone(t *testing.T) {
	now := time.Now()
	for _, m := range alone() {
		w, raw := m.response(t, now)
		p, err := ocspresp.NewSubject(w.leaf, ocspresp.NewIssuer(w.ca)).Prove(raw, now)
		if err == nil {
			err = p.Err()
		}
		if want := m.changes()[0].reason; ocspresp.ReasonOf(err) != want {
			t.Errorf("%v: %v, want %v", m, err, want)
		}
	}
}

// TestDifferential compares with `openssl ocsp`, which costs a process for each, and
// x/crypto/ocsp. STAPLE_LONG has it try more.
//
// REQ B2, REQ C4
func TestDifferential(t *testing.T) {
	n := 300
	switch {
	case os.Getenv("STAPLE_LONG") != "":
		n = 5000
	case testing.Short():
		n = 50
	}
	peers := []*peer{xcrypto}
	if b := newBench(t); b != nil {
		peers = append(peers, openssl(b))
	}
	now, stapled := time.Now(), 0
	list := alone()
	r := rand.New(rand.NewPCG(14, 4))
	for range n {
		list = append(list, random(r))
	}
	for _, m := range list {
		if m.compare(t, now, peers...) {
			stapled++
		}
		if time.Since(now) > time.Minute { // openssl judges by the clock
			now = time.Now()
		}
	}
	if t.Logf("%d stapled of %d", stapled, len(list)); stapled < len(list)/8 {
		t.Errorf("%d stapled of %d, which says little", stapled, len(list))
	}
}

// FuzzDifferential compares with x/crypto/ocsp.
//
// REQ B2, REQ C4
func FuzzDifferential(f *testing.F) {
	for _, m := range alone() {
		m.response(f, time.Now()) // makes the keys
		f.Add(m.bytes())
		m.signed = []byte{0, 9, m.choice[6], m.choice[8]}
		f.Add(m.bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMutant(data)
		m.compare(t, time.Now(), xcrypto)
	})
}
