package main

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// A staple as openssl 3.0 prints it, with a certificate after it.
const printed = `OCSP response: 
======================================
OCSP Response Data:
    OCSP Response Status: %s
    Response Type: Basic OCSP Response
    Produced At: Nov 22 22:19:23 2026 GMT
    Responses:
    Certificate ID:
      Hash Algorithm: sha1
      Serial Number: 4A01
    Cert Status: %s
    This Update: Nov  2 22:19:23 2026 GMT
    Next Update: Nov  2 22:19:53 2026 GMT
======================================
    Serial Number: 99
`

func TestParse(t *testing.T) {
	now := time.Date(2026, 11, 2, 22, 19, 30, 0, time.UTC)
	good := fmt.Sprintf(printed, "successful (0x0)", "good")
	for _, tt := range []struct {
		name, out string
		serial    int64
		now       time.Time
		want      string // in the error; "" for none
	}{
		{"good", good, 0x4a01, now, ""},
		{"none", "OCSP response: no response sent\n", 0x4a01, now, "saw no staple"},
		{"revoked", fmt.Sprintf(printed, "successful (0x0)", "revoked"), 0x4a01, now, `"revoked"`},
		{"error status", fmt.Sprintf(printed, "trylater (0x3)", "good"), 0x4a01, now, "trylater"},
		{"other certificate", good, 0x4a02, now, "not 4A02"},
		{"early", good, 0x4a01, now.Add(-time.Minute), "out of its time"},
		{"late", good, 0x4a01, now.Add(time.Minute), "out of its time"},
		{"no time", strings.ReplaceAll(good, "Next Update", "Then"), 0x4a01, now, "a time that is none"},
	} {
		var h handshake
		err := h.parse(tt.out, big.NewInt(tt.serial), tt.now)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.want)
		}
		if tt.name == "good" && (h.status != "good" || h.next.Sub(h.this) != 30*time.Second) {
			t.Errorf("good: got %+v", h)
		}
	}
}
