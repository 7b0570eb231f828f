package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/internal/certinfo"
)

// ask has a Stapler ask the responders of the certificate, once.
func (p *peer) ask(ctx context.Context, o *options) *Answer {
	// With a deadline Prefetch would try again until then.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer time.AfterFunc(o.timeout, func() { cancel(context.DeadlineExceeded) }).Stop()

	var mu sync.Mutex // guards said
	var said staple.Event
	s := staple.New(staple.WithIssuers(p.issuer), staple.WithEventFunc(func(ev staple.Event) {
		mu.Lock()
		defer mu.Unlock()
		if said.Response == nil {
			said = ev
		}
	}))
	cert := new(tls.Certificate)
	for _, c := range p.cs.PeerCertificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	began := time.Now()
	err := s.Prefetch(ctx, cert)
	took := time.Since(began)
	if err != nil {
		err = late(ctx, o, err)
	}
	_ = s.Close() // delivers events; a request that hangs is left behind
	mu.Lock()
	defer mu.Unlock()
	return p.answer(said, err, took)
}

// answer describes what came of asking: an event, and the error of Prefetch.
func (p *peer) answer(ev staple.Event, err error, took time.Duration) *Answer {
	a := &Answer{Responder: certinfo.Clip(cmp.Or(ev.Responder, p.responders[0])), Milliseconds: took.Milliseconds()}
	if ev.Response != nil {
		a.Status = statusName(ev.Response.Status)
		a.ThisUpdate, a.NextUpdate = certinfo.JSONTimeOrNil(ev.Response.ThisUpdate), certinfo.JSONTimeOrNil(ev.Response.NextUpdate)
		a.Milliseconds = ev.Duration.Milliseconds()
	}
	if errors.Is(err, staple.ErrUnknown) {
		a.Status = "unknown"
	}
	a.Error = strings.TrimPrefix(p.line(err), "OCSP responder "+ev.Responder+": ")
	return a
}
