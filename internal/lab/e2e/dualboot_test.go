package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"provision/hosts"
	"provision/internal/lab"
)

// TestDualBoot: a machine with a Windows. A layout that erases its disk is refused. A dry run
// of one that keeps the table changes nothing. The install makes what is missing beside, and
// not one byte of the Windows changes. All of it in one boot.
func TestDualBoot(t *testing.T) {
	t.Parallel()
	const host = "juliett"
	w := newWorld(t, "proxy")
	m := w.machine(host)
	disk := m.Disks[0]
	loader := w.windows(disk)
	before := w.parts(disk)
	untouched := w.digest(disk.Path, 0, 4<<30)
	const dataKey = "the second key"
	key := filepath.Join(w.dir, "data.key")
	w.must(os.WriteFile(key, []byte(dataKey), 0o600))
	same := func(when string) {
		t.Helper()
		if w.digest(disk.Path, 0, 4<<30) != untouched {
			t.Errorf("%s: the disk changed", when)
		}
	}

	file := filepath.Join(w.flake, "layouts.nix")
	layouts, err := os.ReadFile(file)
	w.must(err)
	w.must(os.WriteFile(file, bytes.Replace(layouts, []byte("destroy = false"), []byte("destroy = true"), 1), 0o644))
	w.enroll(m, host, "--disk-encryption-key", "/tmp/data.key="+key)
	w.on(m)
	out, err := w.try("wait", host)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("the install that erases a Windows ended with %v: %s\n%s", err, out, w.provision("logs", host))
	}
	s := w.status(host)
	const refusal = `nothing was changed. /dev/vda (LAB-juliett, 4 GiB): /dev/vda2 is Windows's reserved partition, 16 MiB; /dev/vda3 holds NTFS "Windows", 256 MiB. If it shall be taken anyway, say --wipe LAB-juliett`
	if s.State != hosts.StateFailed || s.Phase != hosts.PhaseDisks || s.Error != refusal || !s.Permit.Burned.IsZero() {
		t.Errorf("refused with %+v", s)
	}
	if plan := w.provision("plan", host); !strings.Contains(plan, "An install would stop before it changes anything:\n  /dev/vda (LAB-juliett, 4 GiB): ") {
		t.Errorf("the plan has no warning:\n%s", plan)
	}
	same("refused")

	w.must(os.WriteFile(file, layouts, 0o644))
	w.enroll(m, host, "--disk-encryption-key", "/tmp/data.key="+key, "--disko", "format", "--dry-run")
	w.provision("wait", host)
	if s := w.status(host); s.State != hosts.StateRehearsed || !s.Permit.Burned.IsZero() || s.Permit.Spent.IsZero() || s.Error != "" {
		t.Errorf("after the dry run: %+v", s)
	}
	end := w.await(host, "the end of the dry run", func(ev hosts.Event) bool { return ev.Kind == hosts.EventRehearsed })
	for _, want := range []string{"a dry run; nothing was changed", "/dev/vda (4.3 GB, LAB-juliett)", "the keys for /tmp/data.key, /tmp/disk.key are there", "nothing would be lost"} {
		if !strings.Contains(end.Message, want) {
			t.Errorf("the dry run ends with %q, without %q", end.Message, want)
		}
	}
	if plan := w.provision("plan", host); strings.Contains(plan, "would stop") || !strings.Contains(plan, "make partition 5, root") {
		t.Errorf("the plan of the dry run:\n%s", plan)
	}
	same("after the dry run")

	w.enroll(m, host, "--disk-encryption-key", "/tmp/data.key="+key, "--disko", "format")
	w.installed(m, host)
	if s := w.status(host); s.Permit.Boots != 0 {
		t.Errorf("it netbooted %d times more", s.Permit.Boots)
	}
	if got := w.run(host, "sha256sum </boot/EFI/Microsoft/Boot/bootmgfw.efi"); got != loader+"  -" {
		t.Errorf("the boot loader of Windows is now %s, and was %s", got, loader)
	}
	for _, key := range []string{dataKey, passphrase} {
		w.run(host, "printf %s '"+key+"' | cryptsetup open --test-passphrase --key-file - /dev/disk/by-partlabel/disk-main-data && sync")
	}
	w.noSecrets(host)
	w.must(m.PowerOff())
	after := w.parts(disk)
	before[0].digest = after[0].digest // its EFI partition has our boot loader now, too
	for i := range before {
		if after[i] != before[i] {
			t.Errorf("partition %d of Windows was\n%v\nand is\n%v", i+1, before[i], after[i])
		}
	}
}

// The partitions of a disk with a Windows, in MiB.
var windowsParts = []struct {
	start, size int64
	code, label string
}{
	{1, 192, "EF00", "SYSTEM"},
	{193, 16, "0C01", "Microsoft reserved partition"},
	{209, 256, "0700", "Basic data partition"},
}

// windows makes a disk that looks as Windows leaves it, and returns the digest of its boot
// loader.
func (w *world) windows(disk lab.Disk) string {
	w.t.Helper()
	args := []string{"--clear"}
	for i, p := range windowsParts {
		args = append(args, fmt.Sprintf("--new=%d:%dM:+%dM", i+1, p.start, p.size), fmt.Sprintf("--typecode=%d:%s", i+1, p.code), fmt.Sprintf("--change-name=%d:%s", i+1, p.label))
	}
	w.tool("sgdisk", append(args, disk.Path)...)

	data := filepath.Join(w.dir, "windows.data")
	content := make([]byte, 5<<20)
	rand.Read(content)
	w.must(os.WriteFile(data, content, 0o644))
	esp, ntfs := filepath.Join(w.dir, "windows.esp"), filepath.Join(w.dir, "windows.ntfs")
	for i, path := range map[int]string{0: esp, 2: ntfs} {
		_, err := lab.NewDisk(path, windowsParts[i].size<<20, "")
		w.must(err)
	}
	w.tool("mkfs.vfat", "-F", "32", "-n", "SYSTEM", esp)
	w.tool("mmd", "-i", esp, "::/EFI", "::/EFI/Microsoft", "::/EFI/Microsoft/Boot")
	w.tool("mcopy", "-i", esp, data, "::/EFI/Microsoft/Boot/bootmgfw.efi")
	w.tool("mkfs.ntfs", "--force", "--quick", "--label", "Windows", "--sector-size", "512", "--partition-start", fmt.Sprint(windowsParts[2].start<<11), "--heads", "255", "--sectors-per-track", "63", ntfs)
	w.tool("ntfscp", ntfs, data, "pagefile.sys")

	f, err := os.OpenFile(disk.Path, os.O_WRONLY, 0)
	w.must(err)
	for i, path := range []string{esp, data, ntfs} { // Windows leaves its reserved partition empty; ours shows changes
		part, err := os.Open(path)
		w.must(err)
		_, err = io.Copy(io.NewOffsetWriter(f, windowsParts[i].start<<20), part)
		w.must(errors.Join(err, part.Close(), os.Remove(path)))
	}
	w.must(f.Close())
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

func (w *world) tool(name string, args ...string) string {
	w.t.Helper()
	out, err := exec.CommandContext(w.ctx, name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// part is a partition's entry in the table, in sgdisk's words, and the digest of what is in it.
type part struct{ entry, digest string }

// parts are those of Windows.
func (w *world) parts(disk lab.Disk) (all []part) {
	w.t.Helper()
	for i, p := range windowsParts {
		all = append(all, part{w.tool("sgdisk", fmt.Sprintf("--info=%d", i+1), disk.Path), w.digest(disk.Path, p.start<<20, p.size<<20)})
	}
	return all
}

// digest is one of a stretch of a file, of which most is empty.
func (w *world) digest(path string, start, size int64) string {
	w.t.Helper()
	f, err := os.Open(path)
	w.must(err)
	defer f.Close()
	sum, block, zero := sha256.New(), make([]byte, 1<<20), make([]byte, 1<<20)
	for at := start; at < start+size; at += int64(len(block)) {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole up to the end
			break
		}
		w.must(err)
		if at += (data - at) &^ (int64(len(block)) - 1); at >= start+size {
			break
		}
		if _, err := f.ReadAt(block, at); err != nil {
			w.t.Fatal(err)
		}
		if !bytes.Equal(block, zero) {
			fmt.Fprintln(sum, at)
			sum.Write(block)
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}
