package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// connect makes a handshake and returns what the server said in it, and the address
// that it said it from. Nothing is verified.
func connect(ctx context.Context, o *options) (cs tls.ConnectionState, address string, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(o.host, o.port))
	if err != nil {
		return cs, "", late(ctx, o, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	address = conn.RemoteAddr().String()
	if protocol, ok := startTLS[o.startTLS]; ok {
		if err := protocol.start(conn); err != nil {
			return cs, address, fmt.Errorf("STARTTLS of %s: %w", o.startTLS, late(ctx, o, err))
		}
	}
	asked := false
	err = tls.Client(conn, &tls.Config{
		ServerName:         o.serverName,
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { cs = state; return nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return new(tls.Certificate), nil
		},
	}).HandshakeContext(ctx)
	// Who asks for a client certificate has proven its own, and may refuse us now.
	if err != nil && !asked {
		return cs, address, late(ctx, o, explain(err))
	}
	return cs, address, nil
}

// explain says what to do about a server that does not speak TLS.
func explain(err error) error {
	var header tls.RecordHeaderError
	if errors.As(err, &header) && header.Conn != nil {
		return fmt.Errorf("no TLS, it begins with %q: %w; is it a port for -starttls?", header.RecordHeader, err)
	}
	return err
}

// late says that the time is up where that is why something failed.
func late(ctx context.Context, o *options, err error) error {
	switch {
	case ctx.Err() == nil:
		return err
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return fmt.Errorf("not done within %v", o.timeout)
	}
	return errors.New("interrupted")
}
