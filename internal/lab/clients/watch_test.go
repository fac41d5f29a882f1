package clients

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/lab"
	"provision/internal/lab/yardstick"
)

// watch has tshark judge, when the test ends, all UDP that the server sent on a LAN.
func (w *world) watch(l *lab.LAN) {
	w.Helper()
	ifi, err := net.InterfaceByName(l.Interface)
	must(w.T, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(w.T, err)
	sock := os.NewFile(uintptr(fd), "packet socket")
	must(w.T, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	must(w.T, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: ifi.Index})) // sees what is sent, too
	seen := make(chan []yardstick.Datagram)
	go func() {
		var all []yardstick.Datagram
		buf := make([]byte, 1<<16)
		for {
			n, err := sock.Read(buf)
			if err != nil {
				break
			}
			if d, ok := datagram(buf[:n]); ok {
				all = append(all, d)
			}
		}
		seen <- all
	}()
	w.Cleanup(func() {
		must(w.T, sock.SetReadDeadline(time.Now()))
		all := <-seen
		must(w.T, sock.Close())
		w.judge(l.Address.Addr(), all)
	})
}

func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// datagram reads an IPv4 packet that holds whole UDP. Of TFTP's data and acknowledgements only the first few are kept.
func datagram(ip []byte) (d yardstick.Datagram, ok bool) {
	const fragmented = 0x3fff // more fragments follow, or it is not the first
	if len(ip) < 28 || ip[0]>>4 != 4 || ip[9] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(ip[6:])&fragmented != 0 {
		return d, false
	}
	udp := ip[int(ip[0]&15)*4:]
	port := func(at int) uint16 { return binary.BigEndian.Uint16(udp[at:]) }
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(ip[i : i+4])) }
	d = yardstick.Datagram{From: netip.AddrPortFrom(at(12), port(0)), To: netip.AddrPortFrom(at(16), port(2))}
	d.Data = append(d.Data, udp[8:port(4)]...)
	block := len(d.Data) >= 4 && d.Data[0] == 0 && (d.Data[1] == 3 || d.Data[1] == 4) && d.From.Port() > 1023 && d.To.Port() > 1023
	return d, !block || binary.BigEndian.Uint16(d.Data[2:]) < 3
}

// judge passes the server's packets if tshark finds nothing wrong with them. It is shown the machines' as well: a TFTP
// transfer is recognised by its request.
func (w *world) judge(server netip.Addr, all []yardstick.Datagram) {
	wrong, err := yardstick.Malformed(context.Background(), all)
	must(w.T, err)
	sent := 0
	for _, d := range all {
		if d.From.Addr() == server {
			sent++
		}
	}
	if (sent == 0) != w.quiet {
		w.Errorf("%d packets of the server's were seen", sent)
	}
	for _, line := range wrong {
		if strings.Contains(line, ", "+server.String()+":") {
			w.Error("tshark: ", line)
		}
	}
	w.Logf("tshark decoded %d packets of the server's", sent)
}
