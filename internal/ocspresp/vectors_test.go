package ocspresp_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// A publicCase is one case of the public vectors, which are other projects' and
// aren't part of this one. See the README beside them.
type publicCase struct {
	Name, Kind, Response, Leaf, Issuer, Serial string
	Time                                       time.Time
	Expected                                   string
	AcceptAlso                                 []string `json:"accept_also"`
	Requires                                   []string

	dir string
}

// publicCases reads every manifest below the folder that STAPLE_VECTORS names.
func publicCases(t *testing.T) (cases []publicCase) {
	t.Helper()
	root := os.Getenv("STAPLE_VECTORS")
	if root == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("STAPLE_VECTORS is not set")
		}
		t.Skip("STAPLE_VECTORS is not set")
	}
	manifests, err := filepath.Glob(filepath.Join(root, "*", "manifest.json"))
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no manifests in %s: %v", root, err)
	}
	for _, path := range manifests {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Source string
			Cases  []publicCase
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, c := range m.Cases {
			c.dir, c.Name = filepath.Dir(path), m.Source+"/"+c.Name
			cases = append(cases, c)
		}
	}
	return cases
}

func (c publicCase) read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, path))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (c publicCase) certificate(t *testing.T, path string) (*x509.Certificate, error) {
	t.Helper()
	block, _ := pem.Decode(c.read(t, path))
	if block == nil {
		t.Fatalf("%s: not PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

// subject makes what the response must speak of. What x509 won't parse can't be
// served, so that counts as a rejection.
func (c publicCase) subject(t *testing.T) (ocspresp.Subject, error) {
	t.Helper()
	issuer, err := c.certificate(t, c.Issuer)
	if err != nil {
		return ocspresp.Subject{}, err
	}
	iss := ocspresp.NewIssuer(issuer)
	if c.Leaf == "" {
		n, ok := new(big.Int).SetString(c.Serial, 16)
		if !ok {
			t.Fatalf("serial %q", c.Serial)
		}
		return ocspresp.NewSubject(&x509.Certificate{SerialNumber: n, NotAfter: c.Time}, iss), nil
	}
	leaf, err := c.certificate(t, c.Leaf)
	if err != nil {
		return ocspresp.Subject{}, err
	}
	return ocspresp.NewSubject(leaf, iss), nil
}

// outcome is what we say, in the words of the manifests.
func (c publicCase) outcome(t *testing.T) (string, error) {
	t.Helper()
	sub, err := c.subject(t)
	if err != nil {
		return "reject", err
	}
	p, err := sub.Verify(c.read(t, c.Response), c.Time, 0)
	switch {
	case errors.Is(err, ocspresp.ErrUnknown):
		return "unknown", err
	case err != nil:
		return "reject", err
	case p.Status == ocsp.Good:
		return "good", nil
	case errors.Is(p.Err(), ocspresp.ErrRevoked):
		return "revoked", nil
	}
	t.Fatalf("got a proof of status %d", p.Status)
	return "", nil
}

// wanted lists the outcomes that are right for us. Of the lenient policies that
// a case may require we have missing-next-update and empty-extensions.
func (c publicCase) wanted() []string {
	want := append([]string{c.Expected}, c.AcceptAlso...)
	for _, policy := range c.Requires {
		if policy != "missing-next-update" && policy != "empty-extensions" {
			return append(want, "reject")
		}
	}
	return want
}

// REQ B1, REQ B2, REQ B3, REQ B4, REQ B5, REQ B6, REQ B7, REQ B8, REQ B9, REQ B10, REQ B11, REQ B12, REQ B14
func TestPublicVectors(t *testing.T) {
	policies := 0
	for _, c := range publicCases(t) {
		if c.Kind == "parse" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			got, err := c.outcome(t)
			if !slices.Contains(c.wanted(), got) {
				t.Errorf("got %s (%v), want %v", got, err, c.wanted())
			}
			if got != c.Expected && len(c.Requires) > 0 {
				policies++
				if r := ocspresp.ReasonOf(err); r != ocspresp.SignatureAlgorithm && r != ocspresp.DelegateAlgorithm {
					t.Errorf("got %v, want a refusal of the algorithm alone: %v", err, c.Requires)
				}
			}
		})
	}
	t.Logf("%d cases turned on a lenient policy that we don't have", policies)
}

// TestPublicVectorsParse: those without an issuer can't be proven, and must not be.
//
// REQ B2
func TestPublicVectorsParse(t *testing.T) {
	leaf, issuer := ownVectors(t).pair("direct")
	sub := ocspresp.NewSubject(leaf, ocspresp.NewIssuer(issuer))
	for _, c := range publicCases(t) {
		if p, err := sub.Verify(c.read(t, c.Response), c.Time, 0); err == nil || p != nil {
			t.Errorf("%s: got a proof about an unrelated certificate", c.Name)
		}
	}
}
