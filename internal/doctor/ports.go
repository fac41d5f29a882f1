package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"provision/pxe"
)

// portUse is a port to which machines send.
type portUse struct {
	Proto  string // udp, tcp
	Number int
}

func (p portUse) String() string { return fmt.Sprintf("%s port %d", p.Proto, p.Number) }

// usedPorts returns the ports on which a server in this mode listens. http is its HTTP port.
func usedPorts(mode pxe.Mode, http int) []portUse {
	if mode == pxe.Off {
		return []portUse{{"udp", 69}, {"tcp", http}}
	}
	return []portUse{{"udp", 67}, {"udp", 69}, {"udp", 4011}, {"tcp", http}}
}

// takenPorts tries to open each port as the server will, except those that the running server has open. dhcp reports
// whether another program has the DHCP port.
func (d *Doctor) takenPorts(ctx context.Context, l link) (found []Finding, dhcp bool) {
	var opened []portUse
	if d.Server != nil && d.Server.Interfaces[l.Name].IsValid() {
		opened = usedPorts(d.Server.Mode, d.Server.HTTPPort)
	}
	for _, p := range usedPorts(d.Mode, d.HTTPPort) {
		if slices.Contains(opened, p) {
			continue
		}
		err := tryPort(ctx, l, p)
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			found = append(found, takenPort(l.Name, p, pxe.PortOwner(p.Proto, p.Number)))
			dhcp = dhcp || p.Number == 67
		case err != nil:
			return append(found, Finding{"port", Warning, l.Name, fmt.Sprintf("%s cannot be tried: %v", p, err), "see what the error says; the system's log may tell more"}), dhcp
		}
	}

	return found, dhcp
}

// tryPort opens and closes a port.
func tryPort(ctx context.Context, l link, p portUse) error {
	if p.Proto == "tcp" {
		c, err := new(net.ListenConfig).Listen(ctx, "tcp4", netip.AddrPortFrom(l.Address.Addr(), uint16(p.Number)).String())
		if err == nil {
			err = c.Close()
		}
		return err
	}

	// Other interfaces may have a server of their own on the port, such as libvirt's dnsmasq, which does not matter.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctl := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), l.Name) })
		return errors.Join(ctl, err)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", p.Number))
	if err == nil {
		err = c.Close()
	}
	return err
}

// takenPort returns the finding for a port that a program has open; owner is empty if the program is not known.
func takenPort(ifname string, p portUse, owner string) Finding {
	what := p.String() + " is taken"
	if owner != "" {
		what += " by " + owner
	}
	remedy := "stop that program"
	switch {
	case strings.HasPrefix(owner, "provision "):
		remedy = "if that is the server, name its socket with --socket"
	case p.Proto == "tcp":
		remedy += ", or choose another port: --http :8080"
	case p.Number != 69:
		remedy += ", or leave DHCP to it: --dhcp off, and `provision doctor --dhcp-config dnsmasq` for its settings"
	}

	return Finding{"port", Stop, ifname, what, remedy}
}
