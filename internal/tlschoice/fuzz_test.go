package tlschoice_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing"
)

// chosenBytes is a source of what data says, eight bytes at a time, and then of what
// follows from it.
type chosenBytes struct {
	data []byte
	rest *rand.PCG
}

func newChosenBytes(data []byte) *chosenBytes {
	h := fnv.New64a()
	h.Write(data)
	return &chosenBytes{data, rand.NewPCG(h.Sum64(), 0)}
}

func (c *chosenBytes) Uint64() uint64 {
	if len(c.data) < 8 {
		return c.rest.Uint64()
	}
	n := binary.BigEndian.Uint64(c.data)
	c.data = c.data[8:]
	return n
}

// FuzzChoice: for any server name, any names in certificates, and any list, config
// and hello, the hook chooses as crypto/tls does.
func FuzzChoice(f *testing.F) {
	all := stock()
	for i, name := range helloNames {
		for n := range 6 {
			data := []byte{byte(i), byte(n)} // the rest follows from these
			f.Add(data, name, "*.example.com")
			f.Add(data, name+".", name)
			f.Add(data, "["+name+"]", name+".")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, sni, name string) {
		r := rand.New(newChosenBytes(data))
		rack := newRack(r, all)
		for i := range rack.certs { // a name that no CA may sign
			if c := &rack.certs[i]; c.Leaf != nil && r.IntN(2) == 0 {
				leaf := *c.Leaf
				leaf.DNSNames = append(slices.Clone(leaf.DNSNames), name)
				c.Leaf = &leaf
			}
		}
		base := randomConfig(r, rack.certs)
		h := randomHello(r, helloNames)
		h.ServerName = sni
		want, wantErr := chosen(base, h)
		for _, indexed := range []bool{true, false} {
			got, err := hooked(base, indexed).GetCertificate(h)
			if at, wantAt := place(base, got), place(base, want); at != wantAt || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Fatalf("indexed %v: certificate %d, %v; crypto/tls: %d, %v", indexed, at, err, wantAt, wantErr)
			}
		}
	})
}
