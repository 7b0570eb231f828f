package ocsphttp

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// A contact is how far a request got. Only a Transport of net/http reports that; with
// another RoundTripper its errors decide. Requests follow one another on one contact.
// It tells a responder that was not reached, where a POST is no help, from one that
// hangs on a GET. Its fields are atomic as net/http calls the trace from its own
// goroutines.
type contact struct {
	sought, got atomic.Bool // a connection
	unsent      atomic.Bool // a connection is sought, and the request was not written
}

// follow returns a context for requests, which ends with ctx; but dialGrace later
// where ctx is canceled while a connection is made. net/http makes it all the same,
// for others to use, and it would stay without a byte. cancel ends it at once. The
// caller calls cancel when it is done: until then a goroutine may wait for dialGrace.
func (c *contact) follow(ctx context.Context) (_ context.Context, cancel func()) {
	own, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if context.Cause(ctx) == context.Canceled && c.unsent.Load() {
			timer := time.NewTimer(dialGrace)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-own.Done():
			}
		}
		end(context.Cause(ctx))
	})
	return following{own, ctx}, func() {
		stop()
		end(nil)
	}
}

// following is a context that ends after another and in the same way: a timer of its
// own might end it before.
type following struct {
	context.Context
	ctx context.Context
}

// Deadline is that of the context that f follows: net/http limits its dials by it.
func (f following) Deadline() (time.Time, bool) { return f.ctx.Deadline() }

// Err is the cause, so that it says DeadlineExceeded where the other context does.
func (f following) Err() error { return context.Cause(f.Context) }

// trace returns a context by which net/http reports how far a request gets. GetConn
// starts over: after a redirect another connection is sought.
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

// made reports whether there was a connection before err. A RoundTripper that says
// nothing of connections had one, unless err is of a dial or a look-up.
func (c *contact) made(err error) bool {
	if c.sought.Load() {
		return c.got.Load()
	}
	var op *net.OpError
	var dns *net.DNSError
	return !errors.As(err, &dns) && !(errors.As(err, &op) && op.Op == "dial")
}
