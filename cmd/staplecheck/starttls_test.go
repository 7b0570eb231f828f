package main

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/ocsptest"
)

// upgrade serves TLS to who got the consent of talk. talk writes what a server says
// and returns whether that is consent.
func upgrade(t testing.TB, cfg *tls.Config, talk func(in *bufio.Reader, out io.Writer) bool) string {
	t.Helper()
	ln := listen(t)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if talk(bufio.NewReader(conn), conn) {
					_ = tls.Server(conn, cfg).Handshake() // the client tells
				}
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	return ln.Addr().String()
}

// lines is a server of a protocol in lines: it says greeting and then, for each
// line that it reads, what answers has for its beginning. Consent is an answer that
// begins with consent.
func lines(greeting, consent string, answers map[string]string) func(*bufio.Reader, io.Writer) bool {
	return func(in *bufio.Reader, out io.Writer) bool {
		io.WriteString(out, greeting)
		for {
			line, err := in.ReadString('\n')
			if err != nil || !strings.HasSuffix(line, "\r\n") {
				return false
			}
			answer := "500 what?\r\na BAD what?\r\n"
			for begin, text := range answers {
				if strings.HasPrefix(line, begin) {
					answer = text
				}
			}
			io.WriteString(out, answer)
			if strings.HasPrefix(answer, consent) {
				return true
			}
		}
	}
}

// The request of RFC 4511 section 4.14.1 in DER, by hand.
const ldapRequest = "301d" + "020101" + "7718" + "8016" + "312e332e362e312e342e312e313436362e3230303337"

// ldap is a server that answers a StartTLS request with what is in hexadecimal.
func ldap(answer string, consent bool) func(*bufio.Reader, io.Writer) bool {
	return func(in *bufio.Reader, out io.Writer) bool {
		request := make([]byte, len(ldapRequest)/2)
		if _, err := io.ReadFull(in, request); err != nil || hex.EncodeToString(request) != ldapRequest {
			return false
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(answer, " ", ""))
		if err != nil {
			panic(err)
		}
		out.Write(raw)
		return consent
	}
}

func TestStartTLS(t *testing.T) {
	ca := newCA(t)
	cert := ca.Issue(ocsptest.Leaf{MustStaple: true})
	cfg := withStaple(cert, ca.Responder.Response(cert))
	ehlo := "250-mail.example at your service\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"
	untagged := "* CAPABILITY IMAP4rev2 STARTTLS\r\n"
	for name, tt := range map[string]struct {
		protocol string
		talk     func(*bufio.Reader, io.Writer) bool
		want     string // in the Reason; empty: a good staple
	}{
		"smtp": {"smtp", lines("220-mail.example\r\n220 ESMTP\r\n", "220", map[string]string{"EHLO ": ehlo, "STARTTLS": "220 go ahead\r\n"}), ""},
		"smtp, not offered": {"smtp", lines("220 mail.example\r\n", "220", map[string]string{"EHLO ": "250 mail.example\r\n"}),
			"STARTTLS of smtp: STARTTLS: 500 \"what?\""},
		"smtp, busy":    {"smtp", lines("421 too busy\r\n", "220", nil), "STARTTLS of smtp: 421 \"too busy\""},
		"smtp, endless": {"smtp", lines(strings.Repeat("220-"+strings.Repeat("x", 1000)+"\r\n", 100), "220", nil), "EOF"},
		"imap": {"imap", lines("* OK IMAP4rev2 ready\r\n", "a OK", map[string]string{"a STARTTLS": "a OK begin\r\n"}),
			""},
		"imap, untagged first": {"imap", func(in *bufio.Reader, out io.Writer) bool {
			io.WriteString(out, "* ok ready\r\n")
			line, err := in.ReadString('\n')
			io.WriteString(out, untagged+"a ok begin\r\n")
			return err == nil && line == "a STARTTLS\r\n"
		}, ""},
		"imap, refused": {"imap", lines("* OK ready\r\n", "a OK", map[string]string{"a STARTTLS": "a NO not today\r\n"}), `it answers "NO not today"`},
		"imap, busy":    {"imap", lines("* BYE too busy\r\n", "a OK", nil), `it greets with "* BYE too busy"`},

		"ldap":                    {"ldap", ldap("300c 020101 7807 0a0100 0400 0400", true), ""},
		"ldap, with the name":     {"ldap", ldap("3024 020101 781f 0a0100 0400 0400 8a16 312e332e362e312e342e312e313436362e3230303337", true), ""},
		"ldap, Active Directory":  {"ldap", ldap("308400000010 020101 788400000007 0a0100 0400 0400", true), ""},
		"ldap, refused":           {"ldap", ldap("300c 020101 7807 0a0102 0400 0400", false), "it answers with resultCode [2]"},
		"ldap, long lengths":      {"ldap", ldap("3082000d 020101 788107 0a0100 0400 0400", true), ""},
		"ldap, another message":   {"ldap", ldap("300c 020101 6107 0a0100 0400 0400", false), "not an answer of LDAP: tag 0x61"},
		"ldap, another protocol":  {"ldap", ldap(hex.EncodeToString([]byte("HTTP/1.1 400\r\n")), false), "not an answer of LDAP: tag 0x48"},
		"ldap, endless":           {"ldap", ldap("3084ffffffff 020101", false), "an answer of 4294967295 bytes"},
		"ldap, length of nothing": {"ldap", ldap("3080 020101", false), "its length has another form"},
		"ldap, short inside":      {"ldap", ldap("3003 020101", false), "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			r := visit(t, ca, "-starttls", tt.protocol, "-servername", "example.com", upgrade(t, cfg, tt.talk))
			if tt.want == "" && r.Verdict != VerdictGood || tt.want != "" && (r.Verdict != VerdictUnknown || !strings.Contains(r.Reason, tt.want)) {
				t.Errorf("%s: %s, want %q", r.Verdict, r.Reason, tt.want)
			}
		})
	}
}

// No answer of an LDAP server makes a panic, or is waited for past its end.
func FuzzLDAP(f *testing.F) {
	for _, seed := range []string{"300c0201017807" + "0a010004000400", "308400000010020101788400000007" + "0a010004000400", "3084ffffffff"} {
		raw, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		client, server := net.Pipe()
		defer client.Close()
		go func() {
			defer server.Close()
			io.ReadFull(server, make([]byte, len(ldapRequest)/2))
			server.Write(answer)
		}()
		_ = startLDAP(client)
	})
}
