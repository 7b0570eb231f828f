// Package ocspresp answers one question: is this response proof for this
// certificate now? It answers it for what the network sent, what a store held,
// what a certificate's source had set, and what a TLS peer stapled (RFC 6960
// §3.2, RFC 9919 §3.2).
//
// [Prove] is for responses that are to be stapled. It returns the response encoded
// again from what was proven: most of what comes with a response is not signed.
//
// # Trust
//
// Every byte of a response may be an attacker's: OCSP is plain HTTP, a store is
// written by others, a peer sends what it likes. Two things are trusted: the issuer's
// certificate in [Subject], which the caller found by the leaf's signature, and the
// time that the caller passes in. The package makes no request, knows no TLS, reads no
// clock and logs nothing; it can be tested and fuzzed alone, and a test of the root
// refuses imports that would change this. A nonce is neither sent nor looked at (RFC
// 9919 §3.1), so a replay within the signed validity is not found here. Whether a
// response is older than another is a question for package held.
//
// # Use
//
// The root calls Prove for what the network, the store and a certificate's source
// bring, and [Verify] for VerifyStaple, RequireStaple and its own Verify. Everything
// may be called concurrently; an [Issuer] has a lock, which is never held while a
// signature is verified. Nothing that is passed in is written. The proof of Verify
// refers to the response, which must not be changed after; that of Prove does not.
//
// # Files
//
// verify.go has the order of the checks, parse.go the structures, signer.go who may
// sign, algorithm.go under what. encode.go writes what is stapled. issuer.go has what
// is proven about, and the request; proof.go what comes out; reason.go what does not.
package ocspresp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
	"golang.org/x/crypto/ocsp"
)

const (
	// MaxResponse bounds what is looked at. Go's own TLS client gives up on a
	// Certificate message of 256 KiB. A staple has a lower limit, in package
	// held.
	MaxResponse = 128 << 10

	// ClockSkew is by how much a responder's clock may be ahead of ours. The root
	// asks about a certificate that is not valid yet so long before its notBefore.
	ClockSkew = 5 * time.Minute

	// maxAge is how long a response without nextUpdate is worth anything, from
	// thisUpdate on. RFC 6960 sets no limit, and OpenSSL takes such a one for ever.
	// The root serves it no longer than a TTL after it was last confirmed.
	maxAge = 7 * 24 * time.Hour
)

// Verify returns what raw proves about sub at now. The error is an [*Error]. A
// revoked certificate is no error, an unknown one is, if the response is otherwise
// valid. grace is by how much the response's limit may be past: the root allows 7
// days on a resumed connection, whose staple is that of the first handshake, and
// otherwise 0.
//
// The order of the checks is that of the answers that help: first whether it is
// an answer, then whether to our question, then whether anyone vouches for it,
// and only then what it says. So "expired" always means a genuine response, and an
// expired one that says "unknown" is expired.
func Verify(raw []byte, sub *Subject, now time.Time, grace time.Duration) (*Proof, error) {
	switch {
	case len(raw) == 0:
		return nil, refuse(Empty, "", nil)
	case len(raw) > MaxResponse:
		return nil, refuse(TooLarge, fmt.Sprintf("%d bytes", len(raw)), nil)
	}
	b, err := parseResponse(raw)
	if err != nil {
		return nil, quoting(raw, err)
	}
	s, ends, err := b.find(sub)
	if err != nil {
		return nil, quoting(raw, err)
	}
	signer, err := b.findSigner(sub.Issuer, now, grace)
	if err != nil {
		return nil, err
	}
	p := newProof(raw, b, s, ends, signer, sub)
	if err := p.check(sub, now, grace); err != nil {
		return nil, err
	}
	return p, nil
}

// VerifyByAny is Verify where the issuer is one of issuers, of which there is one at
// least. If none of them proves anything, the error is that of the first.
func VerifyByAny(raw []byte, leaf *x509.Certificate, issuers []*x509.Certificate, now time.Time, grace time.Duration) (_ *Proof, err error) {
	for _, issuer := range issuers {
		sub := NewSubject(leaf, NewIssuer(issuer))
		p, refusal := Verify(raw, &sub, now, grace)
		if refusal == nil {
			return p, nil
		}
		if err == nil {
			err = refusal
		}
	}
	return nil, err
}

// Prove is Verify for what is to be stapled: the proof's Raw is the response
// written anew. Among several SingleResponses for one certificate openssl and
// curl take the first, so that a good one lasts no longer than each of them. They
// refuse one in which a certificate of another issuer is answered for, too, and
// x/crypto/ocsp takes that answer if the serial number is the same.
//
// A revocation is not held to that: it counts even if it will not be stapled. There is
// no grace, as what is stapled has to be valid now. Clients that refuse a staple end
// the handshake, so a response in doubt is worse than none.
func Prove(raw []byte, sub *Subject, now time.Time) (*Proof, error) {
	p, err := Verify(raw, sub, now, 0)
	if err != nil {
		return nil, err
	}
	for rest := p.basic.singles; p.Status == ocsp.Good && !rest.Empty(); {
		var s single
		if readSingle(&rest, &s) != nil { // find would have refused it
			break
		}
		if r := s.foreign(sub.Issuer); r != 0 {
			return nil, refuse(r, "in an answer beside", nil)
		}
		if s.mismatch(sub) != 0 {
			continue
		}
		each := newProof(raw, p.basic, &s, &s, p.signer, sub)
		if err := each.check(sub, now, 0); err != nil {
			return nil, err
		}
		p.Limit = earlier(p.Limit, each.Limit)
	}
	p.Raw, err = p.encode(sub)
	p.basic, p.single, p.ends = nil, single{}, nil // nothing of what was received stays
	return p, err
}

// quoting adds the first bytes to the error of a malformed response, which shows whether
// it was a page of HTML or a truncated response. It quotes 32 bytes, escaped: the
// text goes into logs.
func quoting(raw []byte, err error) error {
	var re *Error
	if errors.As(err, &re) && re.Reason == Malformed {
		return refuse(Malformed, fmt.Sprintf("%v, in %d bytes that begin %+q", re.Err, len(raw), raw[:min(len(raw), 32)]), nil)
	}
	return err
}

// find returns the SingleResponse for sub. Among several the worst status wins,
// so that no order of them hides a revocation, then the newest. ends is the one
// that limits it.
//
// A response may answer for other certificates, too, and for one under several
// hashes (RFC 9919 §3.2.1). Every answer is read, and a malformed one refuses the
// response, as clients read it whole. An unknown critical extension refuses it only in
// an answer for sub.
func (b *basicResponse) find(sub *Subject) (found, ends *single, err error) {
	// By hash, in the order of certIDHashes.
	var newest [len(certIDHashes)]*single
	miss := Serial
	for rest := b.singles; !rest.Empty(); {
		var s single
		if err := readSingle(&rest, &s); err != nil {
			return nil, nil, err
		}
		if r := s.mismatch(sub); r != 0 {
			miss = max(miss, r) // the greater, the closer
			continue
		}
		if s.critical {
			return nil, nil, refuse(CriticalExtension, "in the SingleResponse", nil)
		}
		if found == nil || s.worse(found) {
			found = &s
		}
		if n := &newest[hashIndex(s.hash)]; *n == nil || s.succeeds(*n) {
			*n = &s
		}
	}
	if found == nil {
		return nil, nil, refuse(miss, "serial "+certinfo.Hex(sub.Serial), nil)
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
// at the same time, ends earlier. Of two that are made at one time a client may take
// either, so the earlier end counts.
func (s *single) succeeds(other *single) bool {
	if s.thisUpdate.Equal(other.thisUpdate) {
		return s.expiry().Before(other.expiry())
	}
	return s.thisUpdate.After(other.thisUpdate)
}

// mismatch returns what of s's CertID is not sub's; 0 if nothing. The serial number
// alone identifies nothing: CAs choose theirs independently, and x/crypto/ocsp, which
// compares nothing else, takes one CA's answer for another's certificate.
func (s *single) mismatch(sub *Subject) Reason {
	if !bytes.Equal(s.serial, sub.Serial) || len(s.serial) == 0 {
		return Serial
	}
	return s.foreign(sub.Issuer)
}

// foreign returns what of s's CertID is not iss's; 0 if nothing. Both hashes count
// (RFC 6960 §3.2, item 1): a CA may renew its key under one name, and two names may
// have one key.
func (s *single) foreign(iss *Issuer) Reason {
	id, _ := iss.id(s.hash)
	switch {
	case s.hash == 0:
		return HashAlgorithm
	case !bytes.Equal(s.nameHash, id.name):
		return IssuerName
	case !bytes.Equal(s.keyHash, id.key):
		return IssuerKey
	}
	return 0
}

// worse reports whether s counts and not the other: its status is worse or, if they
// say the same, it is newer.
func (s *single) worse(than *single) bool {
	severity := [...]int{ocsp.Good: 0, ocsp.Unknown: 1, ocsp.Revoked: 2}
	if s.status == than.status {
		return s.thisUpdate.After(than.thisUpdate)
	}
	return severity[s.status] > severity[than.status]
}

// expiry is nextUpdate, or what stands in for it: maxAge after thisUpdate.
func (s *single) expiry() time.Time {
	if s.nextUpdate.IsZero() {
		return s.thisUpdate.Add(maxAge)
	}
	return s.nextUpdate
}

// backwards: nextUpdate must be after thisUpdate (RFC 6960 §4.2.2.1).
func (s *single) backwards() bool {
	return !s.nextUpdate.IsZero() && !s.nextUpdate.After(s.thisUpdate)
}

// earlier returns the earlier of two times, neither of which is absent.
func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// check judges what a response says, once it is known to be genuine.
//
// producedAt outside of the certificate's validity is refused, as BoringSSL does.
// thisUpdate may be after producedAt, though NSS refuses that: x/crypto/ocsp rounds
// producedAt down to the minute, and responders are built on it. The leaf's notAfter
// is part of Limit and is told as Expired; the delegate's dates were checked before.
func (p *Proof) check(sub *Subject, now time.Time, grace time.Duration) error {
	soon := now.Add(ClockSkew)
	from, to := time.Unix(sub.NotBefore, 0).Add(-ClockSkew), time.Unix(sub.NotAfter, 0).Add(ClockSkew)
	switch {
	case p.basic.critical:
		return refuse(CriticalExtension, "in the ResponseData", nil)
	case p.ThisUpdate.After(soon):
		return refuse(ThisUpdate, ahead(p.ThisUpdate, now), nil)
	case p.ProducedAt.After(soon):
		return refuse(ProducedAt, ahead(p.ProducedAt, now), nil)
	case p.ProducedAt.Before(from) || p.ProducedAt.After(to):
		return refuse(ProducedAtLeaf, errtext.Stamp(p.ProducedAt), nil)
	case p.single.backwards():
		return refuse(NextUpdate, errtext.Stamp(p.NextUpdate), nil)
	case p.ends.backwards():
		return refuse(NextUpdate, errtext.Stamp(p.ends.nextUpdate), nil)
	case p.expired(now, grace):
		return refuse(Expired, p.expiredDetail(), ErrExpired)
	case p.Status == ocsp.Unknown:
		return refuse(Unknown, "serial "+certinfo.Hex(p.single.serial), ErrUnknown)
	}
	return nil
}

// expired: nextUpdate must be greater than the current time (RFC 6960 §3.2,
// item 6), while a certificate's notAfter still belongs to its validity (RFC 5280
// §4.1.2.5). There is no grace for what has no nextUpdate: maxAge is grace
// enough.
func (p *Proof) expired(now time.Time, grace time.Duration) bool {
	switch next := p.ends.nextUpdate; {
	case next.IsZero() && now.After(p.ends.expiry()):
		return true
	case !next.IsZero() && grace == 0 && !now.Before(next):
		return true
	}
	return now.After(p.Limit.Add(grace))
}

// expiredDetail says which of the times was the limit. If it was a certificate's, the
// operator has to renew something else than the response.
func (p *Proof) expiredDetail() string {
	if p.ends.nextUpdate.IsZero() {
		return "no nextUpdate, thisUpdate " + errtext.Stamp(p.ends.thisUpdate)
	}
	if p.Limit.Before(p.ends.nextUpdate) {
		return "the certificates that it rests on end " + errtext.Stamp(p.Limit)
	}
	return "nextUpdate " + errtext.Stamp(p.ends.nextUpdate)
}

// ahead says that t is in the future, where one of two clocks is wrong: the
// responder's, or this host's.
func ahead(t, now time.Time) string {
	return errtext.Stamp(t) + ", while this host's clock says " + errtext.Stamp(now)
}
