package staple_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
)

// A node is an element of DER that can be spoiled: its content, or what it
// consists of.
type node struct {
	tag     byte
	content []byte
	parts   []*node
	tail    []byte // after the last part
	long    bool   // the length is not in the shortest form
}

func leafNode(tag byte, content string) *node { return &node{tag: tag, content: []byte(content)} }
func tree(tag byte, parts ...*node) *node     { return &node{tag: tag, parts: parts} }
func sequence(parts ...*node) *node           { return tree(0x30, parts...) }

func (n *node) encode() []byte {
	content := slices.Clone(n.content)
	for _, p := range n.parts {
		content = append(content, p.encode()...)
	}
	content = append(content, n.tail...)
	head := []byte{n.tag, byte(len(content))}
	switch {
	case n.long:
		head = []byte{n.tag, 0x84, 0, 0, byte(len(content) >> 8), byte(len(content))}
	case len(content) >= 256:
		head = []byte{n.tag, 0x82, byte(len(content) >> 8), byte(len(content))}
	case len(content) >= 128:
		head = []byte{n.tag, 0x81, byte(len(content))}
	}
	return append(head, content...)
}

// all lists n and all that is in it.
func (n *node) all() []*node {
	list := []*node{n}
	for _, p := range n.parts {
		list = append(list, p.all()...)
	}
	return list
}

func parseNode(t testing.TB, s *cryptobyte.String) *node {
	t.Helper()
	var content cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&content, &tag) {
		t.Fatal("not DER")
	}
	n := &node{tag: byte(tag)}
	if n.tag&0x20 == 0 {
		n.content = content
		return n
	}
	for !content.Empty() {
		n.parts = append(n.parts, parseNode(t, &content))
	}
	return n
}

const (
	oidCN     = "\x55\x04\x03"
	utcTime   = "200101000000Z"
	secp256k1 = "\x2b\x81\x04\x00\x0a"
)

func null() *node { return leafNode(5, "") }

func attribute(tag byte, value string) *node {
	return tree(0x31, sequence(leafNode(6, oidCN), leafNode(tag, value)))
}

// rich is a certificate of form alone, which has every optional part, strings of
// all types, and what Go doesn't know: a key on the curve secp256k1.
func rich() *node {
	algorithm := func() *node { return sequence(leafNode(6, "\x2a\x86\x48\xce\x3d\x04\x03\x02")) }
	return sequence(
		sequence(
			tree(0xa0, leafNode(2, "\x02")),
			leafNode(2, "\x12\x34"),
			algorithm(),
			sequence(attribute(12, "caf\u00e9"), attribute(19, "printable"), attribute(20, "\xe9"), attribute(22, "a@b"),
				attribute(18, "12 3"), attribute(30, "\x00A\x20\xac"), attribute(28, "\x00\x01\xf6\x00"), attribute(3, "\x07\x80")),
			sequence(leafNode(23, utcTime), leafNode(24, "99991231235959Z")),
			sequence(tree(0x31, attribute(12, "two").parts[0], attribute(19, "in one").parts[0])),
			sequence(sequence(leafNode(6, "\x2a\x86\x48\xce\x3d\x02\x01"), leafNode(6, secp256k1)), leafNode(3, "\x00\x04\x01\x02")),
			leafNode(0x81, "\x00\x01"), leafNode(0x82, "\x07\x80"),
			tree(0xa3, sequence(
				sequence(leafNode(6, "\x55\x1d\x13"), leafNode(1, "\x00"), leafNode(4, "\x30\x00")),
				sequence(leafNode(6, "\x55\x1d\x0f"), leafNode(1, "\xff"), leafNode(4, "\x03\x02\x07\x80")),
				sequence(leafNode(6, "\x55\x1d\x0e"), leafNode(4, "\x04\x00")))),
		),
		algorithm(), leafNode(3, "\x00\x01\x02"))
}

// TestCertificateForm: junk in a certificate that came with a response is found
// at every level, and what is legal but unknown is tolerated.
//
// REQ B2, REQ B7
func TestCertificateForm(t *testing.T) {
	if !staple.SoundCertificate(rich().encode()) {
		t.Fatal("what is legal is refused")
	}
	size := len(rich().all())
	for i := range size {
		for name, spoil := range map[string]func(*node){
			"junk":        func(n *node) { n.tail = leafNode(2, "\x00").encode() },
			"long length": func(n *node) { n.long = true },
			"another tag": func(n *node) { n.tag ^= 0x40 },
			"constructed": func(n *node) { n.tag ^= 0x20 },
			"emptied":     func(n *node) { n.content, n.parts = nil, nil },
		} {
			c := rich()
			n := c.all()[i]
			before := c.encode()
			spoil(n)
			if staple.SoundCertificate(c.encode()) && !harmless(c, n, name) {
				t.Errorf("%s in element %d (tag %#x, in %x) is taken", name, i, n.tag, before)
			}
		}
	}
	for n := range rich().encode() {
		if staple.SoundCertificate(rich().encode()[:n]) {
			t.Errorf("the first %d bytes are taken", n)
		}
	}
	if staple.SoundCertificate(append(rich().encode(), 0)) {
		t.Error("a byte after the certificate is taken")
	}
}

// harmless tells what of a spoiled element of c may be so: the content of strings
// and extensions is anyone's, and a Name may be empty.
func harmless(c, n *node, how string) bool {
	text := []byte{12, 19, 20, 22, 18, 30, 28, 4}
	switch how {
	case "junk":
		return slices.Contains(append(text, 2, 3, 6, 0x81, 0x82), n.tag)
	case "emptied":
		return slices.Contains(text, n.tag) || n == c.parts[0].parts[3] || n == c.parts[0].parts[5]
	}
	return false
}

// TestCertificateFields spoils single fields in ways that others refuse.
//
// REQ B2
func TestCertificateFields(t *testing.T) {
	tbs := func(c *node, n int) *node { return c.parts[0].parts[n] }
	attr := func(c *node, n int) *node { return tbs(c, 3).parts[n].parts[0].parts[1] }
	for name, c := range map[string]struct {
		ok    bool
		spoil func(*node)
	}{
		"no version":            {true, func(c *node) { c.parts[0].parts = c.parts[0].parts[1:] }},
		"no unique IDs":         {true, func(c *node) { c.parts[0].parts = slices.Delete(c.parts[0].parts, 7, 9) }},
		"no extensions":         {true, func(c *node) { c.parts[0].parts = c.parts[0].parts[:9] }},
		"v1, encoded":           {true, func(c *node) { tbs(c, 0).parts[0].content = []byte{0} }},
		"v4":                    {false, func(c *node) { tbs(c, 0).parts[0].content = []byte{3} }},
		"negative version":      {false, func(c *node) { tbs(c, 0).parts[0].content = []byte{0xff} }},
		"padded serial":         {false, func(c *node) { tbs(c, 1).content = []byte{0, 1} }},
		"NULL parameters":       {true, func(c *node) { tbs(c, 2).parts = append(tbs(c, 2).parts, null()) }},
		"filled NULL":           {false, func(c *node) { tbs(c, 2).parts = append(tbs(c, 2).parts, leafNode(5, "\x00")) }},
		"BOOLEAN parameters":    {false, func(c *node) { tbs(c, 2).parts = append(tbs(c, 2).parts, leafNode(1, "\x00\x00")) }},
		"outer parameters":      {false, func(c *node) { c.parts[1].parts = append(c.parts[1].parts, leafNode(6, "\x80\x01")) }},
		"empty issuer":          {true, func(c *node) { tbs(c, 3).parts = nil }},
		"empty RDN":             {false, func(c *node) { tbs(c, 3).parts[0].parts = nil }},
		"bad UTF-8":             {false, func(c *node) { attr(c, 0).content = []byte{0xff} }},
		"bad PrintableString":   {false, func(c *node) { attr(c, 1).content = []byte("a@b") }},
		"bad IA5String":         {false, func(c *node) { attr(c, 3).content = []byte{0xe9} }},
		"bad NumericString":     {false, func(c *node) { attr(c, 4).content = []byte("x") }},
		"half a BMPString":      {false, func(c *node) { attr(c, 5).content = []byte("x") }},
		"surrogate":             {false, func(c *node) { attr(c, 5).content = []byte{0xd8, 0} }},
		"part of a Universal":   {false, func(c *node) { attr(c, 6).content = []byte{0, 0, 1} }},
		"beyond Unicode":        {false, func(c *node) { attr(c, 6).content = []byte{0, 0x11, 0, 0} }},
		"negative Universal":    {false, func(c *node) { attr(c, 6).content = []byte{0xff, 0xff, 0xff, 0xff} }},
		"VisibleString":         {false, func(c *node) { attr(c, 1).tag = 26 }},
		"SEQUENCE in a name":    {false, func(c *node) { *attr(c, 1) = *sequence() }},
		"huge arc":              {false, func(c *node) { tbs(c, 3).parts[0].parts[0].parts[0].content = []byte("\x2a\xff\xff\xff\xff\xff\x7f") }},
		"UTCTime, no seconds":   {false, func(c *node) { tbs(c, 4).parts[0].content = []byte("2001010000Z") }},
		"UTCTime of another":    {false, func(c *node) { tbs(c, 4).parts[0].content = []byte("201301000000Z") }},
		"UTCTime, zone":         {false, func(c *node) { tbs(c, 4).parts[0].content = []byte("200101000000+0100") }},
		"GeneralizedTime, 1960": {true, func(c *node) { tbs(c, 4).parts[0] = leafNode(24, "19600101000000Z") }},
		"fraction":              {false, func(c *node) { tbs(c, 4).parts[1].content = []byte("20300101000000.1Z") }},
		"key of no bits":        {true, func(c *node) { tbs(c, 6).parts[1].content = []byte{0} }},
		"key, unused bits":      {false, func(c *node) { tbs(c, 6).parts[1].content = []byte{1, 1} }},
		"key, 8 unused bits":    {false, func(c *node) { tbs(c, 6).parts[1].content = []byte{8, 0} }},
		"no key, unused bits":   {false, func(c *node) { tbs(c, 6).parts[1].content = []byte{1} }},
		"empty Extensions":      {false, func(c *node) { tbs(c, 9).parts[0].parts = nil }},
		"critical, BER":         {false, func(c *node) { tbs(c, 9).parts[0].parts[0].parts[1].content = []byte{1} }},
		"critical, two bytes":   {false, func(c *node) { tbs(c, 9).parts[0].parts[0].parts[1].content = []byte{0, 0} }},
	} {
		cert := rich()
		c.spoil(cert)
		if got := staple.SoundCertificate(cert.encode()); got != c.ok {
			t.Errorf("%s: got %v, want %v", name, got, c.ok)
		}
	}
}

// TestEmbeddedJunk: a certificate that is none makes the response malformed, also
// behind one that is, or beside the signer's; what is merely strange doesn't.
//
// REQ B2, REQ B7
func TestEmbeddedJunk(t *testing.T) {
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	sub := staple.NewSubject(cert.Leaf, staple.NewIssuer(ca.Cert))
	junk := sequence(sequence(), sequence(leafNode(6, "\x2a")), leafNode(3, "\x00")).encode()
	for _, by := range []ocsptest.Signer{ocsptest.Direct, ocsptest.Delegated} {
		for name, c := range map[string]struct {
			certs [][]byte
			want  staple.Reason
		}{
			"strange":     {[][]byte{rich().encode()}, 0},
			"the issuer":  {[][]byte{ca.Cert.Raw, ca.Cert.Raw}, 0},
			"junk":        {[][]byte{junk}, staple.ReasonMalformed},
			"junk behind": {[][]byte{ca.Cert.Raw, rich().encode(), junk}, staple.ReasonMalformed},
			"no SEQUENCE": {[][]byte{null().encode()}, staple.ReasonMalformed},
		} {
			raw := ca.Responder.Build(cert, func(s *ocsptest.Spec) { s.Certs, s.Sign.By = c.certs, by })
			for range 2 { // the second time a delegate is known
				if err := sub.Check(raw, time.Now()); staple.ReasonOf(err) != c.want {
					t.Errorf("%v, %s: got %v, want %v", by, name, err, c.want)
				}
			}
		}
	}
}

// mutate spoils one to three things in a certificate.
func mutate(rng *rand.Rand, c *node) {
	extras := []*node{null(), leafNode(2, "\x00"), sequence(), leafNode(6, "\x2a"), leafNode(1, "\x00"), tree(0xa1), leafNode(4, "x"), leafNode(0x81, "\x00")}
	tags := []byte{1, 2, 3, 4, 5, 6, 12, 18, 19, 20, 22, 23, 24, 26, 28, 30, 0x30, 0x31, 0x80, 0x81, 0x82, 0xa0, 0xa1, 0xa3}
	for range 1 + rng.IntN(3) {
		list := c.all()
		n := list[rng.IntN(len(list))]
		switch k := rng.IntN(9); {
		case k == 0:
			n.tag = tags[rng.IntN(len(tags))]
		case k == 1 && len(n.parts) > 0:
			i := rng.IntN(len(n.parts))
			n.parts = slices.Delete(n.parts, i, i+1)
		case k == 2 && len(n.parts) > 0:
			n.parts = slices.Insert(n.parts, rng.IntN(len(n.parts)+1), extras[rng.IntN(len(extras))])
		case k == 3 && len(n.parts) > 0:
			n.parts = append(n.parts, n.parts[rng.IntN(len(n.parts))])
		case k == 4 && len(n.content) > 0:
			n.content = slices.Clone(n.content[:rng.IntN(len(n.content))])
		case k == 5:
			n.long = rng.IntN(4) == 0
		case k == 6:
			n.content = append(slices.Clone(n.content), byte(rng.Uint32()))
		case len(n.content) > 0:
			n.content = slices.Clone(n.content)
			n.content[rng.IntN(len(n.content))] = byte(rng.Uint32())
		}
	}
}

// TestCertificatesAgainstOpenSSL: whatever certificate is taken, openssl can read
// a response with it.
//
// REQ B2
func TestCertificatesAgainstOpenSSL(t *testing.T) {
	needTool(t, "openssl")
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	rsa := ocsptest.NewCA(ocsptest.Options{KeyType: ocsptest.RSA2048})
	var taken [][]byte
	made := 0
	for want := mutants(); len(taken) < want; made++ {
		c := rich()
		if i := rng.IntN(6); i < 3 {
			in := cryptobyte.String([]*x509.Certificate{ca.Cert, cert.Leaf, rsa.Cert}[i].Raw)
			c = parseNode(t, &in)
		}
		mutate(rng, c)
		if der := c.encode(); staple.SoundCertificate(der) {
			taken = append(taken, der)
		}
	}
	for batch := range slices.Chunk(taken, 50) {
		if openSSLReads(t, ca, cert, batch...) == nil {
			continue
		}
		for _, der := range batch {
			if err := openSSLReads(t, ca, cert, der); err != nil {
				t.Errorf("seed %d: openssl refuses %x:\n%v", seed, der, err)
			}
		}
	}
	t.Logf("%d of %d certificates taken", len(taken), made)
}

// mutants is how many to take; EXTRAS=1 makes a night's work of it.
func mutants() int {
	if os.Getenv("EXTRAS") != "" {
		return 200_000
	}
	return 1000
}

// openSSLReads has openssl read a response that comes with certs.
func openSSLReads(t *testing.T, ca *ocsptest.CA, cert *tls.Certificate, certs ...[]byte) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "response.der")
	raw := ca.Responder.Build(cert, func(s *ocsptest.Spec) { s.Certs = certs })
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), needTool(t, "openssl"), "ocsp", "-respin", file, "-noverify", "-text").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
