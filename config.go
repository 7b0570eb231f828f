package staple

import (
	"crypto/tls"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/ocspstaple/staple/internal/schedule"
	"github.com/ocspstaple/staple/internal/tlschoice"
)

// TLSConfig returns a copy of base with which a server staples every
// certificate that it serves: those of Certificates, GetCertificate and
// GetConfigForClient. A client with it staples the certificates that it
// presents, in TLS 1.3 (RFC 9846 §4.4.2.1). base, its certificates and what they point
// to are not written; nil is an empty config. The copy's Certificates is empty, and its
// hooks make the choice that crypto/tls would have made: so tls.Listen and net/http start,
// but no handshake succeeds, where base has no certificate.
//
// The responses of the certificates listed in base are read from the store, or
// requested, at once and in the background; [Stapler.Prefetch] waits for them. Those of a
// GetCertificate source are requested at the first handshake. Where nothing
// is found the hook returns nil and no error, as crypto/tls expects.
//
// A config that GetConfigForClient returns is copied at every handshake, so
// session ticket keys belong on the config that TLSConfig returned
// ([tls.Config.SetSessionTicketKeys]).
//
// With http.Server pass no file names to ListenAndServeTLS, and load the pair into
// Certificates of base: net/http would add the files' pair to the copy, unstapled.
// A server that insists on files, as httptest.Server does on a pair of its own,
// staples with a config whose GetConfigForClient returns the copy. The copy must
// then list its protocols in NextProtos itself, for HTTP/2 "h2" and "http/1.1".
func (s *Stapler) TLSConfig(base *tls.Config) *tls.Config {
	if base == nil {
		base = new(tls.Config)
	}
	cfg := base.Clone()
	cfg.NextProtos = slices.Clone(base.NextProtos) // net/http appends "h2"
	from := &choice{src: tlschoice.Take(cfg).Indexed(), list: s.hold(base.Certificates), getClient: base.GetClientCertificate}
	cfg.GetCertificate = s.GetCertificate(from.choose)
	if len(base.Certificates) == 0 && base.GetCertificate == nil && base.GetConfigForClient == nil {
		from.missing = s.warnFiles
	}
	if len(base.Certificates) > 0 || base.GetClientCertificate != nil {
		cfg.GetClientCertificate = s.GetClientCertificate(from.chooseClient)
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

// choice is what the hooks of a wrapped config choose from.
type choice struct {
	src       tlschoice.Source
	list      *listing // of what src has: alive as long as the hooks are
	getClient func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	missing   func() // called where nothing is found; may be nil
}

func (c *choice) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := c.src.Choose(hello)
	if cert == nil && err == nil && c.missing != nil {
		c.missing()
	}
	return cert, err
}

func (c *choice) chooseClient(cri *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if c.getClient != nil {
		return c.getClient(cri)
	}
	return c.src.ChooseClient(cri), nil
}

// perHandshake wraps a config that lives for one handshake: no list of what it
// holds, no index, and never a cached copy, which would keep session ticket
// keys that were withdrawn.
func (s *Stapler) perHandshake(base *tls.Config) *tls.Config {
	if len(base.Certificates) == 0 && base.GetCertificate == nil {
		return base
	}
	cfg := base.Clone()
	src := tlschoice.Take(cfg)
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := src.Choose(hello)
		return s.answer(hello, cert, err)
	}
	return cfg
}

// warnFiles logs, once, that a hook has nothing to serve: net/http loads
// the files named to ListenAndServeTLS behind its back.
func (s *Stapler) warnFiles() {
	if s.warned.CompareAndSwap(false, true) {
		s.log(slog.LevelWarn, `TLSConfig was given no certificate, so nothing is stapled; `+
			`load the pair into Config.Certificates and call ListenAndServeTLS("", "")`)
	}
}

// listing keeps the entries of a config's certificates alive for as long as
// the config: its hooks hold the listing, the Stapler does not. It counts in what
// the entries share with their successors.
type listing struct{ counts []*atomic.Int32 }

// hold makes the certificates known and lists them. It waits for none of their
// responders, so TLSConfig returns at once; Prefetch joins the attempts that it starts.
func (s *Stapler) hold(certs []tls.Certificate) *listing {
	l := new(listing)
	all := make([]*tls.Certificate, len(certs))
	for i := range certs {
		all[i] = &certs[i]
	}
	ids := s.idsOf(all)
	s.mu.Lock() // once: taking it 10,000 times against busy workers takes seconds
	defer s.mu.Unlock()
	for i, cert := range all {
		if empty(cert) {
			continue
		}
		if e, _ := s.learnLocked(cert, ids[i], schedule.Routine); e != nil {
			if e.listings == nil {
				e.listings = new(atomic.Int32)
			}
			e.listings.Add(1)
			s.cache.sortLocked(e)
			l.counts = append(l.counts, e.listings)
			s.nominateLocked(e, cert)
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
