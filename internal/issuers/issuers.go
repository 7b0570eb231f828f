// Package issuers finds who issued a certificate: in its chain, among configured
// certificates, or where the certificate says (RFC 5280 §4.2.2.1). The leaf's
// signature decides (RFC 9919 §4.2).
//
// The root calls [Finder.InChain] when it reads a certificate, [Finder.Elsewhere]
// off the handshake, while it prepares an attempt, and [Finder.Parse] for the issuer
// that a store's record holds. A certificate without an issuer reaches no responder.
//
// A chain and its URLs may be anybody's. The package bounds downloads, in number and
// in time, and never dials: it is given a function for that, and calls it with no
// lock held. A downloaded certificate came over plain HTTP: it is an issuer only if
// the leaf's signature verifies with it, and its bytes must not be stapled.
//
// Read issuers.go, then download.go for what is remembered of URLs, places.go for which
// downloads run, and notfound.go for the error where all that failed. interned.go shares
// issuers; peer.go, which is apart from the rest, has the issuers of a TLS peer.
package issuers

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/foreign"
	"github.com/ocspstaple/staple/internal/ocspresp"
)

// maxURLs is how many caIssuers URLs of a certificate are asked. It may be
// anybody's, and name hundreds.
const maxURLs = 2

// A Finder finds issuers. Certificates of one issuer share what is found, and
// what came of a download. Its fields are set before use; it is safe for
// concurrent use.
//
// Context ends with the Stapler. Now is the clock by which downloads are remembered.
// Configured certificates come from WithIssuers, and are never written.
type Finder struct {
	Configured []*x509.Certificate
	// Get gets what is at a URL. It is called with Context: several wait for one
	// download, which outlives each of them.
	Get     func(ctx context.Context, url string) ([]byte, error)
	Context context.Context
	Sharing foreign.Shared[*ocspresp.Issuer] // with Unbound set, as the Finder bounds the downloads
	Now     func() time.Time

	mu        sync.Mutex // guards the rest
	all       interned[ocspresp.Issuer]
	proven    interned[ocspresp.Issuer] // with and without its key's id
	downloads map[digest]download       // by URL
	places    places                    // has a lock of its own
}

// InChain finds the issuer of leaf in its chain, in whatever order, or among the
// configured ones, and then configured is true. Where there is none, why says what
// speaks against one of its name; nil if nothing has the name.
//
// Each certificate of the issuer's name costs a signature, and chains have no limit
// of length, so a caller scans a chain once. An unsupported key outranks another
// error, as it may be the issuer's.
func (f *Finder) InChain(leaf *x509.Certificate, chain [][]byte) (is *ocspresp.Issuer, configured bool, why error) {
	reject := func(err error) {
		if !unsupported(why) && err != certinfo.ErrOtherName {
			why = err
		}
	}
	for _, der := range chain {
		is := f.Parse(der)
		if is == nil {
			reject(certinfo.Unparsed(der, leaf))
			continue
		}
		err := certinfo.SignedBy(is.Cert, leaf)
		if err == nil {
			return is, false, nil
		}
		reject(err)
	}
	for _, c := range f.Configured {
		err := certinfo.SignedBy(c, leaf)
		if err == nil {
			return f.Parse(c.Raw), true, nil
		}
		reject(err)
	}
	return nil, false, why
}

// Parse returns the shared issuer with these bytes, nil if they are no
// certificate. The issuer may keep der, which must not be changed.
//
// Parsing and hashing are done without the lock. If two callers do both at once,
// the one who is first to put theirs has it shared.
func (f *Finder) Parse(der []byte) *ocspresp.Issuer {
	id := sha256.Sum256(der)
	f.mu.Lock()
	is := f.all.Get(id)
	f.mu.Unlock()
	if is != nil {
		return is
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	is = ocspresp.NewIssuer(cert)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all.Put(id, is)
}

// Share has other certificates of is find it, for as long as one has it. Call it once a
// response was proven by is: what merely verifies a leaf may be anybody's, and would keep
// the issuer from being found.
func (f *Finder) Share(is *ocspresp.Issuer) {
	if len(is.Cert.Raw) > maxDER {
		return // a tenant's: others' records would be too long
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range [][]byte{is.Cert.SubjectKeyId, nil} { // not every leaf names the key
		for n := range namesakes {
			if f.proven.Put(named(is.Cert.RawSubject, key, n), is) == is {
				break
			}
		}
	}
}

// known returns the issuer of leaf if another certificate brought it. Several may have the
// name, so the signature is verified here, too.
func (f *Finder) known(leaf *x509.Certificate) *ocspresp.Issuer {
	for n := range namesakes {
		id := named(leaf.RawIssuer, leaf.AuthorityKeyId, n)
		f.mu.Lock()
		is := f.proven.Get(id)
		f.mu.Unlock()
		if is != nil && certinfo.SignedBy(is.Cert, leaf) == nil {
			return is
		}
	}
	return nil
}

// namesakes is how many issuers of one name are shared: a tenant's CA may have that of
// another, and its key's id.
const namesakes = byte(4)

// named is what the nth issuer of a name is found by. A name in DER says where it ends.
func named(name, keyID []byte, n byte) digest {
	return sha256.Sum256(slices.Concat([]byte{n}, name, keyID))
}
