package handover

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Facts describe a running machine, as far as it matters for installing it.
type Facts struct {
	Kernel string `json:"kernel"` // its release
	Arch   string `json:"arch"`   // "x86_64", "aarch64"
	Memory uint64 `json:"memory"` // bytes of memory that the kernel manages
	Free   uint64 `json:"free"`   // bytes that are available without swapping

	UEFI       bool   `json:"uefi"`
	SecureBoot string `json:"secure_boot"` // "on", "off", "unknown"
	Lockdown   string `json:"lockdown"`    // mode of the kernel: "none", "integrity", "confidentiality", "unknown"

	Kexec         bool `json:"kexec"`           // the kernel supports kexec
	KexecFileLoad bool `json:"kexec_file_load"` // it has the system call kexec_file_load
	KexecTool     bool `json:"kexec_tool"`      // the program kexec is installed
	KexecDisabled bool `json:"kexec_disabled"`  // by the sysctl kernel.kexec_load_disabled, until the next boot
	KexecLoaded   bool `json:"kexec_loaded"`    // a kernel is loaded and can be started

	ID        string `json:"id"`         // from os-release: "nixos", "debian"
	VariantID string `json:"variant_id"` // from os-release: "installer"

	Interfaces []Interface `json:"interfaces"` // network cards

	// Addrs, RoutesV4 and RoutesV6 are the output of ip -json, as the kexec script of nixos-images saves it; left out if
	// the machine's ip does not support JSON.
	Addrs    json.RawMessage `json:"addrs,omitempty"`
	RoutesV4 json.RawMessage `json:"routes_v4,omitempty"`
	RoutesV6 json.RawMessage `json:"routes_v6,omitempty"`
}

// Interface is a network card.
type Interface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"` // with prefix lengths; includes those of the bridge or bond that it is a port of
}

const unknown = "unknown"

// Facts collects the facts about the machine. It changes nothing.
func (m Machine) Facts(ctx context.Context) (Facts, error) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return Facts{}, err
	}

	mem, err := parseMemory(m.read("proc/meminfo"))
	if err != nil {
		return Facts{}, err
	}

	release := parseRelease(cmp.Or(m.read("etc/os-release"), m.read("usr/lib/os-release")))
	f := Facts{
		Kernel: unix.ByteSliceToString(uname.Release[:]), Arch: unix.ByteSliceToString(uname.Machine[:]),
		Memory: mem.total, Free: mem.available,
		UEFI: m.exists("sys/firmware/efi"), SecureBoot: m.secureBoot(), Lockdown: m.lockdown(),
		Kexec: m.exists(kexecLoaded), KexecFileLoad: m.hasKexecFileLoad(), KexecTool: kexecTool() != "",
		KexecDisabled: m.read(kexecDisabled) == "1", KexecLoaded: m.read(kexecLoaded) == "1",
		ID: release["ID"], VariantID: release["VARIANT_ID"],
		Interfaces: m.interfaces(),
		Addrs:      ipJSON(ctx, "addr"), RoutesV4: ipJSON(ctx, "-4", "route"), RoutesV6: ipJSON(ctx, "-6", "route"),
	}
	return f, nil
}

// secureBoot reads the variable SecureBoot (UEFI 2.10, section 3.3).
func (m Machine) secureBoot() string {
	if !m.exists("sys/firmware/efi") {
		return "off"
	}
	value, err := m.readVariable("SecureBoot")
	switch {
	case err != nil || len(value) != 1:
		return unknown
	case value[0] == 1:
		return "on"
	}
	return "off"
}

// lockdown returns the mode of kernel_lockdown(7), which is the word in brackets in "none [integrity] confidentiality".
func (m Machine) lockdown() string {
	_, after, _ := strings.Cut(m.read("sys/kernel/security/lockdown"), "[")
	if mode, _, ok := strings.Cut(after, "]"); ok {
		return mode
	}
	return unknown
}

// parseRelease parses os-release(5).
func parseRelease(text string) map[string]string {
	values := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			values[name] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return values
}

// interfaces returns the Ethernet interfaces of network cards.
func (m Machine) interfaces() []Interface {
	all := []Interface{}
	names, _ := os.ReadDir(m.path("sys/class/net"))
	for _, entry := range names {
		dir := "sys/class/net/" + entry.Name()
		const ethernet = "1" // ARPHRD_ETHER; Wi-Fi has the same type
		if !m.exists(dir+"/device") || m.exists(dir+"/phy80211") || m.read(dir+"/type") != ethernet {
			continue
		}

		// A port of a bond shows the bond's address; its own is in another file.
		mac, err := net.ParseMAC(cmp.Or(m.read(dir+"/bonding_slave/perm_hwaddr"), m.read(dir+"/address")))
		if err != nil {
			continue
		}

		i := Interface{Name: entry.Name(), MAC: mac.String(), Addresses: addresses(entry.Name())}
		if master, err := os.Readlink(m.path(dir + "/master")); err == nil {
			i.Addresses = append(i.Addresses, addresses(filepath.Base(master))...)
		}

		all = append(all, i)
	}

	return all
}

// addresses returns the addresses of an interface, except link-local ones.
func addresses(name string) []string {
	all := []string{}
	if ifi, err := net.InterfaceByName(name); err == nil {
		addrs, _ := ifi.Addrs()
		for _, a := range addrs {
			if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLinkLocalUnicast() {
				all = append(all, a.String())
			}
		}
	}
	return slices.Clip(all)
}

// ipJSON returns the output of the ip command; nil if there is none, or if it is busybox's, which has no JSON.
func ipJSON(ctx context.Context, args ...string) json.RawMessage {
	ip := tool("ip")
	if ip == "" {
		return nil
	}
	out, err := exec.CommandContext(ctx, ip, append([]string{"-json"}, args...)...).Output()
	var list []json.RawMessage
	if err != nil || json.Unmarshal(out, &list) != nil {
		return nil
	}
	return out
}

// tool returns the path of a program on the machine; empty if there is none. It also looks in the sbin folders, which
// may be missing in the PATH of an SSH session.
func tool(name string) string {
	if path, err := exec.LookPath(name); err == nil || errors.Is(err, exec.ErrDot) {
		return path
	}
	for _, dir := range []string{"/run/current-system/sw/bin", "/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(dir + "/" + name); err == nil {
			return path
		}
	}
	return ""
}
