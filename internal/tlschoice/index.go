package tlschoice

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash/maphash"
	"net"
	"slices"
	"strings"
)

// index says which certificates of a list a client may be served. It may name
// too many: SupportsCertificate has the last word. That takes 390 ns and 7 allocations,
// and crypto/tls may call it for each certificate of the list. An index does not
// change once it is made.
type index struct {
	seed  maphash.Seed
	names []named // in the order of their hashes, and then of the list
	kinds []named // the first certificate of each kind that clients may not support
}

// named says that a certificate may be valid for host.name, or as .name for
// *.name. A map from names would take five times as much memory. Two names with one
// hash cost a needless look at a certificate; the seed keeps clients from choosing
// such names.
type named struct {
	hash uint64 // of the name
	cert int32  // its place in the list
}

// newIndex reads every certificate once, and parses those without a Leaf.
func newIndex(certs []tls.Certificate) *index {
	x := &index{seed: maphash.MakeSeed(), names: make([]named, 0, len(certs))}
	seen := make(map[string]bool)
	for i := range certs {
		c := &certs[i]
		kind := kindOf(c)
		if kind == "" {
			continue // its key panics, as it would in a handshake
		}
		if !seen[kind] {
			seen[kind] = true
			x.kinds = append(x.kinds, named{cert: int32(i)})
		}
		x.addNames(c, i)
	}
	slices.SortFunc(x.names, func(a, b named) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.cert, b.cert)) })
	x.names = slices.Clip(slices.Compact(x.names))
	return x
}

// addNames adds the names of c, the certificate at i, that VerifyHostname compares:
// not the subject's common name. A pattern is added as itself, too, since a client
// that sends "*.name" as it stands is compared with it literally.
func (x *index) addNames(c *tls.Certificate, i int) {
	leaf := c.Leaf
	if leaf == nil && len(c.Certificate) > 0 {
		leaf, _ = x509.ParseCertificate(c.Certificate[0])
	}
	if leaf == nil {
		return // crypto/tls finds no name in it
	}
	for _, name := range leaf.DNSNames {
		name = normal(name)
		x.add(name, i)
		if strings.HasPrefix(name, "*.") {
			x.add(name[1:], i)
		}
	}
	for _, ip := range leaf.IPAddresses {
		x.add(ip.String(), i)
	}
}

// add adds a name in the form in which of looks for it.
func (x *index) add(name string, i int) {
	x.names = append(x.names, named{maphash.String(x.seed, name), int32(i)})
}

// first returns the first of certs that the client supports. It asks only about
// those that can be it, about each once, and returns the first of all where none is.
func (x *index) first(hello *tls.ClientHelloInfo, certs []tls.Certificate) *tls.Certificate {
	exact, wild := x.candidates(hello.ServerName)
	for len(exact)+len(wild) > 0 { // merge them: both are in the order of the list
		var i int32
		if len(wild) == 0 || len(exact) > 0 && exact[0].cert <= wild[0].cert {
			if len(wild) > 0 && exact[0].cert == wild[0].cert {
				wild = wild[1:]
			}
			i, exact = exact[0].cert, exact[1:]
		} else {
			i, wild = wild[0].cert, wild[1:]
		}
		if hello.SupportsCertificate(&certs[i]) == nil {
			return &certs[i]
		}
	}
	return &certs[0]
}

// candidates returns the certificates that may be valid for a server name: by
// that name, and by a wildcard, which stands for one label (RFC 6125 §6.4.3).
// Without a name what SupportsCertificate says depends on the kind alone, so the
// first certificate of each kind is enough.
func (x *index) candidates(name string) (exact, wild []named) {
	if name == "" {
		return x.kinds, nil
	}
	address := name // as x509.Certificate.VerifyHostname reads it
	if n := len(address); n > 2 && address[0] == '[' && address[n-1] == ']' {
		address = address[1 : n-1]
	}
	if mayBeIP(address) {
		if ip := net.ParseIP(address); ip != nil {
			return x.of(ip.String()), nil
		}
	}
	name = normal(name)
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		wild = x.of(name[dot:])
	}
	return x.of(name), wild
}

// of returns the certificates that have a name, in the order of the list.
func (x *index) of(name string) []named {
	hash := maphash.String(x.seed, name)
	from, _ := slices.BinarySearchFunc(x.names, hash, func(n named, hash uint64) int { return cmp.Compare(n.hash, hash) })
	to := from
	for to < len(x.names) && x.names[to].hash == hash {
		to++
	}
	return x.names[from:to]
}

// normal returns a name as names are compared: in lower case, without the dot at the
// end that a fully qualified name may have.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// mayBeIP spares host names the parser, which allocates to say no.
func mayBeIP(name string) bool {
	last := name[max(len(name), 1)-1:]
	return last != "" && (last <= "9" || strings.ContainsRune(name, ':'))
}

// kindOf describes what SupportsCertificate looks at besides names: the type of the
// key, an RSA key's size (PSS needs room), an ECDSA key's curve, whether it decrypts
// (RSA key exchange), and the schemes that the user allows. It is empty for a key
// that panics.
func kindOf(c *tls.Certificate) (kind string) {
	defer func() {
		if recover() != nil { // a nil *rsa.PrivateKey, say
			kind = ""
		}
	}()
	signer, ok := c.PrivateKey.(crypto.Signer)
	_, decrypts := c.PrivateKey.(crypto.Decrypter)
	if !ok {
		return fmt.Sprint("no signer ", decrypts)
	}
	kind = "other"
	switch pub := signer.Public().(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprint("RSA ", pub.Size())
	case *ecdsa.PublicKey:
		kind = "ECDSA " + pub.Curve.Params().Name
	case ed25519.PublicKey:
		kind = "Ed25519"
	}
	return fmt.Sprint(kind, decrypts, c.SupportedSignatureAlgorithms == nil, c.SupportedSignatureAlgorithms)
}
