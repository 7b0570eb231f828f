package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
)

// A protocol has a way to ask for TLS on a connection that began without.
type protocol struct {
	port  string // by default
	start func(net.Conn) error
}

var startTLS = map[string]protocol{
	"smtp": {"25", startSMTP},
	"imap": {"143", startIMAP},
	"ldap": {"389", startLDAP},
}

// maxTalk bounds what a server may say before TLS, in bytes.
const maxTalk = 64 << 10

// talk returns a reader of what a server says. It may read ahead: a server says
// nothing between its consent and the client's first TLS record.
func talk(conn net.Conn) *textproto.Reader {
	return textproto.NewReader(bufio.NewReader(io.LimitReader(conn, maxTalk)))
}

// startSMTP follows RFC 3207.
func startSMTP(conn net.Conn) error {
	in := talk(conn)
	if _, _, err := in.ReadResponse(220); err != nil {
		return err
	}
	for _, step := range []struct {
		command string
		want    int
	}{{"EHLO localhost", 250}, {"STARTTLS", 220}} {
		if _, err := fmt.Fprintf(conn, "%s\r\n", step.command); err != nil {
			return err
		}
		if _, _, err := in.ReadResponse(step.want); err != nil {
			return fmt.Errorf("%s: %w", step.command, err)
		}
	}
	return nil
}

// startIMAP follows RFC 9051 section 6.2.1.
func startIMAP(conn net.Conn) error {
	in := talk(conn)
	greeting, err := in.ReadLine()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(strings.ToUpper(greeting), "* OK") {
		return fmt.Errorf("it greets with %.100q", greeting)
	}
	if _, err := io.WriteString(conn, "a STARTTLS\r\n"); err != nil {
		return err
	}
	for {
		line, err := in.ReadLine()
		if err != nil {
			return err
		}
		if answer, ours := strings.CutPrefix(line, "a "); ours {
			if !strings.HasPrefix(strings.ToUpper(answer), "OK") {
				return fmt.Errorf("it answers %.100q", answer)
			}
			return nil
		}
	}
}

// oidStartTLS is the name of the extended operation (RFC 4511 section 4.14).
const oidStartTLS = "1.3.6.1.4.1.1466.20037"

// The tags of RFC 4511, sections 4.1.1 and 4.12.
const (
	tagInteger          = 0x02
	tagEnumerated       = 0x0a
	tagSequence         = 0x30
	tagExtendedRequest  = 0x77 // [APPLICATION 23]
	tagExtendedResponse = 0x78 // [APPLICATION 24]
	tagRequestName      = 0x80 // [0]
)

// startLDAP follows RFC 4511 section 4.14.
func startLDAP(conn net.Conn) error {
	name := element(tagRequestName, []byte(oidStartTLS))
	message := element(tagSequence, element(tagInteger, []byte{1}), element(tagExtendedRequest, name))
	if _, err := conn.Write(message); err != nil {
		return err
	}
	message, err := readElement(conn, tagSequence)
	if err != nil {
		return err
	}
	in := strings.NewReader(string(message))
	if _, err := readElement(in, tagInteger); err != nil {
		return err
	}
	response, err := readElement(in, tagExtendedResponse)
	if err != nil {
		return err
	}
	code, err := readElement(strings.NewReader(string(response)), tagEnumerated)
	if err != nil {
		return err
	}
	if len(code) != 1 || code[0] != 0 {
		return fmt.Errorf("it answers with resultCode %d", code)
	}
	return nil
}

// element encodes a short element of BER.
func element(tag byte, parts ...[]byte) []byte {
	out := []byte{tag, 0}
	for _, part := range parts {
		out = append(out, part...)
	}
	out[1] = byte(len(out) - 2)
	return out
}

// readElement reads an element of BER, and nothing after it. Lengths need not be
// minimal, as LDAP allows: Active Directory writes four bytes.
func readElement(r io.Reader, tag byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if head[0] != tag {
		return nil, fmt.Errorf("not an answer of LDAP: tag %#x, want %#x", head[0], tag)
	}
	length := uint32(head[1])
	if n := length &^ 0x80; n != length {
		if n == 0 || n > 4 {
			return nil, errors.New("not an answer of LDAP: its length has another form")
		}
		var long [4]byte
		if _, err := io.ReadFull(r, long[4-n:]); err != nil {
			return nil, err
		}
		length = binary.BigEndian.Uint32(long[:])
	}
	if length > maxTalk {
		return nil, fmt.Errorf("an answer of %d bytes", length)
	}
	content := make([]byte, length)
	_, err := io.ReadFull(r, content)
	return content, err
}
