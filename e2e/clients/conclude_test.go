package clients_test

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// conclude writes what follows. The lists are made of what was seen; a sentence
// around them that is no longer true has to be noticed by whoever writes the file
// anew.
func (m *matrix) conclude(out *strings.Builder) {
	refuses := func(s shape, must bool) func(string) bool {
		return func(client string) bool { return m.refuses(client, s, must) }
	}
	and := func(a, b func(string) bool) func(string) bool {
		return func(client string) bool { return a(client) && b(client) }
	}
	not := func(a func(string) bool) func(string) bool {
		return func(client string) bool { return !a(client) }
	}
	asks := func(client string) bool { return m.habits[client].asks }
	fmt.Fprintf(out, conclusions,
		who(refuses(goodSHA256, false)), who(refuses(goodSHA1, false)), who(and(m.judges, not(refuses(goodSHA256, false)))),
		who(refuses(missing, true)), who(and(asks, not(refuses(missing, true)))),
		who(refuses(revoked, false)), who(and(asks, not(refuses(revoked, false)))), who(and(refuses(revoked, false), not(refuses(missing, false)))),
		who(refuses(expired, false)), who(and(refuses(expired, false), not(refuses(missing, false)))),
		who(not(asks)), who(and(asks, not(m.judges))), who(m.differs))
}

// judges says whether a client refuses any staple that is there.
func (m *matrix) judges(client string) bool {
	return m.refuses(client, revoked, false) || m.refuses(client, expired, false)
}

// differs says whether TLS 1.2 and TLS 1.3 are not alike to a client.
func (m *matrix) differs(client string) bool {
	for _, must := range []bool{false, true} {
		for _, s := range shapes {
			if m.cells[key{client, s, must, tls.VersionTLS12}] != m.cells[key{client, s, must, tls.VersionTLS13}] {
				return true
			}
		}
	}
	return false
}

const conclusions = `
## What follows from it

- **SHA-1 first is the right default.** A good staple with a SHA-256 CertID is refused by: %s.
  A good staple with a SHA-1 CertID is refused by: %s. These judge staples, and take either: %s.
  RFC 9919 asks for SHA-256; use it if you know your clients.
- **A Must-Staple certificate without a staple** is refused by: %s.
  These ask for a staple and do without: %s.
- **A stapled revoked response** stops: %s.
  These ask for a staple and accept it: %s.
  By default staple staples nothing for a revoked certificate. Unless it is Must-Staple, these then accept it, if they do not
  learn of the revocation elsewhere: %s.
- **An expired staple** is refused by: %s.
  Unless there is Must-Staple, it is worse than none for: %s.
- **No staple matters** to those that do not ask for one: %s; nor to those that ask and do not judge: %s.
- **TLS 1.2 and TLS 1.3** differ for: %s.

For operators:

- ` + "`curl --cert-status`" + ` is the best test by hand: the staples of the tables above that it accepts are accepted by all the other
  clients here. [What some clients refuse](#what-some-clients-refuse) lists what it does not show.
- ` + "`openssl s_client -status`" + ` shows a staple and does not judge it: an expired one is shown as good. Look at its Next
  Update.
- In the log of a Go server a client that refuses is ` + "`remote error: tls: bad certificate`" + ` or another of the alerts
  above, or nothing at all. git tells its user only that the verification failed.
- Must-Staple binds Firefox and what is built on GnuTLS, not Chromium. Their users can't connect in an outage that
  is longer than the validity of a response; Chromium does not notice that a staple is missing.
`
