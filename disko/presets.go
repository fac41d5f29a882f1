package disko

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// presetFiles holds two files for each preset: NAME.nix, as people write it, and NAME.json, which is the result of
// evaluating it with disko (commit 878ec37; run make presets).
//
//go:embed presets
var presetFiles embed.FS

// Preset is a layout that comes with provision.
type Preset struct {
	Name  string `json:"name"`
	About string `json:"about"` // what it makes
	For   string `json:"for"`   // the machines that can boot from it
	Arch  string `json:"arch"`  // x86_64 or aarch64, if it is for one architecture only; empty: any

	Disks []PresetDisk `json:"disks"`     // in byte order of their names
	Keys  []string     `json:"key_files"` // where the install reads disk encryption keys on the machine

	nix  string
	json []byte
}

// PresetDisk is a disk of a preset.
type PresetDisk struct {
	Name   string `json:"name"`             // attribute name below disko.devices.disk
	Device string `json:"device,omitempty"` // empty: the operator has to choose it
}

// unchosen begins the device names of disks that the operator has to choose.
const unchosen = "/dev/disk/by-id/CHANGE-ME"

// Presets returns all presets.
func Presets() []Preset {
	const uefi = "UEFI, x86_64 or aarch64"
	list := []Preset{
		{Name: "ext4", For: uefi, About: "one ext4"},
		{Name: "luks-ext4", For: uefi, About: "one ext4, encrypted"},
		{Name: "btrfs", For: uefi, About: "btrfs with subvolumes for /, /home and /nix"},
		{Name: "luks-btrfs", For: uefi, About: "btrfs with subvolumes for /, /home and /nix, encrypted"},
		{Name: "luks-lvm", For: uefi, About: "ext4 and 8 GiB of swap to hibernate to, both encrypted"},
		{Name: "mirror-ext4", For: uefi, About: "ext4 and ESP on two disks, each enough to go on"},
		{Name: "mirror-btrfs", For: uefi, About: "btrfs and ESP on two disks, each with all data"},
		{Name: "tmpfs-root", For: uefi, About: "/ in memory, new at each boot; /nix and /persist stay"},
		{Name: "bios-ext4", Arch: "x86_64", For: "BIOS, by GRUB", About: "one ext4"},
		{Name: "rpi3", Arch: "aarch64", For: "Raspberry Pi 3 and later", About: "MBR: firmware, ext4"},
		{Name: "rpi4", Arch: "aarch64", For: "Raspberry Pi 4, 400, CM4", About: "GPT: firmware, ext4"},
		{Name: "rpi5", Arch: "aarch64", For: "Raspberry Pi 5, CM5", About: "GPT: firmware and kernels, ext4"},
	}
	for i := range list {
		if err := list[i].read(); err != nil {
			panic(err) // a test reads them all
		}
	}

	return list
}

// read loads the preset's files.
func (p *Preset) read() (err error) {
	nix, err := presetFiles.ReadFile("presets/" + p.Name + ".nix")
	if err != nil {
		return err
	}
	p.nix = string(nix)
	if p.json, err = presetFiles.ReadFile("presets/" + p.Name + ".json"); err != nil {
		return err
	}
	return p.describe()
}

// describe sets Disks and Keys from the preset's layout.
func (p *Preset) describe() error {
	l, err := p.Layout()
	if err != nil {
		return err
	}
	plan, err := NewPlan(l, nil, Options{})
	if err != nil {
		return fmt.Errorf("layout %s: %w", p.Name, err)
	}
	p.Disks, p.Keys = nil, append([]string{}, plan.KeyFiles()...)
	for _, d := range l.disks() {
		disk := PresetDisk{Name: d.on.name, Device: d.on.device}
		if strings.HasPrefix(disk.Device, unchosen) {
			disk.Device = ""
		}
		p.Disks = append(p.Disks, disk)
	}

	return nil
}

// FindPreset returns the preset with the given name. The error lists the names that exist.
func FindPreset(name string) (Preset, error) {
	all := Presets()
	if i := slices.IndexFunc(all, func(p Preset) bool { return p.Name == name }); i >= 0 {
		return all[i], nil
	}
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	return Preset{}, fmt.Errorf("there is no layout preset %q; `provision layout list` shows them: %s", name, strings.Join(names, ", "))
}

// On returns a copy of the preset with other devices. The map's keys are names of its disks, and its values are paths
// below /dev.
func (p Preset) On(devices map[string]string) (Preset, error) {
	l, err := p.Layout()
	if err != nil {
		return p, err
	}

	var doc map[string]any
	if err := json.Unmarshal(p.json, &doc); err != nil {
		return p, fmt.Errorf("layout %s: %w", p.Name, err)
	}

	for _, name := range slices.Sorted(maps.Keys(devices)) {
		to := devices[name]
		i := slices.IndexFunc(l.disks(), func(d *topDevice) bool { return d.on.name == name })
		switch {
		case i < 0:
			return p, fmt.Errorf("layout %s has no disk %q; it has %s", p.Name, name, strings.Join(p.diskNames(), ", "))
		case !strings.HasPrefix(to, "/dev/") || path.Clean(to) != to || printable(to) != to:
			return p, fmt.Errorf("disk %s: %q is not the path of a device, such as /dev/disk/by-id/NAME or "+
				"/dev/nvme0n1", name, to)
		}

		from := l.disks()[i].on.device
		disk := doc["disk"].(map[string]any)
		disk[name] = renamed(disk[name], from, to)
		p.nix = strings.ReplaceAll(p.nix, quoteNix(from), quoteNix(to))
	}

	var data bytes.Buffer
	if err := printLayout(&data, doc); err != nil {
		return p, fmt.Errorf("layout %s: %w", p.Name, err)
	}

	p.json = data.Bytes()
	return p, p.describe()
}

// renamed returns a value of the layout with a disk's device replaced, as disko would evaluate it. In a legacy table,
// the names of partitions contain that of the disk, so they change too.
func renamed(v any, from, to string) any {
	switch v := v.(type) {
	case string:
		if v == from {
			return to
		}
		for n := 1; n <= 4; n++ {
			if v == diskoNumbered(from, n) {
				return diskoNumbered(to, n)
			}
		}
	case []any:
		for i := range v {
			v[i] = renamed(v[i], from, to)
		}
	case map[string]any:
		for k := range v {
			v[k] = renamed(v[k], from, to)
		}
	}

	return v
}

// printLayout writes a layout as the JSON files of the presets are written.
func printLayout(w *bytes.Buffer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// Unchosen returns the names of the disks that have no device, neither in the preset nor in overrides, which are as in
// [Options].
func (p Preset) Unchosen(overrides map[string]string) (names []string) {
	for _, d := range p.Disks {
		if _, ok := overrides[d.Name]; !ok && d.Device == "" {
			names = append(names, d.Name)
		}
	}
	return names
}

func (p Preset) diskNames() (names []string) {
	for _, d := range p.Disks {
		names = append(names, d.Name)
	}
	return names
}

// Layout parses the preset's layout.
func (p Preset) Layout() (*Layout, error) {
	l, err := Parse(p.json)
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", p.Name, err)
	}
	return l, nil
}

// JSON returns disko.devices of the preset, as disko evaluates it.
func (p Preset) JSON() []byte { return p.json }

// Nix returns the preset as a NixOS module for disko: a disko.nix.
func (p Preset) Nix() string { return p.nix }

// System returns the options that a host without disko must have in its configuration.
func (p Preset) System() (System, error) {
	l, err := p.Layout()
	if err != nil {
		return System{}, err
	}
	return l.system(), nil
}
