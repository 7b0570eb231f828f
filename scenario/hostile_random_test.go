package scenario_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// A node is an element of DER that can be spoiled: its content, or what it consists
// of.
type node struct {
	tag     byte
	content []byte
	parts   []*node
	long    bool // the length is not in the shortest form
	endless bool // there is none, but an end
}

func parseNode(der []byte) *node {
	n := &node{tag: der[0]}
	if n.tag&0x20 == 0 {
		n.content = bytes.Clone(inside(der))
		return n
	}
	for _, e := range elements(der) {
		n.parts = append(n.parts, parseNode(e))
	}
	return n
}

func (n *node) encode() []byte {
	content := slices.Clone(n.content)
	for _, p := range n.parts {
		content = append(content, p.encode()...)
	}
	switch {
	case n.endless:
		return slices.Concat([]byte{n.tag, 0x80}, content, []byte{0, 0})
	case n.long:
		return slices.Concat([]byte{n.tag, 0x84, 0, byte(len(content) >> 16), byte(len(content) >> 8), byte(len(content))}, content)
	}
	return slices.Concat([]byte{n.tag}, tlv(asn1.OCTET_STRING, content)[1:])
}

// all lists n and all that is in it.
func (n *node) all() []*node {
	list := []*node{n}
	for _, p := range n.parts {
		list = append(list, p.all()...)
	}
	return list
}

// spoil changes one to three things in n.
func (n *node) spoil(rng *rand.Rand) {
	extras := []*node{{tag: 5}, {tag: 2, content: []byte{0}}, {tag: 0x30}, {tag: 6, content: []byte{42}}, {tag: 0xa1}, {tag: 4, content: []byte("x")}}
	tags := []byte{1, 2, 3, 4, 5, 6, 12, 23, 24, 0x24, 0x30, 0x31, 0x80, 0x81, 0xa0, 0xa1, 0xa3}
	for range 1 + rng.IntN(3) {
		list := n.all()
		n := list[rng.IntN(len(list))]
		switch kind := rng.IntN(9); {
		case kind == 0:
			n.tag = tags[rng.IntN(len(tags))]
		case kind == 1 && len(n.parts) > 0:
			i := rng.IntN(len(n.parts))
			n.parts = slices.Delete(n.parts, i, i+1)
		case kind == 2 && len(n.parts) > 0:
			n.parts = slices.Insert(n.parts, rng.IntN(len(n.parts)+1), extras[rng.IntN(len(extras))])
		case kind == 3 && len(n.parts) > 0:
			n.parts = append(n.parts, n.parts[rng.IntN(len(n.parts))])
		case kind == 4:
			n.long = true
		case kind == 5 && n.tag&0x20 != 0:
			n.endless = true
		case kind == 6:
			n.content = append(n.content, byte(rng.Uint32()))
		case kind == 7 && len(n.content) > 0:
			n.content = n.content[:rng.IntN(len(n.content))]
		case len(n.content) > 0:
			n.content[rng.IntN(len(n.content))] = byte(rng.Uint32())
		}
	}
}

// TestHostileBytes: whatever else happens to what is not signed, what is stapled is
// the shortest form, or nothing.
//
// REQ I1, REQ B2, REQ B7
func TestHostileBytes(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	n := 500
	if os.Getenv("EXTRAS") != "" {
		n = 15_000
	}
	for _, i := range []int{0, 1, 3, 8} {
		s := newScene(t, trades[i])
		cert := s.chains[0]
		m := dissect(s.first)
		allowed := [][]byte{nil, s.minimal(s.first, cert)}
		m.certs = slices.Concat(s.decoys[:2], m.certs, [][]byte{s.ca.Cert.Raw})
		if s.delegated() {
			allowed = append(allowed, withCerts(s.first, s.older))
			m.certs = append(m.certs, s.older)
		}
		taken := 0
		for range n {
			raw := spoilt(rng, m)
			if got := s.network(t, raw); !among(got, allowed...) {
				t.Errorf("seed %d, %s: stapled %x of %x", seed, s.name, got, raw)
			} else if got != nil {
				taken++
			}
		}
		if t.Logf("%s: stapled %d of %d", s.name, taken, n); taken < n/10 {
			t.Errorf("%s: stapled %d of %d, which says little", s.name, taken, n)
		}
	}
}

// spoilt is a response in which something is spoiled that is not signed.
func spoilt(rng *rand.Rand, m *message) []byte {
	parts := &node{tag: 0x30, parts: []*node{parseNode(m.algorithm), parseNode(m.signature),
		{tag: 0xa0, parts: []*node{parseNode(sequence(m.certs...))}}}}
	parts.spoil(rng)
	basic := []byte{}
	for _, p := range parts.parts {
		basic = append(basic, p.encode()...)
	}
	raw := envelope(sequence(m.data, basic))
	if rng.IntN(20) > 0 {
		return raw
	}
	n := parseNode(raw)
	n.spoil(rng)
	return n.encode()
}
