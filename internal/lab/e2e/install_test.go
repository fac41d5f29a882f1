package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

// TestInstall: a blank machine on the wire becomes an installed host, for
// each layout, with us as the DHCP server or beside a home router's. Some of
// the installs are disturbed; nobody helps them.
func TestInstall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, mode, host string
		flags            []string // of enroll
		firmware         lab.Firmware
		before           func(*world) (flags []string)
		disturb          func(*world, *lab.Machine)
		check            func(*world)
		then             func(*world, *lab.Machine)
	}{
		{name: "ext4 server impostor", mode: "server", host: "alpha", disturb: impostor, check: impostorFailed},
		{name: "ext4 proxy", mode: "proxy", host: "alpha"},
		{name: "LUKS-ext4 server kill-9", mode: "server", host: "bravo", disturb: killServer, check: wentOn},
		{name: "LUKS-ext4 proxy power-cut", mode: "proxy", host: "bravo", before: giveSecrets, disturb: cutPowerAndSearch, check: secretsArrived},
		{name: "LUKS-btrfs-swap proxy", mode: "proxy", host: "charlie"},
		{name: "LUKS-btrfs-swap server power-cut-in-copy", mode: "server", host: "charlie", disturb: cutPowerInCopy, check: tookUp},
		{name: "ext4 server script", mode: "server", host: "india", flags: []string{"--disko", "script", "--boot-order", "disk-first"}, before: entryLast, check: hookRan, then: diskIsFirst},
		{name: "LUKS-LVM server format", mode: "server", host: "echo", then: format},
		{name: "mirror proxy", mode: "proxy", host: "foxtrot"},
		{name: "BIOS preset proxy", mode: "proxy", host: "lima", flags: []string{"--layout", "bios-ext4", "--disk", "main=largest"}, firmware: lab.SeaBIOS, before: biosPreset, check: builtThere},
		{name: "tmpfs server", mode: "server", host: "hotel", flags: []string{"--generate-hardware-config", hosts.GenerateConfig}, check: hardwareKnown},
		{name: "btrfs preset server", mode: "server", host: "lima", flags: []string{"--layout", "btrfs", "--disk", "main=largest"}, before: btrfsPreset, check: subvolumesMounted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.mode)
			m := w.machine(tt.host)
			m.Firmware = tt.firmware
			if tt.before != nil {
				tt.flags = append(tt.flags, tt.before(w)...)
			}
			w.enroll(m, tt.host, tt.flags...)
			w.on(m)
			if tt.disturb != nil {
				tt.disturb(w, m)
			}
			w.installed(m, tt.host)
			if tt.check != nil {
				tt.check(w)
			}
			if tt.then != nil {
				tt.then(w, m)
			}
			w.noSecrets(tt.host)
			w.powerCycles(m, tt.host)
		})
	}
}

// format installs a host once more onto its own disks, locked as they are, and what its
// users had there is kept.
func format(w *world, m *lab.Machine) {
	w.t.Helper()
	const host = "echo"
	before, err := m.Disks[0].PartitionTable()
	w.must(err)
	w.run(host, "echo precious >/home/mine && sync")
	w.provision("forget", host, "--yes")
	w.enroll(m, host, "--disko", "format")
	w.must(m.PowerOff())
	w.on(m)
	w.installed(m, host)
	if got := w.run(host, "cat /home/mine"); got != "precious" {
		w.t.Errorf("what was on the disk is now %q", got)
	}
	if after, err := m.Disks[0].PartitionTable(); err != nil || after != before {
		w.t.Errorf("the partition table changed, or %v", err)
	}
}

// TestCancel: an install is cancelled in the copy, which closes the disks. The installer, which
// stays up, is then taken over as it is: what was made for a permit that was withdrawn is not
// taken up.
func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "server")
	m := w.machine("bravo")
	w.enroll(m, "bravo")
	w.on(m)
	w.awaitCopied("bravo", 10)
	w.provision("cancel", "bravo")
	w.awaitLog("the disks are closed", 1)
	key, addr := w.asServer(), w.status("bravo").Address
	h, err := w.inventory().Get("bravo")
	w.must(err)
	said := w.provision("install", "bravo", "--ssh", "root@"+addr, "-i", key, "--ssh-host-key", h.Boot.HostKey, "--yes")
	if !strings.Contains(said, "an installer that goes on as it is") {
		t.Errorf("%s", said)
	}
	w.installed(m, "bravo")
	made := 0
	for _, ev := range w.events("bravo") {
		if ev.Kind == hosts.EventFinished && ev.Layout != "" {
			made++
		}
	}
	if s := w.status("bravo"); made != 2 || s.Permit.Boots != 1 {
		t.Errorf("the disks were made %d times, with %d boots under the second permit", made, s.Permit.Boots)
	}
}

// killServer kills the server with -9 during the copy and starts it again.
// Who waits for the host goes on waiting.
func killServer(w *world, _ *lab.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), limit) // w's ends before the cleanup
	waiting := exec.CommandContext(ctx, binary(w.t), "wait", "bravo")
	waiting.Env = w.env()
	w.must(waiting.Start())
	w.t.Cleanup(func() {
		defer cancel()
		if w.t.Failed() {
			cancel()
		}
		if err := waiting.Wait(); err != nil {
			w.t.Errorf("provision wait over a restart of the server: %v", err)
		}
	})
	w.awaitPhase("bravo", hosts.PhaseCopy)
	w.kill()
	w.start()
}

// wentOn: the disks were not made a second time.
func wentOn(w *world) {
	resumed := false
	for _, ev := range w.events("bravo") {
		resumed = resumed || ev.Kind == hosts.EventFinished && strings.Contains(ev.Message, "before the interruption")
	}
	if s := w.status("bravo"); !resumed || s.Permit.Boots != 1 {
		w.t.Errorf("went on: %v, with %d boots", resumed, s.Permit.Boots)
	}
}

// cutPower switches the machine off in the disk phase and on again.
func cutPower(w *world, m *lab.Machine) {
	w.awaitPhase("bravo", hosts.PhaseDisks)
	w.must(m.PowerOff())
	w.on(m)
}

// cutPowerInCopy switches the machine off in the middle of the copy, when some of it is on the
// disk, and on again.
func cutPowerInCopy(w *world, m *lab.Machine) {
	w.awaitCopied("charlie", 30)
	const synced = "what was copied is on the disks"
	w.awaitLog(synced, strings.Count(w.log.String(), synced)+1)
	w.must(m.PowerOff())
	w.on(m)
}

// tookUp: the second boot found the disks made, and some of what was copied.
func tookUp(w *world) {
	made, taken, there := 0, false, ""
	for _, ev := range w.events("charlie") {
		switch {
		case ev.Kind != hosts.EventFinished:
		case ev.Phase == hosts.PhaseDisks && ev.Layout != "":
			made++
		case ev.Phase == hosts.PhaseDisks:
			taken = strings.Contains(ev.Message, "before the interruption")
		case ev.Phase == hosts.PhaseCopy:
			there = ev.Message
		}
	}
	if s := w.status("charlie"); made != 1 || !taken || !strings.Contains(there, "were there already") || s.Permit.Boots != 2 {
		w.t.Errorf("the disks were made %d times, taken up: %v, with %d boots; copy: %s", made, taken, s.Permit.Boots, there)
	}
}

// hookRan: the layout's hook found its program, and left its mark on the new root.
func hookRan(w *world) {
	if said := w.run("india", "cat /marked"); said != "the hook ran" {
		w.t.Errorf("%q", said)
	}
}

// mountPreset gives lima or mike, which have no disko, the file systems of a preset, as their owner would.
func mountPreset(w *world, host, preset string) {
	w.mount(host, w.provision("layout", "show", preset, "--filesystems", "--disk", "/dev/vda"))
}

// mount gives lima or mike file systems, as a NixOS module.
func (w *world) mount(host, module string) {
	file := filepath.Join(w.flake, "hosts", host, "filesystems.nix")
	w.must(os.MkdirAll(filepath.Dir(file), 0o755))
	w.must(os.WriteFile(file, []byte(module), 0o644))
}

func biosPreset(w *world) (flags []string) {
	mountPreset(w, "lima", "bios-ext4")
	w.lies = "ext2/ext3: disk part; part /"
	return inputsHere(w)
}

func btrfsPreset(w *world) (flags []string) {
	mountPreset(w, "lima", "btrfs")
	w.lies = "btrfs: disk part; part / part /boot part /home part /nix"
	return nil
}

// subvolumesMounted: each where the preset has it.
func subvolumesMounted(w *world) {
	const mounted = `sed -n 's|^[^ ]* \([^ ]*\) btrfs .*compress=zstd.*,\(subvol=[^ ]*\) .*|\1 \2|p' /proc/mounts | sort`
	if got := w.run("lima", mounted); got != "/ subvol=/root\n/home subvol=/home\n/nix subvol=/nix" {
		w.t.Errorf("mounted are %q", got)
	}
}

// inputsHere has the server's store hold all that lima is built of, and the machine build what is left.
func inputsHere(w *world) (flags []string) {
	w.nix("build", "--no-link", w.flake+"#nixosConfigurations.lima.config.system.build.toplevel")
	return []string{"--build-on", "target"}
}

// builtThere: the machine built its system, into its new disk, of what the server had of it.
func builtThere(w *world) {
	made := ""
	for _, ev := range w.events("lima") {
		if ev.Kind == hosts.EventFinished && ev.Phase == hosts.PhaseCopy {
			made = ev.Message
		}
	}
	if !strings.Contains(made, "the machine built "+w.status("lima").System) {
		w.t.Errorf("the copy ended with %q", made)
	}
	if n := strings.Count(w.log.String(), "line=\"building '"); n != 1 {
		w.t.Errorf("the machine built %d derivations, want the last one", n)
	}
	if left := w.run("lima", "ls /nix/var/nix/builds 2>/dev/null || true"); left != "" {
		w.t.Errorf("the build left %s", left)
	}
}

// hardwareKnown: what the machine is was in the flake before the system was built.
func hardwareKnown(w *world) {
	const file = "hosts/hotel/hardware-configuration.nix"
	if got, err := os.ReadFile(filepath.Join(w.flake, file)); err != nil || !strings.Contains(string(got), `nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux"`) {
		w.t.Errorf("the flake has %q, %v", got, err)
	}
	if loaded := w.run("hotel", "cat /etc/static/modules-load.d/nixos.conf"); !strings.Contains(loaded, "virtio_blk") {
		w.t.Errorf("the system was built with the modules %q", loaded)
	}
	told, built := -1, -1
	for i, ev := range w.events("hotel") {
		switch {
		case ev.Kind == hosts.EventNote && strings.Contains(ev.Message, file):
			told = i
		case ev.Kind == hosts.EventBuilt && built < 0:
			built = i
		}
	}
	if told < 0 || built < told {
		w.t.Errorf("told by event %d, built by event %d", told, built)
	}
}

// entryLast has the boot loader put itself behind all others.
func entryLast(w *world) (flags []string) {
	w.fleet.EFIEntry = "last"
	w.writeFleet()
	return nil
}

// diskIsFirst: the new system's entry comes before all others, and none of the firmware's is gone. From now on the machine
// does not ask the network.
func diskIsFirst(w *world, _ *lab.Machine) {
	said := w.run("india", "efibootmgr")
	_, order, _ := strings.Cut(said, "BootOrder: ")
	order, _, _ = strings.Cut(order, "\n")
	var labels []string
	for n := range strings.SplitSeq(order, ",") {
		_, label, _ := strings.Cut(said, "Boot"+n+"* ")
		labels = append(labels, label[:min(5, len(label))])
	}
	want := []string{"Linux", "UEFI ", "UEFI ", "UiApp", "EFI I", "UEFI ", "UEFI "}
	if !slices.Equal(labels, want) {
		w.t.Errorf("the firmware's boot order is %q, want %q:\n%s", labels, want, said)
	}
	w.diskFirst = true
}

// startedOver: with a second boot, on the same disk.
func startedOver(w *world) {
	s := w.status("bravo")
	if s.Permit.Boots != 2 || len(s.Permit.Disks) != 1 || s.Permit.Disks[0].Serial != "LAB-bravo" {
		w.t.Errorf("%+v", s.Permit)
	}
}
