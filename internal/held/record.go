package held

// A record is what a store keeps of a Response, for other processes and for the next
// start. Others may write to a store, so what comes out of it is proven again.

import (
	"slices"

	"github.com/ocspstaple/staple/internal/ocsphttp"
	"github.com/ocspstaple/staple/internal/ocspresp"
	"github.com/ocspstaple/staple/internal/records"
)

// MaxUnsigned is how many refreshes in a row may rest on what nobody signed: a record that
// says that it was checked, or a 304. Who forged a validator once, in one answer or in a
// record, has the responder itself answer 304.
const MaxUnsigned = 8

// Record returns what a store keeps of h, which responder confirmed last. The issuer, if
// it is known, is stored, too, so that a restart needs neither chain nor download.
func (h *Response) Record(responder string, issuer *ocspresp.Issuer) *records.Record {
	v := h.Validator()
	rec := &records.Record{Response: h.Raw, ETag: v.ETag, LastModified: v.LastModified(), MaxAge: h.MaxAge(),
		Received: h.Received(), Checked: h.Checked, Until: h.Until, Responder: responder}
	if issuer != nil {
		rec.Issuer = issuer.Cert.Raw
	}
	return rec
}

// Restore returns a record as an answer, once its response is proven. urls are the
// responders that are asked: anybody may have written the name of another. A
// validator is worth something to the one that gave it alone: best is asked first.
func Restore(rec *records.Record, p *ocspresp.Proof, urls []string, best string) *Answer {
	a := &Answer{Proof: p, MaxAge: rec.MaxAge, Received: rec.Received, Checked: rec.Checked, Stored: true}
	if !slices.Contains(urls, rec.Responder) {
		return a
	}
	a.Responder = rec.Responder
	if rec.Responder == best && rec.ETag != "*" { // which any response at all matches
		a.Validator = ocsphttp.NewValidator(rec.ETag, rec.LastModified)
	}
	return a
}

// Spares reports whether the record that brought h spares the request. had was held
// before. A record with newer signed times does. One that only says that it was checked
// may hide a revocation: it does so eight times in a row, and not past half of the
// validity. spared is how often one did since a responder was asked.
func (h *Response) Spares(had *Response, spared uint8, now int64) bool {
	start, length := h.span()
	return !h.SignedWith(had) || spared < MaxUnsigned && now < start+length/2
}

// SignedWith reports whether h has the signed times of had.
func (h *Response) SignedWith(had *Response) bool {
	return had.Raw != nil && h.ThisUpdate == had.ThisUpdate && h.Produced == had.Produced
}
