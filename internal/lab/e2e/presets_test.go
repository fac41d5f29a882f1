package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"provision/disko"
	"provision/internal/lab"
)

// TestPresets: a host without disko is installed by each of the layout presets for PCs that no other
// test installs. (TestInstall has btrfs and bios-ext4, TestPi those for boards.) LUKS keys are derived as cryptsetup
// does it by default.
func TestPresets(t *testing.T) {
	t.Parallel()
	for name, lies := range map[string]string{
		"ext4":         "ext2/ext3: disk part; part / part /boot",
		"luks-ext4":    "ext2/ext3: crypt disk part; crypt / part /boot",
		"luks-btrfs":   "btrfs: crypt disk part; crypt / crypt /home crypt /nix part /boot",
		"luks-lvm":     "ext2/ext3: crypt disk lvm part; lvm / lvm swap part /boot",
		"mirror-ext4":  "ext2/ext3: disk part raid1; raid1 / raid1 /boot",
		"mirror-btrfs": "btrfs: disk part raid1; part / part /home part /nix raid1 /boot",
		"tmpfs-root":   "tmpfs: disk part; part /boot part /nix part /persist",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			preset, err := disko.FindPreset(name)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, "server")
			m := w.machine("lima")
			m.Disks = nil
			flags, show := []string{"--layout", name}, []string{"layout", "show", name, "--filesystems"}
			for i, d := range preset.Disks {
				serial := "LAB-" + d.Name
				disk, err := lab.NewDisk(filepath.Join(w.dir, serial+".img"), 12<<30, serial) // 8 GiB are swap in one
				w.must(err)
				m.Disks = append(m.Disks, disk)
				flags = append(flags, "--disk", d.Name+"=serial:"+serial)
				show = append(show, "--disk", d.Name+"=/dev/vd"+string(rune('a'+i)))
			}
			w.mount("lima", w.provision(show...))
			w.lies, w.together = lies, name == "mirror-btrfs" // btrfs is not mounted without one unless it is told to
			if strings.HasPrefix(name, "luks") {
				flags = append(flags, w.diskKey()...)
			}
			w.enroll(m, "lima", flags...)
			w.on(m)
			w.installed(m, "lima")
			if said := w.provision("logs", "lima"); strings.Contains(said, "copied over SSH now") {
				t.Errorf("it did not fetch its system over HTTP:\n%s", said)
			}
			w.noSecrets("lima")
			w.powerCycles(m, "lima")
		})
	}
}
