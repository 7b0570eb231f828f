package ocspresp_test

import (
	"bytes"
	"testing"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// A signedText is what the owner of a vector's key did sign, and what it proves.
type signedText struct {
	name  string
	proof *ocspresp.Proof
}

// FuzzVerify: nothing panics, and nothing proves but what a key's owner signed,
// saying the same. The keys are gone, so that every proof must have the
// ResponseData of a vector.
//
// REQ B2, REQ B4
func FuzzVerify(f *testing.F) {
	v := ownVectors(f)
	signed := map[string]signedText{}
	subjects := map[string]ocspresp.Subject{}
	for _, c := range v.Cases {
		raw := v.response(c.Name)
		f.Add(raw)
		if _, ok := subjects[c.Leaf]; !ok {
			subjects[c.Leaf] = v.subject(c.Name)
		}
		if p, err := v.subject(c.Name).Verify(raw, v.Time, 0); err == nil {
			signed[c.Leaf+text(p)] = signedText{c.Name, p}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		for leaf, sub := range subjects {
			p, err := sub.Verify(raw, v.Time, 0)
			if (p == nil) == (err == nil) || err != nil && ocspresp.ReasonOf(err) == 0 {
				t.Fatalf("got %v, %v", p, err)
			}
			if p == nil {
				_ = err.Error()
				continue
			}
			was, ok := signed[leaf+text(p)]
			if !ok {
				t.Fatalf("%s: proof of what nobody signed", leaf)
			}
			if !sameProof(p, was.proof) {
				t.Fatalf("%s: got %+v, want that of %s: %+v", leaf, p, was.name, was.proof)
			}
		}
		if !bytes.Equal(raw, before) {
			t.Fatal("the input was changed")
		}
	})
}

// text is what was signed, and by whom.
func text(p *ocspresp.Proof) string {
	if signer := p.Response().Certificate; signer != nil {
		return string(p.Response().TBSResponseData) + string(signer.Raw)
	}
	return string(p.Response().TBSResponseData)
}

func sameProof(a, b *ocspresp.Proof) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.RevokedAt.Equal(b.RevokedAt) &&
		a.ThisUpdate.Equal(b.ThisUpdate) && a.NextUpdate.Equal(b.NextUpdate) &&
		a.ProducedAt.Equal(b.ProducedAt) && a.Limit.Equal(b.Limit)
}
