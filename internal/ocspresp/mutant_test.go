package ocspresp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/ocspstaple/staple/internal/der"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// A change is one thing that is done to a good response. Done alone it is refused for
// the reason, 0 for none.
type change struct {
	name   string
	reason ocspresp.Reason
	do     func(d *draft)
}

// A mutant is a choice of at most one change of each kind, the first of which is none,
// and of elements of DER that are spoiled, in what is signed and in the whole.
type mutant struct {
	choice           [9]byte // in the order of kinds
	signed, unsigned []byte
}

// newMutant reads a mutant from what a fuzzer says.
func newMutant(data []byte) mutant {
	var m mutant
	data = data[copy(m.choice[:], data):]
	if len(data) > 0 {
		n := min(int(data[0])%16, len(data)-1)
		m.signed, m.unsigned = data[1:1+n], data[1+n:]
	}
	return m
}

func (m *mutant) bytes() []byte {
	return slices.Concat(m.choice[:], []byte{byte(len(m.signed))}, m.signed, m.unsigned)
}

// changes returns those that m is made of.
func (m *mutant) changes() (list []*change) {
	for i, kind := range kinds {
		if n := int(m.choice[i]) % (len(kind.changes) + 1); n > 0 {
			list = append(list, &kind.changes[n-1])
		}
	}
	return list
}

func (m *mutant) String() string {
	var names []string
	for _, c := range m.changes() {
		names = append(names, c.name)
	}
	if len(m.signed)+len(m.unsigned) > 0 {
		names = append(names, "spoiled")
	}
	return strings.Join(names, " + ")
}

// response writes m, about the leaf of the world that it returns.
func (m *mutant) response(t testing.TB, now time.Time) (*world, []byte) {
	d := newDraft(worldOf(t, "ECDSA"), now)
	if len(m.signed) > 0 {
		d.spoilData = func(tbs []byte) []byte { return spoil(tbs, m.signed) }
	}
	for _, c := range m.changes() {
		c.do(d)
	}
	raw := d.encode()
	if len(m.unsigned) > 0 {
		raw = spoil(raw, m.unsigned)
	}
	return d.w, raw
}

// What is made once: a world for each type of a CA's key, the delegates in it, and a key
// of each type that is no CA's. An RSA key takes a second on a busy machine, and a
// fuzzer waits ten for one input. No test that uses them is parallel.
var (
	worlds    = make(map[string]*world)
	parties   = make(map[string]*party)
	otherKeys = make(map[string]crypto.Signer)
)

func worldOf(t testing.TB, keyType string) *world {
	if worlds[keyType] == nil {
		worlds[keyType] = newWorld(t, keyOf(t, keyType))
	}
	w := worlds[keyType]
	w.t = t // one that was made for another test may not be used any more
	return w
}

func otherKey(t testing.TB, keyType string) crypto.Signer {
	if otherKeys[keyType] == nil {
		otherKeys[keyType] = keyOf(t, keyType)
	}
	return otherKeys[keyType]
}

func keyOf(t testing.TB, keyType string) (key crypto.Signer) {
	var err error
	switch keyType {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key = newKey(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// spoil changes elements of DER: each four bytes of how are which one, two bytes, what
// is done to it, and by which byte.
func spoil(raw, how []byte) []byte {
	n := parseNode(raw)
	if n == nil {
		return raw
	}
	for ; len(how) >= 4; how = how[4:] {
		all := n.all()
		all[int(binary.BigEndian.Uint16(how))%len(all)].spoil(how[2], how[3])
	}
	return n.encode()
}

// A node is an element of DER, with those that it consists of where it is constructed,
// or an OCTET STRING that holds one.
type node struct {
	tag     byte
	content []byte
	parts   []*node
	long    bool // the length is not in the shortest form
}

func parseNode(raw []byte) *node {
	in := cryptobyte.String(raw)
	var content cryptobyte.String
	var tag asn1.Tag
	if !in.ReadAnyASN1(&content, &tag) || !in.Empty() {
		return nil
	}
	n := &node{tag: byte(tag), content: bytes.Clone(content)}
	if tag&0x20 == 0 && (tag != asn1.OCTET_STRING || len(content) < 100) {
		return n
	}
	for rest := content; !rest.Empty(); {
		var e cryptobyte.String
		if !rest.ReadAnyASN1Element(&e, &tag) {
			n.parts = nil
			return n
		}
		n.parts = append(n.parts, parseNode(e))
	}
	return n
}

func (n *node) all() []*node {
	list := []*node{n}
	for _, p := range n.parts {
		list = append(list, p.all()...)
	}
	return list
}

func (n *node) encode() []byte {
	content := n.content
	if n.parts != nil {
		content = nil
		for _, p := range n.parts {
			content = append(content, p.encode()...)
		}
	}
	if n.long {
		return slices.Concat([]byte{n.tag, 0x83, byte(len(content) >> 16), byte(len(content) >> 8), byte(len(content))}, content)
	}
	return der.Wrap(asn1.Tag(n.tag), content)
}

// spoil does one of a dozen things to n.
func (n *node) spoil(what, with byte) {
	extras := []*node{{tag: 5}, {tag: 2, content: []byte{0}}, {tag: 0x30}, {tag: 0xa1}, {tag: 4, content: []byte("x")}, {tag: 0x80}}
	extra := extras[int(with)%len(extras)]
	switch what %= 10; {
	case what == 0:
		n.tag = with
	case what == 1:
		n.tag ^= 0x20
	case what == 2:
		n.long = true
	case n.parts == nil && what < 6 && len(n.content) > 0:
		n.content[int(with)%len(n.content)] ^= 1 << (what - 2)
	case n.parts == nil && what < 8:
		n.content = append(n.content, with)
	case n.parts == nil:
		n.content = n.content[:int(with)%(len(n.content)+1)]
	case what < 5 || len(n.parts) == 0:
		n.parts = slices.Insert(n.parts, int(with)%(len(n.parts)+1), extra)
	case what < 7:
		i := int(with) % len(n.parts)
		n.parts = slices.Delete(n.parts, i, i+1)
	case what == 7:
		n.parts = append(n.parts, n.parts[int(with)%len(n.parts)])
	case what == 8:
		i := int(with) % len(n.parts)
		n.parts[0], n.parts[i] = n.parts[i], n.parts[0]
	default:
		n.parts = slices.Insert(n.parts, 0, extra)
	}
}
