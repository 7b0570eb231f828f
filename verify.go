package staple

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// Is this response proof for this certificate now? One place answers that, for
// what the network sent, what a store held, what a certificate's source had set,
// and what a TLS peer stapled.

const (
	// maxResponse bounds what is looked at. Go's own TLS client gives up on a
	// Certificate message of 256 KiB.
	maxResponse = 128 << 10

	// clockSkew is by how much a responder's clock may be ahead of ours.
	clockSkew = 5 * time.Minute

	// maxAge is how long a response without nextUpdate is worth anything.
	maxAge = 7 * 24 * time.Hour

	// maxDelegates is how many delegates an issuer remembers.
	maxDelegates = 16

	// maxTries bounds the certificates in one response on which signatures are
	// tried; those that don't bear the signer's name cost nothing.
	maxTries = 16
)

// An issuer is what a proof needs of an issuing CA: one for all the certificates
// that it issued. It is safe for concurrent use.
type issuer struct {
	cert *x509.Certificate
	ids  [len(certIDHashes)]issuerID

	mu        sync.Mutex  // guards delegates and oldest
	delegates []*delegate // verified but for their dates
	oldest    int         // the one to go next
}

// An issuerID is how a CertID names an issuer under one hash function.
type issuerID struct{ name, key []byte }

// newIssuer hashes what CertIDs and responderIDs name an issuer by. SHA-1 is
// among them: it names and proves nothing, so FIPS 140 has no say in it.
func newIssuer(cert *x509.Certificate) *issuer {
	i := &issuer{cert: cert}
	fips140.WithoutEnforcement(func() {
		key := publicKeyBits(cert)
		for n, h := range certIDHashes {
			i.ids[n] = issuerID{name: digest(h.hash, cert.RawSubject), key: digest(h.hash, key)}
		}
	})
	return i
}

func digest(h crypto.Hash, data []byte) []byte {
	d := h.New()
	d.Write(data)
	return d.Sum(nil)
}

// id returns how CertIDs under h name i, and h's OID; nothing if h isn't one of
// certIDHashes.
func (i *issuer) id(h crypto.Hash) (id issuerID, oid string) {
	for n, known := range certIDHashes {
		if known.hash == h {
			return i.ids[n], known.oid
		}
	}
	return issuerID{}, ""
}

// keyHash is a byKey responderID: always SHA-1 (RFC 6960 section 4.2.1).
func (i *issuer) keyHash() []byte { return i.ids[0].key }

// publicKeyBits returns the value of cert's subjectPublicKey without tag, length
// and number of unused bits, as RFC 6960 section 4.1.1 has it hashed.
func publicKeyBits(cert *x509.Certificate) []byte {
	in := cryptobyte.String(cert.RawSubjectPublicKeyInfo)
	var info cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !info.SkipASN1(asn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&bits) {
		return nil
	}
	return bits
}

// request makes an OCSPRequest in DER: one Request, no extensions, unsigned (RFC
// 9919 section 3.1). The parameters of h are NULL, as everyone sends them.
func (i *issuer) request(h crypto.Hash, serial []byte) ([]byte, error) {
	id, oid := i.id(h)
	if oid == "" {
		return nil, fmt.Errorf("staple: hash %v is not for a CertID", h)
	}
	var b cryptobyte.Builder
	sequence := func(f cryptobyte.BuilderContinuation) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, f) }
	}
	certID := func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oid)) })
			b.AddASN1NULL()
		})
		b.AddASN1OctetString(id.name)
		b.AddASN1OctetString(id.key)
		b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(serial) })
	}
	// OCSPRequest, TBSRequest, requestList, Request, CertID.
	sequence(sequence(sequence(sequence(sequence(certID)))))(&b)
	return b.Bytes()
}

// A subject is the certificate that a response must speak of.
type subject struct {
	serial              []byte // the INTEGER's content octets
	notBefore, notAfter int64  // Unix seconds
	issuer              *issuer
}

// newSubject takes the serial number from leaf's own bytes where it can: a slice
// of them costs nothing.
func newSubject(leaf *x509.Certificate, iss *issuer) subject {
	return subject{
		serial:    serialNumber(leaf),
		notBefore: leaf.NotBefore.Unix(),
		notAfter:  leaf.NotAfter.Unix(),
		issuer:    iss,
	}
}

func serialNumber(leaf *x509.Certificate) []byte {
	if serial := serialIn(leaf.RawTBSCertificate); serial != nil || leaf.SerialNumber == nil {
		return serial
	}
	// The certificate was made by hand.
	var serial cryptobyte.String
	var b cryptobyte.Builder
	b.AddASN1BigInt(leaf.SerialNumber)
	in := cryptobyte.String(b.BytesOrPanic())
	readInteger(&in, &serial)
	return serial
}

// serialOf returns the serial number in a certificate's bytes, nil if it can't
// be read.
func serialOf(der []byte) []byte {
	in := cryptobyte.String(der)
	var cert cryptobyte.String
	if !in.ReadASN1(&cert, asn1.SEQUENCE) {
		return nil
	}
	return serialIn(cert)
}

// serialIn returns that in a TBSCertificate, which may have more behind it.
func serialIn(tbs cryptobyte.String) []byte {
	var body, serial cryptobyte.String
	if tbs.ReadASN1(&body, asn1.SEQUENCE) && body.SkipOptionalASN1(tag0) && readInteger(&body, &serial) {
		return serial
	}
	return nil
}

// A proof is what a verified response says.
type proof struct {
	status     int // ocsp.Good or ocsp.Revoked
	reason     int // of a revocation
	revokedAt  time.Time
	thisUpdate time.Time
	nextUpdate time.Time // zero: absent
	producedAt time.Time

	// limit is the last moment at which the proof is worth anything: the
	// earliest of nextUpdate (or thisUpdate and maxAge, if absent), in each
	// SingleResponse that a client may pick, the delegate's notAfter and the
	// leaf's.
	limit time.Time

	basic  *basicResponse
	single single
	ends   *single           // the first to end of those that a client may pick
	signer *x509.Certificate // nil: the issuer
}

// verify returns what raw proves about sub at now. The error is a
// [*ResponseError] without a Responder. A revoked certificate is no error, an
// unknown one is, if the response is otherwise valid. grace is by how much the
// response's limit may be past.
//
// The order of the checks is that of the answers that help: first whether it is
// an answer, then whether to our question, then whether anyone vouches for it,
// and only then what it says.
func verify(raw []byte, sub *subject, now time.Time, grace time.Duration) (*proof, error) {
	switch {
	case len(raw) == 0:
		return nil, refuse(ReasonEmpty, "", nil)
	case len(raw) > maxResponse:
		return nil, refuse(ReasonTooLarge, fmt.Sprintf("%d bytes", len(raw)), nil)
	}
	b, err := parseResponse(raw)
	if err != nil {
		return nil, quoting(raw, err)
	}
	if err := b.checkCerts(sub.issuer); err != nil {
		return nil, err
	}
	s, ends, err := b.find(sub)
	if err != nil {
		return nil, quoting(raw, err)
	}
	signer, err := b.findSigner(sub.issuer, now, grace)
	if err != nil {
		return nil, err
	}
	p := newProof(b, s, ends, signer, sub)
	if err := p.check(sub, now, grace); err != nil {
		return nil, err
	}
	return p, nil
}

// verifyForClients is verify for what is to be stapled. There are clients that
// take the first SingleResponse for the certificate, whatever else there is, so
// that a good one lasts no longer than each of them.
func verifyForClients(raw []byte, sub *subject, now time.Time) (*proof, error) {
	p, err := verify(raw, sub, now, 0)
	if err != nil || p.status != ocsp.Good {
		return p, err
	}
	for rest := p.basic.singles; !rest.Empty(); {
		var s single
		if !readSingle(&rest, &s) { // find would have refused it
			break
		}
		if s.mismatch(sub) != 0 {
			continue
		}
		each := newProof(p.basic, &s, &s, p.signer, sub)
		if err := each.check(sub, now, 0); err != nil {
			return nil, err
		}
		p.limit = earlier(p.limit, each.limit)
	}
	return p, nil
}

// quoting has the error of what is malformed say how it begins, which tells a
// page of HTML from a cut response.
func quoting(raw []byte, err error) error {
	var re *ResponseError
	if errors.As(err, &re) && re.Reason == ReasonMalformed {
		return refuse(ReasonMalformed, fmt.Sprintf("%v, in %d bytes that begin %+q", re.Err, len(raw), raw[:min(len(raw), 32)]), nil)
	}
	return err
}

// find returns the SingleResponse for sub. Among several the worst status wins,
// so that no order of them hides a revocation, then the newest. ends is the one
// that limits it.
func (b *basicResponse) find(sub *subject) (found, ends *single, err error) {
	var newest [len(certIDHashes)]*single
	miss := ReasonSerial
	for rest := b.singles; !rest.Empty(); {
		var s single
		if !readSingle(&rest, &s) {
			return nil, nil, malformed("SingleResponse")
		}
		if r := s.mismatch(sub); r != 0 {
			miss = max(miss, r) // the greater, the closer
			continue
		}
		if s.critical {
			return nil, nil, refuse(ReasonCriticalExtension, "in the SingleResponse", nil)
		}
		if found == nil || s.worse(found) {
			found = &s
		}
		if n := &newest[hashIndex(s.hash)]; *n == nil || s.succeeds(*n) {
			*n = &s
		}
	}
	if found == nil {
		return nil, nil, refuse(miss, fmt.Sprintf("serial %x", sub.serial), nil)
	}
	return found, found.endsFirst(newest[:]), nil
}

// endsFirst returns which of s and the newest under each hash ends first: there
// are clients that look theirs up by one hash, and see no other. A revocation
// stands by itself.
func (s *single) endsFirst(newest []*single) *single {
	first := s
	for _, n := range newest {
		if n != nil && s.status == ocsp.Good && n.expiry().Before(first.expiry()) {
			first = n
		}
	}
	return first
}

// succeeds reports whether s is newer than another under the same hash or, made
// at the same time, ends earlier.
func (s *single) succeeds(other *single) bool {
	if s.thisUpdate.Equal(other.thisUpdate) {
		return s.expiry().Before(other.expiry())
	}
	return s.thisUpdate.After(other.thisUpdate)
}

// mismatch returns what of s's CertID is not sub's; 0 if nothing.
func (s *single) mismatch(sub *subject) Reason {
	id, _ := sub.issuer.id(s.hash)
	switch {
	case !bytes.Equal(s.serial, sub.serial) || len(s.serial) == 0:
		return ReasonSerial
	case s.hash == 0:
		return ReasonHashAlgorithm
	case !bytes.Equal(s.nameHash, id.name):
		return ReasonIssuerName
	case !bytes.Equal(s.keyHash, id.key):
		return ReasonIssuerKey
	}
	return 0
}

func (s *single) worse(than *single) bool {
	severity := [...]int{ocsp.Good: 0, ocsp.Unknown: 1, ocsp.Revoked: 2}
	if s.status == than.status {
		return s.thisUpdate.After(than.thisUpdate)
	}
	return severity[s.status] > severity[than.status]
}

func newProof(b *basicResponse, s, ends *single, signer *x509.Certificate, sub *subject) *proof {
	p := &proof{
		status:     s.status,
		reason:     s.reason,
		revokedAt:  s.revokedAt,
		thisUpdate: s.thisUpdate,
		nextUpdate: s.nextUpdate,
		producedAt: b.producedAt,
		limit:      ends.expiry(),
		basic:      b,
		single:     *s,
		ends:       ends,
		signer:     signer,
	}
	p.limit = earlier(p.limit, time.Unix(sub.notAfter, 0).UTC())
	if signer != nil {
		p.limit = earlier(p.limit, signer.NotAfter)
	}
	return p
}

// expiry is nextUpdate, or what stands in for it.
func (s *single) expiry() time.Time {
	if s.nextUpdate.IsZero() {
		return s.thisUpdate.Add(maxAge)
	}
	return s.nextUpdate
}

// backwards: nextUpdate must be after thisUpdate (RFC 6960 section 4.2.2.1).
func (s *single) backwards() bool {
	return !s.nextUpdate.IsZero() && !s.nextUpdate.After(s.thisUpdate)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// check judges what a response says, once it is known to be genuine.
func (p *proof) check(sub *subject, now time.Time, grace time.Duration) error {
	soon := now.Add(clockSkew)
	from, to := time.Unix(sub.notBefore, 0).Add(-clockSkew), time.Unix(sub.notAfter, 0).Add(clockSkew)
	switch {
	case p.basic.critical:
		return refuse(ReasonCriticalExtension, "in the ResponseData", nil)
	case p.thisUpdate.After(soon):
		return refuse(ReasonThisUpdate, stamp(p.thisUpdate), nil)
	case p.producedAt.After(soon):
		return refuse(ReasonProducedAt, stamp(p.producedAt), nil)
	case p.producedAt.Before(from) || p.producedAt.After(to):
		return refuse(ReasonProducedAtLeaf, stamp(p.producedAt), nil)
	case p.single.backwards():
		return refuse(ReasonNextUpdate, stamp(p.nextUpdate), nil)
	case p.ends.backwards():
		return refuse(ReasonNextUpdate, stamp(p.ends.nextUpdate), nil)
	case p.expired(now, grace):
		return refuse(ReasonExpired, p.expiredDetail(), ErrExpired)
	case p.status == ocsp.Unknown:
		return refuse(ReasonUnknown, fmt.Sprintf("serial %x", p.single.serial), ErrUnknown)
	}
	return nil
}

// expired: nextUpdate must be greater than the current time (RFC 6960 section 3.2,
// item 6), while a certificate's notAfter still belongs to its validity (RFC 5280
// section 4.1.2.5). There is no grace for what has no nextUpdate: maxAge is grace
// enough.
func (p *proof) expired(now time.Time, grace time.Duration) bool {
	switch next := p.ends.nextUpdate; {
	case next.IsZero() && now.After(p.ends.expiry()):
		return true
	case !next.IsZero() && grace == 0 && !now.Before(next):
		return true
	}
	return now.After(p.limit.Add(grace))
}

func (p *proof) expiredDetail() string {
	if p.ends.nextUpdate.IsZero() {
		return "no nextUpdate, thisUpdate " + stamp(p.ends.thisUpdate)
	}
	if p.limit.Before(p.ends.nextUpdate) {
		return "the certificates that it rests on end " + stamp(p.limit)
	}
	return "nextUpdate " + stamp(p.ends.nextUpdate)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// err is nil for good, and says why for revoked.
func (p *proof) err() error {
	if p.status == ocsp.Good {
		return nil
	}
	return refuse(ReasonRevoked, p.revocation(), ErrRevoked)
}

// revocation puts a revocation into words.
func (p *proof) revocation() string {
	if p.notIssued() {
		return "certificateHold since 1970-01-01: the CA never issued it"
	}
	return fmt.Sprintf("%s since %s", reasonCode(p.reason), stamp(p.revokedAt))
}

// notIssued: a responder may call a certificate that was never issued revoked, in
// this form (RFC 6960 section 2.2).
func (p *proof) notIssued() bool {
	return p.status == ocsp.Revoked && p.reason == ocsp.CertificateHold && p.revokedAt.Unix() == 0
}

// reasonCode names a CRLReason (RFC 5280 section 5.3.1).
func reasonCode(code int) string {
	names := [...]string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
		"cessationOfOperation", "certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise"}
	if code < 0 || code >= len(names) || names[code] == "" {
		return fmt.Sprintf("CRLReason %d", code)
	}
	return names[code]
}

// response is what raw, which p was verified from, says in public terms.
func (p *proof) response(raw []byte) *ocsp.Response {
	r := &ocsp.Response{
		Raw:                raw,
		Status:             p.status,
		SerialNumber:       new(big.Int).SetBytes(p.single.serial),
		ProducedAt:         p.producedAt,
		ThisUpdate:         p.thisUpdate,
		NextUpdate:         p.nextUpdate,
		RevokedAt:          p.revokedAt,
		RevocationReason:   p.reason,
		Certificate:        p.signer,
		TBSResponseData:    p.basic.tbs,
		Signature:          p.basic.signature,
		SignatureAlgorithm: p.basic.algorithm,
		IssuerHash:         p.single.hash,
		Extensions:         pkixExtensions(p.single.extensions),
	}
	if p.basic.byKey {
		r.ResponderKeyHash = p.basic.responder
	} else {
		r.RawResponderName = p.basic.responder
	}
	return r
}
