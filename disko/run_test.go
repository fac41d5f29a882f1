package disko

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestRun runs plans for real, on loop devices and in a mount namespace of its own.
func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: loop devices and mounts need it")
	}
	if os.Getenv("DISKO_TEST_RUN") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRun$", "-test.v")
		cmd.Env = append(os.Environ(), "DISKO_TEST_RUN=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	command(t, "mount", "--make-rprivate", "/")
	t.Run("ext4 on 512", func(t *testing.T) { t.Parallel(); reinstall(t, 512) })
	t.Run("ext4 on 4096", func(t *testing.T) { t.Parallel(); reinstall(t, 4096) })
	var mnt sync.Mutex // held by who mounts on /mnt, or makes it free
	t.Run("btrfs", func(t *testing.T) {
		t.Parallel()
		mnt.Lock()
		defer mnt.Unlock()
		interrupted(t)
	})
	t.Run("hybrid MBR", func(t *testing.T) { t.Parallel(); hybridMBR(t) })
	t.Run("parted", func(t *testing.T) {
		t.Parallel()
		mnt.Lock()
		defer mnt.Unlock()
		parted(t)
	})
	t.Run("luks", func(t *testing.T) { t.Parallel(); lukses(t) })
}

func command(t *testing.T, argv ...string) string {
	t.Helper()
	return feed(t, nil, argv...)
}

func feed(t *testing.T, stdin io.Reader, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// run is the runner: it feeds key files, and waits for udev only where there is one.
func run(t *testing.T, steps []Step) {
	t.Helper()
	for _, s := range steps {
		if _, err := exec.LookPath("udevadm"); s.Argv[0] == "udevadm" && err != nil {
			continue
		}
		var stdin io.Reader
		if s.Stdin != "" {
			key, err := os.ReadFile(s.Stdin)
			if err != nil {
				t.Fatal(err)
			}
			stdin = bytes.NewReader(bytes.TrimRight(key, "\n"))
		}
		feed(t, stdin, s.Argv...)
	}
}

func loop(t *testing.T, size int64, sectorSize string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	dev := command(t, "losetup", "--find", "--show", "--partscan", "--sector-size", sectorSize, file)
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", dev).Run() })
	return dev
}

// facts are the machine's, with the loop device passed off as a disk.
func facts(t *testing.T, dev string) *Facts {
	t.Helper()
	out := command(t, "lsblk", "--json", "--bytes", "--output-all", dev)
	return mustFacts(t, strings.ReplaceAll(out, `"type": "loop"`, `"type": "disk"`))
}

func plan(t *testing.T, data []byte, dev string) *Plan {
	t.Helper()
	for _, name := range []string{"/dev/disk/by-id/the-disk", "/dev/disk/by-id/the-disk", "/dev/vdb"} {
		data = bytes.ReplaceAll(data, []byte(`"`+name+`"`), []byte(`"`+dev+`"`))
	}
	p, err := NewPlan(mustParse(t, data), facts(t, dev), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stages are the steps of some stages.
func stages(p *Plan, stages ...Stage) []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return !slices.Contains(stages, s.Stage) })
}

// readEnds reads back the table as a server does over SSH.
func readEnds(t *testing.T, d Disk) (*Table, error) {
	t.Helper()
	f, err := os.Open(d.Device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, n := TableBytes(d.SectorSize)
	head, tail := make([]byte, h), make([]byte, n)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(tail, d.Size-n); err != nil {
		t.Fatal(err)
	}
	return ReadTable(head, tail, d.Size, d.SectorSize)
}

func verify(t *testing.T, p *Plan) {
	t.Helper()
	table, err := readEnds(t, p.Disks[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(p.Disks[0].Device, table); err != nil {
		t.Errorf("verify: %v", err)
	}
}

// differs changes the table that was made, and expects what is said of it.
func differs(t *testing.T, p *Plan, changes map[string]func(*Table)) {
	t.Helper()
	for want, change := range changes {
		table, err := readEnds(t, p.Disks[0])
		if err != nil {
			t.Fatal(err)
		}
		change(table)
		if err := p.Verify(p.Disks[0].Device, table); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("verify: %v\nwant %s", err, want)
		}
	}
}

// reinstall makes the simplest layout three times: on a blank disk, over itself, and over
// the same with other sizes; old file systems and tables are in the way each time.
func reinstall(t *testing.T, sectorSize int64) {
	dev := loop(t, 1<<30, map[int64]string{512: "512", 4096: "4096"}[sectorSize])
	data := readFile(t, "layouts/efi.json")
	uuids := map[string]bool{}
	for i, size := range []string{"500M", "500M", "300M"} {
		data := bytes.ReplaceAll(data, []byte("500M"), []byte(size))
		p := plan(t, data, dev)
		if blank := p.Disks[0].Content == "blank"; blank != (i == 0) || p.Disks[0].SectorSize != sectorSize {
			t.Errorf("run %d: disk is %+v", i, p.Disks[0])
		}
		run(t, stages(p, StageDestroy))
		if _, err := readEnds(t, p.Disks[0]); err != ErrNoTable {
			t.Errorf("run %d: after destroy: %v", i, err)
		}
		if out := command(t, "wipefs", dev); out != "" {
			t.Errorf("run %d: after destroy: %s", i, out)
		}
		run(t, stages(p, StageCreate))
		verify(t, p)
		for n, want := range []string{"vfat", "ext4"} {
			node := numbered(p.Disks[0].Device, n+1)
			if got := command(t, "blkid", "--probe", "--output", "value", "--match-tag", "TYPE", node); got != want {
				t.Errorf("run %d: %s holds %s, want %s", i, node, got, want)
			}
			uuids[command(t, "blkid", "--probe", "--output", "value", "--match-tag", "PART_ENTRY_UUID", node)] = true
		}
	}
	if len(uuids) != 6 {
		t.Errorf("%d different partition UUIDs in three runs", len(uuids))
	}
}

// interrupted goes through all stages, and again from what the first time leaves: file
// systems mounted, swap files on, /run/provision/subvolumes mounted; then undoes it.
func interrupted(t *testing.T) {
	dev := loop(t, 2<<30, "512")
	// The kernel of the tests may not have vfat, and loop devices no discard policy.
	data := edit(t, readFile(t, "layouts/btrfs.json"), map[string]any{
		"disk.main.content.partitions.ESP.content.format":       "xfs",
		"disk.main.content.partitions.ESP.content.mountOptions": []any{"noatime"},
		"disk.main.content.partitions.ESP.end":                  "500M",
	})
	p := plan(t, data, dev)
	t.Cleanup(func() {
		for _, s := range p.Unmount() {
			_ = exec.Command(s.Argv[0], s.Argv[1:]...).Run()
		}
		_ = os.Remove(scratch)
	})
	run(t, p.Steps)
	verify(t, p)
	root := numbered(p.Disks[0].Device, 2)
	if swaps, _ := os.ReadFile("/proc/swaps"); strings.Count(string(swaps), "/mnt/") != 4 {
		t.Errorf("swap: %s", swaps)
	}
	command(t, "mount", root, scratch, "-o", "subvol=/")

	again := plan(t, data, dev)
	destroy := strings.Join(argvs(again.Steps, StageDestroy), "\n")
	for _, want := range []string{"swapoff --all", "umount --recursive /mnt/nix", "umount --recursive " + scratch, "umount --recursive /mnt"} {
		if !strings.Contains(destroy, want) {
			t.Errorf("no %q among\n%s", want, destroy)
		}
	}
	run(t, again.Steps)
	verify(t, again)
	for mountpoint, want := range map[string]string{
		"/mnt": root + "[/sys] btrfs", "/mnt/nix": root + "[/nix] btrfs", "/mnt/top": root + " btrfs", "/mnt/boot": numbered(again.Disks[0].Device, 1) + " xfs",
	} {
		if got := command(t, "findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", mountpoint); strings.Join(strings.Fields(got), " ") != want {
			t.Errorf("%s: %s, want %s", mountpoint, got, want)
		}
	}
	run(t, again.Unmount())
	if got := facts(t, dev).nodes(); slices.ContainsFunc(got, func(n *placedDevice) bool { return len(n.mountpoints()) > 0 }) {
		t.Error("something is mounted after Unmount")
	}
}

// lukses formats a container and opens it with the key that the operator knows: the
// file's content without its newline. Without device mapper it cannot be mapped.
func lukses(t *testing.T) {
	dev := loop(t, 1<<30, "512")
	key := filepath.Join(t.TempDir(), "secret.key")
	if err := os.WriteFile(key, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := plan(t, edit(t, readFile(t, "layouts/luks.json"), map[string]any{
		"disk.main.content.partitions.luks.content.passwordFile":    key,
		"disk.main.content.partitions.luks.content.extraFormatArgs": []any{"--pbkdf pbkdf2", "--pbkdf-force-iterations 1000"},
	}), dev)
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return len(s.Argv) > 1 && s.Argv[1] == "open" })
	run(t, p.Steps[:i])
	verify(t, p)
	open := slices.Concat(p.Steps[i].Argv[:2], []string{"--test-passphrase"}, p.Steps[i].Argv[2:])
	open = slices.DeleteFunc(open, func(s string) bool { return s == "crypted" || s == "--persistent" || s == "--allow-discards" })
	feed(t, strings.NewReader("correct horse"), open...)
}

// hybridMBR puts two partitions into the MBR after the protective entry, and the table
// still verifies. (sgdisk takes the types from the GPT.)
func hybridMBR(t *testing.T) {
	dev := loop(t, 1<<30, "512")
	hybrid := map[string]any{"mbrPartitionType": nil, "mbrBootableFlag": false}
	p := plan(t, edit(t, readFile(t, "layouts/efi.json"), map[string]any{
		"disk.main.content.partitions.ESP.hybrid":  hybrid,
		"disk.main.content.partitions.root.hybrid": hybrid,
	}), dev)
	run(t, stages(p, StageDestroy, StageCreate))
	verify(t, p)
	differs(t, p, map[string]func(*Table){
		"the MBR has 1 partitions instead of 2": func(t *Table) { t.MBR = t.MBR[:1] },
		"which are not the partition's":         func(t *Table) { t.MBR[0].First++ },
		"is bootable: true instead of false":    func(t *Table) { t.MBR[1].Bootable = true },
	})
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, 512)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if types := []byte{mbr[446+4], mbr[462+4], mbr[478+4], mbr[494+4]}; !bytes.Equal(types, []byte{0xee, 0xef, 0x83, 0}) {
		t.Errorf("types in the MBR: %x", types)
	}
}

// parted makes disko's legacy tables of both kinds, over each other.
func parted(t *testing.T) {
	dev := loop(t, 1<<30, "512")
	for _, format := range []string{"gpt", "msdos", "gpt"} {
		data := edit(t, readFile(t, "layouts/parted.json"), map[string]any{"disk.new": nil, "disk.old.content.format": format,
			"nodev": map[string]any{"/": map[string]any{"type": "nodev", "fsType": "tmpfs", "device": "tmpfs", "mountpoint": "/"}}})
		// A gpt partition needs a name, and only some flags are for both.
		data = bytes.ReplaceAll(bytes.ReplaceAll(data, []byte(`"name":null`), []byte(`"name":"one two"`)), []byte(`"lba"`), []byte(`"raid"`))
		data = bytes.ReplaceAll(data, []byte("/dev/disk/by-id/the-disk-part"), []byte(dev+"p"))
		p := plan(t, data, dev)
		run(t, stages(p, StageDestroy, StageCreate))
		if got := command(t, "blkid", "--probe", "--output", "value", "--match-tag", "PTTYPE", dev); got != map[string]string{"gpt": "gpt", "msdos": "dos"}[format] {
			t.Errorf("%s: table is %s", format, got)
		}
		for n, want := range []string{"ext4", "swap"} {
			if got := command(t, "blkid", "--probe", "--output", "value", "--match-tag", "TYPE", numbered(dev, n+1)); got != want {
				t.Errorf("%s: partition %d holds %s, want %s", format, n+1, got, want)
			}
		}
		verify(t, p)
		differs(t, p, map[string]func(*Table){
			"starts at 257 MiB instead of": func(t *Table) {
				if format == "gpt" {
					t.Partitions[0].First += 256 << 11
				} else {
					t.MBR[0].First += 256 << 11
				}
			},
			"instead of 2":                   func(t *Table) { t.Partitions, t.MBR = t.Partitions[:len(t.Partitions)/2], t.MBR[:len(t.MBR)/2] },
			"the table is not of the format": func(t *Table) { t.DiskGUID = map[string]string{"gpt": "", "msdos": "x"}[format] },
		})
	}
}

// TestRestarted: the plan for a machine that runs from what it is to lose is the one that its installer will make.
func TestRestarted(t *testing.T) {
	m, l := made(t, "luks.json")
	again, err := m.plan(l, Mount)
	if err != nil {
		t.Fatal(err)
	}
	m.run(again.Steps)
	if again, err = m.plan(l, Mount); err != nil {
		t.Fatal(err)
	}
	m.run(again.Steps)
	data, err := json.Marshal(m.facts(nil))
	if err != nil {
		t.Fatal(err)
	}
	running := mustFacts(t, strings.NewReplacer(`"/mnt"`, `"/"`, `"/mnt/`, `"/`).Replace(string(data)))
	if _, err := NewPlan(l, running, Options{}); err == nil || !strings.Contains(err.Error(), "in use by the running system") {
		t.Fatalf("the system runs from another disk: %v", err)
	}
	if data, err = json.Marshal(running.Restarted()); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPlan(l, mustFacts(t, string(data)), Options{}); err != nil {
		t.Error(err)
	}
}
