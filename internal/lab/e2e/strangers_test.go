package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"provision/hosts"
	"provision/internal/lab"
)

// patience is how long silence is listened to. The server answers within
// milliseconds those whom it answers at all, which each test shows first.
const patience = 2 * time.Second

// prober speaks netboot's protocols from a client's place on the LAN.
type prober struct {
	w *world
	c *lab.Client
}

func (w *world) prober(name, mac string, last int) prober {
	w.t.Helper()
	c, err := w.lan.Client(w.ctx, name, mac, netip.PrefixFrom(w.addr(last), 24))
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	return prober{w, c}
}

// ask sends a datagram from a port and returns the answer, nil for silence.
func (p prober) ask(from int, to netip.AddrPort, data []byte) (answer []byte) {
	p.w.t.Helper()
	err := p.c.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				unix.BindToDevice(int(fd), p.c.Interface)
			})
		}}
		conn, err := lc.ListenPacket(p.w.ctx, "udp4", fmt.Sprintf(":%d", from))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.WriteTo(data, net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 4096)
		if n, _, err := conn.ReadFrom(buf); err == nil {
			answer = buf[:n]
		}
		return nil
	})
	p.w.must(err)
	return answer
}

// pxe asks as UEFI firmware does.
func (p prober) pxe(port int, kind dhcpv4.MessageType, uuid string) *dhcpv4.DHCPv4 {
	p.w.t.Helper()
	mac, err := net.ParseMAC(p.c.MAC)
	p.w.must(err)
	raw, err := hex.DecodeString("00" + strings.ReplaceAll(uuid, "-", ""))
	p.w.must(err)
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003001")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, raw))
	p.w.must(err)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), uint16(port))
	if port == 4011 {
		to = netip.AddrPortFrom(p.w.lan.Address.Addr(), 4011)
		m.ClientIPAddr = p.w.addr(50).AsSlice()
	}
	data := p.ask(68, to, m.ToBytes())
	if data == nil {
		return nil
	}
	r, err := dhcpv4.FromBytes(data)
	p.w.must(err)
	return r
}

// tftp asks for a file and returns the first packet of the answer.
func (p prober) tftp(name string) []byte {
	p.w.t.Helper()
	return p.ask(0, netip.AddrPortFrom(p.w.lan.Address.Addr(), 69), []byte("\x00\x01"+name+"\x00octet\x00"))
}

// http asks for a path. No answer at all is status 0.
func (p prober) http(path string) (status int) {
	p.w.t.Helper()
	p.w.must(p.c.Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(p.w.lan.Address.Addr().String(), "80"), 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		answer, err := io.ReadAll(conn)
		if len(answer) > 0 {
			fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
		}
		return err
	}))
	return status
}

const uuid1, uuid2 = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"

// TestStrangers: an unknown MAC gets no answer at all on 67, 69, 4011 and
// HTTP, where an enrolled one does, and is listed as discovered.
func TestStrangers(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"server", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mode)
			friend := w.prober("friend"+mode, "52:54:00:99:00:01", 50)
			w.provision("enroll", friend.c.MAC, "alpha")
			offer := friend.pxe(67, dhcpv4.MessageTypeDiscover, uuid1)
			for offer != nil && offer.BootFileName == "" { // the router's came first
				offer = friend.pxe(67, dhcpv4.MessageTypeDiscover, uuid1)
			}
			if offer == nil {
				t.Fatal("an enrolled machine got no answer on port 67; the test would show nothing")
			}
			if friend.pxe(4011, dhcpv4.MessageTypeRequest, uuid1) == nil {
				t.Error("an enrolled machine got no answer on port 4011")
			}
			if data := friend.tftp(offer.BootFileName); len(data) < 4 || data[1] != 3 {
				t.Errorf("an enrolled machine got no DATA from port 69, but %x", data)
			}
			token := strings.Split(offer.BootFileName, "/")[1]
			if status := friend.http("/boot/" + token + "/script"); status != http.StatusOK {
				t.Errorf("an enrolled machine got %d from HTTP", status)
			}

			stranger := w.prober("strange"+mode, "52:54:00:99:00:02", 51)
			if mode == "server" {
				if r := stranger.pxe(67, dhcpv4.MessageTypeDiscover, uuid2); r != nil {
					t.Errorf("port 67 answered a stranger: %s", r.Summary())
				}
			} else if r := stranger.pxe(67, dhcpv4.MessageTypeDiscover, uuid2); r != nil && r.ServerIdentifier().Equal(w.lan.Address.Addr().AsSlice()) {
				t.Errorf("port 67 answered a stranger: %s", r.Summary())
			}
			if r := stranger.pxe(4011, dhcpv4.MessageTypeRequest, uuid2); r != nil {
				t.Errorf("port 4011 answered a stranger: %s", r.Summary())
			}
			for _, name := range []string{"ipxe.efi", "snp.efi", "undionly.kpxe", "boot/ipxe.efi", "../state/state.db"} {
				if data := stranger.tftp(name); data != nil {
					t.Errorf("port 69 answered a stranger who asked for %s: %x", name, data)
				}
			}
			for _, path := range []string{"/", "/boot/", "/boot/00000000000000000000000000000000/kernel"} {
				if status := stranger.http(path); status != 0 {
					t.Errorf("HTTP answered a stranger who asked for %s: %d", path, status)
				}
			}
			if status := stranger.http("/boot/" + token + "/kernel"); status != 0 {
				t.Errorf("a stranger with a stolen URL got %d", status)
			}
			if out := w.provision("discovered"); !strings.Contains(out, stranger.c.MAC) || !strings.Contains(out, "x86-64 UEFI") || strings.Contains(out, friend.c.MAC) {
				t.Errorf("discovered:\n%s", out)
			}
		})
	}
}

// TestExpiredPermit: the machine gets its lease and no boot, and the log says
// why.
func TestExpiredPermit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "server")
	late := w.prober("late", "52:54:00:99:00:03", 50)
	w.provision("enroll", late.c.MAC, "alpha", "--permit", "1ms")
	r := late.pxe(67, dhcpv4.MessageTypeDiscover, uuid1)
	if r == nil || r.YourIPAddr.IsUnspecified() || r.BootFileName != "" {
		t.Errorf("%v", r)
	}
	if log := w.provision("logs", "alpha"); !strings.Contains(log, "refused: the permit expired") {
		t.Errorf("log:\n%s", log)
	}
}

var tokenURL = regexp.MustCompile(`/boot/[0-9a-f]{32}/`)

// impostor takes the MAC of a host that is being installed. It must get
// nothing of the host's boot.
func impostor(w *world, m *lab.Machine) {
	w.t.Helper()
	w.await("alpha", "initrd", func(ev hosts.Event) bool { return strings.Contains(ev.Message, "initrd whole") })

	// While the first machine's kernel starts: same MAC, other hardware.
	p := w.prober("impostor", m.MAC, 66)
	if status := p.http(tokenURL.FindString(m.Console().Text()) + "initrd"); status != http.StatusNotFound {
		w.t.Errorf("the used token served the impostor: %d", status)
	}
	if r := p.pxe(67, dhcpv4.MessageTypeDiscover, uuid2); r != nil {
		w.t.Errorf("the impostor was answered: %s", r.Summary())
	}
	stop := p.sshd()
	w.await("alpha", "the wrong key", func(ev hosts.Event) bool {
		return strings.Contains(ev.Message, w.addr(66).String()+" answers SSH with another key")
	})
	stop()
	p.c.Close()

	// While the installer is up: a clone, down to the UUID.
	w.awaitPhase("alpha", hosts.PhaseDisks)
	p = w.prober("clone", m.MAC, 67)
	p.http("/") // a TCP handshake outlasts the moment in which the new cable drops packets
	if r := p.pxe(67, dhcpv4.MessageTypeDiscover, w.machineID("alpha")); r == nil || r.BootFileName != "" {
		w.t.Errorf("a clone was told to boot, or the test shows nothing: %v", r)
	}
	p.c.Close()
}

// impostorFailed: the log tells of each attempt, and there was one boot.
func impostorFailed(w *world) {
	w.t.Helper()
	log := w.provision("logs", "alpha")
	for _, want := range []string{"asked for initrd with the token of a boot that is over", "another machine (UUID " + uuid2, "its installer is up and answers at"} {
		if !strings.Contains(log, want) {
			w.t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if s := w.status("alpha"); s.Permit.Boots != 1 {
		w.t.Errorf("%d boots", s.Permit.Boots)
	}
}

// machineID is the UUID of the machine that boots a host, as it told it.
func (w *world) machineID(host string) string {
	w.t.Helper()
	for _, ev := range w.events(host) {
		if ev.Machine != "" {
			return ev.Machine
		}
	}
	w.t.Fatal("the machine told no UUID")
	return ""
}

// sshd answers on port 22 with a key of its own, as a strange installer would.
func (p prober) sshd() (stop func()) {
	p.w.t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	p.w.must(err)
	key, err := ssh.NewSignerFromKey(private)
	p.w.must(err)
	var l net.Listener
	p.w.must(p.c.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(context.Background(), "tcp4", ":22")
		return err
	}))
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(key)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if c, _, _, err := ssh.NewServerConn(conn, config); err == nil {
				p.w.t.Error("the server logged in to the impostor")
				c.Close()
			}
			conn.Close()
		}
	}()
	return func() { l.Close(); <-done }
}

// TestWrongDisk: the layout's disk is not on the machine. The error lists
// those that are, nothing is burned, and after the flake is mended and the
// host enrolled again, the installer that still runs goes on.
func TestWrongDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "server")
	m := w.machine("alpha")
	m.Disks[0].Bus = "nvme"
	blank, err := m.Disks[0].PartitionTable()
	w.must(err)
	w.enroll(m, "alpha")
	w.on(m)
	out, err := w.try("wait", "alpha")
	if err == nil || !strings.Contains(out, "/dev/vda is not a disk of this machine; it has /dev/nvme0n1") || !strings.Contains(out, "LAB-alpha") {
		t.Fatalf("%v\n%s", err, out)
	}
	if s := w.status("alpha"); s.State != hosts.StateFailed || !s.Permit.Burned.IsZero() {
		t.Errorf("%+v", s)
	}
	if now, err := m.Disks[0].PartitionTable(); err != nil || now != blank {
		t.Errorf("the disk was touched: %v", err)
	}
	w.fleet.Disk = "/dev/nvme0n1"
	w.writeFleet()
	w.enroll(m, "alpha")
	w.installed(m, "alpha")
	if s := w.status("alpha"); s.Permit.Boots != 0 {
		t.Errorf("it booted %d times more", s.Permit.Boots)
	}
	if !bytes.Contains([]byte(m.Console().Text()), []byte("login:")) {
		t.Error("it is not up")
	}
}
