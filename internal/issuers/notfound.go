package issuers

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/ocspstaple/staple/internal/certinfo"
	"github.com/ocspstaple/staple/internal/errtext"
)

// ErrNotFound: the certificate that issued a leaf was not found. The root exports it as
// ErrNoIssuer.
var ErrNotFound = errors.New("staple: issuer certificate not found")

// MayDownload reports whether the issuer of leaf may be had from where leaf says. What its
// chain has does not matter: that may be anybody's.
func MayDownload(leaf *x509.Certificate) bool {
	return certinfo.SupportedSignature(leaf) == nil && len(certinfo.HTTPURLs(leaf.IssuingCertificateURL, 1)) > 0
}

// Wanting returns what the search for the issuer of leaf needs of it. Thousands may wait for a
// download, and a parsed certificate may have 40 times its length, in names.
func Wanting(leaf *x509.Certificate) *x509.Certificate {
	return &x509.Certificate{Raw: leaf.Raw, RawTBSCertificate: leaf.RawTBSCertificate, RawIssuer: leaf.RawIssuer,
		Issuer: certinfo.Short(leaf.Issuer), AuthorityKeyId: leaf.AuthorityKeyId,
		SignatureAlgorithm: leaf.SignatureAlgorithm, Signature: leaf.Signature, IssuingCertificateURL: certinfo.HTTPURLs(leaf.IssuingCertificateURL, maxURLs)}
}

// NotFound returns an [ErrNotFound] that names the issuer of leaf. why is that of
// InChain, nil for none: the owner mends a chain without the issuer in another way than
// one with a certificate of its name that did not sign, or that Go can't use. downloads
// are what came of asking for it; each names its URL.
func NotFound(leaf *x509.Certificate, why error, downloads ...error) error {
	wanted := certinfo.Clip(certinfo.DN(leaf.Issuer))
	err := fmt.Errorf("%w, wanted %q", ErrNotFound, wanted)
	switch {
	case unsupported(why):
		err = nearMiss(why, "issuer certificate %q is there but can't be used: %s", wanted)
	case why != nil:
		err = nearMiss(why, "issuer certificate not found: one named %q is there, but it %s", wanted)
	}
	if len(downloads) > 0 {
		err = errtext.Caused(err, errors.Join(downloads...))
	}
	return err
}

// nearMiss returns an [ErrNotFound] for a certificate that is there and has the name.
func nearMiss(why error, format, wanted string) error {
	return errtext.Of(func() string { return errtext.Prefix + fmt.Sprintf(format, wanted, errtext.Cut(why.Error())) }, ErrNotFound, why)
}

// unsupported reports whether why says that Go can't use what is there.
func unsupported(why error) bool {
	_, is := why.(*certinfo.UnsupportedError)
	return is
}
