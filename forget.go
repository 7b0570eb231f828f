package staple

import (
	"crypto/tls"
	"maps"
	"sync/atomic"
)

// Forget drops certs: nothing is asked about them any more, and they are not in
// [Stapler.Status], [Stapler.Ready], metrics or the status page. A certificate
// that no live config lists is evicted; one that is listed is silent until its
// next handshake, and stays listed. A certificate that is served again is learned
// again, as if for the first time. A [Stapler.Prefetch] or [Stapler.Refresh] that
// waits for one returns [ErrNoStaple]. Its record stays in the store, so that a
// revocation is not forgotten.
//
// Call it for a certificate that was replaced: without it Ready and alerts tell of
// that for a day. nil, empty and unknown certificates are ignored. It waits for
// nothing and may be called concurrently, from an event function, too.
func (s *Stapler) Forget(certs ...*tls.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.forgotten, func(_ uint64, lists *atomic.Int32) bool { return lists.Load() == 0 })
	for _, cert := range certs {
		if empty(cert) {
			continue
		}
		der := cert.Certificate[0]
		e := s.cache.leaves.FindBytesLocked(s.cache.leaves.ID(der), der)
		if e == nil {
			continue
		}
		if e.listedLocked() {
			if s.forgotten == nil {
				s.forgotten = make(map[uint64]*atomic.Int32)
			}
			s.forgotten[e.id] = e.lists
		}
		s.dropLocked(e)
	}
}
