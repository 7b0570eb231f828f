// Command gen writes testdata/vectors: OCSP responses that each differ from a
// good one, their twin, in one thing. From the root of the repository:
//
//	go run ./testdata/gen
//
// The keys are new each time, so that every file changes; what a case means, and
// the time at which all of them are judged, doesn't.
package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const folder = "testdata/vectors"

// A manifest describes the vectors.
type manifest struct {
	Time  time.Time // at which all are judged
	Cases []*vector
}

// A vector is a response, and what is to be said of it.
type vector struct {
	Name     string     `json:"name"`
	Req      string     `json:"req"`              // row of the requirements
	Twin     string     `json:"twin,omitempty"`   // the good one that it is a change of
	Leaf     string     `json:"leaf"`             // file, without .pem
	Issuer   string     `json:"issuer"`           // the same
	Expected string     `json:"expected"`         // good, revoked, unknown, reject
	Reason   string     `json:"reason,omitempty"` // as Reason.String has it
	Limit    *time.Time `json:"limit,omitempty"`  // until when it is proof
	der      []byte
}

func main() {
	m := manifest{Time: now, Cases: vectors()}
	must(distinct(m.Cases))
	must(os.RemoveAll(folder))
	must(os.MkdirAll(folder, 0o755))
	for _, v := range m.Cases {
		must(os.WriteFile(filepath.Join(folder, v.Name+".der"), v.der, 0o644))
	}
	for _, id := range written {
		block := &pem.Block{Type: "CERTIFICATE", Bytes: id.cert.Raw}
		must(os.WriteFile(filepath.Join(folder, id.name+".pem"), pem.EncodeToMemory(block), 0o644))
	}
	must(os.WriteFile(filepath.Join(folder, "manifest.json"), m.encode(), 0o644))
}

// distinct returns an error if the names of two cases differ by case alone: Go
// makes no zip of a module with two such files.
func distinct(cases []*vector) error {
	names := make(map[string]string)
	for _, v := range cases {
		folded := strings.ToLower(v.Name)
		if other, ok := names[folded]; ok {
			return fmt.Errorf("two cases for one file name: %s, %s", other, v.Name)
		}
		names[folded] = v.Name
	}
	return nil
}

// encode writes a case a line, for short differences.
func (m manifest) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"time\": %s, \"cases\": [", check(json.Marshal(m.Time)))
	for i, v := range m.Cases {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n%s", check(json.Marshal(v)))
	}
	b.WriteString("\n]}\n")
	return b.Bytes()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
