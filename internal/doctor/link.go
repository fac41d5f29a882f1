package doctor

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"provision/pxe"
)

// readLink reads the state of an interface. What cannot be read is left empty.
func readLink(name string) link {
	l := link{Name: name, Members: make(map[string]int)}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				l.Local = append(l.Local, p.Addr())
			}
		}
	}

	ifi, err := net.InterfaceByName(name)
	if err != nil {
		l.Missing = true
		others, _ := net.Interfaces()
		for _, o := range others {
			l.Others = append(l.Others, o.Name)
		}
		return l
	}

	sys := filepath.Join("/sys/class/net", name)
	carrier, _ := os.ReadFile(sys + "/carrier") // the flag changes up to a second later
	l.Up, l.Carrier = ifi.Flags&net.FlagUp != 0, ifi.Flags&net.FlagRunning != 0 && string(carrier) != "0\n"
	l.MTU, l.MAC = ifi.MTU, ifi.HardwareAddr.String()
	l.Wireless = exists(sys+"/wireless") || exists(sys+"/phy80211")
	l.Default = hasDefaultRoute(name)
	addrs, _ := ifi.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			l.All = append(l.All, p)
		}
	}

	if len(l.All) > 0 {
		l.Address = l.All[0]
	}
	members, _ := os.ReadDir(sys + "/brif")
	for _, m := range members {
		text, _ := os.ReadFile(filepath.Join("/sys/class/net", m.Name(), "mtu"))
		if mtu, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			l.Members[m.Name()] = mtu
		}
	}

	return l
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// hasDefaultRoute reads /proc/net/route (proc_net(5)): one line for each route, with destination and mask in
// hexadecimal.
func hasDefaultRoute(name string) bool {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) > 7 && w[0] == name && w[1] == "00000000" && w[7] == "00000000" {
			return true
		}
	}
	return false
}

// ethernetMTU is the MTU in bytes that netbooting firmware assumes: it asks for TFTP blocks of 1468 bytes, which fill
// it.
const ethernetMTU = 1500

// judgeLink returns what is wrong with an interface, and whether it can be used at all.
func judgeLink(l link, mode pxe.Mode) (found []Finding, usable bool) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{"interface", s, l.Name, what, remedy})
	}
	switch {
	case l.Missing:
		add(Stop, "it does not exist", "name one that does with --interface: "+strings.Join(l.Others, ", "))
		return found, false
	case !l.Up:
		add(Stop, "it is down", "ip link set "+l.Name+" up")
		return found, false
	case !l.Carrier:
		add(Stop, "it has no carrier", "plug a cable in at both ends; if it is a bridge, give it a member: ip link "+
			"set IF master "+l.Name)
	}

	if !l.Address.IsValid() {
		add(Stop, "it has no IPv4 address", "ip address add ADDRESS/24 dev "+l.Name)
		return found, false
	}
	if l.Wireless {
		add(Warning, "it is wireless: firmware netboots by cable, and access points often keep broadcasts from one", "serve on a wired interface")
	}
	if l.Default && mode == pxe.Full {
		add(Warning, "it carries the default route, so that LAN likely has a DHCP server already", "if so, serve "+
			"with --dhcp proxy")
	}
	found = append(found, judgeMTU(l)...)
	return found, l.Carrier
}

// use makes the server's address the one that is examined, if the interface has it.
func (l *link) use(address netip.Addr) {
	for _, p := range l.All {
		if p.Addr() == address {
			l.Address = p
		}
	}
}

// judgeServed compares what the running server serves with the interface's present state. Faults of the interface
// itself are not repeated.
func judgeServed(l link, address netip.Addr, served bool) []Finding {
	has := func(p netip.Prefix) bool { return p.Addr() == address }
	switch {
	case !served:
		return []Finding{{"interface", Warning, l.Name, "the running server does not answer there", "if it is to, " +
			"start it with --interface " + l.Name + ", too"}}
	case l.Missing || !l.Up || len(l.All) == 0:
		return nil
	case !address.IsValid():
		return []Finding{{"interface", Stop, l.Name, fmt.Sprintf("the running server waits for it, although it is "+
			"up and has %s", enumerate(addresses(l.All))),
			"see in the server's log what it waits for: a port that is taken, or the address that " +
				"--interface " + l.Name + "=ADDRESS chose"}}
	case !slices.ContainsFunc(l.All, has):
		return []Finding{{"interface", Stop, l.Name, fmt.Sprintf("the running server answers with its address %s, "+
			"and the interface has %s now", address, enumerate(addresses(l.All))),
			fmt.Sprintf("ip address add %s/%d dev %s, or restart the server", address, l.All[0].Bits(), l.Name)}}
	}

	return nil
}

// addresses returns the IPv4 addresses as text.
func addresses(all []netip.Prefix) (texts []string) {
	for _, p := range all {
		texts = append(texts, p.Addr().String())
	}
	return texts
}

// judgeMTU returns what is wrong with the MTU of an interface.
func judgeMTU(l link) (found []Finding) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{"interface", s, l.Name, what, remedy})
	}
	var odd []string
	for _, m := range slices.Sorted(maps.Keys(l.Members)) {
		if l.Members[m] != l.MTU {
			odd = append(odd, fmt.Sprintf("%s has %d", m, l.Members[m]))
		}
	}

	switch {
	case len(odd) > 0:
		add(Warning, fmt.Sprintf("the bridge has MTU %d and its member %s: the larger frames are lost", l.MTU, enumerate(odd)),
			fmt.Sprintf("give all the same, such as: ip link set IF mtu %d", ethernetMTU))
	case l.MTU < ethernetMTU:
		add(Warning, fmt.Sprintf("its MTU is %d: firmware asks for TFTP blocks that need %d, and often drops "+
			"fragments", l.MTU, ethernetMTU),
			fmt.Sprintf("ip link set %s mtu %d", l.Name, ethernetMTU))
	case l.MTU > ethernetMTU:
		add(Hint, fmt.Sprintf("its MTU is %d and firmware's is %d: all is well only if every switch between takes both", l.MTU, ethernetMTU),
			fmt.Sprintf("if large files stall: ip link set %s mtu %d", l.Name, ethernetMTU))
	}

	return found
}

// neighbours returns how many machines on its links the kernel can know at the same time (gc_thresh3 in arp(7)); 0 if
// it does not tell, as in a network namespace.
func neighbours() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// judgeNeighbours warns if there are too many hosts for the kernel's neighbour table, with some margin for other
// machines. A kernel whose table is full drops even broadcasts.
func judgeNeighbours(limit, enrolled int) []Finding {
	if limit == 0 || enrolled < limit*8/10 {
		return nil
	}
	return []Finding{{"interface", Warning, "", fmt.Sprintf("%d hosts are enrolled, and this kernel knows %d "+
		"machines on its links at a time: of more that boot at once, some get no answer", enrolled, limit),
		fmt.Sprintf("sysctl -w net.ipv4.neigh.default.gc_thresh3=%d", 4*max(limit, enrolled))}}
}
