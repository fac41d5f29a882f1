package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// What the kernel sends for one of several machines carries the interface's Ethernet address. nftables puts the
// machine's in its place, which it learns when the machine announces its address, and has the kernel take what is sent to
// that. (A map that is changed from outside takes the kernel ten milliseconds each time.)
const machineMACs = `table netdev machines {
	map macs { type ipv4_addr : ether_addr; size 65535; flags dynamic; }
	chain out {
		type filter hook egress device "DEVICE" priority 0;
		ether daddr ff:ff:ff:ff:ff:ff arp operation reply update @macs { arp saddr ip : arp saddr ether } accept
		ether type ip ether saddr set ip saddr map @macs
		ether type arp ether saddr set arp saddr ip map @macs
		arp saddr ether set arp saddr ip map @macs
	}
	chain in {
		type filter hook ingress device "DEVICE" priority 0;
		meta pkttype other meta pkttype set host
	}
}
`

// own gives what is sent from an address this Ethernet address. It is called in the namespace.
func (w *Wire) own(addr netip.Addr, mac net.HardwareAddr) error {
	if !w.shared {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(strings.ReplaceAll(machineMACs, "DEVICE", w.name))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("give machines Ethernet addresses of their own: %w: %s", err, out)
		}
		w.shared = true
	}
	return w.announce(mac, addr)
}

// announce says whose address it is from now on: a gratuitous ARP reply (RFC 5227 section 3).
func (w *Wire) announce(mac net.HardwareAddr, addr netip.Addr) error {
	frame := append(ethernet(mac, unix.ETH_P_ARP), 0, 1, 8, 0, 6, 4, 0, 2) // Ethernet, IPv4, reply
	frame = append(append(frame, mac...), addr.AsSlice()...)
	frame = append(append(frame, mac...), addr.AsSlice()...)
	if _, err := w.raw.Write(frame); err != nil {
		return fmt.Errorf("announce that %s is at %s: %w", addr, mac, err)
	}
	return nil
}
