// Package leafindex finds what is kept for a certificate by the leaf's bytes: by
// their address, without a lock and without reading them, or else by a hash.
//
// Every handshake looks its certificate up here. autocert builds a tls.Certificate at
// each handshake over the same bytes, so the address is enough; a source that reads
// its files at each handshake brings new bytes, which are hashed and compared. Names
// are never keys: a response is for exactly one certificate (RFC 6066 §8).
//
// An Index holds Refs and knows nothing of what they stand for. The root's cache owns
// the one Index of a Stapler, and guards it with Stapler.mu. leafindex.go has what
// callers use, table.go the hash table below.
package leafindex

import (
	"bytes"
	"hash/maphash"
)

// maxAliases is how many more copies of one leaf are found by their address: one
// for each config that parsed the same file by itself. Without it all of these
// but the first would be hashed at every handshake, against REQ C6. A source that reads
// its files at every handshake brings a new copy each time, so there is a limit.
const maxAliases = 3

// A Ref says that the bytes of a leaf, at this address, are those of an entry E.
// It keeps them alive: no address is used again while it is in an Index. An entry
// embeds its first Ref, to be one allocation with it.
type Ref[E any] struct {
	DER []byte // not empty, and not changed
	Of  *E
}

// An Index finds entries. The methods that end in Locked must be called under one
// lock of the caller's, the others may be called at any time.
type Index[E any] struct {
	seed   maphash.Seed
	id     func(*E) uint64
	byAddr table[E]
	byID   table[E]
}

// New returns an empty Index. id returns the ID of the leaf of an entry, which
// keeps it.
func New[E any](id func(*E) uint64) *Index[E] {
	x := &Index[E]{seed: maphash.MakeSeed(), id: id}
	gone := new(Ref[E])
	x.byAddr = table[E]{gone: gone, hash: func(r *Ref[E]) uint64 { return x.place(r.DER) }}
	x.byID = table[E]{gone: gone, hash: func(r *Ref[E]) uint64 { return id(r.Of) }}
	return x
}

// ID returns a hash of der, the same for equal bytes. It differs from one Index
// to another.
func (x *Index[E]) ID(der []byte) uint64 { return maphash.Bytes(x.seed, der) }

// place is the hash of an address.
func (x *Index[E]) place(der []byte) uint64 { return maphash.Comparable(x.seed, &der[0]) }

// Find returns the entry for the leaf at the address of der. nil says nothing: it
// may be known by another address, or be added just now.
func (x *Index[E]) Find(der []byte) *E {
	// The same address with another length is another leaf, in one buffer.
	return x.byAddr.find(x.place(der), func(r *Ref[E]) bool { return &r.DER[0] == &der[0] && len(r.DER) == len(der) })
}

// FindBytesLocked returns the entry with the bytes of der, whose ID is id, at
// whatever address; or nil. The bytes are compared in full.
func (x *Index[E]) FindBytesLocked(id uint64, der []byte) *E {
	return x.byID.find(id, func(r *Ref[E]) bool { return x.id(r.Of) == id && bytes.Equal(r.DER, der) })
}

// AddLocked adds an entry, whose bytes must not be in x, by its first Ref.
func (x *Index[E]) AddLocked(r *Ref[E]) {
	x.byID.add(r)
	x.byAddr.add(r)
}

// AliasLocked has Find find of by der, too, a copy of its leaf that Find does not
// find. aliases are those that it has, oldest first; AliasLocked returns those that
// it has then.
func (x *Index[E]) AliasLocked(aliases []*Ref[E], der []byte, of *E) []*Ref[E] {
	if len(aliases) == maxAliases {
		x.byAddr.remove(aliases[0])
		aliases = append(aliases[:0], aliases[1:]...)
	}
	r := &Ref[E]{DER: der, Of: of}
	x.byAddr.add(r)
	return append(aliases, r)
}

// RemoveLocked removes an entry: its first Ref, and its aliases.
func (x *Index[E]) RemoveLocked(r *Ref[E], aliases []*Ref[E]) {
	x.byID.remove(r)
	x.byAddr.remove(r)
	for _, alias := range aliases {
		x.byAddr.remove(alias)
	}
}

// LenLocked returns the number of entries.
func (x *Index[E]) LenLocked() (n int) {
	for i := range x.byID.shards {
		n += x.byID.shards[i].live
	}
	return n
}

// AllLocked yields all entries, in no order.
func (x *Index[E]) AllLocked(yield func(*E) bool) {
	x.byID.all(func(r *Ref[E]) bool { return yield(r.Of) })
}
