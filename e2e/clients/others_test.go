package clients_test

import (
	"os"
	"strings"
	"testing"
)

// others is about clients that the test does not run. It was measured once, by hand.
const others = `
## Clients that the test does not run

Java, libtls and pyOpenSSL visited the same kinds of servers once, by hand, in November 2026: OpenJDK 17.0.15, and of Debian
12 libtls 3.7.0 and python3-openssl 23.0.0. "Bad staple" is an expired one, or one with a wrong signature.

| client | asks for a staple | good, SHA-1 | good, SHA-256 | revoked | bad staple | no staple, responder answers | no staple, responder fails |
| --- | --- | --- | --- | --- | --- | --- | --- |
| Java, defaults | yes | accepts | accepts | accepts | accepts | accepts | accepts |
| Java, ` + "`com.sun.net.ssl.checkRevocation=true`" + ` | yes | accepts | refuses: no response for the certificate | refuses: revoked | refuses: out of date, or bad signature | refuses: could not determine revocation status | refuses: could not determine revocation status |
| Java, ` + "`checkRevocation=true`, `ocsp.enable=true`" + ` | yes | accepts | refuses: no response for the certificate | refuses: revoked | refuses: out of date, or bad signature | asks the responder and accepts | asks the responder and refuses |
| Java, those two and ` + "`jdk.tls.client.enableStatusRequestExtension=false`" + ` | no | asks the responder and accepts | asks the responder and accepts | asks the responder and refuses | asks the responder | asks the responder and accepts | asks the responder and refuses |
| libtls, defaults | yes | accepts | refuses: no result for cert | refuses: revoked | refuses: not current, or verify failed | accepts | accepts |
| libtls, ` + "`tls_config_ocsp_require_stapling`" + ` | yes | accepts | refuses: no result for cert | refuses: revoked | refuses: not current, or verify failed | refuses: no staple | refuses: no staple |
| pyOpenSSL, ` + "`set_ocsp_client_callback`" + ` | yes, after ` + "`request_ocsp()`" + ` | as the callback decides | as the callback decides | as the callback decides | as the callback decides | as the callback decides | as the callback decides |

None of them heeds Must-Staple.

- **Java** checks each certificate of the chain but the root. An intermediate that names neither a responder nor a CRL makes it
  refuse a server with a good staple: "Certificate does not specify OCSP responder". ` + "`com.sun.net.ssl.checkRevocation`" + ` and
  ` + "`jdk.tls.client.enableStatusRequestExtension`" + ` are system properties, ` + "`ocsp.enable`" + ` is a security property. Without
  ` + "`ocsp.enable`" + ` Java looks at CRLs where there is no staple. Where it checks it refuses a response without nextUpdate from 15
  minutes after its thisUpdate on (Vault with ` + "`ocsp_expiry=0s`" + `, ` + "`openssl ocsp`" + ` without ` + "`-nmin`" + ` or ` + "`-ndays`" + `):
  ` + "`WithTTL(20 * time.Minute)`" + ` keeps it younger.
- **libtls** judges each staple that is there, also by default. ` + "`tls_peer_ocsp_result`" + `, ` + "`tls_peer_ocsp_this_update`" + ` and the
  other ` + "`tls_peer_ocsp_*`" + ` functions say what it found; they return nothing where nothing was stapled. It refuses a
  thisUpdate that is more than a minute ahead of its clock; the library takes, and staples, up to 5 minutes. Have the responder's
  clock set right.
- **pyOpenSSL** gives the callback the bytes of the response, empty if there is none, and judges nothing. A callback that returns
  True accepts an expired or revoked one; what the callback makes of the bytes is up to its author.

## Go clients that use golang.org/x/crypto/ocsp

From its source (v0.58.0), and from tests of this library. MongoDB's Go driver is such a client.

- ` + "`ocsp.ParseResponseForCert`" + ` takes the first certificate in the response for the signer and ignores the others. It refuses a
  response that embeds the certificate of an intermediate CA that signed it, as OpenSSL's responder does, or that has another
  certificate before the delegate's.
- staple does not pass on what it received. It writes the response anew: the signed bytes and the signature as they are, with
  the delegate's certificate alone, and with none where the CA itself signed. Where the issuer is a self-signed CA and the chain
  does not hold it, its certificate is embedded, because OpenSSL needs it there. These clients take all of these.
- x/crypto/ocsp knows no RSASSA-PSS and no Ed25519. It refuses a response that was signed with one of them; the signature cannot
  be changed. ` + "`staple.Verify`" + ` and ` + "`staple.RequireStaple`" + ` take both.
`

// The section is in the file, and is the last before the versions.
func TestOthers(t *testing.T) {
	file, err := os.ReadFile(clientsFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ReplaceAll(string(file), "\r\n", "\n"), others+versionsTitle) {
		t.Errorf("%s does not have the section %q", clientsFile, "Clients that the test does not run")
	}
}
