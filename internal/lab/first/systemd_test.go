package first

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"provision/internal/initrd"
	"provision/internal/lab"
)

// systemdSwitch is what a stage 1 by systemd runs before it goes on to the next root.
const systemdSwitch = `echo "systemd is up as $(busybox cat /proc/1/comm)"
busybox mkdir -p /sysroot
busybox mount -t tmpfs tmpfs /sysroot
cd /sysroot
busybox mkdir -p dev proc sys run usr/lib usr/bin etc bin sbin tmp
busybox cp -a /usr/lib/x86_64-linux-gnu usr/lib/
busybox cp -a /usr/lib64 usr/
busybox cp -a /lib /lib64 .
busybox cp /bin/busybox bin/
busybox cp /etc/os-release etc/
busybox cat >stage2 <<'END'
#!/bin/busybox sh
exec >/dev/ttyS0 2>&1
echo "switched by systemd, process $$: $(busybox grep -c ' / ' /proc/mounts) root"
busybox sleep 600
END
busybox chmod 755 stage2
systemctl --no-block switch-root /sysroot /stage2
`

// TestSystemd: a stage 1 whose init is systemd (Debian's, of this machine), as NixOS's newer one, takes the place where
// the first stage leaves it for an initrd, and switches root.
func TestSystemd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	files := append(systemd(t),
		initrd.File{Path: "init", Mode: fs.ModeSymlink, Data: []byte("/usr/lib/systemd/systemd")},
		initrd.File{Path: "etc/initrd-release", Mode: 0o644, Data: []byte("ID=lab\nVERSION_ID=1\n")},
		initrd.File{Path: "etc/os-release", Mode: 0o644, Data: []byte("ID=lab\nVERSION_ID=1\n")},
		initrd.File{Path: "etc/machine-id", Mode: 0o644, Data: []byte(strings.Repeat("ab", 16) + "\n")},
		initrd.File{Path: "etc/systemd/system/initrd.target", Mode: 0o644,
			Data: []byte("[Unit]\nDescription=lab\nRequires=switch.service\nAfter=switch.service\n")},
		initrd.File{Path: "etc/systemd/system/switch.service", Mode: 0o644,
			Data: []byte("[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/ttyS0\nExecStart=/bin/busybox sh /switch\n")},
		initrd.File{Path: "switch", Mode: 0o755, Data: []byte(systemdSwitch)})
	w := newWorld(t, ctx, 5, lab.X86_64, files...)
	w.router(t, w.lan, w.net)
	newFaulty(t, w).start(t)
	check(t, w.vm.Start(ctx))
	w.sees(t, "systemd is up as systemd")
	w.sees(t, "switched by systemd, process 1: 1 root")
}

// systemd is this machine's, with all that it is linked to, as files for an initrd.
func systemd(t *testing.T) []initrd.File {
	t.Helper()
	const program = "/usr/lib/systemd/systemd"
	out, err := exec.Command("ldd", program).Output()
	check(t, err)
	var files []initrd.File
	for _, path := range append(strings.Fields(string(out)), program, "/usr/bin/systemctl") {
		if !strings.HasPrefix(path, "/") {
			continue
		}
		data, err := os.ReadFile(path)
		check(t, err)
		if !strings.HasPrefix(path, "/usr/") { // which has them all
			path = "/usr" + path
		}
		files = append(files, initrd.File{Path: path, Mode: 0o755, Data: data})
	}
	return files
}
