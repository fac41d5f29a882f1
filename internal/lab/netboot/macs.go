package netboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// What the kernel sends for one of several machines carries the interface's Ethernet address. nftables puts the machine's
// in its place, and has the kernel take what is sent to that.
const machineMACs = `table netdev machines {
	map macs { type ipv4_addr : ether_addr; }
	chain out {
		type filter hook egress device "DEVICE" priority 0;
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
	const newElement = 12 // NFT_MSG_NEWSETELEM
	return changeMACs(newElement, attribute(1|nested, attribute(1, addr.AsSlice())), attribute(2|nested, attribute(1, mac)))
}

func (w *Wire) disown(addr netip.Addr) error {
	if !w.shared {
		return nil
	}
	const deleteElement = 14 // NFT_MSG_DELSETELEM
	err := changeMACs(deleteElement, attribute(1|nested, attribute(1, addr.AsSlice())))
	if errors.Is(err, unix.ENOENT) { // of the machine whose address the interface has
		return nil
	}
	return err
}

const nested = 1 << 15 // NLA_F_NESTED

// attribute is one of netlink's, padded.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// changeMACs adds an element to the map of machineMACs, or takes one away. The nft program would take as long as a
// thousand machines have in all.
func changeMACs(what uint16, element ...[]byte) error {
	const (
		subsystem  = 10 // NFNL_SUBSYS_NFTABLES
		family     = 5  // NFPROTO_NETDEV
		begin, end = 0x10, 0x11
	)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	var elements []byte
	for _, part := range element {
		elements = append(elements, part...)
	}
	body := append(attribute(1, []byte("machines\x00")), attribute(2, []byte("macs\x00"))...)
	body = append(body, attribute(3|nested, attribute(1|nested, elements))...)
	batch := message(begin, 0, 0, subsystem, nil)
	batch = append(batch, message(subsystem<<8|what, unix.NLM_F_CREATE|unix.NLM_F_ACK, family, 0, body)...)
	batch = append(batch, message(end, 0, 0, subsystem, nil)...)
	answer := make([]byte, 4096)
	n := 0
	if err = unix.Sendto(fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		n, _, err = unix.Recvfrom(fd, answer, 0)
	}
	if err == nil && n >= 20 {
		if errno := int32(binary.NativeEndian.Uint32(answer[16:])); errno != 0 {
			err = unix.Errno(-errno)
		}
	}
	if err != nil {
		return fmt.Errorf("change the machines' Ethernet addresses: %w", err)
	}
	return nil
}

// message is a netlink message with netfilter's header.
func message(kind, flags uint16, family byte, resource uint16, body []byte) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint32(nil, uint32(20+len(body)))
	b = ne.AppendUint16(b, kind)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(b, make([]byte, 8)...) // sequence number, port
	b = append(b, family, 0)
	b = binary.BigEndian.AppendUint16(b, resource)
	return append(b, body...)
}
