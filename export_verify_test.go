package staple

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"golang.org/x/crypto/ocsp"
)

// What the tests of verification see of it.

const (
	MaxResponse  = maxResponse
	MaxDelegates = maxDelegates
	MaxTries     = maxTries
	MaxIssuers   = maxIssuers
	MaxStaple    = maxStaple
	MaxCerts     = maxStapleCerts
	MaxReason    = Reason(len(reasonText) - 1)
)

type Issuer struct{ *issuer }

func NewIssuer(cert *x509.Certificate) Issuer { return Issuer{newIssuer(cert)} }

func (i Issuer) Request(h crypto.Hash, serial []byte) ([]byte, error) { return i.request(h, serial) }

// KnownDelegates is how many delegates i remembers.
func (i Issuer) KnownDelegates() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.delegates)
}

// Knows reports whether i remembers that delegate.
func (i Issuer) Knows(der []byte) bool { return i.known(der) != nil }

type Subject struct{ subject }

func NewSubject(leaf *x509.Certificate, i Issuer) Subject { return Subject{newSubject(leaf, i.issuer)} }

func (s Subject) Serial() []byte { return s.serial }

// A Proof is a proof, readable.
type Proof struct {
	Status, Reason                                       int
	RevokedAt, ThisUpdate, NextUpdate, ProducedAt, Limit time.Time
	NotIssued                                            bool
	Err                                                  error
	Response                                             *ocsp.Response
}

func (s Subject) Verify(raw []byte, now time.Time, grace time.Duration) (*Proof, error) {
	p, err := verify(raw, &s.subject, now, grace)
	if err != nil {
		return nil, err
	}
	return &Proof{
		Status: p.status, Reason: p.reason, RevokedAt: p.revokedAt, ThisUpdate: p.thisUpdate,
		NextUpdate: p.nextUpdate, ProducedAt: p.producedAt, Limit: p.limit,
		NotIssued: p.notIssued(), Err: p.err(), Response: p.response(raw),
	}, nil
}

// Check is Verify without a look at the proof, for benchmarks.
func (s Subject) Check(raw []byte, now time.Time) error {
	_, err := verify(raw, &s.subject, now, 0)
	return err
}

func MustStaple(leaf *x509.Certificate) bool { return mustStaple(leaf) }
func NoRevAvail(leaf *x509.Certificate) bool { return noRevAvail(leaf) }

func IssuersOf(cs *tls.ConnectionState) []*x509.Certificate { return issuersOf(cs) }

func SoundCertificate(der []byte) bool { return soundCertificate(der) }

// ReasonOf is the Reason of the ResponseError in err; 0 if there is none.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*ResponseError](err); ok {
		return e.Reason
	}
	return 0
}

// AlgorithmText names a refused signature algorithm.
func AlgorithmText(oid []byte) string { return algorithmText(oid) }
