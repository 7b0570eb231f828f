package staple

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/ocspstaple/staple/internal/ocspresp"
)

// What the tests of verification see of it.

const (
	MaxResponse = ocspresp.MaxResponse
	MaxIssuers  = maxIssuers
	MaxStaple   = maxStaple
	MaxReason   = Reason(ocspresp.Last)
)

func IssuersOf(cs *tls.ConnectionState) []*x509.Certificate { return issuersOf(cs) }

// ReasonOf is the Reason of the ResponseError in err; 0 if there is none.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*ResponseError](err); ok {
		return e.Reason
	}
	return 0
}
