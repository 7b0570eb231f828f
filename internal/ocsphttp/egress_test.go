package ocsphttp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ocspstaple/staple/internal/ocsphttp"
)

// names answers each look-up of the tests.
var names atomic.Pointer[func() []netip.Addr]

func init() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go serveNames(far)
		return near, nil
	}}
}

// serveNames answers one question (RFC 1035 §4, as over TCP).
func serveNames(conn net.Conn) {
	defer conn.Close()
	var length uint16
	if binary.Read(conn, binary.BigEndian, &length) != nil {
		return
	}
	msg := make([]byte, length)
	if _, err := io.ReadFull(conn, msg); err != nil {
		return
	}
	end := 12
	for msg[end] != 0 {
		end += 1 + int(msg[end])
	}
	reply := append([]byte(nil), msg[:end+5]...) // the header and the question
	reply[2], reply[3], reply[11] = 0x81, 0x80, 0
	if msg[end+2] == 1 { // A
		var n uint16
		for _, ip := range (*names.Load())() {
			n++
			reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
			reply = append(reply, ip.AsSlice()...)
		}
		binary.BigEndian.PutUint16(reply[6:], n)
	}
	conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
}

// REQ A13, REQ I5: the default client asks no address of a metadata service, in
// whatever form, and says which it was; with a proxy, too, which is never asked.
func TestRefusedAddresses(t *testing.T) {
	proxied := overNet(t)
	proxied.HTTP.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) {
		return nil, fmt.Errorf("the proxy was asked")
	}
	for _, host := range []string{
		"169.254.169.254", "169.254.170.2", "169.254.0.1", "100.100.100.200", "168.63.129.16", "[fd00:ec2::254]", "[fd20:ce::254]",
		"[fd00:ec2::23]", "[fd00:c1::a9fe:a9fe]", "192.0.0.192", "[::ffff:192.0.0.192]", "3221225664", "[64:ff9b::192.0.0.192]", "[fd00:a9fe:a9fe::1]", "[fd00:42::42]", "[fd00:100::100:200]",
		"[fe80::1]", "[fe80::a9fe:a9fe%25eth0]", "224.0.0.1", "[ff02::1]", "0.0.0.0:1", "[::]:1",
		"[::ffff:169.254.169.254]", "[::ffff:0.0.0.0]:1", "[::ffff:100.100.100.200]", "[::169.254.169.254]", "[::a83f:8110]", "[::ffff:0:169.254.169.254]",
		"[64:ff9b::169.254.169.254]", "[64:ff9b::100.100.100.200]", "[64:ff9b::a83f:8110]", "[64:ff9b::224.0.0.1]",
		"[64:ff9b:1:a9fe:a9:fe00::]", "[64:ff9b:1:a9:fe:a9fe::]", "[64:ff9b:1:0:a9:fea9:fe00:0]", "[64:ff9b:1::a9fe:a9fe]", "[64:ff9b:1:6464:64:c800::]",
		"[2002:a9fe:a9fe::1]", "[2002:6464:64c8::]", "[2002:a83f:8110:1:2:3:4:5]",
		"[2001:0:a9fe:a9fe:0:ffff:ffff:ffff]", "[2001:0:4136:e378:8000:63bf:5601:5601]", "[2001::9b9b:9b37]",
		// A proxy, or another resolver, may read these as addresses.
		"2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "169.254.169.254.", "0169.254.169.254", "0xef.255.255.250", "1684301000", "0",
		"１６９.２５４.１６９.２５４", "ocsp.ex\u00e4mple",
	} {
		for name, c := range map[string]*ocsphttp.Client{"direct": overNet(t), "by a proxy": proxied} {
			q := question(0)
			q.URL = "http://" + host + "/"
			if _, _, err := c.Ask(t.Context(), q); kind(err) != ocsphttp.Network || !strings.Contains(err.Error(), "refusing to dial") || c.Requests.Load() != 0 {
				t.Errorf("%s, %s: %v, %d requests", host, name, err, c.Requests.Load())
			}
		}
	}
	for _, host := range []string{
		"10.0.0.1", "192.168.1.1", "127.0.0.1", "[::1]", "[fd00::1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::8.8.8.8]", "[2002:808:808::1]", "[2001::f7f7:f7f7]", "[2001:db8::a9fe:a9fe]",
		"169.253.169.254", "100.100.100.201", "2852039166.example", "169.254.169.254.example", "08", "1.2.3.4.5", "1.2.3.4.5.6", "1.2.256.4", "425.254.169.254", "169.254.169.510", "1..2", "169.254.1_69.254", "4294967296",
	} {
		q := question(0)
		q.URL = "http://" + host + "/"
		if _, _, err := proxied.Ask(t.Context(), q); err == nil || !strings.Contains(err.Error(), "the proxy was asked") {
			t.Errorf("%s: %v, want it asked", host, err)
		}
	}
}

// REQ I5: the address that is dialled is judged, not what a name said before.
func TestNamesThatChange(t *testing.T) {
	s := serve(t, func(conn net.Conn, _ *http.Request) { answerWith(conn, body) })
	addr := netip.MustParseAddrPort(s.addr)
	meta := netip.MustParseAddr("169.254.169.254")
	var answer []netip.Addr
	lookup := func() []netip.Addr { return answer }
	names.Store(&lookup)
	c := overNet(t)
	for _, tc := range []struct {
		answer  []netip.Addr
		refused bool
	}{
		{[]netip.Addr{addr.Addr()}, false},
		{[]netip.Addr{meta}, true},
		{[]netip.Addr{meta, addr.Addr()}, false}, // the other one is asked
		{[]netip.Addr{netip.MustParseAddr("168.63.129.16")}, true},
	} {
		answer = tc.answer
		q := question(ocsphttp.OwnConn)
		q.URL = fmt.Sprintf("http://rebind.example:%d/", addr.Port())
		if _, _, err := c.Ask(t.Context(), q); (err != nil) != tc.refused || err != nil && !strings.Contains(err.Error(), "refusing to dial") {
			t.Errorf("%v: %v", tc.answer, err)
		}
	}
}

// REQ I5: a redirect leads to no such address, either, and not on to a password.
func TestRefusedRedirects(t *testing.T) {
	for _, to := range []string{"http://169.254.169.254/latest/meta-data/", "http://0xa9fea9fe/", "https://[::ffff:169.254.169.254]/", "//[64:ff9b::a9fe:a9fe]/"} {
		s := serve(t, func(conn net.Conn, _ *http.Request) {
			fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", to)
		})
		q := question(0)
		q.URL = "http://" + s.addr
		c := overNet(t)
		if _, _, err := c.Ask(t.Context(), q); kind(err) != ocsphttp.Network || !strings.Contains(err.Error(), "refusing to dial") || c.Requests.Load() != 1 {
			t.Errorf("%s: %v, %d requests", to, err, c.Requests.Load())
		}
	}
}

// REQ I5: a password in a URL is not sent, first or after a redirect.
func TestNoUserinfo(t *testing.T) {
	for _, way := range []ocsphttp.Way{0, ocsphttp.Post} {
		f := &fake{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return says(302, "", nil, "Location", "http://root:secret@b.example/"), nil
			}
			return good(), nil
		}}
		q := question(way)
		q.URL = "http://admin:secret@ocsp.example/a"
		if _, _, err := f.client().Ask(t.Context(), q); err != nil || len(f.log) != 2 {
			t.Errorf("%v after %d requests", err, len(f.log))
		}
		for _, s := range f.log {
			if s.header.Get("Authorization") != "" || strings.Contains(s.url, "secret") {
				t.Errorf("%s with %v", s.url, s.header)
			}
		}
	}
}

// REQ I5: what a service that is no responder says is not in an error.
func TestNoSecretInErrors(t *testing.T) {
	secret := []byte("AWS_SECRET_KEY=hunter2")
	for name, say := range map[string]func(conn net.Conn){
		"a page": func(conn net.Conn) { fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n%s", secret) },
		"an error page": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n\r\n%s", secret)
		},
		"no HTTP at all": func(conn net.Conn) { fmt.Fprintf(conn, "-ERR %s\r\n", secret); conn.Close() },
		"a bad header":   func(conn net.Conn) { fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", secret) },
		"a bad length":   func(conn net.Conn) { fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n", secret) },
		"two lengths": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: %s\r\n\r\n", secret)
		},
		"a bad encoding": func(conn net.Conn) { fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n", secret) },
		"two encodings": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: %s\r\n\r\n", secret)
		},
		"a bad chunk": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n", secret)
		},
		"a bad trailer": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nTransfer-Encoding: chunked\r\nTrailer: %s\r\n\r\n0\r\n%[1]s\r\n\r\n", secret)
		},
		"a bad status":   func(conn net.Conn) { fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", secret) },
		"a bad redirect": func(conn net.Conn) { fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: http://[%s\r\n\r\n", secret) },
		"redirects to itself": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: /login?session=%s\r\n\r\n", secret)
		},
		"a redirect elsewhere": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ftp://user:%s@a.example/\r\n\r\n", secret)
		},
	} {
		s := serve(t, func(conn net.Conn, _ *http.Request) { say(conn) })
		q := question(0)
		q.URL = "http://" + s.addr
		_, _, err := overNet(t).Ask(t.Context(), q)
		_, got := overNet(t).Get(t.Context(), q.URL)
		for _, err := range []error{err, got} {
			if err != nil && (strings.Contains(err.Error(), "hunter2") || len(err.Error()) < 10) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// REQ I5: nor is what HTTP/2 quotes, in the texts that net/http has for it.
func TestNoSecretOfHTTP2(t *testing.T) {
	for text, want := range map[string]string{
		`stream error: stream ID 1; PROTOCOL_ERROR; invalid header field name "hunter2"`:                                                   "malformed HTTP response",
		`stream error: stream ID 1; PROTOCOL_ERROR; invalid header field value for "hunter2"`:                                              "malformed HTTP response",
		`stream error: stream ID 1; PROTOCOL_ERROR; invalid pseudo-header ":hunter2"`:                                                      "malformed HTTP response",
		`stream error: stream ID 1; PROTOCOL_ERROR; duplicate pseudo-header ":hunter2"`:                                                    "malformed HTTP response",
		`http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug="hunter2"`:                           "http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR",
		`http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug="` + strings.Repeat("h", 1000) + `"`: "http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR",
	} {
		f := &fake{answer: func(int, *http.Request) (*http.Response, error) { return nil, errors.New(text) }}
		if _, err := put(t, f, 0); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// REQ I5: URLs that are odd cost an error of a line, if that.
func TestOddURLs(t *testing.T) {
	long := strings.Repeat("x", 60<<10)
	for _, u := range []string{
		"http://a.example/\r\nX-Evil: 1", "http://a.example\r\n/", "http://a.example/%0d%0aX-Evil:%201", "http://a.example:0/", "http://a.example:99999/", "http://a.example:-1/",
		"http://a.example:" + strings.Repeat("9", 60<<10), "http://a.example/" + long, "http://" + long + ".example/", "http://a.example/%zz" + long, "http:///", "http://", "http://a b/" + long,
		"http://[::1", "http://[fe80::1%25" + long + "]/", "http://a.example:b" + long + "/", "http://user:" + long + "@a.example:bad/",
	} {
		f := always(200, ocspType, body)
		q := question(0)
		q.URL = u
		c := f.client()
		c.Default = true
		if _, _, err := c.Ask(t.Context(), q); err != nil && (len(err.Error()) > 600 || kind(err) != ocsphttp.Network || strings.ContainsAny(err.Error(), "\r\n")) {
			t.Errorf("%.60q: %d bytes, %.200q", u, len(err.Error()), err)
		}
		for _, s := range f.log {
			if strings.ContainsAny(s.url, "\r\n") || s.header.Get("X-Evil") != "" {
				t.Errorf("%.60q: %.60q, %v", u, s.url, s.header)
			}
		}
	}
	var raw bytes.Buffer
	s := serve(t, func(conn net.Conn, req *http.Request) { fmt.Fprint(&raw, req.Header); answerWith(conn, body) })
	q := question(0)
	q.URL = "http://" + s.addr + "/%0d%0aX-Evil:%201"
	if _, _, err := overNet(t).Ask(t.Context(), q); err != nil || strings.Contains(raw.String(), "Evil") {
		t.Errorf("%v, %s", err, raw.String())
	}
}
