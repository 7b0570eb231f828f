package ocsptest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// The encoder of OCSP responses (RFC 6960, section 4.2.1). ocsp.CreateResponse makes none of the
// shapes that a client has to survive: several SingleResponses, responder IDs by key, PSS,
// anything wrong.

var oidBasic = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}

// explicit returns the tag [n], constructed.
func explicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

// encode signs and encodes a response.
func (r *Responder) encode(s *Spec) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(int64(s.Status))
		if s.Status == ocsp.Success && !s.noBytes {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { r.addBytes(b, s) })
		}
		addJunk(b, s.Junk&JunkResponse != 0)
	})
	addJunk(&b, s.Junk&JunkAfter != 0)
	der := b.BytesOrPanic()
	if s.longLength {
		der = lengthen(der)
	}
	return der
}

// addBytes writes ResponseBytes.
func (r *Responder) addBytes(b *cryptobyte.Builder, s *Spec) {
	typ := s.Type
	if typ == nil {
		typ = oidBasic
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(typ)
		b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { r.addBasic(b, s) })
		addJunk(b, s.Junk&JunkBytes != 0)
	})
}

// addBasic signs, and writes BasicOCSPResponse.
func (r *Responder) addBasic(b *cryptobyte.Builder, s *Spec) {
	id := r.identity(s.Sign, s.target)
	alg := s.algorithm(id)
	data := r.data(s, id)
	sig := alg.signature(data, id.key)
	if s.brokenSignature {
		sig[len(sig)-1] ^= 1 // ECDSA's encoding stays right, and the number is wrong
	}
	if s.unknownAlgorithm {
		alg = signatureAlgorithm{oid: oidUnknown}
	}
	certs := s.Certs
	if !s.NoCerts {
		certs = append(certs[:len(certs):len(certs)], id.certs...)
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(data)
		alg.addIdentifier(b, s.Junk&JunkAlgorithm != 0)
		b.AddASN1BitString(sig)
		addCerts(b, certs)
		addJunk(b, s.Junk&JunkBasic != 0)
	})
}

// algorithm returns how the response is signed.
func (s *Spec) algorithm(id *identity) signatureAlgorithm {
	name := s.Sign.Algorithm
	if name == 0 {
		name = defaultAlgorithm(id.key)
	}
	alg, ok := signatureAlgorithms[name]
	if !ok {
		panic("ocsptest: cannot sign with " + name.String())
	}
	return alg
}

// data returns ResponseData, which is what gets signed.
func (r *Responder) data(s *Spec, id *identity) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if s.Version != 0 {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(s.Version)) })
		}
		s.addResponderID(b, id)
		addTime(b, s.ProducedAt)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for i := range s.Singles {
				junk := s.Junk
				if i > 0 {
					junk = 0
				}
				r.ca.addSingle(b, &s.Singles[i], junk)
			}
		})
		addExtensions(b, s.Extensions)
		addJunk(b, s.Junk&JunkData != 0)
	})
	return b.BytesOrPanic()
}

// addResponderID names the signer by [1] name or [2] key.
func (s *Spec) addResponderID(b *cryptobyte.Builder, id *identity) {
	name, key := s.ResponderName, s.ResponderKey
	switch {
	case name != nil || key != nil:
	case s.Sign.ByKey:
		key = sum(defaultHash, keyBits(id.cert)) // always SHA-1: RFC 6960, section 4.2.1
	default:
		name = id.cert.RawSubject
	}
	if key != nil {
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(key) })
		return
	}
	b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddBytes(name) })
}

// addSingle writes a SingleResponse.
func (ca *CA) addSingle(b *cryptobyte.Builder, s *Single, junk Junk) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		ca.addCertID(b, s, junk&JunkCertID != 0)
		addStatus(b, s)
		addTime(b, s.ThisUpdate)
		if !s.NextUpdate.IsZero() {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { addTime(b, s.NextUpdate) })
		}
		addExtensions(b, s.Extensions)
		addJunk(b, junk&JunkSingle != 0)
	})
}

// addCertID writes a CertID. The hashes that are not given are those of the CA.
func (ca *CA) addCertID(b *cryptobyte.Builder, s *Single, junk bool) {
	name, key := s.IssuerNameHash, s.IssuerKeyHash
	if name == nil {
		name = sum(s.Hash, ca.Cert.RawSubject)
	}
	if key == nil {
		key = sum(s.Hash, ca.keyBits)
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addHash(b, s.Hash)
		b.AddASN1OctetString(name)
		b.AddASN1OctetString(key)
		b.AddASN1BigInt(s.Serial)
		addJunk(b, junk)
	})
}

// addStatus writes a CertStatus: [0] good, [1] revoked, [2] unknown.
func addStatus(b *cryptobyte.Builder, s *Single) {
	switch s.Status {
	case ocsp.Good:
		b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(*cryptobyte.Builder) {})
	case ocsp.Unknown:
		b.AddASN1(cbasn1.Tag(2).ContextSpecific(), func(*cryptobyte.Builder) {})
	case ocsp.Revoked:
		b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
			addTime(b, s.RevokedAt)
			if s.Reason != 0 {
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(s.Reason)) })
			}
		})
	default:
		panic("ocsptest: no such status of a certificate")
	}
}

// addExtensions writes [1] Extensions, if there are any.
func addExtensions(b *cryptobyte.Builder, extensions []pkix.Extension) {
	if len(extensions) == 0 {
		return
	}
	der, err := asn1.Marshal(extensions)
	must(err)
	b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddBytes(der) })
}

// addCerts writes [0] certs, if there are any.
func addCerts(b *cryptobyte.Builder, certs [][]byte) {
	if len(certs) == 0 {
		return
	}
	b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, cert := range certs {
				b.AddBytes(cert)
			}
		})
	})
}

// addTime writes a GeneralizedTime, in whole seconds and UTC as DER wants it.
func addTime(b *cryptobyte.Builder, t time.Time) { b.AddASN1GeneralizedTime(t.UTC()) }

// addJunk writes an element that does not belong there.
func addJunk(b *cryptobyte.Builder, on bool) {
	if on {
		b.AddASN1OctetString([]byte("junk"))
	}
}

// lengthen rewrites the outermost length with a leading zero byte: BER, but not DER.
func lengthen(der []byte) []byte {
	n := 0 // bytes of the length after the first
	length := []byte{der[1]}
	if der[1]&0x80 != 0 {
		n = int(der[1] & 0x7f)
		length = der[2 : 2+n]
	}
	long := append([]byte{der[0], 0x80 | byte(len(length)+1), 0}, length...)
	return append(long, der[2+n:]...)
}

// keyBits returns the value of the BIT STRING of a certificate's public key, without tag, length
// and the number of unused bits, which is what CertIDs and responder IDs hash.
func keyBits(cert *x509.Certificate) []byte {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	_, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &spki)
	must(err)
	return spki.Key.RightAlign()
}
