package media

import (
	"cmp"
	"fmt"
	"strings"
)

// rounds is how often the script of a medium asks before it gives up: some ten
// minutes.
const rounds = 30

// Script returns the iPXE script of a medium. For each network card (of a host,
// its own alone) it gets an address by DHCP and then asks the server, which
// decides by MAC and permit, as for a machine that netboots. The server hands out
// a script that starts the installer, or one that ends, which means that there is
// nothing to install. Then UEFI goes on to its next boot option.
func Script(to Purpose) []byte {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("#!ipxe")
	say("echo provision: boot medium for %s", to.whose())
	say("set user-class Tinkerbell") // so that the server takes it for the iPXE that it hands out
	say("set round:int32 0")
	say(":round")
	say("inc round")
	say("clear mine ||")
	say("set idx:int32 0")
	say(":card")
	say("isset ${net${idx}/mac} || goto asked")
	for _, mac := range to.MACs {
		say("iseq ${net${idx}/mac} %s && goto ask ||", mac)
	}
	if to.Host != "" {
		say("goto next")
	}
	say(":ask")
	say("set mine yes")
	say("echo provision: network card ${net${idx}/mac}: waiting for its link, and for an address by DHCP")
	say("ifconf --configurator dhcp net${idx} || goto noaddress") // `dhcp` waits for an IPv6 router, too
	for _, server := range to.Servers {
		say("echo provision: ${net${idx}/mac} has the address ${net${idx}/ip}; asking %s, try ${round} of %d",
			server, rounds)
		say("chain --autofree "+
			"%s/ipxe?platform=${platform}&arch=${buildarch}&mac=${net${idx}/mac}&uuid=${uuid}&from=medium"+
			" && goto local ||", server)
	}

	say("echo provision: ${net${idx}/mac}: no answer from %s", strings.Join(to.Servers, " or "))
	say("echo Does provision serve run there, and is it reached from this network?")
	say("goto close")
	say(":noaddress")
	say("echo provision: ${net${idx}/mac}: no address")
	say("echo Is the cable in, and is there a DHCP server on this network?")
	say(":close")
	say("echo Is the machine enrolled? On the server: provision enroll ${net${idx}/mac} %s", cmp.Or(to.Host, "HOST"))
	say("ifclose net${idx} ||") // the installer is told the card that was opened last
	say(":next")
	say("inc idx")
	say("goto card")
	say(":asked")
	say("isset ${mine} || goto stranger")
	say("iseq ${round} %d && goto local ||", rounds)
	say("prompt --key s --timeout 10000 provision: asking again in 10 seconds; press s for a shell && shell ||")
	say("goto round")
	say(":stranger")
	say("echo")
	say("isset ${net0/mac} && echo provision: this medium is for %s; this machine has"+
		" ${net0/mac} ${net1/mac} ${net2/mac} ${net3/mac} ||", to.whose())
	say("isset ${net0/mac} || echo provision: no network card that iPXE or the firmware has a driver for")
	say("prompt --key s --timeout 30000 provision: starting from the disk in 30 seconds; press s for a shell && " +
		"shell ||")
	say(":local")
	say("echo provision: going on to the next boot option")
	say("exit 1") // of EFI programs, only a failure lets firmware try the next
	return []byte(b.String())
}
