package main

import (
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The encoder is apart from what it tests: it shares no code with the root
// package, and writes what no sane encoder would, if asked to.

const (
	octetString = 0x04
	null        = "\x05\x00"
	sequence    = 0x30
)

// An encoder writes elements that have names, so that a case can spoil one.
type encoder struct {
	junk map[string]string // what follows the last element inside of the named one
	long map[string]bool   // the named element's length is not in the shortest form
	der  map[string]string // the named element, whole, in place of the right one
}

// element encodes an element with parts inside; parts that are nil are absent.
func (e *encoder) element(name string, tag asn1.Tag, parts ...[]byte) []byte {
	if der, ok := e.der[name]; ok {
		return []byte(der)
	}
	content := []byte{}
	for _, p := range parts {
		content = append(content, p...)
	}
	content = append(content, e.junk[name]...)
	if e.long[name] {
		return append([]byte{byte(tag), 0x84, 0, 0, byte(len(content) >> 8), byte(len(content))}, content...)
	}
	return tlv(tag, content)
}

func tlv(tag asn1.Tag, content []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(content) })
	return b.BytesOrPanic()
}

func context(n int) asn1.Tag  { return asn1.Tag(n).ContextSpecific() }
func explicit(n int) asn1.Tag { return context(n).Constructed() }

// oid encodes an OBJECT IDENTIFIER from its content octets.
func oid(content string) []byte { return tlv(asn1.OBJECT_IDENTIFIER, []byte(content)) }

func generalizedTime(s string) []byte { return tlv(asn1.GeneralizedTime, []byte(s)) }

// algorithm encodes an AlgorithmIdentifier.
func algorithm(content string, params string) []byte {
	return tlv(sequence, append(oid(content), params...))
}
