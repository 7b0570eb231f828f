//lint:file-ignore SA1019 NameToCertificate is deprecated, and crypto/tls honours it.

// Package tlschoice chooses among the certificates of a tls.Config as crypto/tls
// does, for hooks that take the place of its own choice. A wrapped config must serve
// the certificate that the config alone would: only the staple may differ.
//
// It knows nothing of staples, signs nothing, and writes to no certificate. The root
// uses it in TLSConfig, and at each handshake. tlschoice.go has the order of the
// choice, index.go makes it independent of the length of the list, and same.go tells
// whether a prebuilt copy may be served.
//
// The tests hold a copy of the code of Go 1.26, and compare both with it and with real
// servers. They fail where a later Go chooses otherwise.
package tlschoice

import (
	"crypto/tls"
	"maps"
	"strings"
)

// A Source is what a config has to choose from. It does not change, and may be
// used by several goroutines at once.
//
// Its methods take it by value: a hook that lives for one handshake then costs
// one allocation, that of its closure.
//
// certs is the list of the config that it was taken from, not a copy: as crypto/tls
// demands of a config in use, nobody may change it.
type Source struct {
	get    func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	certs  []tls.Certificate
	byName map[string]*tls.Certificate // the deprecated NameToCertificate
	index  *index                      // of certs; nil: each is looked at
}

// Take moves the certificates of cfg into a Source: its Certificates and
// NameToCertificate are empty then. crypto/tls calls GetCertificate only for a
// server name or where nothing is listed. For a hook to be called always, the
// list has to go. cfg must be the caller's own, such as a clone.
func Take(cfg *tls.Config) Source {
	src := Source{get: cfg.GetCertificate, certs: cfg.Certificates, byName: cfg.NameToCertificate}
	cfg.Certificates, cfg.NameToCertificate = nil, nil
	return src
}

// Indexed returns src for many handshakes: what one of them costs does not grow
// with the number of certificates. NameToCertificate is copied: the user's map may
// be written later. A config that lives for one handshake is not worth an index.
func (src Source) Indexed() Source {
	src.byName = maps.Clone(src.byName)
	if len(src.certs) > 1 {
		src.index = newIndex(src.certs)
	}
	return src
}

// Choose follows tls.Config.getCertificate: it calls the config's own
// GetCertificate, and then chooses from the list. It returns nil and no error
// where both are empty, which crypto/tls turns into its own error.
//
// Of the list it returns a pointer to the element, which the caller must not write to.
// crypto/tls copies the element at each handshake, which costs an allocation.
// A nil hello, from a hook called by hand, gets the first.
func (src Source) Choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if src.get != nil && (len(src.certs) == 0 || hello != nil && hello.ServerName != "") {
		if cert, err := src.get(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	switch {
	case len(src.certs) == 0:
		return nil, nil
	case len(src.certs) == 1 || hello == nil:
		return &src.certs[0], nil
	}
	if c := src.named(hello.ServerName); c != nil {
		return c, nil
	}
	if src.index != nil {
		return src.index.first(hello, src.certs), nil
	}
	for i := range src.certs {
		if hello.SupportsCertificate(&src.certs[i]) == nil {
			return &src.certs[i], nil
		}
	}
	return &src.certs[0], nil
}

// named looks in NameToCertificate, which crypto/tls still honours. It is nil for
// none. A certificate found there is served whether the client supports it or not.
func (src Source) named(name string) *tls.Certificate {
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

// ChooseClient follows crypto/tls's choice of a client certificate: an empty one
// stands for none. A nil cri, from a hook called by hand, gets none.
func (src Source) ChooseClient(cri *tls.CertificateRequestInfo) *tls.Certificate {
	for i := range src.certs {
		if cri != nil && cri.SupportsCertificate(&src.certs[i]) == nil {
			return &src.certs[i]
		}
	}
	return new(tls.Certificate)
}
