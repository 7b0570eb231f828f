//lint:file-ignore SA1019 NameToCertificate is deprecated, and crypto/tls honours it.

package staple

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
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
)

// TLSConfig returns a copy of base with which a server staples every
// certificate that it serves: those of Certificates, GetCertificate and
// GetConfigForClient. A client with it staples the certificates that it
// presents, in TLS 1.3 (RFC 9846 §4.4.2.1). base, its certificates and what
// they point to are not written; nil is an empty config. The copy's
// Certificates is empty, and its hooks make the choice that crypto/tls would
// have made.
//
// The certificates listed in base are loaded from the store and fetched for at
// once, in the background; [Stapler.Prefetch] waits for that. Those of a
// GetCertificate source become known at their first handshake. Where nothing
// is found the hook returns nil and no error, as crypto/tls expects.
//
// A config that GetConfigForClient returns is copied at every handshake, so
// session ticket keys belong on the config that TLSConfig returned
// ([tls.Config.SetSessionTicketKeys]).
//
// With http.Server pass no file names to ListenAndServeTLS: net/http would put
// that pair beside ours, unstapled. Load it into Certificates of base.
//
// An httptest.Server does the same with a pair of its own, always, and clients
// that ask by address get that one. Ask by a name: the server's Client finds it
// under example.com and names below that, once it trusts the CA of your
// certificate. Or let an http.Server ServeTLS a listener, with no file names.
func (s *Stapler) TLSConfig(base *tls.Config) *tls.Config {
	if base == nil {
		base = new(tls.Config)
	}
	cfg := base.Clone()
	cfg.NextProtos = slices.Clone(base.NextProtos) // net/http appends "h2"
	src := newSource(base)
	src.list = s.hold(base.Certificates)
	cfg.Certificates, cfg.NameToCertificate = nil, nil
	cfg.GetCertificate = s.GetCertificate(src.choose)
	if len(src.certs) == 0 && src.get == nil && base.GetConfigForClient == nil {
		src.missing = s.warnFiles
	}
	if len(src.certs) > 0 || base.GetClientCertificate != nil {
		src.getClient = base.GetClientCertificate
		cfg.GetClientCertificate = s.GetClientCertificate(src.chooseClient)
	}
	if get := base.GetConfigForClient; get != nil {
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := get(hello)
			if c == nil || err != nil {
				return c, err
			}
			return s.perHandshake(c), nil
		}
	}
	return cfg
}

// perHandshake wraps a config that lives for one handshake: no list of what it
// holds, no index, and never a cached copy, which would keep session ticket
// keys that were withdrawn.
func (s *Stapler) perHandshake(base *tls.Config) *tls.Config {
	if len(base.Certificates) == 0 && base.GetCertificate == nil {
		return base
	}
	cfg := base.Clone()
	get, certs, byName := base.GetCertificate, base.Certificates, base.NameToCertificate
	cfg.Certificates, cfg.NameToCertificate = nil, nil
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		src := source{get: get, certs: certs, byName: byName} // stays on the stack
		cert, err := src.choose(hello)
		return s.answer(hello, cert, err)
	}
	return cfg
}

// warnFiles tells, once, of a hook that has nothing to serve: net/http loads
// the files named to ListenAndServeTLS behind its back.
func (s *Stapler) warnFiles() {
	if s.warned.CompareAndSwap(false, true) {
		s.log(slogWarn, `TLSConfig was given no certificate, so nothing is stapled; `+
			`load the pair into Config.Certificates and call ListenAndServeTLS("", "")`)
	}
}

// listing keeps the entries of a config's certificates alive for as long as
// the config: its hooks hold the listing, the Stapler does not. It counts in what
// the entries share with their successors.
type listing struct{ counts []*atomic.Int32 }

// hold makes the certificates known and lists them.
func (s *Stapler) hold(certs []tls.Certificate) *listing {
	l := new(listing)
	for i := range certs {
		if empty(&certs[i]) {
			continue
		}
		if e := s.learn(&certs[i], true, nil); e != nil {
			l.counts = append(l.counts, e.lists)
			s.nominate(e, &certs[i])
		}
	}
	if len(l.counts) > 0 {
		runtime.AddCleanup(l, func(counts []*atomic.Int32) {
			for _, n := range counts {
				n.Add(-1)
			}
		}, l.counts)
	}
	return l
}

// source chooses among the certificates of a config as crypto/tls does, which
// calls GetCertificate only when there is a server name or no list: to be
// called always, the list has to go.
type source struct {
	get       func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	getClient func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	certs     []tls.Certificate
	byName    map[string]*tls.Certificate // the deprecated NameToCertificate
	names     []named                     // of certs, in the order of their hashes and then of certs; nil: not built
	seed      maphash.Seed                // of the hashes
	kinds     []named                     // the first certificate of each kind that clients may not support
	missing   func()                      // called where nothing is found
	list      *listing
}

// named says that a certificate may be valid for host.name, or as .name for
// *.name. A map from names would take five times as much memory.
type named struct {
	hash uint64
	cert int32
}

// newSource returns the source over base's certificates.
func newSource(base *tls.Config) *source {
	src := &source{get: base.GetCertificate, certs: base.Certificates, byName: maps.Clone(base.NameToCertificate)}
	if len(src.certs) > 1 {
		src.buildIndex()
	}
	return src
}

// buildIndex keeps the work of a handshake independent of the number of
// certificates. It may name too many; SupportsCertificate has the last word.
func (src *source) buildIndex() {
	src.seed, src.names = maphash.MakeSeed(), make([]named, 0, len(src.certs))
	seen := make(map[string]bool)
	for i := range src.certs {
		c := &src.certs[i]
		kind := kindOf(c)
		if kind == "" {
			continue // its key panics, as it would in a handshake
		}
		if !seen[kind] {
			seen[kind] = true
			src.kinds = append(src.kinds, named{cert: int32(i)})
		}
		leaf := c.Leaf
		if leaf == nil && len(c.Certificate) > 0 {
			leaf, _ = x509.ParseCertificate(c.Certificate[0])
		}
		if leaf == nil {
			continue // no name that crypto/tls would find
		}
		for _, name := range leaf.DNSNames {
			name = normal(name)
			src.add(name, i)
			if strings.HasPrefix(name, "*.") {
				src.add(name[1:], i)
			}
		}
		for _, ip := range leaf.IPAddresses {
			src.add(ip.String(), i)
		}
	}
	slices.SortFunc(src.names, func(a, b named) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.cert, b.cert)) })
	src.names = slices.Clip(slices.Compact(src.names))
}

func (src *source) add(name string, i int) {
	src.names = append(src.names, named{maphash.String(src.seed, name), int32(i)})
}

// of returns the certificates that may be valid for a name, in their order.
func (src *source) of(name string) []named {
	hash := maphash.String(src.seed, name)
	from, _ := slices.BinarySearchFunc(src.names, hash, func(n named, hash uint64) int { return cmp.Compare(n.hash, hash) })
	to := from
	for to < len(src.names) && src.names[to].hash == hash {
		to++
	}
	return src.names[from:to]
}

func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// kindOf describes what SupportsCertificate looks at besides names.
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

// choose follows tls.Config.getCertificate.
func (src *source) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if src.get != nil && (len(src.certs) == 0 || hello != nil && hello.ServerName != "") {
		if cert, err := src.get(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	switch {
	case len(src.certs) == 0:
		if src.missing != nil {
			src.missing()
		}
		return nil, nil
	case len(src.certs) == 1 || hello == nil:
		return &src.certs[0], nil
	}
	if c := src.named(hello.ServerName); c != nil {
		return c, nil
	}
	if src.names == nil {
		for i := range src.certs {
			if hello.SupportsCertificate(&src.certs[i]) == nil {
				return &src.certs[i], nil
			}
		}
		return &src.certs[0], nil
	}
	return src.indexed(hello), nil
}

// named looks in NameToCertificate, which crypto/tls still honours.
func (src *source) named(name string) *tls.Certificate {
	if src.byName == nil {
		return nil
	}
	name = strings.ToLower(name)
	if c, ok := src.byName[name]; ok {
		return c
	}
	if name == "" {
		return nil
	}
	rest := strings.TrimLeftFunc(name, func(c rune) bool { return c != '.' })
	return src.byName["*"+rest] // "*" for a name of one label, as there
}

// indexed returns the first certificate, in the order of the list, that the
// client supports, asking about those alone that can be the one.
func (src *source) indexed(hello *tls.ClientHelloInfo) *tls.Certificate {
	if hello.ServerName == "" {
		return src.first(hello, src.kinds, nil)
	}
	address := hello.ServerName // as x509.Certificate.VerifyHostname reads it
	if n := len(address); n > 2 && address[0] == '[' && address[n-1] == ']' {
		address = address[1 : n-1]
	}
	if mayBeIP(address) {
		if ip := net.ParseIP(address); ip != nil {
			return src.first(hello, src.of(ip.String()), nil)
		}
	}
	name := normal(hello.ServerName)
	var wild []named
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		wild = src.of(name[dot:])
	}
	return src.first(hello, src.of(name), wild)
}

// mayBeIP spares host names the parser, which allocates to say no.
func mayBeIP(name string) bool {
	last := name[max(len(name), 1)-1:]
	return last != "" && (last <= "9" || strings.ContainsRune(name, ':'))
}

// first merges two ascending lists.
func (src *source) first(hello *tls.ClientHelloInfo, a, b []named) *tls.Certificate {
	for len(a)+len(b) > 0 {
		var i int32
		if len(b) == 0 || len(a) > 0 && a[0].cert <= b[0].cert {
			if len(b) > 0 && a[0].cert == b[0].cert {
				b = b[1:]
			}
			i, a = a[0].cert, a[1:]
		} else {
			i, b = b[0].cert, b[1:]
		}
		if hello.SupportsCertificate(&src.certs[i]) == nil {
			return &src.certs[i]
		}
	}
	return &src.certs[0]
}

// chooseClient follows crypto/tls's choice of a client certificate.
func (src *source) chooseClient(cri *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if src.getClient != nil {
		return src.getClient(cri)
	}
	if cri == nil { // a hook called by hand
		return new(tls.Certificate), nil
	}
	for i := range src.certs {
		if cri.SupportsCertificate(&src.certs[i]) == nil {
			return &src.certs[i], nil
		}
	}
	return new(tls.Certificate), nil
}
