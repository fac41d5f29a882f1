// Package stage1 boots an image as nixpkgs' plain netboot images are: its stage 1 is systemd, and takes no keys out of
// the initrd. It is a stand-in: Debian's systemd, laid out as NixOS lays out an initrd.
package stage1

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"provision/images"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is an initrd in the making.
type tree struct {
	t   *testing.T
	dir string
}

func (r tree) file(name, text string) {
	r.t.Helper()
	check(r.t, os.MkdirAll(filepath.Dir(filepath.Join(r.dir, name)), 0o755))
	mode := os.FileMode(0o644)
	if strings.HasPrefix(text, "\x7fELF") {
		mode = 0o755
	}
	check(r.t, os.WriteFile(filepath.Join(r.dir, name), []byte(text), mode))
}

func (r tree) link(name, to string) {
	r.t.Helper()
	check(r.t, os.MkdirAll(filepath.Dir(filepath.Join(r.dir, name)), 0o755))
	check(r.t, os.Symlink(to, filepath.Join(r.dir, name)))
}

// program copies a program of this machine, with the libraries that it needs.
func (r tree) program(from, to string) {
	r.t.Helper()
	data, err := os.ReadFile(from)
	check(r.t, err)
	r.file(to, string(data))
	out, err := exec.Command("ldd", from).Output()
	check(r.t, err)
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
		if _, err := os.Stat(filepath.Join(r.dir, lib)); err == nil {
			continue
		}
		data, err := os.ReadFile(lib)
		check(r.t, err)
		r.file(lib, string(data))
	}
}

// units are those of systemd that an initrd needs to come to initrd.target.
var units = strings.Fields(`initrd.target initrd-root-fs.target initrd-root-device.target initrd-fs.target initrd-usr-fs.target
	basic.target sysinit.target sockets.target paths.target timers.target slices.target local-fs.target local-fs-pre.target
	swap.target shutdown.target umount.target emergency.target rescue.target`)

const (
	systemdStore = "nix/store/1111-systemd-252"
	unitsStore   = "nix/store/2222-initrd-units"
	binStore     = "nix/store/3333-initrd-bin-env"

	sysroot = "[Unit]\nDefaultDependencies=no\nBefore=initrd-root-fs.target\n[Mount]\nWhat=tmpfs\nWhere=/sysroot\nType=tmpfs\nOptions=mode=0755\n"
	tell    = "[Unit]\nDefaultDependencies=no\nAfter=initrd.target\n[Service]\nType=oneshot\nExecStart=/bin/sh /tell\n"
	// telling prints what is in the root that the system would start from, and switches the machine off.
	telling = `cd /sysroot
exec >/dev/console 2>&1
for file in $(find . -type f); do
	echo "TOLD $(stat -c '%a %u' $file) $file $(cat $file)"
done
echo TOLD ALL
echo o >/proc/sysrq-trigger
`
)

// initrd packs the stand-in.
func initrd(t *testing.T) string {
	r := tree{t, filepath.Join(t.TempDir(), "root")}
	r.program("/lib/systemd/systemd", systemdStore+"/lib/systemd/systemd")
	r.link("init", "/"+systemdStore+"/lib/systemd/systemd")
	r.link("etc/systemd/system", "/"+unitsStore)
	r.link("bin", "/"+binStore+"/bin")
	for _, name := range []string{"sh", "mkdir", "cp", "chmod", "cat", "find", "stat", "mount", "umount"} {
		path, err := exec.LookPath(name)
		check(t, err)
		r.program(path, binStore+"/bin/"+name)
	}
	for _, u := range units {
		data, err := os.ReadFile("/lib/systemd/system/" + u)
		check(t, err)
		r.file("nix/store/4444-unit-"+u+"/"+u, string(data))
		r.link(unitsStore+"/"+u, "/nix/store/4444-unit-"+u+"/"+u)
	}
	r.file(unitsStore+"/sysroot.mount", sysroot)
	r.file(unitsStore+"/tell.service", tell)
	r.link(unitsStore+"/default.target", "initrd.target")
	r.link(unitsStore+"/initrd-root-fs.target.requires/sysroot.mount", "../sysroot.mount")
	r.link(unitsStore+"/initrd.target.wants/tell.service", "../tell.service") // which stays
	r.file("tell", telling)
	r.file("etc/initrd-release", "ID=nixos\n")
	r.link("etc/os-release", "initrd-release")
	r.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
	r.file("nix-store.squashfs", "hsqs")
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "sysroot"} {
		check(t, os.Mkdir(filepath.Join(r.dir, dir), 0o755))
	}
	file := filepath.Join(filepath.Dir(r.dir), "initrd")
	pack := exec.Command("sh", "-c", "find . | cpio -o -H newc -R 0:0 --quiet | gzip -1 >"+file)
	pack.Dir = r.dir
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("pack the initrd: %v: %s", err, out)
	}
	return file
}

func TestPlainNetboot(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	other, err := lab.Image(ctx, lab.CacheDir(), lab.X86_64, os.Stderr) // for its kernel
	check(t, err)
	c, err := images.Open(filepath.Join(t.TempDir(), "images"))
	check(t, err)
	img, err := c.Add(ctx, "plain", "", images.Source{Kernel: other.Kernel, Initrd: initrd(t), Cmdline: "init=/nix/store/5555-nixos-system/init"}, nil)
	check(t, err)
	if img.Look.Stage1 != "systemd" || img.Look.Contract != images.No {
		t.Fatalf("looks like %+v", img.Look)
	}
	host, err := lab.NewKey("host")
	check(t, err)
	login, err := lab.NewKey("login")
	check(t, err)
	contract := images.Contract{Login: strings.TrimSpace(string(login.Public)), HostKey: host.Private, HostKeyPublic: strings.TrimSpace(string(host.Public)),
		MachineID: "0123456789abcdef0123456789abcdef", Network: map[string][]byte{"provision.json": []byte(`{"name":"alpha"}`)}}
	stored, err := c.OpenFile(img.Initrd)
	check(t, err)
	whole, err := os.ReadFile(stored.Name())
	check(t, err)
	check(t, stored.Close())

	dir := t.TempDir()
	boot := filepath.Join(dir, "initrd")
	check(t, os.WriteFile(boot, append(whole, contract.Tail(img)...), 0o600))
	vm := &lab.Machine{Name: "vm", Dir: dir, Firmware: lab.SeaBIOS, MemMB: 512, Kernel: other.Kernel, Initrd: boot,
		Cmdline: "console=ttyS0 mitigations=off cryptomgr.notests no_timer_check " + img.Cmdline}
	t.Cleanup(func() { check(t, vm.PowerOff()) })
	check(t, vm.Start(ctx))
	if _, err := vm.Console().Expect(ctx, "TOLD ALL"); err != nil {
		text := vm.Console().Text()
		t.Fatalf("%v; the end of the console:\n%s", err, text[max(0, len(text)-6000):])
	}
	text := strings.ReplaceAll(vm.Console().Text(), "\r", "")
	for _, want := range []string{
		"600 0 ./root/.ssh/authorized_keys " + contract.Login,
		"644 0 ./etc/ssh/authorized_keys.d/root " + contract.Login,
		"600 0 ./etc/ssh/ssh_host_ed25519_key " + strings.TrimSpace(string(host.Private)),
		"644 0 ./etc/ssh/ssh_host_ed25519_key.pub " + contract.HostKeyPublic,
		"644 0 ./etc/machine-id " + contract.MachineID,
		`644 0 ./root/network/provision.json {"name":"alpha"}`,
	} {
		if !strings.Contains(text, "TOLD "+want) {
			t.Errorf("the root has no %q", want)
		}
	}
	if t.Failed() {
		t.Log(text[max(0, len(text)-6000):])
	}
}
