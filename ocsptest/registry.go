package ocsptest

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// A registry is what a CA issued, by serial, with the status of each. A map, since tests of
// large fleets issue 100,000.
type registry struct {
	mu      sync.RWMutex // guards the map and the status in each record
	records map[string]*record
}

// A record is one certificate that was issued. All but the status never changes.
type record struct {
	cert   *x509.Certificate
	key    crypto.Signer // for responses that the leaf signs itself
	status status
}

// status is what the CA says about a certificate. The zero value is good.
type status struct {
	kind   statusKind
	reason int
	at     time.Time
}

type statusKind uint8

const (
	statusGood statusKind = iota
	statusRevoked
	statusUnknown
	statusUnauthorized
)

func newRegistry() *registry { return &registry{records: make(map[string]*record)} }

// add registers a certificate as good. A second one with the same serial replaces the first, as
// a test that issues such a pair means to.
func (g *registry) add(rec *record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records[serialKey(rec.cert.SerialNumber)] = rec
}

// set changes the status of a certificate, which must have been issued here.
func (g *registry) set(cert *tls.Certificate, s status) {
	serial := serialOf(cert)
	g.mu.Lock()
	defer g.mu.Unlock()
	rec := g.records[serialKey(serial)]
	if rec == nil {
		panic(fmt.Sprintf("ocsptest: the CA issued no certificate with serial %x", serial))
	}
	rec.status = s
}

// get returns the certificate with a serial, nil if there is none, and its status.
func (g *registry) get(serial *big.Int) (*record, status) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	rec := g.records[serialKey(serial)]
	if rec == nil {
		return nil, status{kind: statusUnauthorized}
	}
	return rec, rec.status
}

// serialKey is a serial as a map key. Serials are positive, so that its bytes are enough.
func serialKey(serial *big.Int) string { return string(serial.Bytes()) }
