package ocsphttp

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// A contact is how far a request got. Only a Transport of net/http tells; another
// RoundTripper's errors have to do. Requests follow one another on one contact.
type contact struct {
	sought, got atomic.Bool // a connection
	unsent      atomic.Bool // a connection is sought, and the request was not written
}

// follow returns a context for requests, which ends with ctx; but dialGrace later
// where ctx is canceled while a connection is made. net/http makes it all the same,
// for others to use, and it would stay without a byte. cancel ends it at once.
func (c *contact) follow(ctx context.Context) (_ context.Context, cancel func()) {
	out, end := context.WithCancelCause(context.WithoutCancel(ctx))
	release := func() {}
	deadline, timed := ctx.Deadline()
	if timed {
		out, release = context.WithDeadline(out, deadline)
	}
	stop := context.AfterFunc(ctx, func() {
		if timed && ctx.Err() == context.DeadlineExceeded {
			return // so does out
		}
		if context.Cause(ctx) == context.Canceled && c.unsent.Load() {
			timer := time.NewTimer(dialGrace)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-out.Done():
			}
		}
		end(context.Cause(ctx))
	})
	return out, func() {
		stop()
		release()
		end(nil)
	}
}

func (c *contact) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) {
			c.unsent.Store(true)
			c.sought.Store(true)
			c.got.Store(false)
		},
		GotConn:      func(httptrace.GotConnInfo) { c.got.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { c.unsent.Store(false) },
	})
}

// made reports whether there was a connection before err.
func (c *contact) made(err error) bool {
	if c.sought.Load() {
		return c.got.Load()
	}
	var op *net.OpError
	var dns *net.DNSError
	return !errors.As(err, &dns) && !(errors.As(err, &op) && op.Op == "dial")
}
