package notices_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/ocspstaple/staple/internal/notices"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"golang.org/x/crypto/ocsp"
)

func TestAttrs(t *testing.T) {
	leaf := &x509.Certificate{DNSNames: []string{"shop.example\n"}, SerialNumber: big.NewInt(0xc0ffee)}
	at := time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)
	revoked := &ocspresp.Proof{Status: ocsp.Revoked, Reason: ocsp.KeyCompromise, RevokedAt: at}
	for _, tt := range []struct {
		name   string
		record notices.Record
		want   string
	}{
		{"nothing is held", notices.Record{Kind: notices.Failed, Leaf: leaf, Responder: "http://r.example", Err: errors.New("timeout")},
			"[event=failed certificate=shop.example? serial=c0ffee responder=http://r.example stapled=false error=timeout]"},
		{"stapled", notices.Record{Kind: notices.Stored, Leaf: leaf, ThisUpdate: at, ServedUntil: at.Add(time.Hour)},
			"[event=stored certificate=shop.example? serial=c0ffee responder= this_update=" + at.String() + " stapled=true served_until=" + at.Add(time.Hour).String() + "]"},
		{"expired", notices.Record{Kind: notices.Expired, Leaf: leaf, ThisUpdate: at},
			"[event=expired certificate=shop.example? serial=c0ffee responder= this_update=" + at.String() + " stapled=false]"},
		{"revoked", notices.Record{Kind: notices.Revoked, Leaf: leaf, ThisUpdate: at, Proof: revoked},
			"[event=revoked certificate=shop.example? serial=c0ffee responder= this_update=" + at.String() + " stapled=false revoked_at=" + at.String() + " revocation_reason=keyCompromise never_issued=false]"},
		{"never issued", notices.Record{Kind: notices.Revoked, Leaf: leaf, Proof: &ocspresp.Proof{Status: ocsp.Revoked, Reason: ocsp.CertificateHold, RevokedAt: time.Unix(0, 0).UTC()}},
			"[event=revoked certificate=shop.example? serial=c0ffee responder= stapled=false revoked_at=" + time.Unix(0, 0).UTC().String() + " revocation_reason=certificateHold never_issued=true]"},
		{"revocation confirmed", notices.Record{Kind: notices.Unchanged, Leaf: leaf, Proof: revoked},
			"[event=unchanged certificate=shop.example? serial=c0ffee responder= stapled=false]"},
		{"does not parse", notices.Record{Kind: notices.Failed, Raw: []byte("x")},
			"[event=failed certificate=unparsable certificate (SHA-256 2d711642b726b044) responder= stapled=false]"},
	} {
		if got := fmt.Sprint(tt.record.Attrs()); got != tt.want {
			t.Errorf("%s:\ngot  %s,\nwant %s", tt.name, got, tt.want)
		}
	}
}
