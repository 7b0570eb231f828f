package ocsptest

import (
	"encoding/asn1"
	"encoding/pem"
	"net/http"
	"path"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// issuerFile is the name, up to the format, under which the CA's certificate can be had.
const issuerFile = "issuer."

// issuer answers a request for the CA's certificate, and returns nil for any other.
func (r *Responder) issuer(req *http.Request) *reply {
	format, ok := strings.CutPrefix(path.Base(req.URL.Path), issuerFile)
	if !ok || req.Method != http.MethodGet {
		return nil
	}
	cert := r.ca.Cert.Raw
	switch format {
	case "der":
		return newReply(http.StatusOK, "application/pkix-cert", cert)
	case "pem":
		return newReply(http.StatusOK, "application/x-pem-file",
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	case "p7c":
		return newReply(http.StatusOK, "application/pkcs7-mime", certsOnly(cert))
	}
	return refuse(http.StatusNotFound, "no issuer in the format %q", format)
}

// logDownload logs a request for the CA's certificate. It does not count.
func (r *Responder) logDownload(req *http.Request) {
	entry := r.entry(req)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remember(entry)
}

// The content types of PKCS #7.
var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

// certsOnly encodes a certificate as SignedData that nobody signed (RFC 8551, section 3.8).
func certsOnly(cert []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {}) // digestAlgorithms
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) })
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(cert) })
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {}) // signerInfos
			})
		})
	})
	return b.BytesOrPanic()
}
