package disko

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// evalNix evaluates plain nix, without disko's modules.
func evalNix(t *testing.T, text string) (v any) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nix-instantiate", "--eval", "--strict", "--json", "-E", text)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, stderr.String(), text)
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// missing lists what is in part and not in whole, which may have more attributes.
func missing(path string, part, whole any) (lines []string) {
	p, isSet := part.(map[string]any)
	w, alsoSet := whole.(map[string]any)
	if l, ok := part.([]any); ok {
		m, _ := whole.([]any)
		if len(l) != len(m) {
			return []string{fmt.Sprintf("%s: %v, %v", path, part, whole)}
		}
		for i := range l {
			lines = append(lines, missing(fmt.Sprintf("%s[%d]", path, i), l[i], m[i])...)
		}
		return lines
	}
	if !isSet || !alsoSet {
		if !reflect.DeepEqual(part, whole) {
			lines = append(lines, fmt.Sprintf("%s: %v, %v", path, part, whole))
		}
		return lines
	}
	for name := range p {
		lines = append(lines, missing(join(path, name), p[name], w[name])...)
	}
	return lines
}

// sameForms compares a preset's nix with its JSON.
func sameForms(t *testing.T, p Preset) {
	t.Helper()
	module := evalNix(t, p.Nix()).(map[string]any)["disko"].(map[string]any)
	var devices any
	if err := json.Unmarshal(p.JSON(), &devices); err != nil {
		t.Fatal(err)
	}
	if lines := missing("", module["devices"], devices); len(module) != 1 || lines != nil {
		t.Errorf("%s: the nix file has %d groups, and otherwise than the JSON:\n%s", p.Name, len(module), strings.Join(lines, "\n"))
	}
}

// TestPresets: both forms of each preset say the same, what is printed is read as the same again, on blank disks there
// is nothing to object, and the disks can be chosen.
func TestPresets(t *testing.T) {
	files, err := filepath.Glob("presets/*")
	if err != nil || len(files) != 2*len(Presets()) {
		t.Fatalf("%d files for %d presets: %v", len(files), len(Presets()), err)
	}
	for _, p := range Presets() {
		t.Run(p.Name, func(t *testing.T) {
			sameForms(t, p)
			devices := map[string]string{}
			for i, d := range p.Disks {
				devices[d.Name] = fmt.Sprintf("/dev/disk/by-id/nvme-a${b}%d", i)
			}
			moved, err := p.On(devices)
			if err != nil {
				t.Fatal(err)
			}
			sameForms(t, moved)
			if strings.Contains(moved.Nix()+string(moved.JSON()), "CHANGE-ME") || len(moved.Unchosen(nil)) > 0 {
				t.Errorf("a disk was not chosen:\n%s", moved.Nix())
			}
			same, err := p.On(nil)
			if err != nil || string(same.JSON()) != string(p.JSON()) || same.Nix() != p.Nix() {
				t.Errorf("printed again it is\n%s\n%v", same.JSON(), err)
			}
			l := mustParse(t, p.JSON())
			plan, err := NewPlan(l, blank(t, l), Options{})
			if err != nil {
				t.Fatal(err)
			}
			again, err := NewPlan(mustParse(t, same.JSON()), blank(t, l), Options{})
			if err != nil || planText(again) != planText(plan) || len(plan.Steps) == 0 {
				t.Errorf("printed and read again, the plan is\n%s\n%v", planText(again), err)
			}
			if o := plan.Guard(Known{Host: "a"}); len(o) > 0 || plan.Unfinished() {
				t.Errorf("on blank disks: %v", o)
			}
		})
	}
}

func TestPresetProblems(t *testing.T) {
	if _, err := FindPreset("ext5"); err == nil || !strings.Contains(err.Error(), `no layout preset "ext5"`) || !strings.Contains(err.Error(), "luks-btrfs, ") {
		t.Error(err)
	}
	p, err := FindPreset("mirror-ext4")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Unchosen(map[string]string{"second": "largest"}); !slices.Equal(got, []string{"first"}) {
		t.Errorf("unchosen: %q", got)
	}
	for want, devices := range map[string]map[string]string{
		`has no disk "main"; it has first, second`: {"main": "/dev/sda"},
		`"largest" is not the path of a device`:    {"first": "largest"},
		`"/dev/../etc" is not the path`:            {"first": "/dev/../etc"},
		`"/dev/a\nb" is not the path`:              {"first": "/dev/a\nb"},
		"is taken already":                         {"first": "/dev/sda", "second": "/dev/sda"},
	} {
		if _, err := p.On(devices); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %s", devices, err, want)
		}
	}
}

// presetSystem is what a host has that mounts what a preset makes.
func presetSystem(t *testing.T, name string) System {
	t.Helper()
	p, err := FindPreset(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.System()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSystem: who takes what is printed mounts what is made.
func TestSystem(t *testing.T) {
	for _, p := range Presets() {
		s := presetSystem(t, p.Name)
		if lines := s.Differences(configured(t, s.Nix())); lines != nil {
			t.Errorf("%s differs from itself:\n%s\n%s", p.Name, strings.Join(lines, "\n"), s.Nix())
		}
	}
}

// configured is what the installer reads of a host's configuration.
func configured(t *testing.T, module string) (s System) {
	t.Helper()
	v := evalNix(t, `let c = `+module+`; in {
		fileSystems = map (p: { mountPoint = p; } // c.fileSystems.${p}) (builtins.attrNames c.fileSystems);
		luks = map (n: { name = n; inherit (c.boot.initrd.luks.devices.${n}) device; }) (builtins.attrNames (c.boot.initrd.luks.devices or { }));
		swaps = map (s: s.device) (c.swapDevices or [ ]);
	}`)
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDifferences(t *testing.T) {
	fs := func(point, device, kind string, options ...string) FileSystem {
		return FileSystem{point, device, kind, options}
	}
	boot := fs("/boot", "/dev/disk/by-label/boot", "vfat")
	for name, tt := range map[string]struct {
		preset string
		have   System
		want   []string
	}{
		"labels":              {"ext4", System{FileSystems: []FileSystem{fs("/", "LABEL=nixos", "auto"), boot}}, nil},
		"part labels":         {"ext4", System{FileSystems: []FileSystem{fs("/", "PARTLABEL=disk-main-root", "ext4"), fs("/boot/", "/dev/disk/by-partlabel/disk-main-ESP", "vfat"), fs("/data", "/dev/disk/by-uuid/1", "ext4")}}, nil},
		"the kernel's names":  {"ext4", System{FileSystems: []FileSystem{fs("/", "/dev/sda2", ""), fs("/boot", "/dev/sda1", "vfat")}}, nil},
		"nothing":             {"ext4", System{}, []string{`fileSystems."/" is missing`, `fileSystems."/boot" is missing`}},
		"nixos-generate":      {"ext4", System{FileSystems: []FileSystem{fs("/", "/dev/disk/by-uuid/1-2", "ext4"), boot}}, []string{`fileSystems."/".device is /dev/disk/by-uuid/1-2 and should be /dev/disk/by-partlabel/disk-main-root or /dev/disk/by-label/nixos`}},
		"another file system": {"ext4", System{FileSystems: []FileSystem{fs("/", "/dev/disk/by-label/nixos", "xfs"), fs("/boot", "", "vfat")}}, []string{`fileSystems."/".fsType is xfs and should be ext4`, `fileSystems."/boot".device is not said`}},
		"subvolumes": {"btrfs", System{FileSystems: []FileSystem{fs("/", "/dev/disk/by-label/nixos", "btrfs", "noatime,subvol=root"), fs("/home", "/dev/disk/by-label/nixos", "btrfs", "subvol=@home"), fs("/nix", "/dev/disk/by-label/nixos", "btrfs"), boot}},
			[]string{`fileSystems."/home".options has subvol=@home and should have subvol=home`, `fileSystems."/nix".options has no subvolume and should have subvol=nix`}},
		"LUKS": {"luks-ext4", System{FileSystems: []FileSystem{fs("/", "/dev/mapper/root", "ext4"), boot}, LUKS: []Unlocked{{Name: "root", Device: "/dev/disk/by-partlabel/disk-main-luks"}}},
			[]string{`fileSystems."/".device is /dev/mapper/root and should be /dev/mapper/crypted or /dev/disk/by-label/nixos`, "boot.initrd.luks.devices.crypted is missing"}},
		"LUKS by UUID": {"luks-ext4", System{FileSystems: []FileSystem{fs("/", "/dev/mapper/crypted", "ext4"), boot}, LUKS: []Unlocked{{Name: "crypted", Device: "/dev/disk/by-uuid/3"}}},
			[]string{"boot.initrd.luks.devices.crypted.device is /dev/disk/by-uuid/3 and should be /dev/disk/by-partlabel/disk-main-luks"}},
		"LVM": {"luks-lvm", System{FileSystems: []FileSystem{fs("/", "/dev/mapper/pool-root", "ext4"), boot}, LUKS: []Unlocked{{Name: "crypted", Device: "/dev/nvme0n1p2"}}, Swaps: []string{"/dev/disk/by-uuid/4"}},
			[]string{"swapDevices lacks /dev/pool/swap or /dev/disk/by-label/swap or /dev/mapper/pool-swap"}},
		"a root in memory":  {"tmpfs-root", System{FileSystems: []FileSystem{fs("/", "none", "tmpfs"), fs("/nix", "/dev/disk/by-label/nixos", "btrfs", "subvol=/nix"), fs("/persist", "/dev/disk/by-label/nixos", "btrfs", "subvol=/persist"), boot}}, nil},
		"Raspberry Pi's SD": {"rpi3", System{FileSystems: []FileSystem{fs("/", "/dev/disk/by-label/NIXOS_SD", "ext4"), fs("/boot/firmware", "/dev/disk/by-label/boot", "vfat")}}, []string{`fileSystems."/boot/firmware".device is /dev/disk/by-label/boot and should be /dev/mmcblk0p1 or /dev/disk/by-label/FIRMWARE`}},
	} {
		got := presetSystem(t, tt.preset).Differences(tt.have)
		ok := len(got) == len(tt.want)
		for i := range min(len(got), len(tt.want)) {
			ok = ok && strings.HasPrefix(got[i], tt.want[i])
		}
		if !ok {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}
