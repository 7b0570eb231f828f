package staple

import (
	"context"
	"time"

	"github.com/ocspstaple/staple/internal/records"
)

// A Store keeps responses beyond the life of a process, and may be shared by a
// fleet: see [WithStore]. It has the methods of autocert.Cache, so that every
// implementation of that is a Store, the manager's own included. Keys are
// lower-case letters, digits and hyphens, at most 80 bytes; a record is at most
// 256 KiB: a PEM block with the response, as it is stapled, and one with the
// issuer's certificate. People can read its headers, and openssl the rest:
//
//	openssl asn1parse -in record.pem -noout -out resp.der
//	openssl ocsp -respin resp.der -issuer record.pem -cert leaf.pem -CAfile ca.pem
//
// The header Expires says, in RFC 3339, from when on a record may be deleted. A
// Stapler deletes the record of a certificate that it serves until the certificate
// expires. The record of one that is replaced before that stays, about 4 KB; [DirStore]
// and redisstore delete it some time after it has expired, an autocert.DirCache does not.
//
// Methods are called concurrently, off the handshake. The context of Put and Delete ends
// after 5 s. That of Get ends after 100 ms, because a handshake may wait for it, but after
// 5 s if the call is for Prefetch or Refresh, or is repeated after a slow one. Get returns
// any error if there is nothing under key. data must not be kept or changed.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
	Delete(ctx context.Context, key string) error
}

// A Leaser is a [Store] that grants leases, so that one of the processes that share
// it makes a request and the others read its result. Lease reports whether the caller
// holds the lease on key for ttl from now: it was free, had ended, or was held by this
// same Leaser, which renews it. If the holder stores nothing in that time, the others
// make their own requests, so that a holder that is cut off takes no staple away. After
// an error the caller makes its request as if it held the lease: a store that fails must
// not prevent requests. key is that of the record; keep the lease under another one. ctx
// ends after 1 s.
type Leaser interface {
	Lease(ctx context.Context, key string, ttl time.Duration) (held bool, err error)
}

// DirStore is a [Store] in a directory: one file per certificate, named by its
// key, with permissions 0600. The directory is made, with permissions 0700, by
// the first Put if it is not there. A file is replaced whole or not at all,
// whatever happens to the process or the disk meanwhile, so several processes
// may share the directory. One Put in 64 deletes expired records that were not written
// for a week, and temporary files of killed processes; other files are not touched. The
// empty DirStore is the working directory.
type DirStore string

// Get returns the record under key; an error that is fs.ErrNotExist if there
// is none.
func (d DirStore) Get(ctx context.Context, key string) ([]byte, error) {
	return records.Dir(d).Get(ctx, key)
}

// Put writes data under key. The old record stays if it fails.
func (d DirStore) Put(ctx context.Context, key string, data []byte) error {
	return records.Dir(d).Put(ctx, key, data)
}

// Delete removes the record under key. That there is none is no error.
func (d DirStore) Delete(ctx context.Context, key string) error {
	return records.Dir(d).Delete(ctx, key)
}
