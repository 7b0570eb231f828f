package staple_test

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/ocsp"
)

// A peer is a server with its CA, made in the test because it needs its key.
type peer struct {
	t        *testing.T
	caKey    crypto.Signer
	ca, leaf *x509.Certificate
	tls      tls.Certificate
}

func newPeer(t *testing.T, extra ...pkix.Extension) *peer {
	t.Helper()
	p := &peer{t: t, caKey: testkit.NewKey(t)}
	p.ca = p.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
	}, p.caKey.Public())
	key := testkit.NewKey(t)
	p.leaf = p.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "peer"}, DNSNames: []string{"peer.test"}, ExtraExtensions: extra,
	}, key.Public())
	p.tls = tls.Certificate{Certificate: [][]byte{p.leaf.Raw}, PrivateKey: key}
	return p
}

// sign issues a certificate of 90 days; the first is the CA's own.
func (p *peer) sign(template *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	p.t.Helper()
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 90)
	parent := p.ca
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, p.caKey)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert
}

// staple makes a response of now; life 0 is one without nextUpdate.
func (p *peer) staple(status int, life time.Duration) []byte {
	p.t.Helper()
	template := ocsp.Response{Status: status, SerialNumber: p.leaf.SerialNumber, ThisUpdate: time.Now(), RevokedAt: time.Now()}
	if life != 0 {
		template.NextUpdate = time.Now().Add(life)
	}
	var raw []byte
	var err error
	fips140.WithoutEnforcement(func() { // it names the CA by SHA-1
		raw, err = ocsp.CreateResponse(p.ca, p.ca, template, p.caKey)
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

// state is that of a verified connection to p.
func (p *peer) state(staple []byte) tls.ConnectionState {
	return tls.ConnectionState{
		OCSPResponse:     staple,
		PeerCertificates: []*x509.Certificate{p.leaf, p.ca},
		VerifiedChains:   [][]*x509.Certificate{{p.leaf, p.ca}},
	}
}

// tlsFeature makes a certificate Must-Staple.
func tlsFeature() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte("\x30\x03\x02\x01\x05")}
}

const week = 7 * 24 * time.Hour

// REQ B3, REQ B10, REQ B12, REQ D1
func TestVerifyStaple(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, must, stranger := newPeer(t), newPeer(t, tlsFeature()), newPeer(t)
		type outcome struct{ verify, require error }
		for name, c := range map[string]struct {
			state tls.ConnectionState
			want  outcome
		}{
			"good":                  {p.state(p.staple(ocsp.Good, week)), outcome{}},
			"good, no nextUpdate":   {p.state(p.staple(ocsp.Good, 0)), outcome{}},
			"none":                  {p.state(nil), outcome{nil, staple.ErrNoStaple}},
			"none, Must-Staple":     {must.state(nil), outcome{staple.ErrNoStaple, staple.ErrNoStaple}},
			"good, Must-Staple":     {must.state(must.staple(ocsp.Good, week)), outcome{}},
			"revoked":               {p.state(p.staple(ocsp.Revoked, week)), outcome{staple.ErrRevoked, staple.ErrRevoked}},
			"unknown":               {p.state(p.staple(ocsp.Unknown, week)), outcome{staple.ErrUnknown, staple.ErrUnknown}},
			"no certificate":        {tls.ConnectionState{}, outcome{}},
			"staple without a cert": {tls.ConnectionState{OCSPResponse: []byte("x")}, outcome{}},
			"leaf alone": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Good, week), PeerCertificates: []*x509.Certificate{p.leaf}},
				outcome{staple.ErrNoIssuer, staple.ErrNoIssuer}},
			"leaf trusted by itself": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Good, week), PeerCertificates: []*x509.Certificate{p.leaf, p.ca},
				VerifiedChains: [][]*x509.Certificate{{p.leaf}}}, outcome{}},
			"leaf trusted by itself, with another CA of the name": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Good, week), PeerCertificates: []*x509.Certificate{p.leaf, stranger.ca},
				VerifiedChains: [][]*x509.Certificate{{p.leaf}}}, outcome{staple.ErrNoIssuer, staple.ErrNoIssuer}},
			"unverified, in any order": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Good, week),
				PeerCertificates: []*x509.Certificate{p.leaf, stranger.leaf, stranger.ca, p.ca}}, outcome{}},
			"unverified, another CA of that name": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Good, week),
				PeerCertificates: []*x509.Certificate{p.leaf, stranger.ca}}, outcome{staple.ErrNoIssuer, staple.ErrNoIssuer}},
			"second chain": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Good, week), PeerCertificates: []*x509.Certificate{p.leaf},
				VerifiedChains: [][]*x509.Certificate{{p.leaf, stranger.ca}, {p.leaf, stranger.ca}, {p.leaf, p.ca}}}, outcome{}},
			"unknown, and another chain": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Unknown, week), PeerCertificates: []*x509.Certificate{p.leaf},
				VerifiedChains: [][]*x509.Certificate{{p.leaf, p.ca}, {p.leaf, stranger.ca}}}, outcome{staple.ErrUnknown, staple.ErrUnknown}},
			"revoked in the second chain": {tls.ConnectionState{OCSPResponse: p.staple(ocsp.Revoked, week), PeerCertificates: []*x509.Certificate{p.leaf},
				VerifiedChains: [][]*x509.Certificate{{p.leaf, stranger.ca}, {p.leaf, p.ca}}}, outcome{staple.ErrRevoked, staple.ErrRevoked}},
		} {
			if err := staple.VerifyStaple(c.state); !errors.Is(err, c.want.verify) {
				t.Errorf("%s: VerifyStaple: got %v, want %v", name, err, c.want.verify)
			}
			if err := staple.RequireStaple(c.state); !errors.Is(err, c.want.require) {
				t.Errorf("%s: RequireStaple: got %v, want %v", name, err, c.want.require)
			}
		}
	})
}

// TestVerifyStapleReason: what isn't a sentinel's is told apart by its Reason, and
// a Must-Staple certificate gets no other treatment once there is a staple.
//
// REQ B12
func TestVerifyStapleReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stranger := newPeer(t, tlsFeature()), newPeer(t)
		for name, c := range map[string]struct {
			staple []byte
			want   staple.Reason
		}{
			"another CA's": {stranger.staple(ocsp.Good, week), staple.ReasonIssuerKey},
			"junk":         {[]byte("junk"), staple.ReasonMalformed},
			"tryLater":     {ocsp.TryLaterErrorResponse, staple.ReasonTryLater},
		} {
			err := staple.VerifyStaple(p.state(c.staple))
			if got := testkit.Reason(err); got != c.want {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
	})
}

// REQ B10
func TestVerifyStapleOverTime(t *testing.T) {
	for _, c := range []struct {
		name    string
		life    time.Duration
		resumed bool
		age     time.Duration
		want    error
	}{
		{"fresh", time.Hour, false, time.Hour - 1, nil},
		{"expired", time.Hour, false, time.Hour, staple.ErrExpired},
		{"resumed", time.Hour, true, time.Hour + 1, nil},
		{"resumed after 7 days", time.Hour, true, time.Hour + week, nil},
		{"resumed after more than 7 days", time.Hour, true, time.Hour + week + 1, staple.ErrExpired},
		{"no nextUpdate", 0, false, week, nil},
		{"no nextUpdate, old", 0, false, week + 1, staple.ErrExpired},
		{"no nextUpdate, old, resumed", 0, true, week + 1, staple.ErrExpired},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			cs := p.state(p.staple(ocsp.Good, c.life))
			cs.DidResume = c.resumed
			time.Sleep(c.age)
			for _, check := range []func(tls.ConnectionState) error{staple.VerifyStaple, staple.RequireStaple} {
				if err := check(cs); !errors.Is(err, c.want) {
					t.Errorf("%s: got %v, want %v", c.name, err, c.want)
				}
			}
		})
	}
}

// queued is a connection whose writes never wait. A pipe's do, so that a client
// that refuses and a server that isn't done would wait for each other.
type queued struct {
	net.Conn
	writes chan []byte
}

func newQueued(c net.Conn) queued {
	q := queued{c, make(chan []byte, 64)}
	go func() {
		for b := range q.writes {
			c.Write(b)
		}
	}()
	return q
}

func (q queued) Write(b []byte) (int, error) {
	q.writes <- bytes.Clone(b)
	return len(b), nil
}

func (q queued) Close() error {
	close(q.writes)
	return q.Conn.Close()
}

// dial makes a connection of client to server through memory, reads a byte so
// that the client gets its session ticket, and returns what it ended in.
func dial(client, server *tls.Config) (tls.ConnectionState, error) {
	clientEnd, serverEnd := net.Pipe()
	c := newQueued(clientEnd)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer serverEnd.Close()
		conn := tls.Server(serverEnd, server)
		if conn.Handshake() == nil {
			conn.Write([]byte{1})
		}
	}()
	defer func() { c.Close(); <-done }()
	conn := tls.Client(c, client)
	if err := conn.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err := conn.Read(make([]byte, 1))
	return conn.ConnectionState(), err
}

// TestVerifyStapleInHandshake is about what crypto/tls passes on, also when it
// resumes: a ticket outlives the staple, but never by more than 7 days.
//
// REQ B10
func TestVerifyStapleInHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, tlsFeature())
		p.tls.OCSPStaple = p.staple(ocsp.Good, time.Hour)
		server := &tls.Config{Certificates: []tls.Certificate{p.tls}}
		client := &tls.Config{
			ServerName: "peer.test", RootCAs: x509.NewCertPool(), VerifyConnection: staple.VerifyStaple,
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}
		client.RootCAs.AddCert(p.ca)
		for _, c := range []struct {
			after   time.Duration
			resumed bool
			want    error
		}{
			{0, false, nil},
			{24 * time.Hour, true, nil},
			{6 * 24 * time.Hour, true, nil},           // by the ticket of the second
			{2 * time.Hour, false, staple.ErrExpired}, // by the ticket of the third, which is then forgotten,
			{0, false, staple.ErrExpired},             // so that this one is what the server staples
		} {
			time.Sleep(c.after)
			cs, err := dial(client, server)
			if !errors.Is(err, c.want) || cs.DidResume != c.resumed {
				t.Errorf("after %v: got %v, resumed %v, want %v, %v", c.after, err, cs.DidResume, c.want, c.resumed)
			}
		}
		for _, c := range []struct {
			staple []byte
			want   error
		}{{nil, staple.ErrNoStaple}, {p.staple(ocsp.Good, time.Hour), nil}} {
			p.tls.OCSPStaple = c.staple
			server.Certificates = []tls.Certificate{p.tls}
			cs, err := dial(client, server)
			if !errors.Is(err, c.want) || cs.DidResume {
				t.Errorf("got %v, resumed %v, want %v", err, cs.DidResume, c.want)
			}
		}
	})
}

// TestRequireStapleOfClient: a server can demand it of its clients.
//
// REQ C7
func TestRequireStapleOfClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPeer(t), newPeer(t)
		var got error
		server := &tls.Config{
			Certificates: []tls.Certificate{p.tls}, ClientAuth: tls.RequireAnyClientCert,
			VerifyConnection: func(cs tls.ConnectionState) error { got = staple.RequireStaple(cs); return nil },
		}
		c.tls.Certificate = append(c.tls.Certificate, c.ca.Raw)
		for status, want := range map[int]error{ocsp.Good: nil, ocsp.Revoked: staple.ErrRevoked, -1: staple.ErrNoStaple} {
			c.tls.OCSPStaple = nil
			if status >= 0 {
				c.tls.OCSPStaple = c.staple(status, time.Hour)
			}
			client := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{c.tls}}
			if _, err := dial(client, server); err != nil {
				t.Fatal(err)
			}
			if !errors.Is(got, want) {
				t.Errorf("status %d: got %v, want %v", status, got, want)
			}
		}
	})
}

// REQ C7: whoever verifies a peer's staple learns from the error whose it was.
func TestVerifyStapleNamesThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, tlsFeature())
		stranger := newPeer(t)
		unverified := p.state(p.staple(ocsp.Good, week))
		unverified.PeerCertificates, unverified.VerifiedChains = unverified.PeerCertificates[:1], nil
		for what, cs := range map[string]tls.ConnectionState{
			"no OCSP staple":               p.state(nil),
			"issuer certificate not found": unverified,
			"OCSP response: status revoked: unspecified since 2000-01-01T00:00:00Z": p.state(p.staple(ocsp.Revoked, week)),
			"OCSP response: issuerKeyHash of another issuer: serial 02":             p.state(stranger.staple(ocsp.Good, week)),
		} {
			for _, check := range []func(tls.ConnectionState) error{staple.VerifyStaple, staple.RequireStaple} {
				if want, err := `staple: "peer.test" (serial 2): `+what, check(cs); err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
			}
		}
	})
}

// REQ B12
func TestVerify(t *testing.T) {
	ca, other := ocsptest.NewCA(), ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{})
	raw := ca.Responder.Response(cert)
	if r, err := staple.Verify(raw, cert.Leaf, ca.Cert); err != nil || r == nil || r.Status != ocsp.Good || r.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 {
		t.Errorf("good: %+v, %v", r, err)
	}
	ca.Responder.Revoke(cert, ocsp.KeyCompromise, cert.Leaf.NotBefore)
	if r, err := staple.Verify(ca.Responder.Response(cert), cert.Leaf, ca.Cert); !errors.Is(err, staple.ErrRevoked) || r == nil || r.Status != ocsp.Revoked || r.RevocationReason != ocsp.KeyCompromise {
		t.Errorf("revoked: %+v, %v", r, err)
	}
	r, err := staple.Verify(raw[:len(raw)-1], cert.Leaf, ca.Cert)
	if r != nil || testkit.Reason(err) != staple.ReasonMalformed {
		t.Errorf("cut: %+v, %v", r, err)
	}
	// The serial number is the same: only the issuer's signature tells them apart.
	theirs := other.Issue(ocsptest.Leaf{Serial: cert.Leaf.SerialNumber})
	if r, err := staple.Verify(other.Responder.Response(theirs), cert.Leaf, other.Cert); r != nil || !errors.Is(err, staple.ErrNoIssuer) {
		t.Errorf("another issuer: %+v, %v", r, err)
	}
	for _, nils := range [][2]bool{{true, false}, {false, true}} {
		leaf, issuer := cert.Leaf, ca.Cert
		if nils[0] {
			leaf = nil
		}
		if nils[1] {
			issuer = nil
		}
		if r, err := staple.Verify(raw, leaf, issuer); r != nil || !errors.Is(err, staple.ErrNoIssuer) {
			t.Errorf("nil: %+v, %v", r, err)
		}
	}
}
