package main

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// order is what the kernel's command line tells the first stage to do.
type order struct {
	url    *url.URL
	server netip.AddrPort // the address in url
	image  pinned         // the image's initrd
	boot   pinned         // what follows it for this boot
	static *static        // the machine's own address; nil: by DHCP
	bootIf string         // MAC of the network card that the firmware booted from; "": not known
	init   string         // what the image starts: rdinit=
}

// pinned is the size in bytes and the SHA-256 digest that a part must have; otherwise it is discarded.
type pinned struct {
	size   int64
	sha256 [sha256.Size]byte
}

// static is an address from ip=, in the kernel's format (Linux, Documentation/admin-guide/nfs/nfsroot.rst).
type static struct {
	addr    netip.Prefix
	gateway netip.Addr // invalid: none
	device  string     // interface; "": any
}

// parseOrder reads a command line. It ignores what U-Boot or the board's firmware added.
func parseOrder(cmdline string) (order, error) {
	o := order{init: "/init"}
	var where, digests string
	for _, w := range splitArgs(cmdline) {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "provision.initrd":
			where = value
		case "provision.sha256":
			digests = value
		case "rdinit":
			o.init = value
		case "ip":
			o.static = parseIP(value)
		case "BOOTIF": // PXELINUX and U-Boot write 01-52-54-…
			o.bootIf = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value, "01-")), "-", ":")
		}
	}

	if where == "" || digests == "" {
		return order{}, errors.New("the kernel's command line has no provision.initrd= and provision.sha256=, " +
			"which provision gives with this initrd: let the machine boot from provision again")
	}
	var err error
	if o.url, o.server, err = parseURL(where); err != nil {
		return order{}, fmt.Errorf("provision.initrd=%s: %w", where, err)
	}

	image, boot, _ := strings.Cut(digests, ",")
	if o.image, err = parsePinned(image); err == nil {
		o.boot, err = parsePinned(boot)
	}
	if err != nil {
		return order{}, fmt.Errorf("provision.sha256=%s: %w", digests, err)
	}

	return o, nil
}

// parseURL reads a URL whose host is an IP address, since the first stage has no resolver.
func parseURL(s string) (*url.URL, netip.AddrPort, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || u.Scheme != "http" {
		return nil, netip.AddrPort{}, errors.New("it must be http://ADDRESS[:PORT]/…, with no name to look up")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if u.Port() == "" {
		port, err = 80, nil
	}
	return u, netip.AddrPortFrom(addr, uint16(port)), err
}

// parsePinned reads SIZE:SHA256, where the digest is in unpadded base64url.
func parsePinned(s string) (pinned, error) {
	size, digest, _ := strings.Cut(s, ":")
	n, err := strconv.ParseInt(size, 10, 64)
	sum, bad := base64.RawURLEncoding.DecodeString(digest)
	if err != nil || bad != nil || n < 0 || len(sum) != sha256.Size {
		return pinned{}, fmt.Errorf("%q is not a size and a sha256 digest: was the command line cut off?", s)
	}
	return pinned{n, [sha256.Size]byte(sum)}, nil
}

// parseIP reads ip=CLIENT:SERVER:GATEWAY:MASK:NAME:DEVICE:…; nil if it has no address (ip=dhcp, ip=:::::eth0:dhcp).
func parseIP(s string) *static {
	f := append(strings.Split(s, ":"), make([]string, 6)...)
	addr, err := netip.ParseAddr(f[0])
	if err != nil || !addr.Is4() || addr.IsUnspecified() {
		return nil
	}
	mask := net.IPMask(net.ParseIP(f[3]).To4())
	if mask == nil {
		mask = net.IP(addr.AsSlice()).DefaultMask()
	}
	bits, size := mask.Size()
	if size == 0 {
		bits = 24
	}
	gateway, _ := netip.ParseAddr(f[2])
	return &static{netip.PrefixFrom(addr, bits), gateway, f[5]}
}

// splitArgs splits at white space outside double quotes, as the kernel does (next_arg in lib/cmdline.c of Linux), and
// removes the quotes.
func splitArgs(s string) []string {
	var all []string
	quoted := false
	for _, w := range strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && strings.ContainsRune(" \t\r\n", r)
	}) {
		all = append(all, strings.ReplaceAll(w, `"`, ""))
	}
	return all
}
