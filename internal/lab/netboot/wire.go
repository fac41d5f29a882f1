package netboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Place is a network namespace: Do runs f on a thread that is in it. lab.Client is one.
type Place interface{ Do(f func() error) error }

// Here is the network namespace of the process.
type Here struct{}

// Do runs f.
func (Here) Do(f func() error) error { return f() }

// A Wire is one network interface that any number of simulated machines share. DHCP goes through a packet socket, so
// that each machine has its own Ethernet address, sends from 0.0.0.0 and hears what is sent to an address that it does
// not have yet. TFTP, HTTP and port 4011 go through the kernel, each machine from its own leased address, and with its own
// Ethernet address (macs.go), unless it is behind a relay.
type Wire struct {
	name  string
	index int
	mac   net.HardwareAddr
	raw   *os.File
	work  chan func() // done on a thread that is in the namespace
	ended sync.WaitGroup

	mu     sync.Mutex
	inbox  map[string]chan datagram // by MAC
	addrs  map[netip.Addr]string    // whose MAC has it
	broken error                    // why nothing is received any more

	// What work's thread alone uses:
	shared bool // the kernel's frames are given machines' Ethernet addresses
	has    int  // addresses that the interface has
}

// datagram is what came to UDP port 68.
type datagram struct {
	from  netip.AddrPort
	data  []byte
	at    time.Time
	fault string // why a relay agent dropped it; then there is no data
	wakes bool   // it is a magic packet, without data
}

// Open uses an interface, which must be up. It makes the default route lead out of it, so that every server is
// reached, whatever the machines' networks are.
func Open(place Place, name string) (*Wire, error) {
	w := &Wire{work: make(chan func()), inbox: map[string]chan datagram{}, addrs: map[netip.Addr]string{}}
	opened := make(chan error)
	w.ended.Go(func() {
		if err := place.Do(func() error {
			err := w.open(name)
			opened <- err
			if err != nil {
				return nil
			}
			for f := range w.work {
				f()
			}
			return nil
		}); err != nil {
			opened <- err
		}
	})
	if err := <-opened; err != nil {
		w.ended.Wait()
		return nil, fmt.Errorf("use %s for simulated machines: %w", name, err)
	}
	w.ended.Go(w.read)
	return w, nil
}

// Close gives the interface back. No machine may be booting any more.
func (w *Wire) Close() error {
	err := w.raw.Close()
	close(w.work)
	w.ended.Wait()
	return err
}

func (w *Wire) open(name string) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	w.name, w.index, w.mac = name, ifi.Index, ifi.HardwareAddr
	if err := running(name); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(toPort68)), Filter: &toPort68[0]}),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}))
	if err != nil {
		return errors.Join(fmt.Errorf("set up the packet socket: %w", err), unix.Close(fd))
	}
	w.raw = os.NewFile(uintptr(fd), "packet socket")
	return nil
}

// running waits until the kernel lets packets through an interface, which may be a moment after it was set up.
func running(name string) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if ifi.Flags&net.FlagRunning != 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s has no cable, or is down: ip link set %s up", name, name)
		}
	}
}

// magic is the Ethernet type of magic packets.
const magic = 0x0842

// toPort68 is what `tcpdump -d 'udp dst port 68'` prints, for IPv4, and magic packets.
var toPort68 = [...]unix.SockFilter{
	{Code: 0x28, K: 12},                               // load the Ethernet type
	{Code: 0x15, Jt: 8, K: magic},                     // keep
	{Code: 0x15, Jf: 8, K: unix.ETH_P_IP},             // IPv4, or drop
	{Code: 0x30, K: 23},                               // load the protocol
	{Code: 0x15, Jf: 6, K: unix.IPPROTO_UDP},          // UDP, or drop
	{Code: 0x28, K: 20},                               // load the fragment offset
	{Code: 0x45, Jt: 4, K: 0x1fff},                    // a later fragment: drop
	{Code: 0xb1, K: 14},                               // skip the IP header
	{Code: 0x48, K: 16},                               // load the destination port
	{Code: 0x15, Jf: 1, K: 68}, {Code: 6, K: 1 << 18}, // keep
	{Code: 6}, // drop
}

// read hands what comes to port 68 to the machine whose hardware address the BOOTP header names.
func (w *Wire) read() {
	buf := make([]byte, 1<<16)
	for {
		n, err := w.raw.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // told once; the cable may be plugged in again
		}
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.mu.Lock()
				w.broken = err
				w.mu.Unlock()
			}
			return
		}
		if n > 20 && binary.BigEndian.Uint16(buf[12:]) == magic {
			w.mu.Lock()
			select {
			case w.inbox[string(buf[:6])] <- datagram{at: time.Now(), wakes: true}:
			default:
			}
			w.mu.Unlock()
			continue
		}
		if from, data, ok := parseUDP(buf[:n]); ok {
			w.deliver(datagram{from: from, data: append([]byte(nil), data...), at: time.Now()}, data)
		}
	}
}

// deliver finds the machine that a BOOTP packet is for. What nobody here waits for is dropped.
func (w *Wire) deliver(d datagram, bootp []byte) {
	if len(bootp) < 240 || bootp[0] != 2 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.inbox[string(bootp[28:34])] <- d: // of a MAC that is not here: nil, never ready
	default:
	}
}

// plug adds a machine. A MAC can be on the wire once.
func (w *Wire) plug(mac net.HardwareAddr) (<-chan datagram, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return nil, fmt.Errorf("receive from the wire: %w", w.broken)
	}
	if w.inbox[string(mac)] != nil {
		return nil, fmt.Errorf("a machine with MAC %s is on the wire already", mac)
	}
	w.inbox[string(mac)] = make(chan datagram, 32)
	return w.inbox[string(mac)], nil
}

// unplug takes a machine and its addresses away. What the kernel does about addresses takes a while, and w.mu is not held
// meanwhile: all that the machines receive waits for it.
func (w *Wire) unplug(mac net.HardwareAddr) error {
	w.mu.Lock()
	delete(w.inbox, string(mac))
	var all []netip.Addr
	for addr, owner := range w.addrs {
		if owner == string(mac) {
			all = append(all, addr)
		}
	}
	w.mu.Unlock()
	var err error
	for _, addr := range all {
		err = errors.Join(err, w.in(func() error { return w.address(unix.RTM_DELADDR, addr) }))
		w.mu.Lock()
		delete(w.addrs, addr)
		w.mu.Unlock()
	}
	return err
}

// configure gives a machine its address, and with near its Ethernet address. That another machine has it is the server's
// mistake, and told as such.
func (w *Wire) configure(mac net.HardwareAddr, addr netip.Addr, near bool) error {
	w.mu.Lock()
	owner, taken := w.addrs[addr]
	if !taken {
		w.addrs[addr] = string(mac)
	}
	w.mu.Unlock()
	switch {
	case taken && owner == string(mac):
		return nil
	case taken:
		return stopf("%s was leased to two machines at once: %s and %s", addr, net.HardwareAddr(owner), mac)
	}
	err := w.in(func() error {
		if near && (w.shared || string(mac) != string(w.mac)) {
			if err := w.own(addr, mac); err != nil {
				return err
			}
		}
		return w.add(addr)
	})
	if err != nil {
		w.mu.Lock()
		delete(w.addrs, addr)
		w.mu.Unlock()
	}
	return err
}

// in runs f in the namespace.
func (w *Wire) in(f func() error) (err error) {
	done := make(chan struct{})
	w.work <- func() { err = f(); close(done) }
	<-done
	return err
}

// add adds an address to the interface. With an interface's last address its routes go, so the first one brings back
// that which leads to all servers.
func (w *Wire) add(addr netip.Addr) error {
	if err := w.address(unix.RTM_NEWADDR, addr); err != nil || w.has > 1 {
		return err
	}
	if out, err := exec.Command("ip", "route", "replace", "default", "dev", w.name, "scope", "link").CombinedOutput(); err != nil {
		return fmt.Errorf("make %s the default route: %w: %s", w.name, err, out)
	}
	return nil
}

// address adds an address to the interface or takes it away (rtnetlink(7)).
func (w *Wire) address(op uint16, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	ne := binary.NativeEndian
	msg := ne.AppendUint32(nil, 32)
	msg = ne.AppendUint16(msg, op)
	flags := unix.NLM_F_REQUEST | unix.NLM_F_ACK
	if op == unix.RTM_NEWADDR {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	msg = ne.AppendUint16(msg, uint16(flags))
	msg = append(msg, make([]byte, 8)...)       // sequence number, port
	msg = append(msg, unix.AF_INET, 32, 0, 0)   // prefix length, flags, scope
	msg = ne.AppendUint32(msg, uint32(w.index)) //
	msg = ne.AppendUint16(msg, 8)               // length of the one attribute
	msg = ne.AppendUint16(msg, unix.IFA_LOCAL)  //
	msg = append(msg, addr.AsSlice()...)        //
	answer := make([]byte, 4096)
	n := 0
	if err = unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		n, _, err = unix.Recvfrom(fd, answer, 0)
	}
	if err == nil && n >= 20 {
		if errno := int32(ne.Uint32(answer[16:])); errno != 0 {
			err = unix.Errno(-errno)
		}
	}
	if err != nil {
		return fmt.Errorf("change address %s of the interface: %w", addr, err)
	}
	if op == unix.RTM_NEWADDR {
		w.has++
	} else {
		w.has--
	}
	return nil
}

// udp is a socket of a machine that has an address.
func (w *Wire) udp(local netip.AddrPort) (conn *net.UDPConn, err error) {
	err = w.in(func() error {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(local))
		return err
	})
	return conn, err
}

// tcp is a connection that is being made: the first write waits for it, and fails if it cannot be made. (A dialer would
// hold the namespace's thread until then.)
func (w *Wire) tcp(local netip.Addr, to netip.AddrPort) (conn net.Conn, err error) {
	err = w.in(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "tcp")
		defer f.Close()
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: local.As4()}); err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil && err != unix.EINPROGRESS {
			return err
		}
		conn, err = net.FileConn(f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect from %s to %s: %w", local, to, err)
	}
	return conn, nil
}

// broadcast sends a BOOTP packet as a machine without an address does.
func (w *Wire) broadcast(mac net.HardwareAddr, bootp []byte) error {
	_, err := w.raw.Write(append(ethernet(mac, unix.ETH_P_IP), UDP(
		netip.AddrPortFrom(netip.IPv4Unspecified(), 68), netip.AddrPortFrom(everyone, 67), bootp)...))
	if err != nil {
		return fmt.Errorf("send a DHCP packet: %w", err)
	}
	return nil
}

var everyone = netip.AddrFrom4([4]byte{255, 255, 255, 255})
