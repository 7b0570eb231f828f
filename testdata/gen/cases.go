package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"time"
)

// The cast. Those with a file name are written.
var (
	ca    = issue(nil, "ca", "CA", p256(), isCA)
	leaf  = issue(ca, "leaf", "leaf", p256(), nil)
	young = issue(ca, "young", "leaf of ten minutes", p256(), func(c *x509.Certificate) { c.NotBefore = now.Add(-10 * time.Minute) })
	brief = issue(ca, "brief", "leaf that ends first", p256(), func(c *x509.Certificate) { c.NotAfter = now.Add(day) })
	other = issue(ca, "", "another leaf", p256(), nil)

	rsaCA    = issue(nil, "rsa-ca", "RSA CA", rsa2048(), isCA)
	rsaLeaf  = issue(rsaCA, "rsa-leaf", "leaf", p256(), nil)
	p384CA   = issue(nil, "p384-ca", "P-384 CA", p384(), isCA)
	p384Leaf = issue(p384CA, "p384-leaf", "leaf", p256(), nil)
	edCA     = issue(nil, "ed25519-ca", "Ed25519 CA", ed(), isCA)
	edLeaf   = issue(edCA, "ed25519-leaf", "leaf", p256(), nil)

	delegate  = issue(ca, "", "delegate", p256(), isDelegate)
	delegate2 = issue(ca, "", "second delegate", p256(), isDelegate)

	// impostor has the issuer's name and another key.
	impostor  = issue(nil, "", "CA", p256(), isCA)
	elsewhere = issue(nil, "", "CA elsewhere", p256(), isCA)

	written = []*identity{ca, leaf, young, brief, rsaCA, rsaLeaf, p384CA, p384Leaf, edCA, edLeaf}
)

// A change is what sets a case apart from its twin; nil changes nothing.
type change func(*response)

// A family is a good response and the cases that are changes of it.
type family struct {
	name, req    string
	leaf, issuer *identity
	base         change
	cases        []spoiled
}

// A spoiled case is named after its family and what is wrong with it.
type spoiled struct {
	name, req, expected, reason string
	change                      change
}

func vectors() (all []*vector) {
	for _, f := range families() {
		twin := f.vector(spoiled{req: f.req, expected: "good"})
		all = append(all, twin)
		for _, c := range f.cases {
			v := f.vector(c)
			v.Twin = twin.Name
			all = append(all, v)
		}
	}
	return all
}

func (f family) vector(c spoiled) *vector {
	r := good(f.leaf, f.issuer)
	for _, change := range []change{f.base, c.change} {
		if change != nil {
			change(r)
		}
	}
	v := &vector{Name: f.name, Req: c.req, Leaf: f.leaf.name, Issuer: f.issuer.name,
		Expected: c.expected, Reason: c.reason, der: r.encode()}
	if c.name != "" {
		v.Name += "-" + c.name
	}
	if c.expected == "good" {
		limit := r.limit()
		v.Limit = &limit
		for _, id := range []*identity{f.leaf, r.signer} {
			if id.cert.NotAfter.Before(limit) {
				limit = id.cert.NotAfter
			}
		}
	}
	return v
}

// limit is when the first ends of the SingleResponses about the leaf that are the
// newest under their hash.
func (r *response) limit() (limit time.Time) {
	newest := map[string]single{}
	for _, s := range r.singles {
		was, ok := newest[s.hashOID]
		if s.hashOID != oidSHA224 && bytes.Equal(s.serial, octets(r.leaf.cert.SerialNumber)) &&
			(!ok || s.thisUpdate > was.thisUpdate || s.thisUpdate == was.thisUpdate && s.ends().Before(was.ends())) {
			newest[s.hashOID] = s
		}
	}
	for _, s := range newest {
		if limit.IsZero() || s.ends().Before(limit) {
			limit = s.ends()
		}
	}
	return limit
}

func (s single) ends() time.Time {
	if s.nextUpdate == "" {
		return check(time.Parse("20060102150405Z", s.thisUpdate)).AddDate(0, 0, 7)
	}
	return check(time.Parse("20060102150405Z", s.nextUpdate))
}

// reject makes the usual case.
func reject(name, req, reason string, c change) spoiled {
	return spoiled{name, req, "reject", reason, c}
}

// fine makes a case that is as good as its twin.
func fine(name, req string, c change) spoiled { return spoiled{name, req, "good", "", c} }

// one changes the only SingleResponse.
func one(f func(*single)) change { return func(r *response) { f(&r.singles[0]) } }

// junk puts an element where nothing may follow.
func junk(in string) change {
	return func(r *response) { r.junk = map[string]string{in: null} }
}

func long(name string) change {
	return func(r *response) { r.long = map[string]bool{name: true} }
}

// instead writes der in place of the named element.
func instead(name, der string) change {
	return func(r *response) { r.der = map[string]string{name: der} }
}

func certID(h crypto.Hash, oid string) func(*single) {
	return func(s *single) { s.hash, s.hashOID = h, oid }
}

// by has id sign, with these certificates embedded.
func by(id *identity, certs ...*identity) change {
	return func(r *response) { r.signer, r.responder, r.certs = id, byName(id), certs }
}

// byDelegate has a delegate of the CA sign that differs from a good one by how.
func byDelegate(how func(*x509.Certificate)) change {
	id := issue(ca, "", "delegate", p256(), how)
	return by(id, id)
}

// more adds a SingleResponse, before or after the one that is there.
func more(first bool, f func(*single)) change {
	return func(r *response) {
		s := goodSingle(r.leaf, r.issuer)
		f(&s)
		if r.singles = append(r.singles, s); first {
			r.singles[0], r.singles[1] = r.singles[1], r.singles[0]
		}
	}
}

func status(word string) func(*single) {
	return func(s *single) { s.status, s.revokedAt = word, before(2*day) }
}

// labelled names another algorithm than that of the signature.
func labelled(alg []byte) change { return func(r *response) { r.algorithm = alg } }

func signedAs(alg []byte, h crypto.Hash) change {
	return func(r *response) { r.algorithm, r.hash = alg, h }
}
