package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/caddyserver/certmagic"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/ocspstaple/staple"
	"github.com/rs/zerolog"
	"github.com/rs/zerolog/log"
	traefiktls "github.com/traefik/traefik/v3/pkg/tls"
	"github.com/traefik/traefik/v3/pkg/types"
	"go.uber.org/zap"
)

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// A subject makes, of a world, a hook that staples. It returns once it has done
// what it does before it serves; where the staples come later, ready waits.
type subject struct {
	name, version, how string
	most               int // certificates
	start              func(ctx context.Context, w *world, dir string) (get getCertificate, ready func() error, err error)
}

var subjects = []subject{
	{"floor", "", "`OCSPStaple` filled in by hand; a map by name", 1 << 30, startFloor},
	{"staple", "", "`TLSConfig` over `Certificates`, and `Prefetch`", 1 << 30, startStaple},
	{"staple-source", "", "`GetCertificate` over the floor's map of bare certificates, and `Prefetch`", 1 << 30, startSource},
	{"certmagic", "0.25.6", "`CacheUnmanagedTLSCertificate` for each, `Config.GetCertificate`, storage in a directory", 1 << 30, startCertmagic},
	{"Traefik", "3.7.13", "`pkg/tls`: `NewManager(&OCSPConfig{})`, `Run`, `UpdateConfigs`, `Get`", 10_000, startTraefik},
	{"nats-server", "2.15.2", "`OCSPConfig{Mode: OCSPModeAlways}`, one certificate at most", 1, startNATS},
}

func startFloor(_ context.Context, w *world, _ string) (getCertificate, func() error, error) {
	filled := make([]tls.Certificate, len(w.certs))
	byName := make(map[string]*tls.Certificate, len(w.certs))
	for i, cert := range w.certs {
		raw, err := w.response(cert.Leaf.SerialNumber)
		if err != nil {
			return nil, nil, err
		}
		cert.OCSPStaple = bytes.Clone(raw) // as if it had come over the network
		filled[i] = cert
		byName[w.names[i]] = &filled[i]
	}
	if len(filled) == 1 {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &filled[0], nil }, nil, nil
	}
	return func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return byName[h.ServerName], nil }, nil, nil
}

func startStaple(ctx context.Context, w *world, _ string) (getCertificate, func() error, error) {
	s := staple.New()
	context.AfterFunc(ctx, func() { s.Close() })
	cfg := s.TLSConfig(&tls.Config{Certificates: w.certs})
	return cfg.GetCertificate, func() error { return prefetch(ctx, s, w) }, nil
}

func startSource(ctx context.Context, w *world, _ string) (getCertificate, func() error, error) {
	byName := make(map[string]*tls.Certificate, len(w.certs))
	for i := range w.certs {
		byName[w.names[i]] = &w.certs[i]
	}
	s := staple.New()
	context.AfterFunc(ctx, func() { s.Close() })
	get := s.GetCertificate(func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return byName[h.ServerName], nil })
	return get, func() error { return prefetch(ctx, s, w) }, nil
}

func prefetch(ctx context.Context, s *staple.Stapler, w *world) error {
	certs := make([]*tls.Certificate, len(w.certs))
	for i := range w.certs {
		certs[i] = &w.certs[i]
	}
	return s.Prefetch(ctx, certs...)
}

func startCertmagic(ctx context.Context, w *world, dir string) (getCertificate, func() error, error) {
	var cache *certmagic.Cache
	var cfg *certmagic.Config
	cache = certmagic.NewCache(certmagic.CacheOptions{Logger: zap.NewNop(),
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return cfg, nil }})
	cfg = certmagic.New(cache, certmagic.Config{Logger: zap.NewNop(), Storage: &certmagic.FileStorage{Path: dir}})
	context.AfterFunc(ctx, cache.Stop)
	for _, cert := range w.certs {
		if _, err := cfg.CacheUnmanagedTLSCertificate(ctx, cert, nil); err != nil {
			return nil, nil, err
		}
	}
	return cfg.GetCertificate, nil, nil
}

func startTraefik(ctx context.Context, w *world, _ string) (getCertificate, func() error, error) {
	log.Logger = zerolog.New(io.Discard)
	m := traefiktls.NewManager(&traefiktls.OCSPConfig{})
	go m.Run(ctx)
	var all []*traefiktls.CertAndStores
	for i := range w.certs {
		chain, key, err := w.pems(i)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, &traefiktls.CertAndStores{Certificate: traefiktls.Certificate{
			CertFile: types.FileOrContent(chain), KeyFile: types.FileOrContent(key)}})
	}
	m.UpdateConfigs(ctx, map[string]traefiktls.Store{}, map[string]traefiktls.Options{"default": traefiktls.DefaultTLSOptions}, all)
	cfg, err := m.Get("default", "default")
	if err != nil {
		return nil, nil, err
	}
	return cfg.GetCertificate, func() error { return untilStapled(ctx, w, cfg.GetCertificate) }, nil
}

// untilStapled waits until every certificate carries a staple.
func untilStapled(ctx context.Context, w *world, get getCertificate) error {
	for _, name := range w.names {
		for {
			c, err := get(hello(name))
			if err != nil {
				return err
			}
			if c != nil && len(c.OCSPStaple) > 0 {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

func startNATS(ctx context.Context, w *world, dir string) (getCertificate, func() error, error) {
	if len(w.certs) != 1 {
		return nil, nil, errors.New("staples one certificate")
	}
	opts := &natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true, StoreDir: dir,
		TLS: true, TLSConfig: &tls.Config{Certificates: w.certs}, OCSPConfig: &natsserver.OCSPConfig{Mode: natsserver.OCSPModeAlways}}
	s, err := natsserver.NewServer(opts)
	if err != nil {
		return nil, nil, err
	}
	s.Start()
	context.AfterFunc(ctx, s.Shutdown)
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, nil, errors.New("nats-server did not start")
	}
	if opts.TLSConfig.GetCertificate == nil {
		return nil, nil, errors.New("nats-server has no hook")
	}
	return opts.TLSConfig.GetCertificate, nil, nil
}

// noConn is the connection of a hello that has none.
type noConn struct{ net.Conn }

func (noConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (noConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func tempDir() (string, func(), error) {
	dir, err := os.MkdirTemp("", "staple-bench")
	return dir, func() { os.RemoveAll(dir) }, err
}
