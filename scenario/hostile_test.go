package scenario_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/fips140"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/scenario/testkit"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A cell is a variant at one place where it comes in.
type cell struct {
	*scene
	v    *variant
	cert *tls.Certificate
	path wiretap
	fine [][]byte // what may be stapled, at any time

	mu     sync.Mutex // guards events
	events []staple.Event
}

var strikes = []struct {
	name string
	f    func(*cell, *testing.T)
}{
	{"cold", (*cell).cold}, {"at refresh", (*cell).refresh}, {"again", (*cell).again},
	{"from the store", (*cell).stored}, {"from the source", (*cell).preset},
}

// TestHostilePath: whatever an attacker on the path does to a response, wherever it
// comes in, clients of every kind take what is stapled, and it is the shortest form
// of what the responder made.
//
// REQ I1, REQ B2, REQ B7
func TestHostilePath(t *testing.T) {
	for _, tr := range trades {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, tr)
			for _, v := range variants() {
				if v.on != nil && !v.on(s) {
					continue
				}
				for _, strike := range strikes {
					for _, cert := range s.chains {
						t.Run(fmt.Sprintf("%s, %s, chain of %d", v.name, strike.name, len(cert.Certificate)), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								time.Sleep(time.Until(s.began.Add(time.Minute)))
								strike.f(&cell{scene: s, v: &v, cert: cert}, t)
							})
						})
					}
				}
			}
			s.visit(t)
		})
	}
}

// offer returns what the variant makes of raw, and all that may be stapled of it.
func (c *cell) offer(raw []byte, may outcomes, before []byte) (body []byte, allowed [][]byte) {
	if c.v.form != nil {
		body = inMessage(c.v.form)(c.scene, raw)
		if may&formed != 0 {
			allowed = append(allowed, c.minimal(body, c.cert))
		}
	} else {
		body = c.v.change(c.scene, raw)
	}
	if may&genuine != 0 {
		allowed = append(allowed, c.minimal(raw, c.cert))
	}
	if may&held != 0 {
		allowed = append(allowed, before)
	}
	c.fine = append(c.fine, allowed...)
	return body, allowed
}

// A stapling is a server of a cell.
type stapling struct {
	*staple.Stapler
	cfg *tls.Config
}

// serve runs a server with cert until the test ends.
func (c *cell) serve(t *testing.T, cert *tls.Certificate, opts ...staple.Option) *stapling {
	opts = append(c.options(cert, c.path.client(), opts...), staple.WithEventFunc(func(e staple.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, e)
	}))
	s := &stapling{Stapler: staple.New(opts...)}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	_ = s.Prefetch(context.Background(), cert) // the handshake tells
	s.cfg = s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{*cert}})
	synctest.Wait()
	return s
}

// see makes a handshake, which has to carry one of what is allowed.
func (c *cell) see(t *testing.T, s *stapling, when string, allowed ...[]byte) []byte {
	t.Helper()
	cs := testkit.MustTalk(t, s.cfg, c.trusting())
	got := cs.OCSPResponse
	if !among(got, allowed...) {
		t.Errorf("%sstapled %d bytes, none of what may be: %s", when, len(got), sizes(allowed))
	}
	c.judged(t, when, c.cert, &cs)
	return got
}

func sizes(list [][]byte) (text string) {
	for _, b := range list {
		text += fmt.Sprintf("%d bytes ", len(b))
	}
	return text
}

// told returns the kinds of the events since it was asked last; responses in them
// are to be of the forms that may be stapled.
func (c *cell) told(t *testing.T) (kinds []staple.EventKind) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		kinds = append(kinds, e.Kind)
		if e.Response != nil && !among(e.Response.Raw, c.fine...) {
			t.Errorf("the Response of event %v is %d bytes, none of what may be stapled", e.Kind, len(e.Response.Raw))
		}
	}
	c.events = nil
	return kinds
}

// cold is at the first fetch. Later the attacker is gone.
func (c *cell) cold(t *testing.T) {
	body, allowed := c.offer(c.first, c.v.cold, nil)
	c.path.carry(body)
	st := new(testkit.Shelf)
	s := c.serve(t, c.cert, staple.WithStore(st))
	got := c.see(t, s, "", allowed...)
	c.told(t)
	if got != nil {
		_, data := st.Only(t)
		if block, _ := pem.Decode(data); block == nil || !bytes.Equal(block.Bytes, got) {
			t.Error("what is stored is not what is stapled")
		}
	}
	whole := c.minimal(c.first, c.cert)
	c.fine = append(c.fine, whole)
	if got == nil || c.v.endsSooner {
		got = whole
	}
	c.path.carry(c.first)
	time.Sleep(2 * time.Hour)
	c.see(t, s, "later: ", got)
	c.told(t)
}

// refresh is at the second, of a newer response.
func (c *cell) refresh(t *testing.T) {
	before := c.minimal(c.first, c.cert)
	c.path.carry(c.first)
	s := c.serve(t, c.cert)
	c.fine = append(c.fine, before)
	c.see(t, s, "before: ", before)
	body, allowed := c.offer(c.second, c.v.known, before)
	c.path.carry(body)
	time.Sleep(2 * time.Hour)
	c.see(t, s, "", allowed...)
	c.told(t)
}

// again is at a refresh where the responder has nothing new.
func (c *cell) again(t *testing.T) {
	before := c.minimal(c.first, c.cert)
	c.path.carry(c.first)
	s := c.serve(t, c.cert)
	c.fine = append(c.fine, before)
	c.see(t, s, "before: ", before)
	c.told(t)
	body, allowed := c.offer(c.first, c.v.known, before)
	c.path.carry(body)
	time.Sleep(2 * time.Hour)
	if !c.v.news {
		allowed = [][]byte{before}
	}
	c.see(t, s, "", allowed...)
	kinds := c.told(t)
	if slices.Contains(kinds, staple.EventFetched) != c.v.news {
		t.Errorf("events %v", kinds)
	}
	if !c.v.news && c.v.known == genuine && (!slices.Contains(kinds, staple.EventUnchanged) || slices.Contains(kinds, staple.EventFailed)) {
		t.Errorf("events %v, want %v alone", kinds, staple.EventUnchanged)
	}
}

// stored has a record that holds a response as it was received, while nobody answers.
func (c *cell) stored(t *testing.T) {
	body, allowed := c.offer(c.first, c.v.cold, nil)
	s := c.serve(t, c.cert, staple.WithStore(oneRecord(block("OCSP RESPONSE", body, time.Now()))))
	c.see(t, s, "", allowed...)
	c.told(t)
}

// preset has the source staple it, while nobody answers.
func (c *cell) preset(t *testing.T) {
	body, allowed := c.offer(c.first, c.v.cold, nil)
	cert := *c.cert
	cert.OCSPStaple = body
	c.see(t, c.serve(t, &cert), "", allowed...)
	c.told(t)
}

// TestHostileSourceAtFirstSight: the source's own staple is not handed on before it
// was judged, listed or not.
//
// REQ I1, REQ C4
func TestHostileSourceAtFirstSight(t *testing.T) {
	s := newScene(t, trades[0])
	cert := *s.chains[0]
	cert.OCSPStaple = decoys[1].change(s, s.first)
	for name, base := range map[string]*tls.Config{
		"listed":     {Certificates: []tls.Certificate{cert}},
		"not listed": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }},
		"per client": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{cert}}, nil
		}},
	} {
		var down wiretap
		st := staple.New(s.options(&cert, down.client())...)
		cfg := st.TLSConfig(base)
		for range 3 {
			if cs := testkit.MustTalk(t, cfg, s.trusting()); !among(cs.OCSPResponse, nil, s.minimal(s.first, &cert)) {
				t.Errorf("%s: stapled %d bytes", name, len(cs.OCSPResponse))
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPSSSalts: a response signed with a salt of any length, as openssl does, is
// stapled with that length stated, and refused with any other that is stated.
//
// REQ B14, REQ I1
func TestPSSSalts(t *testing.T) {
	t.Parallel()
	s := newScene(t, trade{name: "PSS root", rsa: true, sign: ocsptest.Sign{Algorithm: x509.SHA256WithRSAPSS}})
	s.salts = true
	m := dissect(s.first)
	digest := sha256.Sum256(m.data)
	cert := s.chains[0]
	salts := []int{1, 20, 32, 64, 222}
	if fips140.Enabled() { // which knows none longer than the hash
		salts = salts[:3]
	}
	for _, salt := range salts {
		sig, err := rsa.SignPSS(crand.Reader, s.ca.Key().(*rsa.PrivateKey), crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: salt})
		if err != nil {
			t.Fatal(err)
		}
		m.signature = tlv(asn1.BIT_STRING, []byte{0}, sig)
		for _, stated := range []int{0, 1, 20, 32, 64, 222} {
			e := elements(m.algorithm)
			params := elements(e[1])
			m.algorithm = sequence(e[0], sequence(params[0], params[1], tlv(explicit(2), integer(stated))))
			var want []byte
			if stated == salt {
				want = m.encode()
				if salt == 20 { // the default, which DER leaves out
					m.algorithm = sequence(e[0], sequence(params[0], params[1]))
					want = m.encode()
				}
				s.forms[form{string(want), cert}] = fmt.Sprintf("salt of %d", salt)
			}
			if got := s.network(t, m.encode()); !bytes.Equal(got, want) {
				t.Errorf("salt of %d, stated as %d: stapled %d bytes, want %d", salt, stated, len(got), len(want))
			}
		}
	}
	s.visit(t)
}
