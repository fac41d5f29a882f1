package clients

import (
	"slices"

	"provision/internal/lab/netboot"
	"provision/pxe"
)

// difference says why we do not answer as dnsmasq does. The first that fits counts.
type difference struct {
	keys  []string       // fields and options, as yardstick names them; "silence": one of the two is silent
	mode  pxe.Mode       // "": both
	what  string         // "": all questions
	kinds []netboot.Kind // nil: all
	why   string
}

func (d difference) fits(mode pxe.Mode, q question) bool {
	return (d.mode == "" || d.mode == mode) && (d.what == "" || d.what == q.what) && (d.kinds == nil || slices.Contains(d.kinds, q.kind))
}

// on makes a list of fields and options, or of kinds.
func on[T any](list ...T) []T { return list }

var (
	pis   = on(netboot.Pi3B, netboot.Pi3BPlus, netboot.Pi4, netboot.Pi5)
	ipxes = on(netboot.IPXE, netboot.Tinkerbell, netboot.TinkerbellBIOS)
	https = on(netboot.HTTPX64, netboot.HTTPARM64)
	uboot = on(netboot.UBoot2023, netboot.UBoot2025)
)

var spec = []difference{
	// Who is answered.
	{keys: on("silence"), mode: pxe.Proxy, kinds: pis, why: "dnsmasq takes a Pi for a PC with a BIOS, whose menu and program it cannot use; here there is no firmware for it, so we are silent, and the host's log says why"},
	{keys: on("silence"), mode: pxe.Proxy, kinds: on(netboot.EDK2IA32), why: "dnsmasq announces a boot server to machines that it has no program for, which then wait for port 4011 in vain; we are silent, and the host's log says why"},
	{keys: on("silence"), mode: pxe.Proxy, kinds: https, why: "dnsmasq has no ProxyDHCP for HTTP boot; EDK2 takes a proxy's URL"},
	{keys: on("silence"), mode: pxe.Proxy, kinds: uboot, why: "dnsmasq's proxy answers PXEClient alone; a U-Boot with CONFIG_SERVERIP_FROM_PROXYDHCP takes the server from ours"},
	{keys: on("silence"), mode: pxe.Full, what: "4011", why: "dnsmasq listens on port 4011 only with a pxe-service; our lease can have option 60 without 43 (a rung of the ladder), which makes firmware ask there"},

	// What a machine is told that boots nothing.
	{keys: on("siaddr"), mode: pxe.Full, kinds: append(on(netboot.EDK2IA32, netboot.System), pis...), why: "dnsmasq names itself in each lease; we name a next server only with something to load from it"},
	{keys: on("67"), mode: pxe.Full, kinds: pis, why: "dnsmasq gives a Pi a PC's program"},

	// Where the program is.
	{keys: on("file", "67"), mode: pxe.Full, kinds: uboot, why: "the name is of no file: what U-Boot looks for is beside it, in the folder of this boot"},
	{keys: on("67"), mode: pxe.Full, kinds: on(netboot.UBootEFI), why: "the name, with a token that is good for one boot, also for firmware that reads option 67 alone"},
	{keys: on("67"), mode: pxe.Full, why: "a token that is good for one boot is part of the name; it ends in a NUL for firmware alone"},
	{keys: on("67"), mode: pxe.Proxy, why: "for firmware that reads option 67 rather than the header"},
	{keys: on("file"), mode: pxe.Full, kinds: on(netboot.UBootEFI), why: "a token that is good for one boot is part of the name; and ipxedust has an SNP program for arm64, no native one"},
	{keys: on("file"), mode: pxe.Full, why: "dnsmasq leaves the header empty if option 67 is asked for; old firmware reads the header"},
	{keys: on("file"), mode: pxe.Proxy, kinds: ipxes, why: "a token that is good for one boot is part of the name"},
	{keys: on("file"), mode: pxe.Proxy, what: "DISCOVER", why: "dnsmasq tells the file on port 4011 only; where the ladder's rung is 43.6=8, or the firmware never asks there, it is needed at once"},
	{keys: on("file"), mode: pxe.Proxy, what: "4011", kinds: on(netboot.BIOS), why: "dnsmasq shows its menu again, as nothing was chosen from it; we have none"},
	{keys: on("file"), mode: pxe.Proxy, what: "4011", why: "a token that is good for one boot is part of the name"},
	{keys: on("siaddr"), mode: pxe.Proxy, kinds: append(on(netboot.BIOS), ipxes...), why: "to x86 BIOS dnsmasq names the server in the menu (43.8) only; we have no menu, and iPXE takes a proxy's offer as final only with siaddr and a file name"},
	{keys: on("sname"), kinds: on(netboot.BIOS), why: "some BIOS clients read the server from sname (PXE 2.1); dnsmasq fills it in once something was chosen from its menu"},
	{keys: on("sname"), mode: pxe.Proxy, what: "4011", why: "UEFI reads the server from siaddr; the name is for BIOS clients"},
	{keys: on("66"), why: "the server once more, for firmware that reads option 66 rather than siaddr"},

	// How PXE is spoken.
	{keys: on("43", "43.6"), mode: pxe.Full, why: "43.6=8 makes firmware use the file of this lease, whatever other boot servers there are"},
	{keys: on("43", "43.6", "43.8", "43.9", "43.10"), mode: pxe.Proxy, kinds: on(netboot.BIOS), why: "no menu: there is one thing to boot; in the offer, 43.6=8 says that its file counts"},
	{keys: on("43", "43.6", "43.10"), mode: pxe.Proxy, kinds: ipxes, why: "iPXE needs neither discovery control nor a prompt: siaddr and the file name make the answer final"},
	{keys: on("60"), mode: pxe.Full, why: "without it EDK2 takes the file of a lease too, but a router's PXE offer would win; with it and 43.6 ours is the one it prefers to all others"},
	{keys: on("97"), mode: pxe.Full, why: "RFC 4578 section 2.3: what the client sent is echoed; dnsmasq does so as a proxy only, and BIOS clients insist on it"},
	{keys: on("175"), mode: pxe.Full, why: "no-pxedhcp: iPXE need not wait two seconds for a proxy"},

	// DHCP.
	{keys: on("61"), why: "RFC 6842: the client identifier is echoed; dnsmasq is of before"},
	{keys: on("3"), mode: pxe.Full, why: "dnsmasq makes itself the router unless told otherwise; we tell one only with --dhcp-router"},
	{keys: on("28"), mode: pxe.Full, why: "follows from address and mask"},
	{keys: on("58", "59"), mode: pxe.Full, why: "half and seven eighths of the lease, as RFC 2131 section 4.4.5 says anyway"},
	{keys: on("12"), mode: pxe.Full, kinds: on(netboot.System), why: "dnsmasq tells the client the name that the client told; we do not name machines"},
	{keys: on("ciaddr"), mode: pxe.Proxy, what: "4011", why: "RFC 2131 table 3 leaves it open in an acknowledgement: the client's, or 0"},
	{keys: on("flags"), mode: pxe.Proxy, what: "DISCOVER", why: "RFC 2131 table 3: the flags are the client's; both broadcast the offer, as no address is given with it"},
	{keys: on("length"), why: "follows from the rest; 300 bytes at least (RFC 1542 section 2.1)"},
}
