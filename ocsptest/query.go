package ocsptest

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"io"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/crypto/ocsp"
)

// A query is what an OCSP request asks.
type query struct {
	der               []byte
	serial            *big.Int // nil if the request is not a right one
	hash              crypto.Hash
	nameHash, keyHash []byte
	bad               *reply // the answer to what is not a right request
}

// maxRequest is more than any request for one certificate needs.
const maxRequest = 64 << 10

// readQuery reads an OCSP request, and leaves its body to be read again by a Hook.
func readQuery(req *http.Request) query {
	var q query
	switch req.Method {
	case http.MethodGet:
		q.der, q.bad = readGET(req.URL)
	case http.MethodPost:
		q.der, q.bad = readPOST(req)
	default:
		q.bad = refuse(http.StatusMethodNotAllowed, "method %s instead of GET or POST", req.Method)
		q.bad.header.Set("Allow", "GET, POST")
	}
	if q.bad != nil {
		return q
	}
	parsed, err := ocsp.ParseRequest(q.der)
	if err != nil {
		q.bad = newReply(http.StatusOK, responseType, ocsp.MalformedRequestErrorResponse)
		return q
	}
	q.serial, q.hash = parsed.SerialNumber, parsed.HashAlgorithm
	q.nameHash, q.keyHash = parsed.IssuerNameHash, parsed.IssuerKeyHash
	return q
}

// readGET takes the request out of a path. It looks at the path as it was on the wire, and takes
// the last segment, whatever path the responder's URL has: then base64 with a bare "/" fails,
// as it does with real responders behind real proxies.
func readGET(u *url.URL) ([]byte, *reply) {
	path := u.EscapedPath()
	segment := path[strings.LastIndexByte(path, '/')+1:]
	switch {
	case strings.Contains(path, "//"):
		return nil, refuse(http.StatusBadRequest, "more than one / before the request in %q", path)
	case u.RawQuery != "":
		return nil, refuse(http.StatusBadRequest, "a GET with a query; a responder URL that has one needs POST")
	case strings.ContainsAny(segment, "+="):
		return nil, refuse(http.StatusBadRequest, "+ and = must be percent-encoded in %q", segment)
	}
	text, err := url.PathUnescape(segment)
	if err == nil && strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, refuse(http.StatusBadRequest, "line breaks in the base64 of the request")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(der) == 0 {
		return nil, refuse(http.StatusBadRequest, "no request in standard, percent-encoded base64 at the end of %q", path)
	}
	return der, nil
}

// readPOST takes the request out of a body.
func readPOST(req *http.Request) ([]byte, *reply) {
	der, err := io.ReadAll(io.LimitReader(req.Body, maxRequest+1))
	req.Body = io.NopCloser(bytes.NewReader(der))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "reading the body: %v", err)
	}
	if len(der) > maxRequest {
		return nil, refuse(http.StatusRequestEntityTooLarge, "a request of more than %d bytes", maxRequest)
	}
	got := req.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(got); err != nil || media != requestType {
		return nil, refuse(http.StatusUnsupportedMediaType, "Content-Type %q instead of %s", got, requestType)
	}
	return der, nil
}

// isFor reports whether a request is about a certificate of the CA.
func (q *query) isFor(ca *CA) bool {
	return bytes.Equal(q.nameHash, sum(q.hash, ca.Cert.RawSubject)) &&
		bytes.Equal(q.keyHash, sum(q.hash, ca.keyBits))
}
