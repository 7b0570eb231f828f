package ocsphttp

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// URLs come out of certificates, which may be anybody's. The default client makes no
// request to what is never a responder: clouds keep credentials at link-local
// addresses and the ones below. Private addresses are where private CAs live, so
// they are asked.
//
// There are two checks. refuseDial judges the address that is dialled, after names
// are resolved. refuseHost judges a literal in the URL, since a proxy dials in our
// place. A proxy that resolves a name to a refused address is not noticed: it has to
// refuse by itself (docs/security.md). A user's client has neither check.

// metadata are the other addresses of clouds' metadata services.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
	netip.MustParseAddr("fd00:ec2::254"):   true, // AWS
	netip.MustParseAddr("fd20:ce::254"):    true, // Google Cloud
	// These have a form in IPv4, link-local mostly, and another in IPv6.
	netip.MustParseAddr("fd00:100::100:200"):  true, // Alibaba Cloud
	netip.MustParseAddr("fd00:ec2::23"):       true, // AWS: credentials of EKS pods
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"): true, // Oracle Cloud
	netip.MustParseAddr("192.0.0.192"):        true, // Oracle Cloud Classic
	netip.MustParseAddr("fd00:a9fe:a9fe::1"):  true, // Akamai (Linode)
	netip.MustParseAddr("fd00:42::42"):        true, // Scaleway
}

// embedding are the networks whose addresses hold one of IPv4, by which a gateway may
// reach it, and the bytes where they do. One network may hold it in several places:
// each is checked, as nobody here knows which one a gateway reads.
var embedding = []struct {
	network netip.Prefix
	bytes   [][4]int
	mask    byte // by which they are obscured
}{
	{netip.MustParsePrefix("::/96"), [][4]int{{12, 13, 14, 15}}, 0},                                                          // v4-compatible
	{netip.MustParsePrefix("::ffff:0:0:0/96"), [][4]int{{12, 13, 14, 15}}, 0},                                                // RFC 2765
	{netip.MustParsePrefix("64:ff9b::/96"), [][4]int{{12, 13, 14, 15}}, 0},                                                   // NAT64
	{netip.MustParsePrefix("64:ff9b:1::/48"), [][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}}, 0}, // RFC 8215, with each length of RFC 6052 §2.2
	{netip.MustParsePrefix("2002::/16"), [][4]int{{2, 3, 4, 5}}, 0},                                                          // 6to4
	{netip.MustParsePrefix("2001::/32"), [][4]int{{4, 5, 6, 7}}, 0},                                                          // Teredo: the server
	{netip.MustParsePrefix("2001::/32"), [][4]int{{12, 13, 14, 15}}, 0xff},                                                   // and the client
}

// refused reports whether no responder is at ip, whichever way it is written. An
// address that embeds an IPv4 address is as good as that. The zero Addr, of a host
// that is a name, is not refused.
func refused(ip netip.Addr) bool {
	ip = ip.WithZone("").Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || metadata[ip] {
		return true
	}
	b := ip.As16()
	for _, e := range embedding {
		if !e.network.Contains(ip) {
			continue
		}
		for _, at := range e.bytes {
			var v4 [4]byte
			for i, n := range at {
				v4[i] = b[n] ^ e.mask
			}
			if v4 != [4]byte{} && refused(netip.AddrFrom4(v4)) { // zeros are there for other reasons
				return true
			}
		}
	}
	return false
}

// refuseDial is for a net.Dialer's Control: it sees each address that is dialled,
// whatever names said before. A name that changes between two look-ups is no way
// around it.
func refuseDial(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if refused(ap.Addr()) {
		return fmt.Errorf("refusing to dial %v: not the address of a responder", ap.Addr())
	}
	return nil
}

// refuseHost refuses a URL whose host is such an address: a proxy would dial it. A
// proxy may also read what Go takes for a name: the forms of inet_aton, and digits
// of other scripts, which certificates can't have (RFC 5280 §7.2).
func refuseHost(u *url.URL) error {
	host := u.Hostname()
	for _, c := range []byte(host) {
		if c >= 0x80 {
			return fmt.Errorf("refusing to dial %q: want a host name in ASCII", cut(host))
		}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ip = looseAddr(strings.TrimRight(host, "."))
	}
	if refused(ip) {
		return fmt.Errorf("refusing to dial %v: not the address of a responder", ip.WithZone(""))
	}
	return nil
}

// looseAddr reads an IPv4 address as inet_aton does: one to four numbers, decimal,
// octal or hexadecimal, of which the last fills the bytes that are left. It returns
// the zero Addr for anything else: a host name, most of the time.
func looseAddr(s string) netip.Addr {
	parts := strings.Split(s, ".")
	var v4 [4]byte
	for i, part := range parts {
		if i == 4 || strings.Contains(part, "_") {
			return netip.Addr{}
		}
		n, err := strconv.ParseUint(part, 0, 32)
		if err != nil {
			if n, err = strconv.ParseUint(part, 10, 32); err != nil { // 08 and 09
				return netip.Addr{}
			}
		}
		if i < len(parts)-1 {
			if v4[i] = byte(n); n > 255 {
				return netip.Addr{}
			}
			continue
		}
		for j := 3; j >= i; j-- {
			v4[j] = byte(n)
			n >>= 8
		}
		if n > 0 {
			return netip.Addr{}
		}
	}
	return netip.AddrFrom4(v4)
}
