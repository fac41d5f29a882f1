package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"provision/hosts"
	"provision/images"
)

// images looks for what the hosts that are to be installed need.
func (d *Doctor) images(ctx context.Context) (found []Finding) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{Check: "image", Severity: s, What: what, Remedy: remedy})
	}
	seen := make(map[string]bool)
	for _, h := range d.Hosts {
		if h.State == hosts.Installed || h.State == hosts.Rebooting {
			continue
		}
		i := slices.IndexFunc(d.Images, func(img images.Image) bool { return img.Name == h.Image })
		again := fmt.Sprintf("provision images add %s --arch %s --from SOURCE", h.Image, cmp.Or(h.Arch, "ARCH"))
		switch {
		case i < 0 && h.Arch != "" && !d.hasImage(h.Arch):
			add(Stop, fmt.Sprintf("there is no installer image for %s, which %s needs", h.Arch, h.Name), again)
			continue
		case i < 0:
			add(Stop, fmt.Sprintf("image %s, with which %s is enrolled, is gone", h.Image, h.Name), again)
			continue
		case h.Arch != "" && string(d.Images[i].Arch) != h.Arch:
			add(Stop, fmt.Sprintf("image %s is for %s now, and %s is built for %s", h.Image, d.Images[i].Arch, h.Name, h.Arch), again)
			continue
		}
		if seen[h.Image] {
			continue
		}
		seen[h.Image] = true
		if err := d.Verify(ctx, h.Image); err != nil {
			add(Stop, strings.ReplaceAll(err.Error(), "; add the image again from its source", ""), again)
		}
		for _, w := range d.Images[i].Warnings() {
			what, remedy, _ := strings.Cut(w, "; ")
			add(Warning, what, remedy)
		}
	}
	return found
}

func (d *Doctor) hasImage(arch string) bool {
	return slices.ContainsFunc(d.Images, func(img images.Image) bool { return string(img.Arch) == arch })
}

// machines looks for those that asked and stopped on the way.
func (d *Doctor) machines() (found []Finding) {
	for _, t := range d.Traces {
		var host *hosts.Host
		for i, h := range d.Hosts {
			if slices.Contains(h.MACs, t.MAC) {
				host = &d.Hosts[i]
			}
		}
		if f, ok := stalled(t, host, d.Now()); ok {
			found = append(found, f)
		}
	}
	return found
}

// A trace is judged once the machine was silent for longer than any firmware
// waits between two tries (EDK2: 32 seconds), and until it is old news.
const (
	traceSettles = time.Minute
	traceAges    = 24 * time.Hour
)

// stall is why a machine stops at a stage, and what then helps.
type stall struct{ Did, Remedy string }

// otherWay is the remedy for firmware that wants another reply.
const otherWay = "try another way to boot: provision enroll MAC HOST --boot-method METHOD"

// stalls are what is known from the field, by the stage that was reached last.
// MAC and HOST are put in.
var stalls = map[hosts.Stage]stall{
	hosts.StageAsked: {"asked and took no answer",
		"look for another DHCP server that sends option 60; enable portfast on its switch port; else " + otherWay},
	hosts.StageAddress: {"took an address and never asked for its boot file",
		"look for another DHCP server that sends option 60 or a boot file; else " + otherWay},
	hosts.StageBINL: {"asked port 4011 for its boot file and never fetched it",
		"let udp port 69 through all firewalls between; else " + otherWay},
	hosts.StageProgram: {"asked for its boot program and did not get it whole",
		"look for a firewall that drops udp to high ports, and for an MTU below 1500 on the way"},
	hosts.StageLoaded: {"has its boot program, which never came back as iPXE",
		"switch Secure Boot off in its firmware; else iPXE's driver hangs: " + otherWay},
	hosts.StageScript: {"fetched its script and no kernel",
		"see what iPXE says on its screen"},
	hosts.StageKernel: {"asked for its kernel and never for its initrd",
		"see what iPXE says on its screen; look for a bad cable, and for an MTU below 1500 on the way"},
	hosts.StageInitrd: {"asked for its initrd and did not get it whole",
		"see what iPXE says on its screen: the memory may be too small (BIOS: initrds up to 2 GB), or the link broke"},
	hosts.StageStarted: {"started its installer, which never answered",
		"see its screen: an emergency shell means a wrong init= (provision images list), no network means a driver that the image lacks; else it may have too little memory"},
}

// iPXE on the way to its script.
var (
	ipxeDeaf    = stall{"came as iPXE and took no address", "enable portfast on its switch port: iPXE takes the link down and asks at once"}
	ipxeBlocked = stall{"came as iPXE and never fetched its script", "let the server's HTTP port through all firewalls between"}
)

// stalled says why a machine that asked did not come up; ok is false if it did,
// or may still. h is nil if no host has its MAC.
func stalled(t hosts.Trace, h *hosts.Host, now time.Time) (f Finding, ok bool) {
	silent := now.Sub(t.Last)
	if silent < traceSettles || silent > traceAges || strings.HasSuffix(t.Client, "an operating system") {
		return f, false
	}
	when := fmt.Sprintf("(%s, %s)", t.Client, ago(silent))
	if h == nil {
		return Finding{"machine", Hint, "", fmt.Sprintf("%s asked to boot and is not enrolled %s", t.MAC, when),
			fmt.Sprintf("if it is yours: provision enroll %s HOST", t.MAC)}, true
	}
	if !h.Permit.Issued.Before(t.Last) || !waits(h) {
		return f, false
	}
	s := stalls[t.Stage]
	switch fromIPXE := strings.HasPrefix(t.Client, "iPXE"); {
	case t.Stage == hosts.StageRefused:
		s = stall{"asked and was refused: " + t.Why, refusedRemedy(t, h, now)}
	case fromIPXE && t.Stage == hosts.StageAsked:
		s = ipxeDeaf
	case fromIPXE && slices.Contains([]hosts.Stage{hosts.StageAddress, hosts.StageBINL, hosts.StageProgram, hosts.StageLoaded}, t.Stage):
		s = ipxeBlocked
	}
	remedy := strings.NewReplacer("MAC HOST", t.MAC+" "+h.Name).Replace(s.Remedy)
	return Finding{"machine", Stop, "", fmt.Sprintf("%s %s %s %s", h.Name, t.MAC, s.Did, when), remedy}, true
}

// waits reports whether the host is still to be netbooted: nothing of its
// installer was seen.
func waits(h *hosts.Host) bool {
	return h.State == hosts.Ready || h.State == hosts.Booting || h.State == hosts.Failed && h.Phase == hosts.PhaseNetboot
}

func refusedRemedy(t hosts.Trace, h *hosts.Host, now time.Time) string {
	switch {
	case strings.Contains(t.Client, "IA32"):
		return "its firmware is 32-bit UEFI, which is not served: choose BIOS (CSM) there, if it can"
	case strings.Contains(t.Client, "Raspberry Pi"):
		return "its boot ROM is not served: start U-Boot from an SD card and netboot from there"
	case !h.Permit.Live(now):
		return fmt.Sprintf("provision enroll %s %s", strings.Join(h.MACs, ","), h.Name)
	}
	return "provision logs " + h.Name
}

func ago(d time.Duration) string {
	if d < time.Hour {
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h ago", int(d.Hours()))
}
