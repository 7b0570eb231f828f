package ocspresp_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// BenchmarkVerify sets a verification beside the one signature check that it
// can't do without.
func BenchmarkVerify(b *testing.B) {
	v := ownVectors(b)
	for _, name := range []string{"direct", "delegated", "several", "complete"} {
		b.Run(name, func(b *testing.B) {
			sub, raw := v.subject(name), v.response(name)
			b.ReportAllocs()
			for b.Loop() {
				if err := sub.Check(raw, v.Time); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, name := range []string{"direct", "delegated"} { // what is to be stapled is written, too
		b.Run(name+"-proved", func(b *testing.B) {
			sub, raw := v.subject(name), v.response(name)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := sub.Prove(raw, v.Time); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("delegated-cold", func(b *testing.B) {
		leaf, issuer := v.pair("delegated")
		raw := v.response("delegated")
		b.ReportAllocs()
		for b.Loop() {
			sub := ocspresp.NewSubject(leaf, ocspresp.NewIssuer(issuer))
			if err := sub.Check(raw, v.Time); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare-ecdsa", func(b *testing.B) {
		_, issuer := v.pair("direct")
		p, err := v.subject("direct").Verify(v.response("direct"), v.Time, 0)
		if err != nil {
			b.Fatal(err)
		}
		digest := sha256.Sum256(p.Response().TBSResponseData)
		b.ReportAllocs()
		for b.Loop() {
			if !ecdsa.VerifyASN1(issuer.PublicKey.(*ecdsa.PublicKey), digest[:], p.Response().Signature) {
				b.Fatal("bad signature")
			}
		}
	})
}

// BenchmarkNewIssuer is what VerifyStaple pays per connection besides.
func BenchmarkNewIssuer(b *testing.B) {
	_, issuer := ownVectors(b).pair("direct")
	b.ReportAllocs()
	for b.Loop() {
		ocspresp.NewIssuer(issuer)
	}
}
