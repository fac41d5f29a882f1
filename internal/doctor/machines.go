package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"provision/hosts"
	"provision/images"
)

// images checks the images of the hosts that are to be installed.
func (d *Doctor) images(ctx context.Context) (found []Finding) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{Check: "image", Severity: s, What: what, Remedy: remedy})
	}
	seen := make(map[string]bool)
	for _, h := range d.Hosts {
		if h.State == hosts.StateInstalled || h.State == hosts.StateRebooting {
			continue
		}
		i := slices.IndexFunc(d.Images, func(img images.Image) bool { return img.Name == h.Image })
		again := fmt.Sprintf("provision images add %s --arch %s --from SOURCE", h.Image, h.Arch)
		switch {
		case i < 0 && !d.hasImage(h.Arch):
			add(Stop, fmt.Sprintf("there is no installer image for %s, which %s needs", h.Arch, h.Name), again)
			continue
		case i < 0:
			add(Stop, fmt.Sprintf("image %s, with which %s is enrolled, is gone", h.Image, h.Name), again)
			continue
		case string(d.Images[i].Arch) != h.Arch:
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

// hasImage reports whether there is an image for an architecture.
func (d *Doctor) hasImage(arch string) bool {
	return slices.ContainsFunc(d.Images, func(img images.Image) bool { return string(img.Arch) == arch })
}

// machines looks for machines that asked for a boot and got stuck.
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

// A trace is judged when the machine has been silent for longer than firmware waits between two attempts (EDK2: 32
// seconds), and until it is too old to matter.
const (
	traceSettles = time.Minute
	traceAges    = 24 * time.Hour
)

// stall says what a machine did before it got stuck at a stage, and what helps.
type stall struct{ Did, Remedy string }

// stalls is experience from the field, by the last stage that was reached.
var stalls = map[hosts.Stage]stall{
	hosts.StageAsked: {"asked and took no answer",
		"look for another DHCP server that sends option 60, and enable portfast on its switch port"},
	hosts.StageAddress: {"took an address and never asked for its boot file",
		"look for another DHCP server that sends option 60 or a boot file"},
	hosts.StageBINL: {"asked port 4011 for its boot file and never fetched it",
		"let udp port 69 through all firewalls between"},
	hosts.StageProgram: {"asked for its boot program and did not get it whole",
		"look for a firewall that drops udp to high ports, and for an MTU below 1500 on the way"},
	hosts.StageLoaded: {"has its boot program, which never came back as iPXE",
		"switch Secure Boot off in its firmware; else iPXE's driver hangs: switch it off and on, and it gets the " +
			"other one"},
	hosts.StageIPXE: {"came as iPXE and never fetched its script",
		"let the server's HTTP port through all firewalls between; if its screen shows no address, enable portfast " +
			"on its switch port"},
	hosts.StageScript: {"fetched its script and no kernel",
		"see what iPXE says on its screen"},
	hosts.StageKernel: {"asked for its kernel and never for its initrd",
		"see what iPXE says on its screen; look for a bad cable, and for an MTU below 1500 on the way"},
	hosts.StageInitrd: {"asked for its initrd and did not get it whole",
		"see what iPXE says on its screen: its memory may be too small (a BIOS takes 2 GB at most), or the link broke"},
	hosts.StageStarted: {"started its installer, which never answered",
		"see its screen: an emergency shell means a wrong init= (provision images list), no network a driver that " +
			"the image lacks; else its memory is too small"},
}

// piStalls replace stalls for the firmware of a Raspberry Pi. The order in which it asks for kernel and first stage
// depends on the model.
var piStalls = map[hosts.Stage]stall{
	hosts.StageAsked: {"asked and took no answer",
		"see that a DHCP server gives it an address, and enable portfast on its switch port"},
	hosts.StageProgram: {"loaded its firmware and no kernel",
		"see its screen, or count how often its green LED blinks (raspberrypi.com/documentation, LED warning flash codes)"},
	hosts.StageScript: {"read its config.txt and loaded no kernel",
		"see its screen, or count how often its green LED blinks (raspberrypi.com/documentation, LED warning flash codes)"},
	hosts.StageKernel: piFirst,
	hosts.StageInitrd: piFirst,
}

// piFirst is the stall of a Raspberry Pi that loaded its kernel or first stage.
var piFirst = stall{"loaded its kernel and first stage, which did not get its image whole",
	"see its screen, where the first stage says what it waits for; if there is nothing, the device trees of its " +
		"firmware do not suit the image's kernel"}

// stalled returns why a machine that asked did not boot; ok is false if it did, or still may. h is nil if no host has
// its MAC.
func stalled(t hosts.Trace, h *hosts.Host, now time.Time) (f Finding, ok bool) {
	silent := now.Sub(t.Last)
	if t.Stage == "" || silent < traceSettles || silent > traceAges { // without a stage, only an operating system asked
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
	isPi := strings.HasPrefix(t.Client, "Raspberry Pi") // it asks for many files that do not exist
	if pi, ok := piStalls[t.Stage]; ok && isPi {
		s = pi
	}
	gotNone := t.Stage == hosts.StageAsked || t.Stage == hosts.StageAddress || t.Stage == hosts.StageBINL
	if t.Missing != "" && gotNone && !isPi {
		s = stall{"asked for a file that there is not, " + t.Missing,
			"if another DHCP server names that, switch network boot off there; if the end of the name is rubbish, " +
				"its firmware misreads option 67: provision set " + h.Name + " --boot-method header"}
	}

	if t.Stage == hosts.StageRefused {
		s = refused(t, h, now)
	} else if pinned := h.BootMethod; pinned != (hosts.Method{}) {
		s.Remedy += fmt.Sprintf("; or it needs another way than the one it is pinned to: enroll it again without "+
			"--boot-method %s", pinned)
	}

	return Finding{"machine", Stop, "", fmt.Sprintf("%s %s %s %s", h.Name, t.MAC, s.Did, when), s.Remedy}, true
}

// waits reports whether the host still has to netboot, because its installer was not seen yet.
func waits(h *hosts.Host) bool {
	return h.State == hosts.StateReady || h.State == hosts.StateBooting ||
		h.State == hosts.StateFailed && h.Phase == hosts.PhaseNetboot
}

// refused returns the stall of a machine that was refused. Some reasons contain their remedy.
func refused(t hosts.Trace, h *hosts.Host, now time.Time) stall {
	why, remedy, told := strings.Cut(t.Why, ": ")
	switch {
	case told:
	case !h.Permit.Live(now):
		remedy = fmt.Sprintf("provision enroll %s %s", strings.Join(h.MACs, ","), h.Name)
	default:
		remedy = "see what else happened: provision logs " + h.Name
	}
	return stall{"asked and was refused: " + why, remedy}
}

// ago says, for people, how long ago something was.
func ago(d time.Duration) string {
	if d < time.Hour {
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h ago", int(d.Hours()))
}
