package lab

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// fleetFiles are the flake's nix files and the scripts that its derivations run.
//
//go:embed fleet
var fleetFiles embed.FS

// A Fleet describes a flake with these hosts:
//
//	alpha    GPT: ESP, ext4
//	bravo    GPT: ESP, LUKS (passwordFile /tmp/disk.key) on ext4
//	kilo     bravo's, opened by the TPM once systemd-cryptenroll enrolled it (crypttabExtraOpts tpm2-device=auto)
//	charlie  GPT: ESP, swap, LUKS (settings.keyFile /tmp/disk.key, allowDiscards) on btrfs with subvolumes
//	india    alpha's, with a hook that names a store path, and a diskoScript
//	delta    GPT: ESP, ext4; for aarch64, and there only if the fleet has AArch64
//	echo     GPT: ESP, LUKS (passwordFile /tmp/disk.key) on LVM: ext4 for / and /home, swap
//	foxtrot  two disks, each GPT: RAID 1 as ESP, RAID 1 on ext4; starts from either disk alone
//	hotel    GPT: ESP, ext4 for /nix; / is a tmpfs, the SSH host key is kept in /nix/persist
//	juliett  keeps its disk's GPT and the ESP that is labelled SYSTEM; LUKS on ext4 for / (passwordFile /tmp/disk.key)
//	         and for /data (the same, and additionalKeyFiles /tmp/data.key)
//	mike     has no disko, starts by extlinux.conf; mounts what the layout preset rpi4 makes, or what hosts/mike/filesystems.nix
//	         says; for aarch64, and there only if the fleet has AArch64
//	lima     has no disko; mounts what the layout preset ext4 makes, or what hosts/lima/filesystems.nix
//	         says; with GRUB for a BIOS if that says so
//	november bravo's, with sshd in stage 1, which has the port and the host key of the system's
//	oscar    GPT: ESP, ext4 for /persist and /nix; / is a tmpfs, /etc/ssh and /var/lib/app are kept in /persist; sshd
//	         listens on 2222
//
// It needs neither nixpkgs nor any other input nor the network, and builds with nix 2.8 in seconds.
type Fleet struct {
	AuthorizedKeys string   // lines of root's authorized_keys on the hosts; none: nobody can log in
	Disk           string   // device of the hosts' disk; "/dev/vda" by default
	SecondDisk     string   // of those that have two; "/dev/vdb" by default
	ESPSize        string   // "192M" by default
	LUKSFormatArgs []string // extraFormatArgs of the LUKS layouts; by default a key derivation that is cheap to emulate

	// Sealed, if there is any, is in each host's closure, as /etc/static/secrets.age: what sops-nix and agenix
	// take from the flake and decrypt with the host's key.
	Sealed []byte

	// AArch64 adds the hosts delta and mike, whose packages come from the cache as those of the others do. It is built on x86_64.
	AArch64 bool
	// EFIEntry has the hosts' boot loader make an entry in the firmware's boot order: "first", as NixOS's does, or "last".
	// Without it, the order is left alone and the firmware finds the disk's fallback loader.
	EFIEntry string
}

// Write makes dir the flake's folder, replacing what was there, and returns dir's absolute path, which is a flake
// reference. What the hosts are made of comes from the folder cache.
func (f Fleet) Write(ctx context.Context, cache, dir string, log io.Writer) (string, error) {
	settings, err := f.settings(ctx, cache, log)
	if err != nil {
		return "", err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	files, err := fs.Sub(fleetFiles, "fleet")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return "", fmt.Errorf("write the fleet: %w", err)
	}
	for name, data := range map[string][]byte{"settings.json": settings, "authorized_keys": []byte(f.AuthorizedKeys), "secrets.age": f.Sealed} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", fmt.Errorf("write the fleet: %w", err)
		}
	}
	return dir, nil
}

// EmptyFlake writes a flake without hosts into a folder, for a server that starts before its hosts are written: its
// key goes into them.
func EmptyFlake(dir string) error {
	return os.WriteFile(filepath.Join(dir, "flake.nix"), []byte("{ outputs = _: { nixosConfigurations = { }; }; }\n"), 0o644)
}

// settings is the part of the flake that depends on options and packages, as JSON.
func (f Fleet) settings(ctx context.Context, cache string, log io.Writer) ([]byte, error) {
	arches := []Arch{X86_64}
	if f.AArch64 {
		arches = append(arches, AArch64)
	}
	platforms := map[string]any{}
	for _, arch := range arches {
		b, err := makeBase(ctx, cache, arch, log)
		if err != nil {
			return nil, err
		}
		if platforms[arch.names().system], err = b.platform(); err != nil {
			return nil, err
		}
	}
	if f.Disk == "" {
		f.Disk = "/dev/vda"
	}
	if f.SecondDisk == "" {
		f.SecondDisk = "/dev/vdb"
	}
	if f.ESPSize == "" {
		f.ESPSize = "192M"
	}
	if f.LUKSFormatArgs == nil {
		f.LUKSFormatArgs = []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	}
	return json.MarshalIndent(map[string]any{
		"platforms": platforms, "unwanted": strings.Join(unwanted(), " "),
		"disk": f.Disk, "secondDisk": f.SecondDisk, "espSize": f.ESPSize, "luksFormatArgs": f.LUKSFormatArgs, "efiEntry": f.EFIEntry,
	}, "", "\t")
}

// platform is what the hosts of one architecture are made of, for the flake's settings.
func (b base) platform() (any, error) {
	type pkg struct {
		Name    string   `json:"name"`
		Version string   `json:"version"`
		File    string   `json:"file"`
		Depends []string `json:"depends"`
	}
	versions, err := filepath.Glob(b.kernel() + "/lib/modules/*")
	if err != nil || len(versions) != 1 {
		return nil, fmt.Errorf("want one kernel in %s, found %d", b.kernel(), len(versions))
	}
	packages := []pkg{}
	// A store path's name has fewer letters than a Debian version.
	letters := strings.NewReplacer(":", ".", "~", "-")
	for _, d := range b.debs {
		packages = append(packages, pkg{d.Name, letters.Replace(d.Version), d.File, append([]string{}, d.Depends...)})
	}
	names := b.arch.names()
	return map[string]any{
		"packages": packages,
		"kernel":   map[string]string{"version": filepath.Base(versions[0]), "path": b.kernel(), "file": names.kernel},
		"efi":      names.efi,
		"kernelParams": "console=tty0 console=" + names.console + ",115200n8 loglevel=4 mitigations=off cryptomgr.notests no_timer_check " +
			// An emulated kernel crashes now and then on a busy machine; a host that hung then would never be proved.
			"oops=panic panic=1",
	}, nil
}

// NixEnv returns os.Environ with what lets nix build the fleet on a plain Debian or Ubuntu machine, as root and
// without network. Give it to every process that runs nix on the fleet.
func NixEnv() []string {
	return append(os.Environ(), "NIX_CONFIG=build-users-group =\nexperimental-features = nix-command flakes\n"+
		"sandbox = false\nsubstitute = false\nsubstituters =\nwarn-dirty = false\n")
}
