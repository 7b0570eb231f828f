package scenario_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	encasn1 "encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// An attacker on the path to a responder can change all of a response that is not
// signed. Whatever it is, clients get the genuine response in the shortest form, or
// what was held before, or nothing.

// outcomes is a set of what may be stapled.
type outcomes uint8

const (
	held    outcomes = 1 << iota // what was held before; nothing, if nothing was
	genuine                      // the response as its responder made it
	formed                       // what the variant's form says
)

// A variant is one thing that an attacker does to a genuine response.
type variant struct {
	name string
	on   func(*scene) bool // nil: on all

	change func(*scene, []byte) []byte
	cold   outcomes // where the signer may be unknown
	known  outcomes // where a genuine response was held before

	// form, in place of change, changes m into something that is valid by itself.
	// One that ends sooner is replaced by the genuine one; one that ends later is
	// news, though the signed bytes are the same.
	form             func(s *scene, m *message)
	endsSooner, news bool
}

// inCerts makes a change of the certificates that come with a response.
func inCerts(f func(s *scene, certs [][]byte) [][]byte) func(*scene, []byte) []byte {
	return inMessage(func(s *scene, m *message) { m.certs = f(s, m.certs) })
}

func inMessage(f func(s *scene, m *message)) func(*scene, []byte) []byte {
	return func(s *scene, raw []byte) []byte {
		m := dissect(raw)
		f(s, m)
		return m.encode()
	}
}

// inDelegate makes a change of the delegate's certificate: three elements.
func inDelegate(f func(s *scene, e [][]byte) [][]byte) func(*scene, []byte) []byte {
	return inCerts(func(s *scene, certs [][]byte) [][]byte { return [][]byte{sequence(f(s, elements(certs[0]))...)} })
}

// putFirst puts certificates before those that come with a response.
func putFirst(f func(s *scene) [][]byte) func(*scene, []byte) []byte {
	return inCerts(func(s *scene, certs [][]byte) [][]byte { return slices.Concat(f(s), certs) })
}

func putLast(f func(s *scene) [][]byte) func(*scene, []byte) []byte {
	return inCerts(func(s *scene, certs [][]byte) [][]byte { return slices.Concat(certs, f(s)) })
}

func one(der []byte) [][]byte { return [][]byte{der} }

func decoy(s *scene) [][]byte { return s.decoys[:1] }

func keyedDecoy(s *scene) [][]byte { return s.decoys[1:2] }

// many returns n decoys, each of which has to be tried.
func many(n int) func(s *scene) [][]byte {
	return func(s *scene) [][]byte { return s.decoys[1 : n+1] }
}

// oddities are certificates that are none, or that some clients can't read.
var oddities = map[string]func(s *scene) []byte{
	"an empty SEQUENCE": func(*scene) []byte { return sequence() },
	"an outline":        func(*scene) []byte { return sequence(sequence(), sequence([]byte{6, 1, 42}), []byte{3, 1, 0}) },
	"a text":            func(*scene) []byte { return sequence([]byte("\x0c\x05hello")) },
	"a certificate of version 1 with extensions": func(s *scene) []byte {
		e := elements(s.decoys[0])
		return sequence(sequence(elements(e[0])[1:]...), e[1], e[2])
	},
	"a certificate with two algorithms": func(s *scene) []byte {
		e := elements(s.decoys[0])
		return sequence(e[0], sequence([]byte("\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03")), e[2])
	},
}

// shifted moves the bits of a BIT STRING up by one, into the bits of its first octet
// that ECDSA and half of RSA leave free, and says so: it has the same value to those
// who align it.
func shifted(bits []byte) []byte {
	value := inside(bits)[1:]
	n := new(big.Int).Lsh(new(big.Int).SetBytes(value), 1)
	return tlv(asn1.BIT_STRING, []byte{1}, n.FillBytes(make([]byte, max(len(value), (n.BitLen()+7)/8))))
}

// twin is the other signature that goes with an ECDSA signature: anybody can make
// it.
func twin(s *ecdsa.PublicKey, bits []byte) []byte {
	var sig struct{ R, S *big.Int }
	if _, err := encasn1.Unmarshal(inside(bits)[1:], &sig); err != nil {
		panic(err)
	}
	sig.S.Sub(s.Params().N, sig.S)
	der, err := encasn1.Marshal(sig)
	if err != nil {
		panic(err)
	}
	return tlv(asn1.BIT_STRING, []byte{0}, der)
}

// ecdsaKey returns cert's, or nil.
func ecdsaKey(cert *x509.Certificate) *ecdsa.PublicKey {
	key, _ := cert.PublicKey.(*ecdsa.PublicKey)
	return key
}

// saltedAs states another length of the salt of RSASSA-PSS.
func saltedAs(n byte) func(*scene, []byte) []byte {
	return inMessage(func(_ *scene, m *message) {
		m.algorithm = bytes.Clone(m.algorithm)
		m.algorithm[len(m.algorithm)-1] = n
	})
}

var (
	delegatedOnly = (*scene).delegated
	pssOnly       = (*scene).pss
	pkcs1Only     = (*scene).pkcs1
	ecdsaOnly     = (*scene).ecdsa
)

const either = held | genuine

// decoys are those who add certificates.
var decoys = []variant{
	{name: "nothing", change: func(_ *scene, raw []byte) []byte { return raw }, cold: genuine, known: genuine},
	{name: "decoy first", change: putFirst(decoy), cold: genuine, known: genuine},
	{name: "decoy with the signer's key first", change: putFirst(keyedDecoy), cold: genuine, known: genuine},
	{name: "decoy last", change: putLast(decoy), cold: genuine, known: genuine},
	{name: "decoy with the signer's key last", change: putLast(keyedDecoy), cold: genuine, known: genuine},
	{name: "decoys all around", change: func(s *scene, raw []byte) []byte {
		return putFirst(many(7))(s, putLast(many(7))(s, raw))
	}, cold: genuine, known: genuine},
	{name: "issuer first", change: putFirst(func(s *scene) [][]byte { return one(s.ca.Cert.Raw) }), cold: genuine, known: genuine},
	{name: "issuer last", change: putLast(func(s *scene) [][]byte { return one(s.ca.Cert.Raw) }), cold: genuine, known: genuine},
	{name: "leaf first", change: putFirst(func(s *scene) [][]byte { return s.chains[1].Certificate }), cold: genuine, known: genuine},
	{name: "signer twice", change: putFirst(func(s *scene) [][]byte { return one(s.signer.Raw) }), cold: genuine, known: genuine},
	{name: "40 copies of the signer", change: putFirst(func(s *scene) [][]byte { return slices.Repeat(one(s.signer.Raw), 40) }), cold: genuine, known: genuine},
	{name: "40 strangers", change: putFirst(func(s *scene) [][]byte {
		other := s.certificate(s.stranger, &x509.Certificate{RawSubject: s.ca.Cert.RawSubject}, func(c *x509.Certificate) {
			c.RawSubject = s.chains[0].Leaf.RawSubject
		}, s.stranger.Public())
		return slices.Repeat(one(other), 40)
	}), cold: genuine, known: genuine},
	{name: "17 decoys first", change: putFirst(many(17)), cold: either, known: genuine},
}

// variants lists what an attacker does.
func variants() []variant {
	all := slices.Concat(decoys, altered, renewed)
	for _, v := range misshapen {
		v.on = (*scene).plain // who signs makes no difference
		all = append(all, v)
	}
	for name, make := range oddities {
		odd := func(s *scene) [][]byte { return one(make(s)) }
		all = append(all, variant{name: name + " last", change: putLast(odd), cold: genuine, known: genuine},
			variant{name: name + " first", change: putFirst(odd), cold: genuine, known: genuine})
	}
	for _, n := range []byte{0, 20, 31, 33, 64, 127} {
		all = append(all, variant{name: fmt.Sprintf("salt stated as %d", n), on: pssOnly, change: saltedAs(n), cold: either, known: either})
	}
	return all
}

// altered are those who change the signature, the algorithm or the delegate's own
// certificate.
var altered = []variant{
	{name: "signature shifted", change: inMessage(func(_ *scene, m *message) { m.signature = shifted(m.signature) }), cold: held, known: held},
	{name: "delegate's signature shifted", on: delegatedOnly, change: inDelegate(func(_ *scene, e [][]byte) [][]byte {
		return [][]byte{e[0], e[1], shifted(e[2])}
	}), cold: held, known: either},
	{name: "delegate with an element more", on: delegatedOnly, change: inDelegate(func(_ *scene, e [][]byte) [][]byte {
		return append(e, []byte{5, 0})
	}), cold: held, known: either},
	{name: "delegate with an element more, first", on: delegatedOnly, change: putFirst(func(s *scene) [][]byte {
		return one(sequence(append(elements(s.signer.Raw), []byte{5, 0})...))
	}), cold: genuine, known: genuine},
	{name: "delegate shifted, first", on: delegatedOnly, change: putFirst(func(s *scene) [][]byte {
		e := elements(s.signer.Raw)
		return one(sequence(e[0], e[1], shifted(e[2])))
	}), cold: genuine, known: genuine},
	{name: "delegate's algorithm with parameters", on: delegatedOnly, change: inDelegate(func(_ *scene, e [][]byte) [][]byte {
		return [][]byte{e[0], sequence(elements(e[1])[0], []byte{2, 1, 0}), e[2]}
	}), cold: held, known: either},
	{name: "delegate left out", on: delegatedOnly, change: inCerts(func(*scene, [][]byte) [][]byte { return nil }), cold: held, known: either},
	{name: "NULL left out", on: pkcs1Only,
		change: inMessage(func(_ *scene, m *message) { m.algorithm = sequence(elements(m.algorithm)[0]) }),
		cold:   genuine, known: genuine},
	{name: "NULL added", on: ecdsaOnly, change: inMessage(func(_ *scene, m *message) {
		m.algorithm = sequence(elements(m.algorithm)[0], []byte{5, 0})
	}), cold: either, known: either},
	{name: "element more in the algorithm",
		change: inMessage(func(_ *scene, m *message) { m.algorithm = sequence(append(elements(m.algorithm), []byte{5, 0})...) }),
		cold:   either, known: either},
	{name: "NULLs of PSS left out", on: pssOnly,
		change: inMessage(func(_ *scene, m *message) { m.algorithm = withoutNULLs(m.algorithm) }),
		cold:   genuine, known: genuine},
	{name: "trailer of PSS stated", on: pssOnly, change: inMessage(func(_ *scene, m *message) {
		e := elements(m.algorithm)
		m.algorithm = sequence(e[0], sequence(append(elements(e[1]), tlv(explicit(3), []byte{2, 1, 1}))...))
	}), cold: either, known: either},
	{name: "PSS called PKCS #1", on: pssOnly, change: inMessage(func(_ *scene, m *message) {
		m.algorithm = sequence([]byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"), []byte{5, 0})
	}), cold: held, known: held},
	{name: "the other signature", on: ecdsaOnly, form: func(s *scene, m *message) {
		m.signature = twin(ecdsaKey(s.signer), m.signature)
	}, cold: either | formed, known: either | formed},
	{name: "the delegate's other signature", on: func(s *scene) bool { return s.delegated() && ecdsaKey(s.ca.Cert) != nil }, form: func(s *scene, m *message) {
		e := elements(m.certs[0])
		m.certs = one(sequence(e[0], e[1], twin(ecdsaKey(s.ca.Cert), e[2])))
	}, cold: either | formed, known: either | formed},
}

// withoutNULLs leaves the NULLs out of the parameters of PSS.
func withoutNULLs(algorithm []byte) []byte {
	e := elements(algorithm)
	params := elements(e[1])
	hash := func(der []byte) []byte { return sequence(elements(der)[0]) }
	mgf := elements(inside(params[1]))
	return sequence(e[0], sequence(
		tlv(explicit(0), hash(inside(params[0]))),
		tlv(explicit(1), sequence(mgf[0], hash(mgf[1]))),
		params[2]))
}

// renewed are those with another certificate of the delegate.
var renewed = []variant{
	{name: "older delegate instead", on: delegatedOnly, form: func(s *scene, m *message) { m.certs = one(s.older) }, cold: formed, known: genuine, endsSooner: true},
	{name: "older delegate first", on: delegatedOnly, change: putFirst(func(s *scene) [][]byte { return one(s.older) }), cold: genuine, known: genuine},
	{name: "older delegate last", on: delegatedOnly, change: putLast(func(s *scene) [][]byte { return one(s.older) }), cold: genuine, known: genuine},
	{name: "expired delegate first", on: delegatedOnly, change: putFirst(func(s *scene) [][]byte { return one(s.past) }), cold: genuine, known: genuine},
	{name: "delegate of tomorrow first", on: delegatedOnly, change: putFirst(func(s *scene) [][]byte { return one(s.later) }), cold: genuine, known: genuine},
	{name: "delegate renewed", on: delegatedOnly, form: func(s *scene, m *message) { m.certs = one(s.renewed) }, cold: formed, known: formed, news: true},
}

// misshapen are those whose shape is none of DER's or none of an OCSPResponse.
var misshapen = []variant{
	{name: "length in a byte more", change: func(_ *scene, raw []byte) []byte {
		return slices.Concat([]byte{0x30, 0x83, 0}, raw[2:])
	}, cold: either, known: either},
	{name: "without a length", change: func(_ *scene, raw []byte) []byte {
		return slices.Concat([]byte{0x30, 0x80}, inside(raw), []byte{0, 0})
	}, cold: either, known: either},
	{name: "certs without a length", change: inBasic(func(s *scene, e [][]byte) [][]byte {
		return append(e[:3:3], slices.Concat([]byte{0xa0, 0x80, 0x30, 0x80}, s.signer.Raw, []byte{0, 0, 0, 0}))
	}), cold: either, known: either},
	{name: "empty certs", change: inBasic(func(_ *scene, e [][]byte) [][]byte { return append(e[:3:3], tlv(explicit(0), sequence())) }), cold: either, known: either},
	{name: "no SEQUENCE of certs", change: inBasic(func(_ *scene, e [][]byte) [][]byte { return append(e[:3:3], tlv(explicit(0))) }), cold: either, known: either},
	{name: "two SEQUENCEs of certs", change: inBasic(func(s *scene, e [][]byte) [][]byte {
		return append(e[:3:3], tlv(explicit(0), sequence(s.signer.Raw), sequence(s.signer.Raw)))
	}), cold: either, known: either},
	{name: "certs twice", change: inBasic(func(s *scene, e [][]byte) [][]byte {
		return append(e[:3:3], tlv(explicit(0), sequence(s.signer.Raw)), tlv(explicit(0), sequence(s.signer.Raw)))
	}), cold: either, known: either},
	{name: "an element after certs",
		change: inBasic(func(s *scene, e [][]byte) [][]byte { return append(e, tlv(explicit(1), sequence())) }),
		cold:   either, known: either},
	{name: "a NULL among certs", change: putFirst(func(*scene) [][]byte { return one([]byte{5, 0}) }), cold: either, known: either},
	{name: "half an element in certs", change: putLast(func(*scene) [][]byte { return one([]byte{0x30, 5, 0}) }), cold: either, known: either},
	{name: "a certificate without a length", change: inCerts(func(s *scene, _ [][]byte) [][]byte {
		return one(slices.Concat([]byte{0x30, 0x80}, inside(s.signer.Raw), []byte{0, 0}))
	}), cold: either, known: either},
	{name: "response in pieces", change: func(_ *scene, raw []byte) []byte {
		content := inside(elements(elements(elements(raw)[1])[0])[1])
		pieces := tlv(0x24, tlv(asn1.OCTET_STRING, content[:100]), tlv(asn1.OCTET_STRING, content[100:]))
		return sequence([]byte{0x0a, 1, 0}, tlv(explicit(0), sequence(elements(elements(elements(raw)[1])[0])[0], pieces)))
	}, cold: either, known: either},
	{name: "status in a byte more",
		change: func(_ *scene, raw []byte) []byte { return sequence([]byte{0x0a, 2, 0, 0}, elements(raw)[1]) },
		cold:   either, known: either},
	{name: "a byte after all", change: func(_ *scene, raw []byte) []byte { return slices.Concat(raw, []byte{0}) }, cold: either, known: either},
	{name: "an element after all", change: func(_ *scene, raw []byte) []byte { return sequence(append(elements(raw), []byte{5, 0})...) }, cold: either, known: either},
	{name: "70 KB of strangers",
		change: putLast(func(s *scene) [][]byte { return slices.Repeat(one(s.ca.Cert.Raw), 70<<10/len(s.ca.Cert.Raw)) }),
		cold:   genuine, known: genuine},
}

// inBasic makes a change of the elements of a BasicOCSPResponse.
func inBasic(f func(s *scene, e [][]byte) [][]byte) func(*scene, []byte) []byte {
	return func(s *scene, raw []byte) []byte {
		return envelope(sequence(f(s, elements(inside(elements(elements(elements(raw)[1])[0])[1])))...))
	}
}
