package scenario_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"golang.org/x/crypto/ocsp"
)

// A line is a network in memory on which every connection is answered with bytes of
// the test's: with each answer once, and then with the last for ever.
type line struct {
	mu       sync.Mutex // guards the rest
	issuer   []byte     // to a request for the issuer's certificate
	answers  []string
	fill     *strings.Replacer
	requests int
	written  int // bytes
}

func (l *line) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go l.serve(server)
	return client, nil
}

// serve answers on one connection until the client closes it, or an answer says so.
func (l *line) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		answer, closes := l.next(req)
		endless := strings.HasSuffix(answer, "{endless}")
		n, err := io.WriteString(c, strings.TrimSuffix(answer, "{endless}"))
		for zeros := make([]byte, 4096); endless && err == nil; {
			var more int
			more, err = c.Write(zeros)
			n += more
		}
		l.mu.Lock()
		l.written += n
		l.mu.Unlock()
		if err != nil || closes {
			return
		}
	}
}

// next returns what to say to a request, and whether the connection is closed then.
func (l *line) next(req *http.Request) (answer string, closes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if req.URL.Path == issuerPath {
		return string(l.issuer), false
	}
	answer = l.answers[0]
	if len(l.answers) > 1 {
		l.answers = l.answers[1:]
	}
	answer, closes = strings.CutSuffix(answer, "{close}")
	return l.fill.Replace(answer), closes
}

const (
	issuerPath   = "/issuer.der"
	exchangeHead = "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"
	issuerAnswer = "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{issuer}"
)

// A post is a certificate with the answers to be had about it, made for the time at
// which a bubble begins.
type post struct {
	ca           *ocsptest.CA
	chain, alone *tls.Certificate // with the issuer's certificate, and without
	good         []byte           // by a delegate, whose certificate stands among others
	staple       []byte           // what is to be stapled of it
	revoked      []byte
	others       []byte // good, of another CA
}

func newPost() *post {
	began := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &post{ca: ocsptest.NewCA()}
	leaf := ocsptest.Leaf{MustStaple: true, NotBefore: began.AddDate(0, 0, -1), NotAfter: began.AddDate(0, 0, 89), URLs: []string{"http://ocsp.example"}}
	p.chain = p.ca.Issue(leaf)
	leaf.Serial, leaf.WithoutIssuer, leaf.IssuerURLs = p.chain.Leaf.SerialNumber, true, []string{"http://ca.example" + issuerPath}
	p.alone = p.ca.Issue(leaf)
	p.ca.Responder.SetSign(ocsptest.Sign{By: ocsptest.DelegatedExtras, Template: func(c *x509.Certificate) { c.NotBefore, c.NotAfter = began.AddDate(0, 0, -1), began.AddDate(1, 0, 0) }})
	build := func(ca *ocsptest.CA, status int) []byte {
		return ca.Responder.Build(p.chain, func(s *ocsptest.Spec) {
			s.Status, s.ProducedAt, s.Singles = ocsp.Success, began, s.Singles[:1]
			one := &s.Singles[0]
			one.Status, one.RevokedAt, one.ThisUpdate, one.NextUpdate = status, began, began, began.AddDate(0, 0, 4)
		})
	}
	p.good, p.revoked, p.others = build(p.ca, ocsp.Good), build(p.ca, ocsp.Revoked), build(ocsptest.NewCA(), ocsp.Good)
	m := dissect(p.good)
	m.certs = m.certs[1:2]
	p.staple = m.encode()
	return p
}

// line is a network of answers, in which good was spoiled: each three bytes of spoil
// are where, and what is changed there.
func (p *post) line(answers string, issuer, spoil []byte) *line {
	good := bytes.Clone(p.good)
	for ; len(spoil) >= 3; spoil = spoil[3:] {
		good[(int(spoil[0])<<8|int(spoil[1]))%len(good)] ^= spoil[2]
	}
	if string(issuer) == "{issuer}" {
		issuer = []byte(strings.NewReplacer("{length}", strconv.Itoa(len(p.ca.Cert.Raw)), "{issuer}", string(p.ca.Cert.Raw)).Replace(issuerAnswer))
	}
	return &line{issuer: issuer, answers: strings.Split(answers, "{next}"),
		fill: strings.NewReplacer("{good}", string(good), "{revoked}", string(p.revoked), "{others}", string(p.others), "{length}", strconv.Itoa(len(good)), "{hexlength}", strconv.FormatInt(int64(len(good)), 16))}
}

// plain reports whether the first of answers is surely to be taken: HTTP with the good
// response in it, as net/http reads it, and neither a cache's nor encoded.
func (p *post) plain(answers string, spoil []byte) bool {
	l := p.line(answers, nil, spoil)
	answer, _ := l.next(&http.Request{URL: new(url.URL)})
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil || strings.Contains(answer, "{endless}") {
		return false
	}
	body, err := io.ReadAll(res.Body)
	return err == nil && res.StatusCode == 200 && bytes.Equal(body, p.good) && res.Header.Get("Content-Encoding") == "" &&
		res.Header.Get("Content-Type") == "application/ocsp-response"
}

// FuzzExchange: whatever bytes come in the place of HTTP answers, from the responder
// and from where the issuer's certificate is to be had, an attempt ends in time, asks
// and reads no more than it may, and nothing is stapled but the good response as it
// was signed. That is stapled where it came in order.
//
// REQ A11, REQ A13, REQ B2, REQ C4
func FuzzExchange(f *testing.F) {
	p := newPost()
	const good = exchangeHead + "Content-Length: {length}\r\n\r\n{good}"
	for _, answers := range []string{
		good, good + "{close}", exchangeHead + "\r\n{good}{close}", exchangeHead + "\r\n{good}", exchangeHead + "Transfer-Encoding: chunked\r\n\r\n{hexlength}\r\n{good}\r\n0\r\n\r\n",
		exchangeHead + "Cache-Control: max-age=99999999\r\nETag: \"x\"\r\nContent-Length: {length}\r\n\r\n{good}{next}HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=99999999\r\n\r\n",
		exchangeHead + "Content-Length: 100\r\n\r\n{good}", exchangeHead + "Content-Length: 99999999\r\n\r\n{good}{endless}", exchangeHead + "\r\n{endless}", "HTTP/1.1 500 X\r\n\r\n<html>{endless}",
		exchangeHead + "\r\n0{endless}", "HTTP/1.1 103 Early Hints\r\n\r\n" + good, "HTTP/1.1 200 OK\r\n{endless}", "{close}", "",
		exchangeHead + "Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n{good}", exchangeHead + "\r\n{revoked}{next}" + good, exchangeHead + "\r\n{others}", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{good}",
		"HTTP/1.1 302 Found\r\nLocation: /issuer.der\r\n\r\n{close}", "HTTP/1.1 307 X\r\nLocation: http://x/?\r\n\r\n{next}" + good, "HTTP/1.1 302 Found\r\nLocation: gopher://x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 503 X\r\nRetry-After: 99999999\r\nContent-Length: 0\r\n\r\n{next}" + good, "HTTP/1.1 304 Not Modified\r\n\r\n", exchangeHead + "Content-Length: 5\r\n\r\n0\x03\n\x01\x06{next}" + good,
	} {
		f.Add(answers, []byte{}, []byte{})
		f.Add(answers, []byte("{issuer}"), []byte{1, 0, 0x80})
	}
	for at := range len(p.good) / 64 {
		f.Add(good, []byte{}, []byte{byte(at / 4), byte(at * 64), 1})
	}
	f.Add(good, []byte("{issuer}"), []byte{})
	f.Add(good, []byte("HTTP/1.1 302 Found\r\nLocation: /issuer.der\r\n\r\n"), []byte{})
	f.Fuzz(func(t *testing.T, answers string, issuer, spoil []byte) {
		synctest.Test(t, func(t *testing.T) { p.exchange(t, answers, issuer, spoil) })
	})
}

func (p *post) exchange(t *testing.T, answers string, issuer, spoil []byte) {
	l, cert := p.line(answers, issuer, spoil), p.chain
	if len(issuer) > 0 {
		cert = p.alone
	}
	transport := &http.Transport{DialContext: l.dial, MaxResponseHeaderBytes: 64 << 10}
	defer transport.CloseIdleConnections()
	s := staple.New(staple.WithHTTPClient(&http.Client{Transport: transport}))
	begun := time.Now()
	err := s.Prefetch(context.Background(), cert)
	if took := time.Since(begun); took > 11*time.Second {
		t.Errorf("the attempt took %v", took)
	}
	l.within(t, 20) // 4 questions and the issuer, each redirected 3 times
	held := p.stapled(t, s, cert)
	if held != (err == nil) {
		t.Errorf("stapled: %v, %v", held, err)
	}
	if !held && p.plain(answers, spoil) && (len(issuer) == 0 || string(issuer) == "{issuer}") {
		t.Errorf("what came in order is not stapled: %v", err)
	}
	if err != nil && len(err.Error()) > 2000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	wait := 3 * time.Second // for the next attempt
	if held {
		wait = 70 * time.Minute
	}
	time.Sleep(wait)
	l.within(t, 60)
	p.stapled(t, s, cert)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// within fails the test if more was asked, or sent, than is to be read of as many
// answers.
func (l *line) within(t *testing.T, requests int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.requests > requests {
		t.Errorf("%d requests", l.requests)
	}
	if most := l.requests * (128<<10 + 64<<10 + 64<<10); l.written > most {
		t.Errorf("%d bytes in answer to %d requests", l.written, l.requests)
	}
}

// stapled reports whether the good response is stapled, and fails the test if another
// is, or if the next look at it is put off by what a header says.
func (p *post) stapled(t *testing.T, s *staple.Stapler, cert *tls.Certificate) bool {
	t.Helper()
	raw := s.Staple(cert).OCSPStaple
	for _, st := range s.Status() {
		longest := 5 * time.Minute
		if raw != nil {
			longest = 48 * time.Hour // half of the validity
		} else if st.State == staple.StateRevoked {
			continue
		}
		if left := time.Until(st.NextRefresh); left > longest {
			t.Errorf("%v: the next attempt is in %v: %v", st.State, left, st.Err)
		}
	}
	if raw == nil {
		return false
	}
	if r, err := staple.Verify(raw, cert.Leaf, p.ca.Cert); err != nil || r.Status != ocsp.Good || !bytes.Equal(raw, p.staple) {
		t.Errorf("stapled %x: %v", raw, err)
	}
	return true
}
