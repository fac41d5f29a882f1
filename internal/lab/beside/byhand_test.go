package beside

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/installer"
	"provision/internal/initrd"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// A job is one layout for both sides.
type job struct {
	name    string // as in results
	Script  string // disko's, for all three stages
	Unmount string
	Devices json.RawMessage
}

// TestDiskoByHand runs disko's own scripts and our plans in the same virtual machine, on blank disks, and compares
// what the machine then says about them, and the wall times. It needs the source of disko and the lib of nixpkgs; make
// beside says how to get them. BESIDE=write records what disko's scripts made; read it before you commit it.
// BESIDE_ONLY is a regular expression for the layouts' names.
func TestDiskoByHand(t *testing.T) {
	sizes := map[int64][]job{}
	for _, j := range jobs(t) {
		sizes[DiskSize(j.name)] = append(sizes[DiskSize(j.name)], j)
	}
	for size, jobs := range sizes {
		t.Run(fmt.Sprintf("%dG", size>>30), func(t *testing.T) {
			shell := machine(t, jobs[0].name)
			for _, j := range jobs {
				t.Run(j.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
					defer cancel()
					b := bench{t, ctx, shell}
					made, theirs := b.theirs(j)
					steps, ours := b.ours(j, made)
					t.Logf("disk phase: disko %.1f s, ours %.1f s in %d steps, ratio %.2f",
						theirs.Seconds(), ours.Seconds(), steps, ours.Seconds()/theirs.Seconds())
				})
			}
		})
	}
}

// jobs evaluates all layouts with disko.
func jobs(t *testing.T) []job {
	source, lib := sources(t)
	only := regexp.MustCompile(os.Getenv("BESIDE_ONLY"))
	examples, err := filepath.Glob(source + "/example/*.nix")
	check(t, err)
	own, err := filepath.Glob("../../../disko/testdata/layouts/*.json")
	check(t, err)
	presets, err := filepath.Glob("../../../disko/presets/*.nix")
	check(t, err)
	var jobs []job
	seen := map[string]bool{}
	for _, file := range slices.Concat(own, presets, examples, []string{source + "/example/stand-alone/configuration.nix"}) {
		name := "examples/" + strings.TrimSuffix(filepath.Base(file), ".nix")
		switch {
		case strings.HasSuffix(file, "/stand-alone/configuration.nix"):
			name = "examples/stand-alone"
		case slices.Contains(presets, file):
			name = "presets/" + strings.TrimSuffix(filepath.Base(file), ".nix")
		case strings.HasSuffix(file, ".json"):
			name = "layouts/" + strings.TrimSuffix(filepath.Base(file), ".json")
		}
		seen[name] = true
		if !only.MatchString(name) || LeftOut(name) != "" {
			continue
		}
		abs, err := filepath.Abs(file)
		check(t, err)
		out, err := exec.CommandContext(t.Context(), "nix-instantiate", "--eval", "--strict", "--json", "disko.nix",
			"--arg", "disko", source, "--arg", "lib", lib, "--arg", "layout", abs, "--argstr", "disks", strings.Join(Nodes(), " ")).Output()
		if exit, ok := err.(*exec.ExitError); ok {
			t.Fatalf("%s: %v: %s", name, err, exit.Stderr)
		}
		check(t, err)
		j := job{name: name}
		check(t, json.Unmarshal(out, &j))
		if name == "examples/multi-device-no-deps" {
			j.Devices = bytes.Replace(j.Devices, []byte(`"nodev":{}`), []byte(`"nodev":{"/":{"type":"nodev","fsType":"tmpfs","device":"tmpfs","mountpoint":"/","mountOptions":[]}}`), 1)
		}
		jobs = append(jobs, j)
	}
	for reason, names := range leftOut {
		for _, name := range strings.Fields(names) {
			if !seen[name] {
				t.Errorf("%s is left out, and not there: %s", name, reason)
			}
		}
	}
	if len(jobs) == 0 {
		t.Fatalf("no layout is called like $BESIDE_ONLY, %s", only)
	}
	return jobs
}

// machine boots the installer on blank disks for the layout called name, and others like it.
func machine(t *testing.T, name string) *lab.Shell {
	ctx := t.Context()
	lan, err := lab.NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, lan.Close()) })
	router, err := lan.Router(ctx, t.TempDir(), netip.MustParsePrefix("10.77.0.2/24"),
		netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199"))
	check(t, err)
	t.Cleanup(func() { check(t, router.Close()) })
	img, err := lab.Image(ctx, lab.CacheDir(), lab.X86_64, os.Stderr)
	check(t, err)
	host, err := lab.NewKey("host")
	check(t, err)
	login, err := lab.NewKey("login")
	check(t, err)
	initrdData, err := os.ReadFile(img.Initrd)
	check(t, err)
	initrdData = append(initrdData, make([]byte, initrd.Padding(int64(len(initrdData))))...)
	initrdData = append(initrdData, initrd.Overlay([]initrd.File{
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: host.Private},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: host.Public},
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: login.Public},
	})...)
	dir := t.TempDir()
	check(t, os.WriteFile(dir+"/initrd", initrdData, 0o600))
	disks, err := NewDisks(dir, name)
	check(t, err)
	m := &lab.Machine{Name: "beside", Dir: dir, LAN: lan, MAC: "52:54:00:be:51:de", Disks: disks, MemMB: 2048,
		Kernel: img.Kernel, Initrd: dir + "/initrd", Cmdline: img.Cmdline}
	check(t, m.Start(ctx))
	t.Cleanup(func() { check(t, m.PowerOff()) })
	boot, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	_, err = m.Console().Expect(boot, "sshd is up")
	check(t, err)
	address, err := router.Lease(boot, m.MAC)
	check(t, err)
	shell, err := lab.Dial(boot, address, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	t.Cleanup(func() { _ = shell.Close() }) // the machine may have closed it
	// Not in the time of the first layout that needs them. And a resync is not to run beside the next layout.
	// What takes cryptsetup long is by design, on both sides, and very long on an emulated processor.
	_, err = shell.Run(boot, `set -e
		mkdir -p /usr/local/bin
		cat >/usr/local/bin/cryptsetup <<-"EOF"
			#!/bin/sh
			case " $* " in *" luksFormat "* | *" luksAddKey "*) set -- "$@" --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 1 ;; esac
			exec /usr/sbin/cryptsetup "$@"
		EOF
		chmod +x /usr/local/bin/cryptsetup
		modprobe -a md_mod raid0 raid1 raid10 raid456 dm_mod dm_crypt dm_raid dm_mirror dm_snapshot dm_thin_pool xts ext4 vfat xfs btrfs f2fs exfat fuse
		echo 1000 >/proc/sys/dev/raid/speed_limit_max`)
	check(t, err)
	return shell
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench runs commands on the machine.
type bench struct {
	t     *testing.T
	ctx   context.Context
	shell *lab.Shell
}

func (b bench) must(stdin, command string) string {
	b.t.Helper()
	out, err := b.shell.Feed(b.ctx, strings.NewReader(stdin), command)
	check(b.t, err)
	return out
}

// blank closes whatever is open and empties the disks.
func (b bench) blank() {
	b.t.Helper()
	b.must("", `
		swapoff -a
		findmnt --raw --noheadings --output TARGET | grep -E "^/mnt(/|$)" | tac | while read -r at; do umount "$(printf "%b" "$at")"; done
		rm -rf --one-file-system /mnt && mkdir /mnt
		for depth in 1 2 3 4; do
			vgchange -q --activate n
			for name in $(dmsetup ls --target crypt | grep -v "^No " | cut -f 1); do cryptsetup close "$name"; done
			mdadm --stop --scan
		done
		set -e
		for disk in `+strings.Join(Nodes(), " ")+`; do
			blkdiscard -f $disk
			blockdev --rereadpt $disk
		done
		btrfs device scan --forget
		udevadm settle`)
	const want = "vda\nvdb\nvdc\nvdd"
	if out := b.must("", "lsblk --raw --noheadings -o NAME,FSTYPE,PTTYPE,MOUNTPOINTS | sed 's/ *$//'"); out != want {
		b.t.Fatalf("the disks are not blank: %s", out)
	}
}

// theirs runs disko's script and records what it makes.
func (b bench) theirs(j job) (Tables, time.Duration) {
	b.t.Helper()
	b.blank()
	b.secrets(b.plan(j).KeyFiles())
	deactivate := regexp.MustCompile(`/nix/store/[a-z0-9]{32}-disk-deactivate`).FindString(j.Script)
	for _, name := range []string{"disk-deactivate", "disk-deactivate.jq", "zfs-swap-deactivate.jq"} {
		data, err := os.ReadFile(filepath.Join(os.Getenv("PROVISION_DISKO"), "disk-deactivate", name))
		check(b.t, err)
		b.must(string(data), fmt.Sprintf("mkdir -p %[1]s && cat >%[1]s/%[2]s", deactivate, name))
	}
	b.must(j.Script, "cat >/tmp/disko")
	b.must(j.Unmount, "cat >/tmp/unmount")
	start := time.Now()
	b.must("secret\nsecret\n", "bash /tmp/disko") // where it asks, it asks twice
	took := time.Since(start)
	got, err := Read(func(command string) (string, error) { return b.shell.Run(b.ctx, command) })
	check(b.t, err)
	layout := strings.ToLower(string(j.Devices))
	got.Normalise(func(uuid string) bool { return strings.Contains(layout, `"`+strings.ToLower(uuid)+`"`) })
	b.record(j.name, got)
	return got, took
}

// record compares what disko's script made with what it made before, or writes it.
func (b bench) record(name string, got Tables) {
	b.t.Helper()
	if os.Getenv("BESIDE") == "write" {
		file := "results/" + name + ".json"
		data, err := json.MarshalIndent(got, "", "\t")
		check(b.t, err)
		check(b.t, os.MkdirAll(filepath.Dir(file), 0o755))
		check(b.t, os.WriteFile(file, append(data, '\n'), 0o644))
		return
	}
	recorded, err := Recorded(name)
	check(b.t, err)
	for _, line := range diff(recorded, got) {
		b.t.Errorf("disko made it differently when it was recorded: %s", line)
	}
}

// plan plans the layout for the machine as it is.
func (b bench) plan(j job) *disko.Plan {
	b.t.Helper()
	out, err := b.shell.Run(b.ctx, quote(disko.Probe(nil)))
	check(b.t, err)
	raw, err := disko.ReadProbe([]byte(out))
	check(b.t, err)
	facts, err := disko.ParseFacts(raw)
	check(b.t, err)
	layout, err := disko.Parse(j.Devices)
	check(b.t, err)
	plan, err := disko.NewPlan(layout, facts, disko.Options{})
	check(b.t, err)
	return plan
}

func (b bench) secrets(files []string) {
	for _, file := range files {
		b.must("secret\n", fmt.Sprintf(`umask 077; mkdir -p "$(dirname %[1]s)" && cat >%[1]s`, quote([]string{file})))
	}
}

// ours makes the disks with the installer's own code, which reads back what it made, and
// compares them with theirs.
func (b bench) ours(j job, theirs Tables) (steps int, took time.Duration) {
	b.t.Helper()
	b.blank()
	layout, err := disko.Parse(j.Devices)
	check(b.t, err)
	disks := installer.Disks{Client: b.shell.Client(), Layout: layout, Key: func(string) ([]byte, error) { return []byte("secret\n"), nil }}
	start := time.Now()
	steps, err = disks.Make(b.ctx)
	took = time.Since(start)
	check(b.t, err)
	got, err := Read(func(command string) (string, error) { return b.shell.Run(b.ctx, command) })
	check(b.t, err)
	for _, line := range compare(j.name, theirs, got) {
		b.t.Error(line)
	}
	check(b.t, disks.Unmount(b.ctx))
	return steps, took
}

// quote makes one shell word of each argument.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
