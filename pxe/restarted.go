package pxe

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// restarts remembers how the machines of hosts asked for addresses and for boots, to tell what a restarted one runs.
type restarts struct {
	mu     sync.Mutex
	byHost map[string]*restart
}

// restart is what one machine asked.
type restart struct {
	installer []string  // how its installer asks, see manner
	spent     time.Time // which restart the rest is about
	stage1    string    // how its stage 1 asks
	returns   int       // how often it asked for a boot since
	last      netbootAsk
}

// netbootAsk is a DISCOVER of firmware.
type netbootAsk struct {
	from string // which program on which card
	at   time.Time
	xid  dhcpv4.TransactionID
	secs uint16
}

// maxManners bounds how many ways of asking are kept of an installer.
const maxManners = 8

// of is what is known of the host's machine since its restart. r.mu is held.
func (r *restarts) of(h *hosts.Host) *restart {
	if r.byHost == nil {
		r.byHost = make(map[string]*restart)
	}
	m := r.byHost[h.Name]
	if m == nil {
		m = new(restart)
		r.byHost[h.Name] = m
	}
	if h.Restarting() && !m.spent.Equal(h.Permit.Spent) {
		*m = restart{installer: m.installer, spent: h.Permit.Spent, returns: h.Restart.Returns}
	}
	return m
}

// watchRestart tells what a DHCP request says of a machine that was told to start from its disk.
func (e *exchange) watchRestart() {
	if e.host == nil {
		return
	}
	ev := e.restarts.request(e.request, e.client, e.host, e.Now())
	if ev.Kind == "" {
		return
	}
	if _, err := e.Hosts.Apply(e.host.Name, ev); err != nil { // it proved itself meanwhile
		e.Log.Debug("keep what a restarted machine did", "host", e.host.Name, "err", err)
	}
}

// request takes note of a request, and returns what is worth an event; its kind is empty if nothing is.
func (r *restarts) request(m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host, now time.Time) (ev hosts.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.of(h)
	switch {
	case !h.Restarting():
		if c.profile().loads == nothing && installerRuns(h) {
			known.isInstaller(askingManner(m))
		}
	case c.profile().loads != nothing:
		return known.netboot(m, c, now)
	case h.Restart.Seen == "" && isSystem(m) && known.isHost(m, h):
		ev = hosts.Event{Kind: hosts.EventSeen, Message: fmt.Sprintf("asked for an address as %s, from %s", h.Expected.HostName, c.MAC)}
	}

	return ev
}

// installerRuns reports whether what asks is the installer: the system that it replaces may ask just as its successor.
func installerRuns(h *hosts.Host) bool {
	return h.State == hosts.StateLive || h.State == hosts.StateInstalling ||
		h.State == hosts.StateBooting && !h.Boot.Used.IsZero()
}

func (r *restart) isInstaller(manner string) {
	if !slices.Contains(r.installer, manner) && len(r.installer) < maxManners {
		r.installer = append(r.installer, manner)
	}
}

// isHost reports whether the host's own system asks: by its name, and not as the installer or stage 1 do.
func (r *restart) isHost(m *dhcpv4.DHCPv4, h *hosts.Host) bool {
	how := askingManner(m)
	switch {
	case h.Expected.HostName == "" || !strings.EqualFold(hostName(m), h.Expected.HostName), slices.Contains(r.installer,
		how):
		return false
	case !h.Expected.Stage1.Network:
		return true
	case strings.HasPrefix(m.ClassIdentifier(), "udhcp"): // busybox's client, of a stage 1 without systemd
		return false
	case r.stage1 == "": // stage 1 comes first
		r.stage1 = how
	}

	return how != r.stage1
}

// isSystem reports whether nothing in a request speaks of firmware or a boot loader.
func isSystem(m *dhcpv4.DHCPv4) bool {
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientSystemArchitectureType,
		dhcpv4.OptionClientNetworkInterfaceIdentifier,
		dhcpv4.OptionClientMachineIdentifier, etherboot} {
		if m.Options.Has(code) {
			return false
		}
	}
	user := unframed(m.Options.Get(dhcpv4.OptionUserClassInformation))
	asks := m.MessageType() == dhcpv4.MessageTypeDiscover || m.MessageType() == dhcpv4.MessageTypeRequest
	return asks && string(user) != "iPXE"
}

// askingManner is how a program asks: what two programs on one machine differ in, though not two requests of one.
func askingManner(m *dhcpv4.DHCPv4) string {
	return fmt.Sprintf("%s|%x|%x|%s", m.ClassIdentifier(), m.Options.Get(dhcpv4.OptionClientIdentifier),
		m.Options.Get(dhcpv4.OptionParameterRequestList), hostName(m))
}

// hostName is the first label of the name that a client says it has: option 12, or 81 (RFC 4702), which has either
// plain text or DNS labels behind three bytes.
func hostName(m *dhcpv4.DHCPv4) string {
	name := []byte(m.HostName())
	if fqdn := m.Options.Get(dhcpv4.OptionFQDN); len(name) == 0 && len(fqdn) > 3 {
		name = fqdn[3:]
		const encoded = 0x04
		if n := int(name[0]); fqdn[0]&encoded != 0 && n < len(name) {
			name = name[1 : 1+n]
		}
	}
	label, _, _ := bytes.Cut(name, []byte("."))
	return strings.TrimRight(string(label), "\x00")
}

// Firmware asks several times in one boot, of each card and by each protocol. Its next boot begins where the same
// program on the same card asks again after a pause, in another exchange or with its clock set back; or after a long
// one. What other programs ask is part of the same boot.
const (
	shortPause = 10 * time.Second
	longPause  = 90 * time.Second
)

// netboot takes note of firmware that asks for a boot, and tells of the second time, the fourth, the eighth and so on.
func (r *restart) netboot(m *dhcpv4.DHCPv4, c bootClient, now time.Time) (ev hosts.Event) {
	if m.MessageType() != dhcpv4.MessageTypeDiscover || c.Ours {
		return ev
	}
	ask := netbootAsk{from: fmt.Sprint(c.MAC, c.Kind, c.Arch), at: now, xid: m.TransactionID, secs: m.NumSeconds}
	if r.last.from != "" && ask.from != r.last.from {
		return ev
	}
	pause, last := now.Sub(r.last.at), r.last
	r.last = ask
	anew := pause >= longPause || pause >= shortPause && (ask.xid != last.xid || ask.secs < last.secs)
	if last.from != "" && !anew {
		return ev
	}
	r.returns++
	if r.returns < 2 || r.returns&(r.returns-1) != 0 {
		return ev
	}
	return hosts.Event{Kind: hosts.EventReturned, Count: r.returns,
		Message: fmt.Sprintf("came back to the network %d times since it was told to start from its disk: %s", r.returns, hosts.LookAt)}
}
